//! Any bytes as what several peers and a driver do to a socket server.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tensorpool_transport::conformance::bytes::server(data));
