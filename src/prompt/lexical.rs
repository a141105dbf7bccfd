//! Lexical evidence: the BM25 score of a document, divided by the highest that its query allows.
//!
//! podium-nano reads it as a token: the score picks one of the marks that end a document. The idf
//! values come from a fixed background table, never from the slate, so a document's mark does not
//! depend on the other documents. The training data was made by the same rules
//! (`training/lexical.py`); `tests/fixtures/lexical.json` checks that both agree.
//!
//! Terms of a lower-cased text: a run of CJK characters gives its overlapping pairs, or its single
//! character. Any other maximal run of alphabetic or numeric characters gives one term, which
//! [`stem`] shortens if it is ASCII.

use std::collections::HashMap;

use half::f16;
use safetensors::SafeTensors;

use super::PromptError;

/// Characters written without spaces between words.
const CJK: [(char, char); 8] = [
    ('\u{3040}', '\u{30FF}'),   // Hiragana, Katakana
    ('\u{31F0}', '\u{31FF}'),   // Katakana phonetic extensions
    ('\u{3400}', '\u{4DBF}'),   // Han, extension A
    ('\u{4E00}', '\u{9FFF}'),   // Han
    ('\u{AC00}', '\u{D7AF}'),   // Hangul syllables
    ('\u{F900}', '\u{FAFF}'),   // Han, compatibility
    ('\u{FF66}', '\u{FF9F}'),   // Katakana, half width
    ('\u{20000}', '\u{323AF}'), // Han, extensions B to H
];
const SUFFIXES: [&str; 4] = ["ing", "ed", "es", "s"];

/// Background idf by term hash, and the constants of the score (`lexical.safetensors`).
#[derive(Debug, Clone)]
pub struct LexicalTable {
    /// 32-bit FNV-1a of the terms, ascending.
    hashes: Vec<u32>,
    idf: Vec<f16>,
    unknown_idf: f64,
    k1: f64,
    b: f64,
    average_length: f64,
    bucket_scale: f64,
}

/// The distinct terms of a query with their idf, in order of first use.
#[derive(Debug)]
pub(super) struct QueryTerms {
    place: HashMap<String, usize>,
    idf: Vec<f64>,
}

impl LexicalTable {
    /// Reads the bytes of a `lexical.safetensors`: tensors `term_hash` (U32, ascending) and `idf`
    /// (F16), metadata `k1`, `b`, `average_length`, `unknown_idf`, `bucket_scale`.
    ///
    /// # Errors
    /// [`PromptError::Evidence`] when a part is missing, malformed or not finite.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PromptError> {
        let problem = |problem: &str| PromptError::Evidence(problem.to_owned());
        let unreadable = |error: safetensors::SafeTensorError| PromptError::Evidence(error.to_string());
        let tensors = SafeTensors::deserialize(bytes).map_err(unreadable)?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(unreadable)?;
        let facts = header.metadata().as_ref().ok_or_else(|| problem("it has no metadata"))?;
        let number = |name: &str| -> Result<f64, PromptError> {
            facts
                .get(name)
                .and_then(|value| value.parse().ok())
                .filter(|value: &f64| value.is_finite())
                .ok_or_else(|| PromptError::Evidence(format!("metadata `{name}` is missing or no number")))
        };
        let tensor = |name: &str, dtype| {
            tensors.tensor(name).ok().filter(|tensor| tensor.dtype() == dtype && tensor.shape().len() == 1).ok_or_else(
                || PromptError::Evidence(format!("tensor `{name}` is missing or not of one {dtype} column")),
            )
        };
        let hashes: Vec<u32> = tensor("term_hash", safetensors::Dtype::U32)?
            .data()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| u32::from_le_bytes(*bytes))
            .collect();
        let idf: Vec<f16> = tensor("idf", safetensors::Dtype::F16)?
            .data()
            .as_chunks::<2>()
            .0
            .iter()
            .map(|bytes| f16::from_le_bytes(*bytes))
            .collect();
        if hashes.len() != idf.len() || !hashes.is_sorted_by(|left, right| left < right) {
            return Err(problem("term_hash must be ascending, with one idf for each"));
        }
        if !idf.iter().all(|value| value.is_finite()) {
            return Err(problem("idf holds a value that is not finite"));
        }
        let table = Self {
            hashes,
            idf,
            unknown_idf: number("unknown_idf")?,
            k1: number("k1")?,
            b: number("b")?,
            average_length: number("average_length")?,
            bucket_scale: number("bucket_scale")?,
        };
        if table.average_length <= 0.0 {
            return Err(problem("average_length must be above 0"));
        }
        Ok(table)
    }

    /// The distinct terms of a query, with their idf.
    pub(super) fn query(&self, text: &str) -> QueryTerms {
        let mut query = QueryTerms { place: HashMap::new(), idf: Vec::new() };
        each_term(&text.to_lowercase(), |term| {
            if !query.place.contains_key(term) {
                query.place.insert(term.to_owned(), query.idf.len());
                query.idf.push(self.idf_of(term));
            }
        });
        query
    }

    /// BM25 of a document over its maximum for the query: in [0, 1); 0 for a query without terms.
    /// `sum(idf (k1+1) n / (n + k1 (1 - b + b length/average))) / sum(idf (k1+1))`.
    pub(super) fn score(&self, query: &QueryTerms, document: &str) -> f64 {
        let most = query.idf.iter().sum::<f64>() * (self.k1 + 1.0);
        if most <= 0.0 {
            return 0.0;
        }
        let mut counts = vec![0_u32; query.idf.len()];
        let mut length = 0_u32;
        each_term(&document.to_lowercase(), |term| {
            length += 1;
            if let Some(place) = query.place.get(term) {
                counts[*place] += 1;
            }
        });
        let norm = self.k1 * (1.0 - self.b + self.b * f64::from(length) / self.average_length);
        let total: f64 = query
            .idf
            .iter()
            .zip(&counts)
            .filter(|(_, count)| **count > 0)
            .map(|(idf, count)| idf * (self.k1 + 1.0) * f64::from(*count) / (f64::from(*count) + norm))
            .sum();
        total / most
    }

    /// The bucket of a document's evidence: the number of its mark, below `buckets`.
    pub(super) fn bucket(&self, query: &QueryTerms, document: &str, buckets: usize) -> usize {
        ((self.bucket_scale * self.score(query, document)) as usize).min(buckets.saturating_sub(1))
    }

    fn idf_of(&self, term: &str) -> f64 {
        self.hashes
            .binary_search(&term_hash(term))
            .map_or(self.unknown_idf, |place| f64::from(self.idf[place].to_f32()))
    }
}

/// BM25 scores of documents for a query (k1 1.2, b 0.75), with the idf of these documents: the
/// ranking of a plain search engine. Needs no table, so it serves every family.
#[must_use]
pub fn lexical_scores(query: &str, documents: &[&str]) -> Vec<f64> {
    const K1: f64 = 1.2;
    const B: f64 = 0.75;
    let mut place: HashMap<String, usize> = HashMap::new();
    each_term(&query.to_lowercase(), |term| {
        let next = place.len();
        place.entry(term.to_owned()).or_insert(next);
    });
    let mut holders = vec![0_u32; place.len()];
    let mut lengths = Vec::with_capacity(documents.len());
    let mut counts = Vec::with_capacity(documents.len());
    for document in documents {
        let (mut length, mut found) = (0_u32, vec![0_u32; place.len()]);
        each_term(&document.to_lowercase(), |term| {
            length += 1;
            if let Some(place) = place.get(term) {
                found[*place] += 1;
            }
        });
        for (holders, count) in holders.iter_mut().zip(&found) {
            *holders += u32::from(*count > 0);
        }
        lengths.push(f64::from(length));
        counts.push(found);
    }
    let total = documents.len() as f64;
    let average = (lengths.iter().sum::<f64>() / total.max(1.0)).max(1.0);
    let idf = |holders: u32| (1.0 + (total - f64::from(holders) + 0.5) / (f64::from(holders) + 0.5)).ln();
    let score = |(length, counts): (f64, Vec<u32>)| {
        let norm = K1 * (1.0 - B + B * length / average);
        let term =
            |(count, holders): (u32, &u32)| idf(*holders) * f64::from(count) * (K1 + 1.0) / (f64::from(count) + norm);
        counts.into_iter().zip(&holders).filter(|(count, _)| *count > 0).map(term).sum()
    };
    lengths.into_iter().zip(counts).map(score).collect()
}

/// 32-bit FNV-1a of the UTF-8 bytes.
fn term_hash(term: &str) -> u32 {
    term.bytes().fold(0x811C_9DC5, |value, byte| (value ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn is_cjk(character: char) -> bool {
    character >= CJK[0].0 && CJK.iter().any(|(low, high)| (*low..=*high).contains(&character))
}

/// Removes one common English suffix, then a final e. Words of up to four letters, and words that
/// begin with a digit, stay.
fn stem(word: &str) -> &str {
    if word.len() <= 4 || word.starts_with(|first: char| first.is_ascii_digit()) {
        return word;
    }
    let cut = SUFFIXES.iter().find_map(|suffix| word.strip_suffix(suffix).filter(|rest| rest.len() >= 3));
    let word = cut.unwrap_or(word);
    word.strip_suffix('e').filter(|_| word.len() > 4).unwrap_or(word)
}

/// Calls `visit` with each term of a lower-cased text, in order, with repeats.
fn each_term(lowered: &str, mut visit: impl FnMut(&str)) {
    let kind = |character: char| {
        if is_cjk(character) {
            Kind::Cjk
        } else if character.is_alphabetic() || character.is_numeric() {
            Kind::Word
        } else {
            Kind::Other
        }
    };
    let mut rest = lowered;
    while let Some(first) = rest.chars().next() {
        let run_kind = kind(first);
        let end = rest.find(|character| kind(character) != run_kind).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        rest = after;
        match run_kind {
            Kind::Other => {}
            Kind::Word => visit(if run.is_ascii() { stem(run) } else { run }),
            Kind::Cjk => {
                let starts: Vec<usize> = run.char_indices().map(|(at, _)| at).chain([run.len()]).collect();
                if starts.len() == 2 {
                    visit(run);
                }
                for pair in starts.windows(3) {
                    visit(&run[pair[0]..pair[2]]);
                }
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cjk,
    Word,
    Other,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn terms(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        each_term(&text.to_lowercase(), |term| found.push(term.to_owned()));
        found
    }

    #[test]
    fn terms_are_stemmed_words_and_cjk_pairs() {
        assert_eq!(terms("Running the 1990s houses; snake_case"), ["runn", "the", "1990s", "hous", "snak", "case"]);
        assert_eq!(terms("東京タワー 猫 GPUの"), ["東京", "京タ", "タワ", "ワー", "猫", "gpu", "の"]);
        assert_eq!(terms("?! —"), [""; 0]);
    }

    #[test]
    fn bm25_prefers_rare_words_and_then_short_documents() {
        let scores = lexical_scores("blue houses", &["a red house", "a blue house", "a blue house by the sea", "fish"]);
        assert!(scores[1] > scores[2] && scores[2] > scores[0] && scores[0] > scores[3], "{scores:?}");
        // ln(1 + (2 - 1 + .5) / (1 + .5)) = ln 2, and the length is the average:
        // (k1 + 1) / (1 + k1).
        let scores = lexical_scores("sea", &["the sea", "the sky"]);
        assert!((scores[0] - 2_f64.ln()).abs() < 1e-12 && scores[1].abs() < 1e-12, "{scores:?}");
        assert_eq!(lexical_scores("?", &["a", "b"]), [0.0, 0.0]);
        assert_eq!(lexical_scores("a", &[]), [0.0; 0]);
    }

    #[test]
    fn hashes_are_fnv_1a() {
        assert_eq!(term_hash(""), 0x811C_9DC5);
        assert_eq!(term_hash("foobar"), 0xBF9C_F968);
    }

    #[test]
    fn scores_and_buckets_equal_those_of_the_training_code() {
        #[derive(serde::Deserialize)]
        struct Case {
            query: String,
            document: String,
            score: f64,
            bucket: usize,
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let table =
            LexicalTable::from_bytes(&std::fs::read(root.join("models/podium-nano/lexical.safetensors")).unwrap())
                .unwrap();
        let cases: Vec<Case> =
            serde_json::from_slice(&std::fs::read(root.join("tests/fixtures/lexical.json")).unwrap()).unwrap();
        assert!(cases.len() > 30);
        for case in cases {
            let query = table.query(&case.query);
            let score = table.score(&query, &case.document);
            assert!((score - case.score).abs() < 1e-8, "{:?} {:?}: {score}", case.query, case.document);
            assert_eq!(table.bucket(&query, &case.document, 32), case.bucket, "{:?} {:?}", case.query, case.document);
        }
    }

    #[test]
    fn a_broken_table_is_refused() {
        for bytes in [&b""[..], b"12345678", b"\x02\0\0\0\0\0\0\0{}"] {
            assert!(matches!(LexicalTable::from_bytes(bytes), Err(PromptError::Evidence(_))));
        }
    }
}
