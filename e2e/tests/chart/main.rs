//! The chart: linted, refused with wrong values, taken by a real API server, and with no more privileges
//! than it has to have. With the Helm that the cluster of the tests has.

mod pods_on_aeron;
mod privileges;
mod rendering;
mod values;
