//! Reloads the settings while the server runs. Changes that need no restart take effect together,
//! or not at all if a file is invalid. Changes that need a restart are logged.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;

use super::settings::policy;
use crate::config::{Change, Configuration, Sources};
use crate::http::Authenticator;
use crate::http::auth::Reloaded;
use crate::models::ModelSet;

/// The settings that need no restart; a section ends in a dot.
const RELOADABLE: [&str; 5] = ["limits.", "passages.", "instructions.", "schedule.", "auth.requests_per_minute"];

fn is_reloadable(key: &str) -> bool {
    RELOADABLE.iter().any(|known| if known.ends_with('.') { key.starts_with(known) } else { key == *known })
}

/// Reads the settings of a running server again.
pub struct Reloader {
    sources: Sources,
    /// The settings in force. The lock is held while the sources are read: reloads happen one by
    /// one.
    running: Mutex<Configuration>,
    authenticator: Arc<Authenticator>,
}

/// The result of a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reload {
    /// Settings that have changed.
    pub changed: Vec<Change>,
    /// Settings whose change requires a restart.
    pub waiting: Vec<Change>,
    /// Whether the instructions changed although their settings did not: the file's content is new.
    pub instructions: bool,
    /// Whether the API keys have changed.
    pub keys: Reloaded,
}

impl Reloader {
    /// A reloader of `sources`, for a server that runs with `running`.
    #[must_use]
    pub fn new(sources: Sources, running: Configuration, authenticator: Arc<Authenticator>) -> Self {
        Self { sources, running: Mutex::new(running), authenticator }
    }

    /// Whether the settings came from any file.
    #[must_use]
    pub fn has_files(&self) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let settings = &running.settings;
        let named = [&settings.instructions.file, &settings.auth.keys_file, &settings.auth.admin_keys_file];
        self.sources.file.is_some() || named.iter().any(|path| !path.trim().is_empty())
    }

    /// Reads every file again and applies the changes that need no restart. Blocks on the disk.
    ///
    /// # Errors
    /// An invalid file, with its name, the key and the value. Nothing has changed then.
    pub fn reload(&self, models: &ModelSet) -> anyhow::Result<Reload> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let found = Configuration::load(&self.sources)?;
        let next = running.with(&found, is_reloadable)?;
        let policy = policy(&next.settings)?;
        // The last step that can fail, and the first that changes anything.
        let keys = self
            .authenticator
            .reload(Some(next.settings.auth.requests_per_minute))
            .context("the keys are not taken")?;

        let before = models.default_model().policy();
        let instructions =
            policy.instructions != before.instructions && next.settings.instructions == running.settings.instructions;
        models.reconfigure(&policy, &next.settings.schedule);
        let (changed, waiting) = running.changes_in(&found).into_iter().partition(|change| is_reloadable(&change.key));
        *running = next;
        Ok(Reload { changed, waiting, instructions, keys })
    }

    /// [`Reloader::reload`] on a blocking thread; logs the result.
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
        tracing::warn!(setting = key, running, wanted, "a change of this setting requires a restart");
    }
    if reload.instructions {
        tracing::info!("the instructions' file has changed");
    }
    if let Reloaded::Keys(keys) = reload.keys {
        tracing::info!(keys, "the keys were read again");
    }
    tracing::info!(changed = reload.changed.len(), waiting = reload.waiting.len(), "the settings were read again");
}
