#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vtpm_guard_fuzz::long_domain::check(data));
