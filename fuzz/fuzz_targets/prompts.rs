//! `podium_fuzz::prompts` on whatever the fuzzer thinks of.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    podium_fuzz::prompts(data);
});
