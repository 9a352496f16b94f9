//! The node driver.
fn main() {}
