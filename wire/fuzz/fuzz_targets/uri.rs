#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tensorpool_wire_fuzz::uri(data));
