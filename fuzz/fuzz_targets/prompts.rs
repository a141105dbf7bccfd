//! Runs `podium_fuzz::prompts` on generated input.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    podium_fuzz::prompts(data);
});
