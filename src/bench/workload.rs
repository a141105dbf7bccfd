//! What is asked of a reranker: cases, each a size of request under a number of clients.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::text::Writer;
pub use crate::prompt::Tokenizer;

use crate::prompt::PromptError;
use crate::rerank::{Mode, RerankRequest};
use crate::runtime::Checkpoint;

/// Tokens of a made-up query.
const QUERY_TOKENS: usize = 12;

/// Different requests of a case; clients take them in turn.
const REQUESTS: usize = 8;

/// Tokens of a document: as many, or evenly between two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Length {
    /// The fewest.
    pub low: usize,
    /// The most.
    pub high: usize,
}

impl fmt::Display for Length {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.low == self.high {
            write!(formatter, "{}", self.low)
        } else {
            write!(formatter, "{}-{}", self.low, self.high)
        }
    }
}

impl FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| text.trim().parse().ok().filter(|count| (1..=1_000_000).contains(count));
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        match (number(low), number(high)) {
            (Some(low), Some(high)) if low <= high => Ok(Self { low, high }),
            _ => Err("expected a number of tokens from 1 to 1000000, or two with a hyphen between them, as in 20-400"
                .to_owned()),
        }
    }
}

/// How requests reach the reranker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// A call in this process.
    InProcess,
    /// HTTP to a server that this process runs.
    Http,
    /// HTTP to a server somewhere.
    Url,
}

impl Route {
    /// The word in tables and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InProcess => "in-process",
            Self::Http => "http",
            Self::Url => "url",
        }
    }
}

/// Requests of one kind under a number of clients.
#[derive(Debug, Clone)]
pub struct Case {
    /// The tokens of its documents as they were asked for; `None` for requests from a file.
    pub length: Option<Length>,
    /// Clients that each send one request after the other.
    pub concurrency: usize,
    /// How requests travel.
    pub route: Route,
    /// What the clients take in turn: at least one.
    pub requests: Arc<Vec<RerankRequest>>,
}

/// Sizes to be combined, and what all requests share.
#[derive(Debug, Clone)]
pub struct Grid {
    /// Documents of a request.
    pub documents: Vec<usize>,
    /// Tokens of a document.
    pub lengths: Vec<Length>,
    /// The instruction of every request.
    pub instruction: Option<String>,
    /// How documents are read.
    pub mode: Mode,
    /// Whether requests say how many tokens of a document may be read, so that none is cut.
    pub set_limit: bool,
    /// Seed of the texts.
    pub seed: u64,
}

/// Requests of one size, or all those of a file.
#[derive(Debug, Clone)]
pub struct Kind {
    /// The tokens of its documents as they were asked for; `None` for requests from a file.
    pub length: Option<Length>,
    /// At least one.
    pub requests: Arc<Vec<RerankRequest>>,
}

impl Grid {
    /// Requests of every size; lengths are tokens of this tokenizer. The same seed makes the same requests.
    ///
    /// # Errors
    /// [`PromptError::Tokenizer`] when the tokenizer fails.
    pub fn kinds(&self, tokenizer: &Tokenizer) -> Result<Vec<Kind>, PromptError> {
        let mut writer = Writer::new(self.seed);
        let mut kinds = Vec::new();
        for &length in &self.lengths {
            for &count in &self.documents {
                let requests = (0..REQUESTS)
                    .map(|_| self.request(&mut writer, count, length, tokenizer))
                    .collect::<Result<_, _>>()?;
                kinds.push(Kind { length: Some(length), requests: Arc::new(requests) });
            }
        }
        Ok(kinds)
    }

    fn request(
        &self,
        writer: &mut Writer,
        documents: usize,
        length: Length,
        tokenizer: &Tokenizer,
    ) -> Result<RerankRequest, PromptError> {
        let query = writer.text(QUERY_TOKENS, tokenizer)?;
        let documents = (0..documents)
            .map(|_| {
                let tokens = writer.number(length.low..=length.high);
                writer.text(tokens, tokenizer)
            })
            .collect::<Result<_, _>>()?;
        Ok(RerankRequest {
            instruction: self.instruction.as_deref().map(Into::into),
            mode: self.mode,
            max_tokens_per_doc: self.set_limit.then_some(length.high),
            ..RerankRequest::new(query, documents)
        })
    }
}

/// A tokenizer from the bytes of `file`; the embedded model's where there are none.
///
/// # Errors
/// [`PromptError::Tokenizer`] when they are no tokenizer.
pub fn read_tokenizer(bytes: Option<Vec<u8>>, file: &str) -> Result<Tokenizer, PromptError> {
    Tokenizer::from_bytes(&bytes.unwrap_or_else(|| Checkpoint::embedded().tokenizer), file)
}

/// Every kind of request by every route under every number of clients.
#[must_use]
pub fn cases(kinds: &[Kind], routes: &[Route], concurrency: &[usize]) -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in kinds {
        for &concurrency in concurrency {
            for &route in routes {
                let requests = Arc::clone(&kind.requests);
                cases.push(Case { length: kind.length, concurrency, route, requests });
            }
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_one_number_or_two() {
        assert_eq!("128".parse(), Ok(Length { low: 128, high: 128 }));
        assert_eq!("20-400".parse::<Length>().unwrap().to_string(), "20-400");
        for wrong in ["", "0", "9-8", "a", "1-2-3", "-5", "9999999"] {
            assert!(wrong.parse::<Length>().unwrap_err().contains("as in 20-400"), "{wrong}");
        }
    }

    #[test]
    fn a_grid_makes_requests_of_its_sizes_and_every_case_of_them() {
        let tokenizer = Tokenizer::from_bytes(&Checkpoint::embedded().tokenizer, "embedded").unwrap();
        let grid = Grid {
            documents: vec![2, 3],
            lengths: vec![Length { low: 5, high: 9 }],
            instruction: Some("Prefer short texts.".to_owned()),
            mode: Mode::Listwise,
            set_limit: true,
            seed: 1,
        };
        let kinds = grid.kinds(&tokenizer).unwrap();
        let sizes: Vec<usize> = kinds.iter().map(|kind| kind.requests[0].documents.len()).collect();
        assert_eq!(sizes, [2, 3]);
        for request in kinds.iter().flat_map(|kind| kind.requests.iter()) {
            assert_eq!(tokenizer.count(&request.query).unwrap(), QUERY_TOKENS);
            assert!(
                request.documents.iter().all(|text| (5..=9).contains(&tokenizer.count(text).unwrap())),
                "{request:?}"
            );
            assert_eq!((request.mode, request.max_tokens_per_doc), (Mode::Listwise, Some(9)));
        }
        assert_ne!(kinds[0].requests[0], kinds[0].requests[1]);
        let again = grid.kinds(&tokenizer).unwrap();
        assert_eq!(again[1].requests, kinds[1].requests);
        let cases = cases(&kinds, &[Route::InProcess, Route::Http], &[1, 4]);
        assert_eq!(cases.len(), 8);
        assert_eq!((cases[1].route, cases[1].concurrency, cases[2].concurrency), (Route::Http, 1, 4));
    }
}
