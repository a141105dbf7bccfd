//! `podium_fuzz::settings` on whatever the fuzzer thinks of.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    podium_fuzz::settings(data);
});
