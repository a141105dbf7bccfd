//! API keys: their syntax, the file format, and the lookup.
//!
//! Only [`Key::parse`] sees a key's text; the server stores only its SHA-256. Error messages never
//! repeat a key, nor a word that may be one.

use std::collections::{HashMap, hash_map};
use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use governor::clock::MonotonicClock;
use sha2::{Digest as _, Sha256};

use super::rate_limit::RequestLimiter;

/// Minimum length of a key: shorter ones can be guessed.
const MIN_KEY_BYTES: usize = 8;
/// Maximum length of a key: longer ones do not fit well into a header.
const MAX_KEY_BYTES: usize = 1024;
/// Maximum length of a key's name, which appears in log lines and metrics.
const MAX_NAME_BYTES: usize = 64;
/// Maximum of `requests_per_minute`.
const MAX_REQUESTS_PER_MINUTE: u32 = 1_000_000;
/// Prefix of the generated names of keys without a name; a number follows.
const UNNAMED: &str = "unnamed-";

/// API keys, or settings about them, that are refused.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read the keys file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// One key is invalid.
    #[error("{place}: {problem}")]
    Key {
        /// Where the key was given.
        place: KeySource,
        /// The problem.
        problem: String,
    },
    /// A source of keys was given, and it is empty. Ignoring it would leave the server open.
    #[error("{source_name} contains no API keys; remove the setting to disable authentication")]
    NoKeys {
        /// The file or environment variable.
        source_name: String,
    },
    /// A setting applies to API keys only, and there are none.
    #[error(
        "`{setting}` has no effect without API keys: give keys with auth.keys_file, PODIUM_API_KEYS or --api-key, or \
         remove the setting"
    )]
    NeedsKeys {
        /// The setting and its value, as TOML.
        setting: String,
    },
}

/// Where a key was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A line of a file, counted from 1.
    Line(Arc<Path>, usize),
    /// A key in an environment variable, counted from 1.
    Environment(&'static str, usize),
    /// A repeated command-line flag, counted from 1.
    Flag(&'static str, usize),
}

impl fmt::Display for KeySource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(path, line) => write!(formatter, "{} line {line}", path.display()),
            Self::Environment(name, number) => write!(formatter, "key {number} in {name}"),
            Self::Flag(flag, number) => write!(formatter, "key {number} of {flag}"),
        }
    }
}

/// A valid key, without its text.
#[derive(Clone)]
pub struct Key {
    digest: KeyDigest,
    name: Option<Arc<str>>,
    requests_per_minute: Option<u32>,
    place: KeySource,
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Key").field("name", &self.name).field("place", &self.place).finish_non_exhaustive()
    }
}

impl Key {
    /// Parses a key without attributes.
    ///
    /// # Errors
    /// A key that is too short, too long, or has characters that a header cannot carry.
    pub fn parse(text: &str, place: KeySource) -> Result<Self, KeyError> {
        match key_problem(text) {
            Some(problem) => Err(KeyError::Key { place, problem }),
            None => Ok(Self { digest: sha256(text.as_bytes()), name: None, requests_per_minute: None, place }),
        }
    }

    /// Parses the keys in the environment variable `variable`, separated by commas. The result is
    /// not empty.
    ///
    /// # Errors
    /// An invalid key, or no key at all.
    pub fn parse_list(text: &str, variable: &'static str) -> Result<Vec<Self>, KeyError> {
        let keys = text.split(',').map(str::trim).filter(|key| !key.is_empty()).zip(1..);
        let keys: Vec<Self> = keys
            .map(|(key, number)| Self::parse(key, KeySource::Environment(variable, number)))
            .collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(KeyError::NoKeys { source_name: variable.to_owned() }) } else { Ok(keys) }
    }

    /// Parses a keys file: one key per line, its attributes after it, comments after `#`. The
    /// result is not empty.
    ///
    /// # Errors
    /// An invalid line, or no key at all.
    pub fn parse_file(content: &[u8], path: &Path) -> Result<Vec<Self>, KeyError> {
        let text = String::from_utf8_lossy(content);
        let shared: Arc<Path> = path.into();
        let mut keys = Vec::new();
        for (line, number) in text.trim_start_matches('\u{feff}').lines().zip(1..) {
            let place = KeySource::Line(Arc::clone(&shared), number);
            keys.extend(Self::parse_line(line, &place)?);
        }
        if keys.is_empty() { Err(KeyError::NoKeys { source_name: path.display().to_string() }) } else { Ok(keys) }
    }

    fn parse_line(line: &str, place: &KeySource) -> Result<Option<Self>, KeyError> {
        let mut words = line.split_whitespace().take_while(|word| !word.starts_with('#'));
        let Some(text) = words.next() else { return Ok(None) };
        let refuse = |problem: &str| KeyError::Key { place: place.clone(), problem: problem.to_owned() };
        if text.starts_with("name=") || text.starts_with("requests_per_minute=") {
            return Err(refuse("the key must come first on its line, before name=… and requests_per_minute=…"));
        }
        let mut key = Self::parse(text, place.clone())?;
        for word in words {
            match word.split_once('=') {
                Some(("name", value)) if key.name.is_none() => {
                    key.name = Some(parse_name(value).ok_or_else(|| refuse(&name_problem()))?);
                }
                Some(("requests_per_minute", value)) if key.requests_per_minute.is_none() => {
                    key.requests_per_minute = Some(parse_limit(value).ok_or_else(|| refuse(&limit_problem()))?);
                }
                // The word may be another key, or a part of one, so the message does not repeat it.
                _ => {
                    return Err(refuse(
                        "only name=… and requests_per_minute=…, each at most once, may follow a key on its line",
                    ));
                }
            }
        }
        Ok(Some(key))
    }
}

fn parse_name(value: &str) -> Option<Arc<str>> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    ((1..=MAX_NAME_BYTES).contains(&value.len()) && value.bytes().all(is_allowed)).then(|| value.into())
}

fn name_problem() -> String {
    format!("name must be 1 to {MAX_NAME_BYTES} letters (a-z, A-Z), digits, dots, hyphens or underscores")
}

fn parse_limit(value: &str) -> Option<u32> {
    value.parse().ok().filter(|limit| *limit <= MAX_REQUESTS_PER_MINUTE)
}

fn limit_problem() -> String {
    format!("requests_per_minute must be a whole number between 0 (no limit) and {MAX_REQUESTS_PER_MINUTE}")
}

fn key_problem(key: &str) -> Option<String> {
    if !key.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',') {
        return Some("a key may contain only visible ASCII characters, and no comma".to_owned());
    }
    let length = key.len();
    (!(MIN_KEY_BYTES..=MAX_KEY_BYTES).contains(&length))
        .then(|| format!("a key must have {MIN_KEY_BYTES} to {MAX_KEY_BYTES} characters, not {length}"))
}

/// SHA-256 of a key.
type KeyDigest = [u8; 32];

fn sha256(text: &[u8]) -> KeyDigest {
    Sha256::digest(text).into()
}

/// The valid keys, by digest.
///
/// The time of a lookup reveals nothing about a key: an attacker cannot choose the digest of
/// a guessed key.
#[derive(Default)]
pub struct KeyTable {
    entries: HashMap<KeyDigest, KeyEntry>,
}

/// One valid key: its name and its limit.
#[derive(Debug, Clone)]
pub struct KeyEntry {
    /// The key's name, or `unnamed-1`, `unnamed-2`, ...: the client in logs, metrics and the queue.
    pub name: Arc<str>,
    /// The key's rate limit; `None` is unlimited.
    pub limiter: Option<Arc<RequestLimiter>>,
}

impl KeyTable {
    /// The table of `keys`. A key that `previous` has with the same limit keeps its limiter, and so
    /// what it has used.
    ///
    /// # Errors
    /// A key that is given twice.
    pub fn new(keys: &[Key], default_limit: u32, previous: &Self) -> Result<Self, KeyError> {
        let mut places = HashMap::with_capacity(keys.len());
        let mut unnamed = 0;
        let mut entries = HashMap::with_capacity(keys.len());
        for key in keys {
            let entry = match places.entry(key.digest) {
                hash_map::Entry::Vacant(entry) => entry,
                hash_map::Entry::Occupied(twin) => {
                    let problem = format!("this is the same key as {}", twin.get());
                    return Err(KeyError::Key { place: key.place.clone(), problem });
                }
            };
            entry.insert(&key.place);
            let name = key.name.clone().unwrap_or_else(|| {
                unnamed += 1;
                format!("{UNNAMED}{unnamed}").into()
            });
            let limiter = NonZeroU32::new(key.requests_per_minute.unwrap_or(default_limit))
                .map(|limit| previous.limiter(&key.digest, limit));
            entries.insert(key.digest, KeyEntry { name, limiter });
        }
        Ok(Self { entries })
    }

    /// The key's limiter where it has this limit, or a new one.
    fn limiter(&self, digest: &KeyDigest, limit: NonZeroU32) -> Arc<RequestLimiter> {
        let existing = self.entries.get(digest).and_then(|entry| entry.limiter.clone());
        existing
            .filter(|limiter| limiter.requests_per_minute() == limit.get())
            .unwrap_or_else(|| Arc::new(RequestLimiter::new(limit, MonotonicClock)))
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry of this key, if the key is valid.
    #[must_use]
    pub fn find(&self, key: &[u8]) -> Option<&KeyEntry> {
        self.entries.get(&sha256(key))
    }
}
