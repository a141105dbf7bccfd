//! Encodes text to ids, and decodes ids.
//!
//! The tokenizer that encodes text knows no added token. So any text becomes ordinary tokens,
//! alone, beside its neighbours in the template, and after normalization. Control tokens enter a
//! prompt by their id, where the template has them. For texts without control tokens the ids equal
//! those of the complete tokenizer on the whole prompt, which also splits at added tokens first and
//! encodes the text between them on its own.

use super::chat::ChatFormat;
use super::cut::{chunk_end, spelled_bytes};
use super::file::{ControlToken, TokenizerFile};
use super::pair_template::PairTemplate;
use crate::prompt::PromptError;

/// The most bytes of text that are encoded in one call: some ten milliseconds of work.
pub(in crate::prompt) const CHUNK_BYTES: usize = 64 * 1024;

/// The least bytes of a text that are encoded to cut it.
const MIN_CUT_BYTES: usize = 256;
/// Bytes that are encoded to cut a text, for each token of the limit.
const CUT_TOKEN_BYTES: usize = 8;
/// Tokens that are encoded beyond the limit, because the end of a chunk may tokenize differently
/// from the middle of the text.
const CUT_MARGIN: usize = 8;

#[cfg(test)]
thread_local! {
    /// Bytes of text that this thread has encoded.
    pub(in crate::prompt) static ENCODED_BYTES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// A tokenizer read from `tokenizer.json`.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    plain: tokenizers::Tokenizer,
    /// For text that does not begin a prompt, where that makes a difference.
    continued: Option<tokenizers::Tokenizer>,
    controls: Vec<ControlToken>,
    /// One bit for each id: whether it is a control token. The unknown token counts as text.
    control_bits: Vec<u64>,
    /// By byte: whether the text of a control token ends with it.
    control_ends: [bool; 256],
    /// The token of text that the vocabulary cannot spell, where it is an added token.
    unknown: Option<u32>,
    /// Whether a space is put before texts that begin without one.
    prepends_space: bool,
    pair: Option<PairTemplate>,
    chat: Option<ChatFormat>,
    file: String,
}

/// The beginning of a text after truncation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::prompt) struct Cut {
    /// Bytes of the text that are kept.
    pub bytes: usize,
    /// The tokens that are kept.
    pub ids: Vec<u32>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`; errors call it `file`.
    ///
    /// # Errors
    /// [`PromptError::Tokenizer`] when the file is malformed.
    pub fn from_bytes(bytes: &[u8], file: impl Into<String>) -> Result<Self, PromptError> {
        let file = file.into();
        let problem = |problem: String| PromptError::Tokenizer { file: file.clone(), problem };
        let TokenizerFile { plain, continued, controls, unknown, prepends_space, pair } =
            TokenizerFile::parse(bytes).map_err(problem)?;
        // The library's reader panics on some malformed files.
        let read = |json: String| {
            std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(json))
                .map_err(|_| problem("not a tokenizer: its reader panicked".into()))?
                .map_err(|error| problem(format!("not a tokenizer: {error}")))
        };
        let (plain, continued) = (read(plain)?, continued.map(read).transpose()?);
        let mut control_bits = vec![0; controls.iter().map(|token| token.id as usize / 64 + 1).max().unwrap_or(0)];
        for token in controls.iter().filter(|token| Some(token.id) != unknown) {
            control_bits[token.id as usize / 64] |= 1_u64 << (token.id % 64);
        }
        let mut control_ends = [false; 256];
        for last in controls.iter().filter_map(|token| token.text.as_bytes().last()) {
            control_ends[usize::from(*last)] = true;
        }
        Ok(Self {
            plain,
            continued,
            controls,
            control_bits,
            control_ends,
            unknown,
            prepends_space,
            pair,
            chat: None,
            file,
        })
    }

    /// Sets the checkpoint's chat format.
    #[must_use]
    pub fn with_chat_format(mut self, chat: Option<ChatFormat>) -> Self {
        self.chat = chat;
        self
    }

    /// The checkpoint's chat format, if it has one.
    pub(in crate::prompt) fn chat_format(&self) -> Option<&ChatFormat> {
        self.chat.as_ref()
    }

    /// The name of its file.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The highest id of an ordinary token, plus 1.
    pub(in crate::prompt) fn ordinary_end(&self) -> u32 {
        self.plain.get_vocab(false).into_values().max().map_or(0, |last| last.saturating_add(1))
    }

    /// The added tokens, special or not.
    pub(in crate::prompt) fn control_tokens(&self) -> &[ControlToken] {
        &self.controls
    }

    /// The added token of this text.
    pub(in crate::prompt) fn control(&self, text: &str) -> Option<&ControlToken> {
        self.controls.iter().find(|token| token.text == text)
    }

    /// The id of a text that is a single ordinary token behind `before`. `SentencePiece` spells the
    /// first word of a text with a space before it; behind a line's end or a bracket there is none.
    pub(in crate::prompt) fn single_token_behind(&self, before: &str, text: &str) -> Option<u32> {
        let id = self.single_token(text)?;
        let has_space = self.plain.id_to_token(id).is_some_and(|token| token.starts_with('\u{2581}'));
        if has_space && before.ends_with(['\n', '[']) { self.vocabulary_id(text) } else { Some(id) }
    }

    /// The id of a token of the vocabulary, by its spelling there.
    pub(in crate::prompt) fn vocabulary_id(&self, token: &str) -> Option<u32> {
        self.plain.token_to_id(token)
    }

    /// Makes a control token of a token of the vocabulary that no text of a prompt may spell.
    pub(in crate::prompt) fn add_control(&mut self, text: &str, id: u32) {
        let word = id as usize / 64;
        if self.control_bits.len() <= word {
            self.control_bits.resize(word + 1, 0);
        }
        self.control_bits[word] |= 1_u64 << (id % 64);
        text.as_bytes().last().into_iter().for_each(|last| self.control_ends[usize::from(*last)] = true);
        self.controls.push(ControlToken { text: text.to_owned(), id, strips: false });
    }

    /// The added token that these bytes end with.
    pub(super) fn control_token_at_end(&self, bytes: &[u8]) -> Option<&ControlToken> {
        if !self.control_ends[usize::from(*bytes.last()?)] {
            return None;
        }
        self.controls.iter().find(|token| bytes.ends_with(token.text.as_bytes()))
    }

    /// The tokenizer's template for a pair of texts.
    pub(in crate::prompt) fn pair_template(&self) -> Option<&PairTemplate> {
        self.pair.as_ref()
    }

    /// Whether an id belongs to an added token, other than the one of unknown text.
    pub(in crate::prompt) fn is_control(&self, id: u32) -> bool {
        self.control_bits.get(id as usize / 64).is_some_and(|bits| bits >> (id % 64) & 1 == 1)
    }

    /// Encodes a text that begins a prompt. No id is a control token's, unless the tokenizer's
    /// model makes one from text and has no unknown token; `Prompter` checks prompts for that.
    pub(in crate::prompt) fn encode(&self, text: &str) -> Result<Vec<u32>, tokenizers::Error> {
        self.encode_with(&self.plain, text)
    }

    /// As [`Tokenizer::encode`] for a text that follows a control token.
    pub(in crate::prompt) fn encode_continued(&self, text: &str) -> Result<Vec<u32>, tokenizers::Error> {
        self.encode_with(self.continued.as_ref().unwrap_or(&self.plain), text)
    }

    /// Whether a text has the same ids at the start of a prompt and after a control token.
    pub(in crate::prompt) fn encodes_alike(&self) -> bool {
        self.continued.is_none()
    }

    fn encode_with(&self, tokenizer: &tokenizers::Tokenizer, text: &str) -> Result<Vec<u32>, tokenizers::Error> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        #[cfg(test)]
        ENCODED_BYTES.set(ENCODED_BYTES.get() + text.len());
        Ok(self.as_text(tokenizer.encode_fast(text, false)?.get_ids()))
    }

    /// Replaces control tokens that the model made from text, such as `＜s＞` after normalization, by
    /// the unknown token.
    fn as_text(&self, ids: &[u32]) -> Vec<u32> {
        let Some(unknown) = self.unknown else { return ids.to_vec() };
        ids.iter().map(|id| if self.is_control(*id) { unknown } else { *id }).collect()
    }

    /// Counts the tokens of a text.
    ///
    /// # Errors
    /// [`PromptError::Tokenizer`] when the tokenizer fails on it.
    pub fn count(&self, text: &str) -> Result<usize, PromptError> {
        self.encode(text).map(|ids| ids.len()).map_err(|error| self.failed(&error))
    }

    /// The beginning of a text that has at most `limit` tokens; it ends with a whole character.
    ///
    /// # Errors
    /// [`PromptError::Tokenizer`] when the tokenizer fails on it.
    pub fn start_of<'a>(&self, text: &'a str, limit: usize) -> Result<&'a str, PromptError> {
        self.cut(text, limit).map(|cut| &text[..cut.bytes]).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &tokenizers::Error) -> PromptError {
        PromptError::Tokenizer { file: self.file.clone(), problem: error.to_string() }
    }

    /// The ids of the beginning of a text: more than `limit` of them, or those of the whole text.
    /// Also returns how many bytes they were made of. Encodes in chunks.
    pub(in crate::prompt) fn encode_until(
        &self,
        text: &str,
        limit: usize,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<(Vec<u32>, usize), tokenizers::Error> {
        let mut end = chunk_end(text, CHUNK_BYTES);
        let mut ids = self.encode(&text[..end])?;
        while end < text.len() && ids.len() <= limit {
            if is_cancelled() {
                return Err("cancelled".into());
            }
            let chunk = &text[end..end + chunk_end(&text[end..], CHUNK_BYTES)];
            end += chunk.len();
            let chunk = chunk.strip_prefix(' ').filter(|_| self.prepends_space).unwrap_or(chunk);
            ids.extend(self.encode(chunk)?);
        }
        Ok((ids, end))
    }

    /// As [`Tokenizer::cut`] for a text whose ids are known: encodes nothing in most cases.
    pub(in crate::prompt) fn cut_encoded(
        &self,
        text: &str,
        ids: &[u32],
        limit: usize,
    ) -> Result<Cut, tokenizers::Error> {
        let limit = limit.min(ids.len());
        // The kept tokens spell the beginning of the text, unless the last of them end within a
        // character of at most four bytes: then the decoded text ends with U+FFFD. A text that
        // contains U+FFFD, or that the tokenizer changes otherwise, is encoded again.
        for tokens in (limit.saturating_sub(3)..=limit).rev() {
            let start = self.plain.decode(&ids[..tokens], false)?;
            let whole = start.trim_end_matches(char::REPLACEMENT_CHARACTER);
            match (spelled_bytes(text, &start), whole.len() < start.len()) {
                (Some(bytes), false) => return Ok(Cut { bytes, ids: ids[..tokens].to_vec() }),
                (None, true) if spelled_bytes(text, whole).is_some() => {}
                (Some(_) | None, _) => break,
            }
        }
        self.cut(text, limit)
    }

    /// Where a text ends when at most `limit` tokens of it are kept: never inside a character.
    /// Encodes no more of the text than the limit needs.
    pub(in crate::prompt) fn cut(&self, text: &str, limit: usize) -> Result<Cut, tokenizers::Error> {
        let mut bytes = MIN_CUT_BYTES.max(limit.saturating_mul(CUT_TOKEN_BYTES));
        let (text, encoding) = loop {
            let beginning = &text[..chunk_end(text, bytes)];
            #[cfg(test)]
            ENCODED_BYTES.set(ENCODED_BYTES.get() + beginning.len());
            let encoding = self.plain.encode(beginning, false)?;
            if beginning.len() == text.len() || encoding.len() > limit + CUT_MARGIN {
                break (beginning, encoding);
            }
            bytes = bytes.saturating_mul(4);
        };
        let offsets = encoding.get_offsets();
        let mut tokens = limit.min(offsets.len());
        // Tokens of one character's bytes all span that character.
        while tokens > 0 && offsets.get(tokens).is_some_and(|next| next.0 < offsets[tokens - 1].1) {
            tokens -= 1;
        }
        let mut bytes = if tokens == 0 { 0 } else { offsets[tokens - 1].1.min(text.len()) };
        while !text.is_char_boundary(bytes) {
            bytes -= 1;
        }
        Ok(Cut { bytes, ids: self.as_text(&encoding.get_ids()[..tokens]) })
    }

    /// The id of a text that is a single ordinary token.
    pub(in crate::prompt) fn single_token(&self, text: &str) -> Option<u32> {
        match self.encode(text).ok()?.as_slice() {
            [id] if self.plain.id_to_token(*id).is_some() => Some(*id),
            _ => None,
        }
    }

    /// Decodes ids to text, with control tokens spelled out. Half a character becomes U+FFFD.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut text = String::new();
        for run in ids.chunk_by(|left, right| !self.is_control(*left) && !self.is_control(*right)) {
            match self.controls.iter().find(|token| run[0] == token.id && self.is_control(token.id)) {
                Some(token) => text.push_str(&token.text),
                None => text.push_str(&self.plain.decode(run, false).unwrap_or_default()),
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use crate::prompt::testing;

    #[test]
    fn a_text_never_encodes_to_a_control_token() {
        let tokenizer = testing::tokenizer();
        for token in tokenizer.control_tokens() {
            let ids = tokenizer.encode(&format!("a{}b", token.text)).unwrap();
            assert!(ids.iter().all(|id| !tokenizer.is_control(*id)), "{}", token.text);
            assert!(tokenizer.is_control(token.id));
        }
    }

    #[test]
    fn decoding_spells_control_tokens_out() {
        let tokenizer = testing::tokenizer();
        let start = tokenizer.control("<|im_start|>").unwrap().id;
        let mut ids = vec![start, start];
        ids.extend(tokenizer.encode("the café").unwrap());
        ids.push(start);
        assert_eq!(tokenizer.decode(&ids), "<|im_start|><|im_start|>the café<|im_start|>");
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        let tokenizer = testing::tokenizer();
        let text = "aé漢😀b";
        let all = tokenizer.encode(text).unwrap().len();
        for limit in 0..=all + 1 {
            let cut = tokenizer.cut(text, limit).unwrap();
            assert!(text.is_char_boundary(cut.bytes) && cut.ids.len() <= limit);
            assert_eq!(tokenizer.encode(&text[..cut.bytes]).unwrap(), cut.ids);
            assert_eq!(tokenizer.cut_encoded(text, &tokenizer.encode(text).unwrap(), limit).unwrap(), cut);
        }
        assert_eq!(tokenizer.cut(text, all).unwrap().bytes, text.len());
    }

    /// The test tokenizer, in lower case.
    fn lowercase_tokenizer() -> super::Tokenizer {
        let mut json = testing::tokenizer_json(&[]);
        json["normalizer"] = serde_json::json!({"type": "Lowercase"});
        super::Tokenizer::from_bytes(json.to_string().as_bytes(), "test/lowercase.json").unwrap()
    }

    proptest::proptest! {
        /// Also for texts that the tokenizer normalizes, and for texts with the character that half
        /// a character decodes to.
        #[test]
        fn a_cut_by_known_ids_equals_the_cut(text in testing::nasty_text(), limit in 0_usize..40) {
            for tokenizer in [testing::tokenizer(), lowercase_tokenizer()] {
                for text in [text.clone(), format!("{text}\u{fffd}e\u{301}漢ÄİΣ\u{fffd}{text}")] {
                    let ids = tokenizer.encode(&text).unwrap();
                    let cut = tokenizer.cut_encoded(&text, &ids, limit).unwrap();
                    proptest::prop_assert_eq!(cut, tokenizer.cut(&text, limit).unwrap());
                }
            }
        }

        #[test]
        fn chunks_of_words_have_the_tokens_of_the_whole(
            words in proptest::collection::vec("[a-zA-Zé漢0-9.,?\n]{1,9}", 1..400), max_bytes in 64_usize..400,
        ) {
            let (tokenizer, text) = (testing::tokenizer(), words.join(" "));
            let (mut rest, mut ids, mut is_exact) = (text.as_str(), Vec::new(), true);
            while !rest.is_empty() {
                let (chunk, others) = rest.split_at(super::chunk_end(rest, max_bytes));
                proptest::prop_assert!(!chunk.is_empty() && chunk.len() <= max_bytes);
                is_exact &= others.is_empty() || others.starts_with(' ');
                ids.extend(tokenizer.encode(chunk).unwrap());
                rest = others;
            }
            if is_exact {
                proptest::prop_assert_eq!(ids, tokenizer.encode(&text).unwrap());
            }
        }
    }

    #[test]
    fn a_cut_encodes_no_more_of_a_long_text_than_the_limit_needs() {
        let (tokenizer, text) = (testing::tokenizer(), "e\u{301} the end".repeat(100_000));
        let before = testing::encoded_bytes();
        let cut = tokenizer.cut(&text, 20).unwrap();
        assert_eq!(cut.ids.len(), 20);
        assert!(testing::encoded_bytes() - before < 2000);
    }

    #[test]
    fn bytes_that_are_no_tokenizer_are_refused_by_name() {
        let error = super::Tokenizer::from_bytes(b"{}", "models/x/tokenizer.json").unwrap_err();
        assert!(error.to_string().starts_with("models/x/tokenizer.json: not a tokenizer"), "{error}");
    }
}
