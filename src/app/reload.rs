//! Reading the settings again while the server runs. What can change does, all of it or nothing; what cannot is named.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;

use super::policy;
use crate::config::{Change, Configuration, Sources};
use crate::http::Authenticator;
use crate::http::auth::Reloaded;
use crate::models::ModelSet;

/// The keys that can change while the server runs; a section ends in a dot.
const LIVE: [&str; 4] = ["limits.", "instructions.", "schedule.", "auth.requests_per_minute"];

fn is_live(key: &str) -> bool {
    LIVE.iter().any(|live| if live.ends_with('.') { key.starts_with(live) } else { key == *live })
}

/// Reads the settings of a running server again.
pub struct Reloader {
    sources: Sources,
    /// What is in force. Held while the sources are read, so that two readers cannot cross.
    running: Mutex<Configuration>,
    authenticator: Arc<Authenticator>,
}

/// What reading the settings again came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reload {
    /// What is otherwise now.
    pub changed: Vec<Change>,
    /// What waits for a new start.
    pub waiting: Vec<Change>,
    /// Whether the instructions' file says something else.
    pub instructions: bool,
    /// What became of the keys.
    pub keys: Reloaded,
}

impl Reloader {
    /// For a server that runs with what `sources` gave.
    #[must_use]
    pub fn new(sources: Sources, running: Configuration, authenticator: Arc<Authenticator>) -> Self {
        Self { sources, running: Mutex::new(running), authenticator }
    }

    /// Whether there is anything that could be read again.
    #[must_use]
    pub fn has_files(&self) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let settings = &running.settings;
        let named = [&settings.instructions.file, &settings.auth.keys_file, &settings.auth.admin_keys_file];
        self.sources.file.is_some() || named.iter().any(|path| !path.trim().is_empty())
    }

    /// Reads every file again and puts what can change in force. Blocks on the disk.
    ///
    /// # Errors
    /// A file that is wrong: with its name, the key and the value. Nothing has changed then.
    pub fn reload(&self, models: &ModelSet) -> anyhow::Result<Reload> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let found = Configuration::load(&self.sources)?;
        let next = running.with(&found, is_live)?;
        let policy = policy(&next.settings)?;
        // The last that can fail, and the first that changes something.
        let keys = self
            .authenticator
            .reload_with(Some(next.settings.auth.requests_per_minute))
            .context("the keys are not taken")?;

        let before = models.default_model().policy();
        let instructions =
            policy.instructions != before.instructions && next.settings.instructions == running.settings.instructions;
        models.reconfigure(&policy, &next.settings.schedule);
        let (changed, waiting) = running.changes_in(&found).into_iter().partition(|change| is_live(&change.key));
        *running = next;
        Ok(Reload { changed, waiting, instructions, keys })
    }

    /// [`Reloader::reload`] off the async threads; the log says what came of it.
    pub async fn reload_and_log(self: Arc<Self>, models: ModelSet) {
        match tokio::task::spawn_blocking(move || self.reload(&models)).await {
            Ok(Ok(reload)) => log(&reload),
            Ok(Err(error)) => {
                tracing::warn!(problem = format!("{error:#}"), "the settings are not taken: nothing has changed");
            }
            Err(_panicked) => tracing::error!("reading the settings panicked: nothing has changed"),
        }
    }
}

fn log(reload: &Reload) {
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
    for Change { key, from, to } in &reload.changed {
        tracing::info!(setting = key, from = shown(from), to = shown(to), "changed");
    }
    for Change { key, from, to } in &reload.waiting {
        let (running, wanted) = (shown(from), shown(to));
        tracing::warn!(setting = key, running, wanted, "cannot change while the server runs: it waits for a new start");
    }
    if reload.instructions {
        tracing::info!("the instructions' file has changed");
    }
    if let Reloaded::Keys(keys) = reload.keys {
        tracing::info!(keys, "the keys were read again");
    }
    tracing::info!(changed = reload.changed.len(), waiting = reload.waiting.len(), "the settings were read again");
}
