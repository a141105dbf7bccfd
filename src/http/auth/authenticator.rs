//! The API keys in force: loaded at the start, and again when the keys file changes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use axum::http::Method;
use sha2::{Digest as _, Sha256};

use super::keys::{Key, KeyError, KeyTable};
use super::settings::AuthSettings;
use crate::http::route_table;

/// Prefix of the routes for administrators.
const ADMIN_PREFIX: &str = "/admin/";

/// Time between two reads of the keys file.
const RELOAD_INTERVAL: Duration = Duration::from_secs(3);

/// Holds the valid keys, and decides which routes need one.
pub struct Authenticator {
    file: Option<PathBuf>,
    protect_metrics: bool,
    /// Keys from flags and the environment: they stay until the process ends.
    fixed_keys: Vec<Key>,
    table: RwLock<Arc<KeyTable>>,
    /// The inputs that `table` was built from. The lock is held while the file is read, so that
    /// reloads happen one by one.
    loaded: Mutex<LoadedFrom>,
    /// The administrators' keys, if `auth.admin_keys_file` is set.
    administrators: Option<Box<Authenticator>>,
}

/// The inputs of a [`KeyTable`] that can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LoadedFrom {
    /// SHA-256 of the file's content.
    file_digest: Option<[u8; 32]>,
    /// Limit of keys without their own.
    requests_per_minute: u32,
}

/// Result of reading the keys again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reloaded {
    /// Nothing has changed, or there is no file.
    Unchanged,
    /// The keys were replaced: the number of keys now, those of flags and environment included.
    Keys(usize),
}

impl Authenticator {
    /// Loads the keys of `settings.keys_file` and adds `fixed_keys`, which come from flags and the
    /// environment.
    ///
    /// # Errors
    /// A file that cannot be read, is empty or has an invalid line; a key given twice; a setting
    /// that needs keys where there are none.
    pub fn new(settings: &AuthSettings, fixed_keys: Vec<Key>) -> Result<Self, KeyError> {
        let administrators = (!settings.admin_keys_file.is_empty()).then(|| {
            let keys_file = settings.admin_keys_file.clone();
            let own = AuthSettings {
                keys_file,
                requests_per_minute: 0,
                protect_metrics: false,
                admin_keys_file: String::new(),
            };
            Self::new(&own, Vec::new()).map(Box::new)
        });
        let requests_per_minute = settings.requests_per_minute;
        let table = KeyTable::new(&fixed_keys, requests_per_minute, &KeyTable::default())?;
        let authenticator = Self {
            file: (!settings.keys_file.is_empty()).then(|| PathBuf::from(&settings.keys_file)),
            protect_metrics: settings.protect_metrics,
            table: RwLock::new(Arc::new(table)),
            fixed_keys,
            loaded: Mutex::new(LoadedFrom { file_digest: None, requests_per_minute }),
            administrators: administrators.transpose()?,
        };
        authenticator.reload(None)?;
        if settings.protect_metrics && !authenticator.has_keys() {
            return Err(KeyError::NeedsKeys { setting: "auth.protect_metrics = true".to_owned() });
        }
        check_limit(requests_per_minute, authenticator.key_count())?;
        Ok(authenticator)
    }

    /// Number of keys now. Without any, requests need no key.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.table().len()
    }

    /// Whether there are any keys, so that requests need one.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        !self.table().is_empty()
    }

    /// The file that keys are read from.
    #[must_use]
    pub fn keys_file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Reads the keys files again; `requests_per_minute` replaces the limit of keys without their
    /// own.
    ///
    /// On an error nothing changes. A key whose limit stays the same keeps what it has used. Blocks
    /// on the disk.
    ///
    /// # Errors
    /// The errors of [`Authenticator::new`].
    pub fn reload(&self, requests_per_minute: Option<u32>) -> Result<Reloaded, KeyError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = requests_per_minute.unwrap_or(loaded.requests_per_minute);
        let changed = self.read_changed(*loaded, limit)?;
        // Every other file is valid when the administrators' keys are replaced, so an error changes
        // nothing.
        let administrators = self.administrators.as_ref().map_or(Ok(Reloaded::Unchanged), |keys| keys.reload(None))?;
        match changed {
            Some((table, from)) => {
                let keys = table.len();
                *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
                *loaded = from;
                Ok(Reloaded::Keys(keys))
            }
            None if administrators != Reloaded::Unchanged => Ok(Reloaded::Keys(self.key_count())),
            None => Ok(Reloaded::Unchanged),
        }
    }

    /// The new table, if the file or the limit differs from what is loaded.
    fn read_changed(
        &self,
        loaded: LoadedFrom,
        requests_per_minute: u32,
    ) -> Result<Option<(KeyTable, LoadedFrom)>, KeyError> {
        let content = self.file.as_ref().map(|path| {
            let content = std::fs::read(path).map_err(|source| KeyError::File { path: path.clone(), source })?;
            Ok((path, content))
        });
        let content = content.transpose()?;
        let file_digest = content.as_ref().map(|(_, content)| Sha256::digest(content).into());
        let from = LoadedFrom { file_digest, requests_per_minute };
        if from == loaded {
            return Ok(None);
        }
        let mut keys = self.fixed_keys.clone();
        if let Some((path, content)) = content {
            keys.extend(Key::parse_file(&content, path)?);
        }
        check_limit(requests_per_minute, keys.len())?;
        Ok(Some((KeyTable::new(&keys, requests_per_minute, &self.table())?, from)))
    }

    /// Reads the keys files every few seconds, until the task is aborted. Logs each change, and
    /// each new problem once.
    ///
    /// Polling, because a mounted secret changes through a link in a folder above the file.
    pub async fn watch(self: Arc<Self>) {
        let mut last_problem = None;
        while self.file.is_some() || self.administrators.is_some() {
            tokio::time::sleep(RELOAD_INTERVAL).await;
            let problem = match Arc::clone(&self).reload_in_background().await {
                Ok(Reloaded::Unchanged) => None,
                Ok(Reloaded::Keys(keys)) => {
                    log_keys(keys);
                    None
                }
                Err(problem) => Some(problem),
            };
            if let Some(problem) = problem.as_deref().filter(|problem| last_problem.as_deref() != Some(*problem)) {
                log_problem(problem);
            }
            last_problem = problem;
        }
    }

    /// [`Authenticator::reload`] on a blocking thread, its error as text for the log.
    async fn reload_in_background(self: Arc<Self>) -> Result<Reloaded, String> {
        match tokio::task::spawn_blocking(move || self.reload(None)).await {
            Ok(reloaded) => reloaded.map_err(|error| format!("{:#}", anyhow::Error::from(error))),
            Err(_panicked) => Err("reading the keys file panicked".to_owned()),
        }
    }

    /// Whether administrators' keys are configured, so that the `/admin` routes exist.
    pub(in crate::http) fn has_administrators(&self) -> bool {
        self.administrators.is_some()
    }

    /// The keys that give access to this route; `None` if the route needs no key.
    pub(super) fn keys_for(&self, method: &Method, route: Option<&str>) -> Option<Arc<KeyTable>> {
        if route.is_some_and(|route| route.starts_with(ADMIN_PREFIX)) {
            // Without administrators the route does not exist; the empty table would reject every
            // key.
            return Some(self.administrators.as_ref().map(|keys| keys.table()).unwrap_or_default());
        }
        Some(self.table()).filter(|table| !table.is_empty() && self.needs_key(method, route))
    }

    pub(super) fn table(&self) -> Arc<KeyTable> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether this route needs a key; a new route does by default. An unknown path needs none: its
    /// 404 reveals nothing that `GET /` does not. `POST /` ranks, so it needs one.
    pub(super) fn needs_key(&self, method: &Method, route: Option<&str>) -> bool {
        match route {
            None => false,
            Some(route_table::METRICS) => self.protect_metrics,
            Some("/") => !matches!(*method, Method::GET | Method::HEAD),
            Some(route) => !route_table::is_open(route),
        }
    }
}

/// Refuses a default rate limit where no key exists that it could apply to.
fn check_limit(requests_per_minute: u32, key_count: usize) -> Result<(), KeyError> {
    if requests_per_minute > 0 && key_count == 0 {
        return Err(KeyError::NeedsKeys { setting: format!("auth.requests_per_minute = {requests_per_minute}") });
    }
    Ok(())
}

fn log_keys(keys: usize) {
    tracing::info!(keys, "API keys reloaded");
}

fn log_problem(problem: &str) {
    tracing::warn!(problem, "the new API keys are invalid; the previous ones stay in force");
}
