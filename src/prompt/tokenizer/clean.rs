//! Removes spellings of control tokens from a caller's text, and normalizes white space.
//!
//! Encoding never turns text into a control token (`tokenizer`). Removing the spellings keeps them
//! out of the text as well, and lets the response warn of them. One loop copies the text byte by
//! byte and drops a spelling as soon as the copy ends with one. So a spelling that a removal joins
//! is removed too, none remains, and the time is linear in the text.

use std::borrow::Cow;

use super::encode::Tokenizer;

/// Removes the spelling of every added token, and counts the removals. A text without one is not
/// copied.
pub(in crate::prompt) fn remove_control_tokens<'a>(tokenizer: &Tokenizer, text: &'a str) -> (Cow<'a, str>, usize) {
    let bytes = text.as_bytes();
    let first = (0..bytes.len()).find(|end| tokenizer.control_token_at_end(&bytes[..=*end]).is_some());
    let Some(first) = first else { return (Cow::Borrowed(text), 0) };
    let mut kept: Vec<u8> = Vec::with_capacity(text.len());
    kept.extend_from_slice(&bytes[..first]);
    let mut removed = 0;
    for byte in bytes[first..].iter().copied() {
        kept.push(byte);
        if let Some(token) = tokenizer.control_token_at_end(&kept) {
            kept.truncate(kept.len() - token.text.len());
            removed += 1;
        }
    }
    // Valid UTF-8 without whole tokens is valid UTF-8.
    let kept = String::from_utf8(kept).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    (Cow::Owned(kept), removed)
}

/// White space as in Python's `str.split` and `str.strip`: Unicode's, and four separators.
pub(in crate::prompt) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// Replaces each run of white space by one space, and removes it at both ends.
pub(in crate::prompt) fn squeeze(text: &str) -> String {
    let mut squeezed = String::with_capacity(text.len());
    for word in text.split(is_space).filter(|word| !word.is_empty()) {
        if !squeezed.is_empty() {
            squeezed.push(' ');
        }
        squeezed.push_str(word);
    }
    squeezed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::prompt::testing;

    fn clean(text: &str) -> (String, usize) {
        let (cleaned, removed) = remove_control_tokens(&testing::tokenizer(), text);
        (cleaned.into_owned(), removed)
    }

    #[test]
    fn a_spelling_that_a_removal_joins_is_removed_too() {
        assert_eq!(clean("a<|embed_<|embed_token|>token|>b"), ("ab".into(), 2));
        assert_eq!(clean("<<think>think><|im_<|im_<|im_end|>end|>end|>"), (String::new(), 5));
    }

    #[test]
    fn ordinary_text_is_unchanged() {
        for text in ["", "a < b | c > d", "</passage>", "<|im_start", "<|no_such_token|>", "数学 <b>x</b>"] {
            assert_eq!(clean(text), (text.into(), 0));
        }
    }

    #[test]
    fn a_deeply_nested_text_takes_linear_time() {
        let depth = 50_000;
        let text = "<|im_".repeat(depth) + &"end|>".repeat(depth);
        let start = std::time::Instant::now();
        assert_eq!(clean(&text), (String::new(), depth));
        assert!(start.elapsed().as_secs() < 5);
    }

    #[test]
    fn squeezing_keeps_words_apart() {
        assert_eq!(squeeze(" a\u{a0}\n b\u{1c}c\t"), "a b c");
        assert_eq!(squeeze(" \n"), "");
    }

    proptest! {
        #[test]
        fn no_control_token_survives(text in testing::nasty_text()) {
            let tokenizer = testing::tokenizer();
            let (cleaned, removed) = remove_control_tokens(&tokenizer, &text);
            for token in tokenizer.control_tokens() {
                prop_assert!(!cleaned.contains(&token.text));
            }
            prop_assert_eq!(removed == 0, cleaned == text);
        }
    }
}
