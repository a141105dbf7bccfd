//! API keys: what one may look like, how a file of them is read, and how one is found.
//!
//! A key's text goes no further than [`Key::parse`]: what is kept is its SHA-256. No message repeats a key, or a word
//! that may be one.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest as _, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::limits::Bucket;

/// Shorter keys can be guessed.
const LEAST_KEY_BYTES: usize = 8;
/// Longer ones do not fit well into a header.
const MOST_KEY_BYTES: usize = 1024;
/// A name stands in log lines and metrics.
const MOST_NAME_BYTES: usize = 64;
/// The largest limit that can be set.
const MOST_REQUESTS: u32 = 1_000_000;
/// What a key without a name is called, and a number.
const UNNAMED: &str = "unnamed-";

/// Keys that are not taken.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read the keys file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// One key is wrong.
    #[error("{place}: {problem}")]
    Key {
        /// Where it stands.
        place: Place,
        /// What is wrong with it.
        problem: String,
    },
    /// A source that was named has no key, and without one the server would be open.
    #[error("{source_name} holds no key; leave it out where everyone may ask")]
    NoKeys {
        /// The source.
        source_name: String,
    },
}

/// Where a key was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A line of a file, counted from 1.
    Line(Arc<Path>, usize),
    /// One of the keys in an environment variable, counted from 1.
    Environment(&'static str, usize),
    /// One of the flags, counted from 1.
    Flag(&'static str, usize),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(path, line) => write!(formatter, "{} line {line}", path.display()),
            Self::Environment(name, number) => write!(formatter, "key {number} in {name}"),
            Self::Flag(flag, number) => write!(formatter, "key {number} of {flag}"),
        }
    }
}

/// A key that may be used, without its text.
#[derive(Clone)]
pub struct Key {
    digest: Digest,
    name: Option<Arc<str>>,
    requests_per_minute: Option<u32>,
    place: Place,
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Key").field("name", &self.name).field("place", &self.place).finish_non_exhaustive()
    }
}

impl Key {
    /// A key without attributes.
    ///
    /// # Errors
    /// A key that is too short, too long, or could not stand in a header.
    pub fn parse(text: &str, place: Place) -> Result<Self, KeyError> {
        match problem_of(text) {
            Some(problem) => Err(KeyError::Key { place, problem }),
            None => Ok(Self { digest: digest_of(text.as_bytes()), name: None, requests_per_minute: None, place }),
        }
    }

    /// Keys separated by commas. There is at least one.
    ///
    /// # Errors
    /// A key that is not taken, or none at all.
    pub fn parse_list(text: &str, variable: &'static str) -> Result<Vec<Self>, KeyError> {
        let keys = text.split(',').map(str::trim).filter(|key| !key.is_empty()).zip(1..);
        let keys: Vec<Self> = keys
            .map(|(key, number)| Self::parse(key, Place::Environment(variable, number)))
            .collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(KeyError::NoKeys { source_name: variable.to_owned() }) } else { Ok(keys) }
    }

    /// The keys in the text of a file: one a line, its attributes after it, comments after `#`. There is at least one.
    ///
    /// # Errors
    /// A line that is not taken, or no key at all.
    pub fn parse_file(content: &[u8], path: &Path) -> Result<Vec<Self>, KeyError> {
        let text = String::from_utf8_lossy(content);
        let shared: Arc<Path> = path.into();
        let mut keys = Vec::new();
        for (line, number) in text.trim_start_matches('\u{feff}').lines().zip(1..) {
            let place = Place::Line(Arc::clone(&shared), number);
            keys.extend(Self::parse_line(line, &place)?);
        }
        if keys.is_empty() { Err(KeyError::NoKeys { source_name: path.display().to_string() }) } else { Ok(keys) }
    }

    fn parse_line(line: &str, place: &Place) -> Result<Option<Self>, KeyError> {
        let mut words = line.split_whitespace().take_while(|word| !word.starts_with('#'));
        let Some(text) = words.next() else { return Ok(None) };
        let refuse = |problem: &str| KeyError::Key { place: place.clone(), problem: problem.to_owned() };
        if text.starts_with("name=") || text.starts_with("requests_per_minute=") {
            return Err(refuse("the key must stand before its attributes"));
        }
        let mut key = Self::parse(text, place.clone())?;
        for word in words {
            match word.split_once('=') {
                Some(("name", value)) if key.name.is_none() => {
                    key.name = Some(name_of(value).ok_or_else(|| refuse(&name_problem()))?);
                }
                Some(("requests_per_minute", value)) if key.requests_per_minute.is_none() => {
                    key.requests_per_minute = Some(limit_of(value).ok_or_else(|| refuse(&limit_problem()))?);
                }
                // The word may be another key, or a part of one: it is not repeated.
                _ => {
                    return Err(refuse(
                        "only name=… and requests_per_minute=…, each once, may follow a key on its line",
                    ));
                }
            }
        }
        Ok(Some(key))
    }
}

fn name_of(value: &str) -> Option<Arc<str>> {
    let sane = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    ((1..=MOST_NAME_BYTES).contains(&value.len()) && value.bytes().all(sane)).then(|| value.into())
}

fn name_problem() -> String {
    format!("name must be 1 to {MOST_NAME_BYTES} letters (a-z, A-Z), digits, dots, hyphens or underscores")
}

fn limit_of(value: &str) -> Option<u32> {
    value.parse().ok().filter(|limit| *limit <= MOST_REQUESTS)
}

fn limit_problem() -> String {
    format!("requests_per_minute must be a whole number between 0 (no limit) and {MOST_REQUESTS}")
}

fn problem_of(key: &str) -> Option<String> {
    if !key.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',') {
        return Some("a key may hold only visible ASCII characters, and no comma".to_owned());
    }
    let length = key.len();
    (!(LEAST_KEY_BYTES..=MOST_KEY_BYTES).contains(&length))
        .then(|| format!("a key must have {LEAST_KEY_BYTES} to {MOST_KEY_BYTES} characters, not {length}"))
}

/// A key's SHA-256.
type Digest = [u8; 32];

fn digest_of(text: &[u8]) -> Digest {
    Sha256::digest(text).into()
}

/// Every key that opens the door now, with its bucket.
#[derive(Default)]
pub struct KeyRing {
    clients: Vec<(Digest, Client)>,
}

/// Whoever holds a key.
#[derive(Debug, Clone)]
pub struct Client {
    /// The key's name, or `unnamed-1` and so on: also who takes turns with the others.
    pub name: Arc<str>,
    /// What limits it, if anything does.
    pub bucket: Option<Arc<Bucket>>,
}

impl KeyRing {
    /// The ring of `keys`. A key that was on the ring `before` with the same limit keeps its bucket.
    ///
    /// # Errors
    /// A key that is given twice.
    pub fn new(keys: &[Key], default_limit: u32, before: &Self) -> Result<Self, KeyError> {
        let mut places = HashMap::with_capacity(keys.len());
        let mut unnamed = 0;
        let before: HashMap<&Digest, &Client> =
            before.clients.iter().map(|(digest, client)| (digest, client)).collect();
        let mut clients = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(twin) = places.insert(key.digest, &key.place) {
                let problem = format!("this is the same key as {twin}");
                return Err(KeyError::Key { place: key.place.clone(), problem });
            }
            let limit = key.requests_per_minute.unwrap_or(default_limit);
            let kept = before.get(&key.digest).and_then(|client| client.bucket.clone());
            let kept = kept.filter(|bucket| bucket.per_minute() == limit);
            let bucket = kept.or_else(|| (limit > 0).then(|| Arc::new(Bucket::new(limit, Instant::now()))));
            let name = key.name.clone().unwrap_or_else(|| {
                unnamed += 1;
                format!("{UNNAMED}{unnamed}").into()
            });
            clients.push((key.digest, Client { name, bucket }));
        }
        Ok(Self { clients })
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Who holds this key. How long that takes depends on nothing but the number of keys and the length of this one.
    #[must_use]
    pub fn find(&self, key: &[u8]) -> Option<&Client> {
        let wanted = digest_of(key);
        let mut found = 0_u64;
        for (number, (digest, _)) in (1..).zip(&self.clients) {
            found.conditional_assign(&number, digest.ct_eq(&wanted));
        }
        let index = usize::try_from(found).ok()?.checked_sub(1)?;
        self.clients.get(index).map(|(_, client)| client)
    }
}
