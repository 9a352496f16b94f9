//! Pieces of schemas that a derive cannot say.

use schemars::{Schema, SchemaGenerator, json_schema};

/// Slots of a ring: a power of two. CEL has no bit operators, so the values are listed; the API
/// server then also names them when it refuses one.
pub(crate) fn slots(_: &mut SchemaGenerator) -> Schema {
    powers_of_two(1..=16)
}

/// Bytes of a payload slot: a power of two, from one cache line to 1 GiB.
pub(crate) fn stride(_: &mut SchemaGenerator) -> Schema {
    powers_of_two(6..=30)
}

fn powers_of_two(exponents: std::ops::RangeInclusive<u32>) -> Schema {
    let values: Vec<i64> = exponents.map(|exponent| 1 << exponent).collect();
    json_schema!({ "type": "integer", "format": "int64", "enum": values })
}
