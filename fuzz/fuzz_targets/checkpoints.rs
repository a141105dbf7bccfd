//! Runs `podium_fuzz::checkpoints` on generated input.

#![no_main]

use std::panic;

// The tokenizers crate panics on some files; Podium catches that and returns an error. libFuzzer's
// panic hook would abort the process first, so it is removed. A panic that is not caught still
// aborts.
libfuzzer_sys::fuzz_target!(init: panic::set_hook(Box::new(|_| {})), |data: &[u8]| {
    if let Err(cause) = panic::catch_unwind(|| podium_fuzz::checkpoints(data)) {
        let text = cause.downcast_ref::<String>().map(String::as_str).or(cause.downcast_ref::<&str>().copied());
        eprintln!("panicked: {}", text.unwrap_or("with no text"));
        panic::resume_unwind(cause);
    }
});
