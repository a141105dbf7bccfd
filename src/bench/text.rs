//! Generates text that resembles natural language: sentences of common words (Zipf's law), with
//! names, numbers and punctuation.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::prompt::{PromptError, Tokenizer};

/// Common words, the frequent ones first. The word of rank `r` is drawn in proportion to `1 / r`.
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

/// Names, which are drawn with equal probability.
pub(super) const NAMES: &str = "Alma Bergen Carlo Delphi Edda Farid Genoa Hanne Ivo Jutta Kyoto Lena Milo Nadia Oslo \
Paula Quito Rosa Selim Tilda Umea Vera Wanda Xenia Yusuf Zora";

/// One in 24 words is a name, one in 40 a number.
const NAME_EVERY: u32 = 24;
const NUMBER_EVERY: u32 = 40;

/// Maximum number of attempts to generate a text with exactly the requested tokens.
const MAX_ATTEMPTS: usize = 8;

/// Generates texts. The same seed generates the same texts.
#[derive(Debug)]
pub struct TextGenerator {
    generator: Xoshiro256PlusPlus,
    words: Vec<&'static str>,
    names: Vec<&'static str>,
    /// Cumulative weights of the words: sums of `1 / rank`.
    weights: Vec<f64>,
}

impl TextGenerator {
    /// Creates a generator with this seed.
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

    /// Draws an integer from an inclusive range.
    pub fn draw_integer(&mut self, range: std::ops::RangeInclusive<usize>) -> usize {
        self.generator.random_range(range)
    }

    /// Generates a text with this number of tokens.
    ///
    /// The text may have one or two tokens fewer, because some tokenizers count fewer tokens for
    /// the start of a text alone than within the whole text.
    ///
    /// # Errors
    /// [`PromptError::Tokenizer`] if the tokenizer fails.
    pub fn generate(&mut self, tokens: usize, tokenizer: &Tokenizer) -> Result<String, PromptError> {
        let mut best = (usize::MAX, String::new());
        for _ in 0..MAX_ATTEMPTS {
            let mut text = String::new();
            while tokenizer.count(&text)? < tokens + 2 {
                // A word has about one token; a quarter at a time overshoots little.
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
        let starts_sentence = text.is_empty() || text.ends_with(['.', '?']);
        if !text.is_empty() {
            text.push(' ');
        }
        if !starts_sentence && self.generator.random_range(0..NAME_EVERY) == 0 {
            text.push_str(self.names[self.generator.random_range(0..self.names.len())]);
        } else if !starts_sentence && self.generator.random_range(0..NUMBER_EVERY) == 0 {
            text.push_str(&self.generator.random_range(2..2000).to_string());
        } else {
            let word = self.draw_word();
            match word.chars().next().filter(|_| starts_sentence) {
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

    fn draw_word(&mut self) -> &'static str {
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
    fn a_text_has_the_requested_number_of_tokens() {
        let embedded = Tokenizer::from_bytes(&Checkpoint::podium_nano().tokenizer, "embedded").unwrap();
        let built = Tokenizer::from_bytes(&tokenizer::build(&[]), "built").unwrap();
        for tokenizer in [&embedded, &built] {
            let mut generator = TextGenerator::new(3);
            for tokens in [1, 2, 16, 100, 128, 512] {
                let text = generator.generate(tokens, tokenizer).unwrap();
                assert_eq!(tokenizer.count(&text).unwrap(), tokens, "{text:?}");
            }
        }
    }

    #[test]
    fn texts_have_many_different_words_and_depend_on_the_seed() {
        let tokenizer = Tokenizer::from_bytes(&Checkpoint::podium_nano().tokenizer, "embedded").unwrap();
        let generate = |seed| TextGenerator::new(seed).generate(300, &tokenizer).unwrap();
        assert_eq!(generate(1), generate(1));
        assert_ne!(generate(1), generate(2));
        let text = generate(1);
        let words: HashSet<&str> = text.split_whitespace().collect();
        assert!(words.len() > 60, "{} words: {text}", words.len());
        assert!(text.contains(". ") && text.chars().any(|letter| letter.is_ascii_digit()), "{text}");
    }
}
