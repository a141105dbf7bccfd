//! Where a text may be cut before its tokens are known, and which part of it tokens spell.

/// The end of the beginning of a text that has at most `max_bytes` bytes and, where the text allows
/// it, the same tokens alone as within the text.
///
/// It ends before a single space between two letters or digits: byte-level BPE, `WordPiece` and
/// Metaspace tokenizers split there. A text without such a place in the last half of `max_bytes`
/// is split between two characters, which may cost a token more.
pub(in crate::prompt) fn chunk_end(text: &str, max_bytes: usize) -> usize {
    if text.len() <= max_bytes {
        return text.len();
    }
    let is_between_words = |space: &usize| {
        text.as_bytes()[*space] == b' '
            && text[..*space].chars().next_back().is_some_and(char::is_alphanumeric)
            && text[space + 1..].chars().next().is_some_and(char::is_alphanumeric)
    };
    let between_words = (max_bytes / 2 + 1..=max_bytes).rev().find(is_between_words);
    let at_a_character = || (0..=max_bytes).rev().find(|end| text.is_char_boundary(*end));
    between_words.or_else(at_a_character).unwrap_or(text.len())
}

/// How many bytes of `text` the decoded `start` stands for, if it is its beginning: in the same
/// letters, or in lower case.
pub(super) fn spelled_bytes(text: &str, start: &str) -> Option<usize> {
    if text.starts_with(start) {
        return Some(start.len());
    }
    let mut start = start.chars().peekable();
    let mut bytes = 0;
    for letter in text.chars() {
        if start.peek().is_none() {
            break;
        }
        if start.next_if_eq(&letter).is_none() && !letter.to_lowercase().all(|lower| start.next_if_eq(&lower).is_some())
        {
            return None;
        }
        bytes += letter.len_utf8();
    }
    start.peek().is_none().then_some(bytes)
}
