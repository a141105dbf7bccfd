//! The workload: cases, which combine requests of one size with a route and a number of clients.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::text::TextGenerator;
pub use crate::prompt::Tokenizer;

use crate::prompt::PromptError;
use crate::rerank::{Mode, RerankRequest};
use crate::runtime::Checkpoint;

/// Tokens in a generated query.
const QUERY_TOKENS: usize = 12;

/// Number of different requests in a case; the clients send them in turn.
const REQUESTS: usize = 8;

/// The length of documents in tokens: one number, or a range with a uniform distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Length {
    /// The minimum.
    pub low: usize,
    /// The maximum.
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
            _ => Err("expected a number of tokens from 1 to 1000000, or a range such as 20-400".to_owned()),
        }
    }
}

/// How requests reach the reranker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// A function call in this process.
    InProcess,
    /// HTTP to a server in this process.
    Http,
    /// HTTP to an external endpoint.
    Url,
}

impl Route {
    /// The name in tables and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InProcess => "in-process",
            Self::Http => "http",
            Self::Url => "url",
        }
    }
}

/// Requests of one size, with a route and a number of clients.
#[derive(Debug, Clone)]
pub struct Case {
    /// The requested length of documents; `None` for requests from a file.
    pub length: Option<Length>,
    /// Number of clients; each sends one request at a time.
    pub concurrency: usize,
    /// The route of the requests.
    pub route: Route,
    /// The requests that the clients send in turn; at least one.
    pub requests: Arc<Vec<RerankRequest>>,
}

/// The sizes to combine, and the settings of all requests.
#[derive(Debug, Clone)]
pub struct Grid {
    /// Numbers of documents in a request.
    pub documents: Vec<usize>,
    /// Lengths of documents.
    pub lengths: Vec<Length>,
    /// The instruction of every request.
    pub instruction: Option<String>,
    /// Whether documents are read together or one at a time.
    pub mode: Mode,
    /// Whether requests set `max_tokens_per_doc` to the documents' length, so that none is
    /// truncated.
    pub set_limit: bool,
    /// Seed of the texts.
    pub seed: u64,
}

/// Requests of one size, or the requests of a file.
#[derive(Debug, Clone)]
pub struct RequestSet {
    /// The requested length of documents; `None` for requests from a file.
    pub length: Option<Length>,
    /// The requests; at least one.
    pub requests: Arc<Vec<RerankRequest>>,
}

impl Grid {
    /// Generates requests of every size, with lengths counted by this tokenizer. The same seed
    /// generates the same requests.
    ///
    /// # Errors
    /// [`PromptError::Tokenizer`] if the tokenizer fails.
    pub fn generate(&self, tokenizer: &Tokenizer) -> Result<Vec<RequestSet>, PromptError> {
        let mut generator = TextGenerator::new(self.seed);
        let mut sets = Vec::new();
        for &length in &self.lengths {
            for &count in &self.documents {
                let requests = (0..REQUESTS)
                    .map(|_| self.generate_request(&mut generator, count, length, tokenizer))
                    .collect::<Result<_, _>>()?;
                sets.push(RequestSet { length: Some(length), requests: Arc::new(requests) });
            }
        }
        Ok(sets)
    }

    fn generate_request(
        &self,
        generator: &mut TextGenerator,
        documents: usize,
        length: Length,
        tokenizer: &Tokenizer,
    ) -> Result<RerankRequest, PromptError> {
        let query = generator.generate(QUERY_TOKENS, tokenizer)?;
        let documents = (0..documents)
            .map(|_| {
                let tokens = generator.draw_integer(length.low..=length.high);
                generator.generate(tokens, tokenizer)
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

/// Parses a tokenizer from the bytes of `file`; without bytes, returns that of the embedded model.
///
/// # Errors
/// [`PromptError::Tokenizer`] if the bytes are not a tokenizer.
pub fn read_tokenizer(bytes: Option<Vec<u8>>, file: &str) -> Result<Tokenizer, PromptError> {
    Tokenizer::from_bytes(&bytes.unwrap_or_else(|| Checkpoint::podium_mini().tokenizer), file)
}

/// Combines every set of requests with every number of clients and every route.
#[must_use]
pub fn combine_cases(sets: &[RequestSet], routes: &[Route], concurrency: &[usize]) -> Vec<Case> {
    let mut cases = Vec::new();
    for set in sets {
        for &concurrency in concurrency {
            for &route in routes {
                let requests = Arc::clone(&set.requests);
                cases.push(Case { length: set.length, concurrency, route, requests });
            }
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_a_number_or_a_range() {
        assert_eq!("128".parse(), Ok(Length { low: 128, high: 128 }));
        assert_eq!("20-400".parse::<Length>().unwrap().to_string(), "20-400");
        for wrong in ["", "0", "9-8", "a", "1-2-3", "-5", "9999999"] {
            assert!(wrong.parse::<Length>().unwrap_err().contains("such as 20-400"), "{wrong}");
        }
    }

    #[test]
    fn a_grid_generates_requests_of_every_size_and_all_cases() {
        let tokenizer = Tokenizer::from_bytes(&Checkpoint::podium_nano().tokenizer, "embedded").unwrap();
        let grid = Grid {
            documents: vec![2, 3],
            lengths: vec![Length { low: 5, high: 9 }],
            instruction: Some("Prefer short texts.".to_owned()),
            mode: Mode::Listwise,
            set_limit: true,
            seed: 1,
        };
        let sets = grid.generate(&tokenizer).unwrap();
        let sizes: Vec<usize> = sets.iter().map(|set| set.requests[0].documents.len()).collect();
        assert_eq!(sizes, [2, 3]);
        for request in sets.iter().flat_map(|set| set.requests.iter()) {
            assert_eq!(tokenizer.count(&request.query).unwrap(), QUERY_TOKENS);
            assert!(
                request.documents.iter().all(|text| (5..=9).contains(&tokenizer.count(text).unwrap())),
                "{request:?}"
            );
            assert_eq!((request.mode, request.max_tokens_per_doc), (Mode::Listwise, Some(9)));
        }
        assert_ne!(sets[0].requests[0], sets[0].requests[1]);
        let again = grid.generate(&tokenizer).unwrap();
        assert_eq!(again[1].requests, sets[1].requests);
        let cases = combine_cases(&sets, &[Route::InProcess, Route::Http], &[1, 4]);
        assert_eq!(cases.len(), 8);
        assert_eq!((cases[1].route, cases[1].concurrency, cases[2].concurrency), (Route::Http, 1, 4));
    }
}
