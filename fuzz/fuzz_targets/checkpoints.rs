//! `podium_fuzz::checkpoints` on whatever the fuzzer thinks of.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    podium_fuzz::checkpoints(data);
});
