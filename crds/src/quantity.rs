//! Quantities as Kubernetes writes them: `8Gi`, `1500M`, `10`.
//!
//! The type in `k8s-openapi` is a string without a parser. The parser that exists as a crate goes
//! through floating point, takes `1.5Gi` for 1 GiB and may overflow; quotas need exact numbers. So
//! this is integer arithmetic, rounded up to whole units as Kubernetes' own `Value()` does.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What the schema accepts as text. Signs and exponents have no use here.
const PATTERN: &str = r"^[0-9]{1,18}(\.[0-9]{1,9})?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$";

/// Longest text that [`PATTERN`] accepts.
const MAX_CHARS: usize = 30;

const SUFFIXES: [(&str, u64); 10] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
];

/// A number with an optional suffix. YAML may hold it as text or as a whole number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(String);

impl Quantity {
    /// The text as it was written; [`Quantity::value`] says whether it is a quantity.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// `bytes` with the largest binary suffix that divides it.
    #[must_use]
    pub fn from_bytes(bytes: u64) -> Self {
        let binary = SUFFIXES[..5].iter().rev();
        let exact = binary
            .filter(|(_, unit)| bytes != 0 && bytes.is_multiple_of(*unit))
            .map(|(suffix, unit)| format!("{}{suffix}", bytes / unit));
        Self(
            exact
                .into_iter()
                .next()
                .unwrap_or_else(|| bytes.to_string()),
        )
    }

    /// A plain count.
    #[must_use]
    pub fn from_count(count: u64) -> Self {
        Self(count.to_string())
    }

    /// The number, rounded up to a whole unit.
    ///
    /// # Errors
    /// [`QuantityError`] for a text that is no quantity, and beyond 2^64 - 1.
    pub fn value(&self) -> Result<u64, QuantityError> {
        let malformed = || QuantityError::Malformed(shorten(&self.0));
        let digits = self
            .0
            .find(|char: char| !char.is_ascii_digit() && char != '.')
            .unwrap_or(self.0.len());
        let (number, suffix) = self.0.split_at(digits);
        let unit = match suffix {
            "" => 1,
            suffix => SUFFIXES
                .iter()
                .find(|(name, _)| *name == suffix)
                .map(|(_, unit)| *unit)
                .ok_or_else(malformed)?,
        };
        let (whole, fraction) = number
            .split_once('.')
            .map_or((number, None), |(whole, rest)| (whole, Some(rest)));
        let bounded = |text: &str, most: usize| {
            let fits = (1..=most).contains(&text.len());
            fits.then(|| text.parse::<u128>().ok()).flatten()
        };
        let whole = bounded(whole, 18).ok_or_else(malformed)?;
        let (part, scale) = match fraction {
            None => (0, 1),
            Some(text) => {
                let part = bounded(text, 9).ok_or_else(malformed)?;
                let places = u32::try_from(text.len()).map_err(|_| malformed())?;
                (part, 10_u128.pow(places))
            }
        };
        // Below 10^18 * 10^9 * 2^50 < 2^127 + 1, so nothing overflows.
        let scaled = (whole * scale + part) * u128::from(unit);
        u64::try_from(scaled.div_ceil(scale)).map_err(|_| QuantityError::TooLarge(shorten(&self.0)))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum IntOrString {
            Int(i64),
            String(String),
        }
        Ok(Self(match IntOrString::deserialize(deserializer)? {
            IntOrString::Int(number) => number.to_string(),
            IntOrString::String(text) => text,
        }))
    }
}

impl JsonSchema for Quantity {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "minimum": 0,
            "pattern": PATTERN,
            "maxLength": MAX_CHARS,
        })
    }
}

/// Why a text is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It does not read as a number with a suffix.
    #[error(
        "`{0}` is no quantity; write a number with one of Ki, Mi, Gi, Ti, Pi, k, M, G, T, P, such as 8Gi"
    )]
    Malformed(String),
    /// It is beyond 2^64 - 1.
    #[error("`{0}` is larger than any size here; the largest is 16384Pi")]
    TooLarge(String),
}

/// Enough of a text to recognise it in an error.
fn shorten(text: &str) -> String {
    text.chars().take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Quantity, QuantityError};

    fn value(text: &str) -> Result<u64, QuantityError> {
        Quantity::new(text).value()
    }

    #[test]
    fn suffixes_mean_what_kubernetes_means() {
        assert_eq!(value("8Gi"), Ok(8 << 30));
        assert_eq!(value("1500M"), Ok(1_500_000_000));
        assert_eq!(value("2k"), Ok(2_000));
        assert_eq!(value("0"), Ok(0));
        assert_eq!(value("007"), Ok(7));
    }

    #[test]
    fn fractions_are_exact_and_rounded_up_to_a_whole_byte() {
        assert_eq!(value("1.5Gi"), Ok(3 << 29));
        assert_eq!(value("9007199254740993"), Ok(9_007_199_254_740_993));
        assert_eq!(value("0.000000001Ki"), Ok(1));
        assert_eq!(value("1.1"), Ok(2));
    }

    #[test]
    fn what_is_no_quantity_is_named() {
        for text in [
            "", "Gi", "1.", ".5", "1..2", "-1", "+1", "1e3", "1 Gi", "1gi", "1m", "1Ei",
        ] {
            assert_eq!(value(text), Err(QuantityError::Malformed(text.to_owned())));
        }
    }

    #[test]
    fn the_largest_number_is_accepted_and_one_more_is_not() {
        assert_eq!(value("16383.999999999Pi").map(|v| v > (1 << 63)), Ok(true));
        assert!(matches!(value("16384Pi"), Err(QuantityError::TooLarge(_))));
        assert!(matches!(
            value("999999999999999999Pi"),
            Err(QuantityError::TooLarge(_))
        ));
    }

    #[test]
    fn yaml_may_hold_it_as_a_number() {
        let number: Quantity = serde_json::from_str("10").expect("an integer is a quantity");
        assert_eq!(number, Quantity::new("10"));
        assert_eq!(
            serde_json::to_string(&number).expect("it is text"),
            "\"10\""
        );
    }

    proptest! {
        #[test]
        fn bytes_survive_the_way_through_text(bytes: u64) {
            let bytes = bytes % (10_u64.pow(18) - 1);
            prop_assert_eq!(Quantity::from_bytes(bytes).value(), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _: Result<u64, QuantityError> = value(&text);
        }
    }
}
