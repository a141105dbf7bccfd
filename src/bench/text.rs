//! Seeded text that looks like text: sentences of common words by a Zipf law, names, numbers and punctuation.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::prompt::{PromptError, Tokenizer};

/// Words that may stand anywhere, the frequent ones first: rank `r` is drawn about as often as `1 / r`.
pub(super) const WORDS: &str = "the of and to in is that for it was on are as with they at be this from have or by one \
had not but what all were when we there can an your which their said if do will each about how up out them then she many \
some so these would other into has more her two like him see time could no make than first been its who now people my made \
over did down only way find use may water long little very after words called just where most know get through back much \
before go good new write our used me man too any day same right look think also around another came come work three word \
must because does part even place well such here take why things help put years different away again off went old number \
great tell men say small every found still between name should home big give air line set own under read last never us \
left end along while might next sound below saw something thought both few those always looked show large often together \
asked house world going want school important until form food keep children feet land side without boy once animals life \
enough took sometimes four head above kind began almost live page got earth need far hand high year mother light parts \
country father let night following picture being study second eyes soon times story boys since white days ever paper hard \
near sentence better best across during today others however sure means knew try told young miles sun ways thing whole hear \
example heard several change answer room sea against top turned learn point city play toward five using himself usually \
money seen car morning given ship tree red river garden engine market winter letter doctor station bridge island village \
law price tax court contract evidence theory measure signal pressure energy surface metal carbon oxygen cell protein disease \
treatment patient dose trial result risk average sample model network server memory file error version update release \
password account setting button screen window battery charge cable store order delivery refund customer service support \
harbour museum castle empire treaty election minister army century language grammar poem novel music rhythm colour painter \
coast mountain valley desert storm rain temperature degree season harvest wheat bread cheese pepper oil salt recipe oven";

/// Names, drawn now and then.
pub(super) const NAMES: &str = "Alma Bergen Carlo Delphi Edda Farid Genoa Hanne Ivo Jutta Kyoto Lena Milo Nadia Oslo \
Paula Quito Rosa Selim Tilda Umea Vera Wanda Xenia Yusuf Zora";

/// One word in so many is a name, a number.
const NAME_EVERY: u32 = 24;
const NUMBER_EVERY: u32 = 40;

/// How often another text is tried where a text cannot be cut to the tokens that are wanted.
const TRIES: usize = 8;

/// Writes texts; the same seed writes the same.
#[derive(Debug)]
pub struct Writer {
    generator: Xoshiro256PlusPlus,
    words: Vec<&'static str>,
    names: Vec<&'static str>,
    /// Sums of `1 / rank` up to each word.
    weights: Vec<f64>,
}

impl Writer {
    /// A writer of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let words: Vec<&str> = WORDS.split_whitespace().collect();
        let weights = (1..=words.len()).scan(0.0, |sum, rank| {
            *sum += 1.0 / rank as f64;
            Some(*sum)
        });
        let weights = weights.collect();
        let names = NAMES.split_whitespace().collect();
        Self { generator: Xoshiro256PlusPlus::seed_from_u64(seed), words, names, weights }
    }

    /// A whole number of a range, both ends included.
    pub fn number(&mut self, range: std::ops::RangeInclusive<usize>) -> usize {
        self.generator.random_range(range)
    }

    /// A text that is this many tokens on its own.
    ///
    /// A tokenizer that makes fewer tokens of a text's start than it counted in the whole may give one or two fewer.
    ///
    /// # Errors
    /// [`PromptError::Tokenizer`] when the tokenizer fails.
    pub fn text(&mut self, tokens: usize, tokenizer: &Tokenizer) -> Result<String, PromptError> {
        let mut best = (usize::MAX, String::new());
        for _ in 0..TRIES {
            let mut text = String::new();
            while tokenizer.count(&text)? < tokens + 2 {
                // Few tokens are shorter than a word with its space.
                for _ in 0..(tokens / 4).max(8) {
                    self.add_word(&mut text);
                }
            }
            let start = tokenizer.start_of(&text, tokens)?.trim_end().to_owned();
            let missing = tokens.abs_diff(tokenizer.count(&start)?);
            if missing < best.0 {
                best = (missing, start);
            }
            if missing == 0 {
                break;
            }
        }
        Ok(best.1)
    }

    fn add_word(&mut self, text: &mut String) {
        let begins = text.is_empty() || text.ends_with(['.', '?']);
        if !text.is_empty() {
            text.push(' ');
        }
        if !begins && self.generator.random_range(0..NAME_EVERY) == 0 {
            text.push_str(self.names[self.generator.random_range(0..self.names.len())]);
        } else if !begins && self.generator.random_range(0..NUMBER_EVERY) == 0 {
            text.push_str(&self.generator.random_range(2..2000).to_string());
        } else {
            let word = self.word();
            match word.chars().next().filter(|_| begins) {
                Some(first) => {
                    text.push(first.to_ascii_uppercase());
                    text.push_str(&word[first.len_utf8()..]);
                }
                None => text.push_str(word),
            }
        }
        match self.generator.random_range(0..60) {
            0..=3 => text.push('.'),
            4..=6 => text.push(','),
            7 => text.push('?'),
            _ => {}
        }
    }

    fn word(&mut self) -> &'static str {
        let total = self.weights.last().copied().unwrap_or_default();
        let drawn = self.generator.random_range(0.0..1.0) * total;
        self.words[self.weights.partition_point(|sum| *sum < drawn).min(self.words.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::tokenizer;
    use super::*;
    use crate::runtime::Checkpoint;

    #[test]
    fn a_text_has_the_tokens_that_were_asked_for() {
        let embedded = Tokenizer::from_bytes(&Checkpoint::embedded().tokenizer, "embedded").unwrap();
        let built = Tokenizer::from_bytes(&tokenizer::build(&[]), "built").unwrap();
        for tokenizer in [&embedded, &built] {
            let mut writer = Writer::new(3);
            for tokens in [1, 2, 16, 100, 128, 512] {
                let text = writer.text(tokens, tokenizer).unwrap();
                assert_eq!(tokenizer.count(&text).unwrap(), tokens, "{text:?}");
            }
        }
    }

    #[test]
    fn texts_are_of_many_words_and_the_same_for_the_same_seed() {
        let tokenizer = Tokenizer::from_bytes(&Checkpoint::embedded().tokenizer, "embedded").unwrap();
        let write = |seed| Writer::new(seed).text(300, &tokenizer).unwrap();
        assert_eq!(write(1), write(1));
        assert_ne!(write(1), write(2));
        let text = write(1);
        let words: HashSet<&str> = text.split_whitespace().collect();
        assert!(words.len() > 60, "{} words: {text}", words.len());
        assert!(text.contains(". ") && text.chars().any(|letter| letter.is_ascii_digit()), "{text}");
    }
}
