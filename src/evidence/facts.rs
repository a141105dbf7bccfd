//! Facts that are counted in a text: numbers, years, punctuation, lists of words, scripts.
//! Instructions ask for them, and the encoder's states show them badly. `training/MODEL.md` defines
//! each number.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Lists and characters, in `podium.facts` of the checkpoint's `config.json`. The order of the
/// lists is that of the facts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FactsConfig {
    punctuation: String,
    quotes: String,
    money: String,
    code: String,
    words: Ordered<Vec<String>>,
    languages: Ordered<Vec<String>>,
    scripts: Ordered<[u32; 2]>,
}

/// A JSON object whose order counts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ordered<T>(Vec<(String, T)>);

impl<'de, T: serde::de::DeserializeOwned> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        // `preserve_order` of serde_json keeps the order of the file.
        let entries = serde_json::Map::deserialize(deserializer)?;
        let parsed = entries.into_iter().map(|(name, value)| Ok((name, serde_json::from_value(value)?)));
        parsed.collect::<Result<_, serde_json::Error>>().map(Self).map_err(D::Error::custom)
    }
}

/// The list of words of which only the first word of a text counts.
const QUESTION: &str = "question";
/// Facts about a document before its lists.
const PLAIN: usize = 12;
/// Facts about a document and an instruction together.
const TOGETHER: usize = 7;

/// Counts taken from a document.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CountedFacts {
    facts: Vec<f32>,
    /// 0 without one.
    year: u32,
    pieces: usize,
}

/// Things that an instruction names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct NamedFacts {
    /// 0 without one.
    year: u32,
    /// A number of words; 0 without one.
    limit: usize,
    /// The place of a language among languages and scripts.
    language: Option<usize>,
}

impl FactsConfig {
    /// Number of facts about a document and an instruction.
    pub(super) fn count(&self) -> usize {
        self.own() + TOGETHER
    }

    fn own(&self) -> usize {
        self.first_language() + self.languages.0.len() + self.scripts.0.len()
    }

    /// The place of the first fact about languages.
    fn first_language(&self) -> usize {
        PLAIN + self.words.0.len()
    }

    /// Counts in a document.
    pub(super) fn count_document(&self, text: &str) -> CountedFacts {
        let pieces: Vec<&str> = text.split_whitespace().collect();
        let characters = pieces.iter().map(|piece| piece.chars().count()).sum::<usize>().max(1) as f32;
        let total = pieces.len().max(1) as f32;
        let share = |count: usize, weight: f32| (weight * count as f32 / total).min(1.0);
        let of_characters = |count: usize, weight: f32| (weight * count as f32 / characters).min(1.0);
        let among = |set: &str| text.chars().filter(|letter| set.contains(*letter)).count();
        let yes = |holds: bool| f32::from(u8::from(holds));
        let year = first_year(text);
        let with_digit = pieces.iter().filter(|piece| piece.bytes().any(|byte| byte.is_ascii_digit())).count();
        let mut facts = vec![
            (1.0 + pieces.len() as f32).ln() / 5.0,
            share(with_digit, 4.0),
            yes(numbers(text).next().is_some()),
            yes(year > 0),
            if year > 0 { (year as f32 - 2000.0) / 20.0 } else { 0.0 },
            yes(text.contains('?')),
            (among(&self.quotes) as f32 / 4.0).min(1.0),
            yes(among(&self.money) > 0),
            of_characters(among(&self.code), 10.0),
            of_characters(text.bytes().filter(u8::is_ascii_uppercase).count(), 4.0),
            yes(text.starts_with('[')),
            yes(text.chars().take(60).any(|letter| letter == ':')),
        ];
        let counts = self.count_words(&pieces);
        for (name, words) in &self.words.0 {
            let first = || pieces.first().is_some_and(|piece| words.contains(&self.word(piece)));
            facts.push(if name == QUESTION { yes(first()) } else { share(found(words, &counts), 8.0) });
        }
        facts.extend(self.languages.0.iter().map(|(_, words)| share(found(words, &counts), 4.0)));
        for (_, [first, last]) in &self.scripts.0 {
            let inside = text.chars().filter(|letter| (*first..=*last).contains(&u32::from(*letter))).count();
            facts.push(of_characters(inside, 4.0));
        }
        CountedFacts { facts, year, pieces: pieces.len() }
    }

    /// Things that an instruction names.
    pub(super) fn named(&self, instruction: &str) -> NamedFacts {
        let names: Vec<&String> =
            self.languages.0.iter().map(|(name, _)| name).chain(self.scripts.0.iter().map(|(name, _)| name)).collect();
        let language = instruction.split_whitespace().find_map(|piece| {
            let word = self.word(piece);
            names.iter().position(|name| **name == word)
        });
        let is_limit = |(value, end): &(u32, usize)| {
            *value > 0 && instruction.get(*end..end + 5).is_some_and(|after| after.eq_ignore_ascii_case(" word"))
        };
        let limit = numbers(instruction).find(is_limit).map_or(0, |(value, _)| value as usize);
        NamedFacts { year: first_year(instruction), limit, language }
    }

    /// All facts about a document and an instruction.
    pub(super) fn together(&self, named: NamedFacts, document: &CountedFacts) -> Vec<f32> {
        let yes = |holds: bool| f32::from(u8::from(holds));
        let dated = named.year > 0 && document.year > 0;
        let limited = named.limit > 0;
        let mut facts = document.facts.clone();
        facts.resize(self.own(), 0.0);
        facts.extend([
            yes(dated && document.year > named.year),
            yes(dated && document.year == named.year),
            yes(dated && document.year < named.year),
            yes(limited && document.pieces > named.limit),
            yes(limited && document.pieces == named.limit),
            yes(limited && document.pieces < named.limit),
        ]);
        let language = named.language.and_then(|place| facts.get(self.first_language() + place));
        facts.push(language.copied().unwrap_or_default());
        facts
    }

    /// A piece without punctuation at both ends, in lower case.
    fn word(&self, piece: &str) -> String {
        piece.trim_matches(|letter| self.punctuation.contains(letter)).to_lowercase()
    }

    fn count_words(&self, pieces: &[&str]) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for piece in pieces {
            *counts.entry(self.word(piece)).or_insert(0) += 1;
        }
        counts
    }
}

/// How many words of a text are in a list.
fn found(words: &[String], counts: &BTreeMap<String, usize>) -> usize {
    words.iter().filter_map(|word| counts.get(word)).sum()
}

/// Maximal runs of 1 to 9 digits: their values, and where they end in bytes.
fn numbers(text: &str) -> impl Iterator<Item = (u32, usize)> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let start = at + bytes.get(at..)?.iter().position(u8::is_ascii_digit)?;
            let length = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            at = start + length;
            if length <= 9
                && let Ok(value) = text[start..at].parse()
            {
                return Some((value, at));
            }
        }
    })
}

/// The first number from 1500 to 2099; 0 if there is none.
fn first_year(text: &str) -> u32 {
    numbers(text).map(|(value, _)| value).find(|value| (1500..2100).contains(value)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> FactsConfig {
        let json = include_str!("../../models/podium-mini/config.json");
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        FactsConfig::deserialize(&json["podium"]["facts"]).unwrap()
    }

    #[test]
    fn numbers_are_runs_of_up_to_nine_digits() {
        let found: Vec<u32> = numbers("a1 22,333 1234567890 5").map(|(value, _)| value).collect();
        assert_eq!(found, [1, 22, 333, 5]);
        assert_eq!((first_year("in 1499 and 2021, 2022"), first_year("12021")), (2021, 0));
    }

    #[test]
    fn an_instruction_names_a_year_a_limit_and_a_language() {
        let named = config().named("Texts after 2019 in German, at most 50 words, please.");
        assert_eq!(named, NamedFacts { year: 2019, limit: 50, language: Some(1) });
        assert_eq!(config().named("Prefer sources."), NamedFacts::default());
    }

    #[test]
    fn a_document_is_compared_with_what_the_instruction_names() {
        let config = config();
        let document = config.count_document("Das ist der Bericht von 2021: \"gut\", sagt die Firma?");
        let facts = config.together(config.named("after 2019, in German, at most 5 words"), &document);
        assert_eq!(facts.len(), config.count());
        assert_eq!(facts[2..6], [1.0, 1.0, 1.05, 1.0], "a number, a year, which, a question mark");
        assert_eq!(facts[facts.len() - 7..facts.len() - 1], [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        assert!((facts[facts.len() - 1] - 1.0).abs() < 1e-6, "German: {facts:?}");
        let empty = config.together(NamedFacts::default(), &config.count_document(""));
        assert!(empty.iter().all(|fact| *fact == 0.0), "{empty:?}");
    }
}
