//! Any bytes as one packet.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tensorpool_transport::conformance::bytes::packet(data));
