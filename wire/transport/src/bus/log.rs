//! The arithmetic of Aeron's logs, and what a channel says about one.

/// Bytes that a frame adds to its payload in a log, and what frames are aligned to.
const FRAME: u64 = 32;

/// Payload of one fragment of a longer message, in bytes.
const FRAGMENT: usize = 1_376;

/// How far a publication may be ahead of its slowest subscriber, in bytes: half a term.
pub(super) const fn window(term: u64) -> u64 {
    term / 2
}

/// The longest message: an eighth of a term, at most 16 MiB.
pub(super) fn longest(term: u64) -> usize {
    usize::try_from((term / 8).min(16 * 1024 * 1024)).unwrap_or(usize::MAX)
}

/// What a message of this length takes in the log, in bytes.
pub(super) fn footprint(len: usize) -> u64 {
    let framed = |payload: usize| {
        let payload = u64::try_from(payload).unwrap_or(u64::MAX / 2);
        (payload + FRAME).next_multiple_of(FRAME)
    };
    let fragments = u64::try_from(len / FRAGMENT).unwrap_or(u64::MAX / 4096);
    let rest = len % FRAGMENT;
    let whole = fragments * framed(FRAGMENT);
    if rest > 0 || fragments == 0 {
        whole + framed(rest)
    } else {
        whole
    }
}

/// The value of a parameter of a channel URI.
pub(super) fn parameter<'c>(channel: &'c str, name: &str) -> Option<&'c str> {
    let (_, parameters) = channel.split_once('?')?;
    parameters
        .split('|')
        .find_map(|p| p.strip_prefix(name)?.strip_prefix('='))
}

/// A length with the suffixes that Aeron knows: `64k`, `1m`, `1g`.
pub(super) fn length(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}
