//! The node driver.
