#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vtpm_guard_fuzz::sealed_state::check(data));
