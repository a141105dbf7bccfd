//! The fuzzer's corpus on a stable compiler: each file, and a few hundred changes of it, through the same checks.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its files should fail")]

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::path::Path;

/// Xorshift: the same changes each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 as usize % end.max(1)
    }

    /// `bytes` with one change: a byte, a piece left out, a piece repeated, or a piece of another file put in.
    fn change(&mut self, bytes: &[u8], other: &[u8]) -> Vec<u8> {
        // The first byte chooses the reader.
        let start = 1 + self.below(bytes.len().saturating_sub(1));
        let start = start.min(bytes.len());
        let end = start + self.below(bytes.len() - start + 1).min(64);
        let (head, piece, tail) = (&bytes[..start], &bytes[start..end], &bytes[end..]);
        match self.below(4) {
            0 => [head, &[self.below(256) as u8], tail].concat(),
            1 => [head, tail].concat(),
            2 => [head, piece, piece, &piece.repeat(self.below(8)), tail].concat(),
            _ => {
                let from = self.below(other.len());
                let to = from + self.below(other.len() - from).min(64);
                [head, &other[from..to], tail].concat()
            }
        }
    }
}

/// Runs a folder's files and their changes; of the files, some are taken and some are refused.
fn replay(folder: &str, changes: usize, check: fn(&[u8]) -> bool) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(folder);
    let mut files: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let files: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap()).collect();
    let taken = files.iter().filter(|bytes| check(bytes)).count();
    assert!(taken > 0 && taken < files.len(), "{taken} of {} are taken", files.len());
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for bytes in &files {
        for _ in 0..changes {
            let other = &files[random.below(files.len())];
            let rounds = random.below(3);
            let input = (0..=rounds).fold(bytes.clone(), |input, _| random.change(&input, other));
            check(&input);
        }
    }
}

#[test]
fn bodies_are_read_or_refused_with_a_short_message() {
    replay("requests", 300, fuzz::requests);
}

#[test]
fn no_text_of_a_prompt_becomes_a_control_token() {
    replay("prompts", 60, fuzz::prompts);
}

#[test]
fn files_of_a_checkpoint_load_or_are_refused() {
    replay("checkpoints", 60, fuzz::checkpoints);
}

#[test]
fn settings_and_stored_instructions_are_read_or_refused() {
    replay("settings", 200, fuzz::settings);
}
