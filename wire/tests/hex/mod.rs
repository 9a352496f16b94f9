//! Bytes as text.

/// Reads hex digits; anything that is not one is skipped.
pub(crate) fn decode(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .map(|digit| u8::try_from(digit).expect("a hex digit is below 16"))
        .collect();
    let (pairs, rest) = digits.as_chunks::<2>();
    assert!(rest.is_empty(), "an odd number of hex digits");
    pairs.iter().map(|[high, low]| high << 4 | low).collect()
}
