//! `podium_fuzz::checkpoints` on whatever the fuzzer thinks of.

#![no_main]

use std::panic;

// The tokenizer's reader panics on some files, and Podium makes an error of it. libFuzzer's own hook would end the process
// there, so it is taken off: a panic that nobody catches still ends it.
libfuzzer_sys::fuzz_target!(init: panic::set_hook(Box::new(|_| {})), |data: &[u8]| {
    if let Err(cause) = panic::catch_unwind(|| podium_fuzz::checkpoints(data)) {
        let text = cause.downcast_ref::<String>().map(String::as_str).or(cause.downcast_ref::<&str>().copied());
        eprintln!("panicked: {}", text.unwrap_or("with no text"));
        panic::resume_unwind(cause);
    }
});
