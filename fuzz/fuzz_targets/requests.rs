//! Runs `podium_fuzz::requests` on generated input.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    podium_fuzz::requests(data);
});
