//! `podium serve`: start the server, and stop it on a signal.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use tokio::net::TcpListener;
use toml::Value;

use super::keys::KeyArgs;
use super::{SettingsArgs, warn_of_unknown_variables};
use crate::app::{self, Reloader, ShutdownOutcome};
use crate::config::{Configuration, FlagValue, Sources};
use crate::http::Authenticator;
use crate::models::ModelSet;
use crate::rerank::RerankError;
use crate::telemetry::{TelemetryPlan, start_logs};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  podium serve
  podium serve --model Qwen/Qwen3-Reranker-0.6B
  podium serve --listen 0.0.0.0:8080 --api-keys-file keys.txt

Then rank two documents:
  curl http://127.0.0.1:8080/v1/rerank \\
    -H 'content-type: application/json' -d '{
      \"query\": \"how do I reset my password?\",
      \"instruction\": \"prefer official documentation\",
      \"documents\": [
        \"Cats sleep a lot.\",
        \"Open Settings, then Security, then Reset password.\"]}'

The page at / is a playground, /docs describes the API, /ready and /metrics are for operators.
Without API keys, every request is accepted. podium check prints every setting.")]
pub(super) struct ServeArgs {
    /// Address and port to listen on [default: 127.0.0.1:8080]
    #[arg(long, short, value_name = "ADDRESS", help_heading = "Settings")]
    listen: Option<String>,
    /// Additional name of the model, for clients with a fixed model name; can be repeated
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = "Settings")]
    served_model_name: Vec<String>,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(super) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let listen = args.listen.as_deref().map(|address| FlagValue {
        flag: "--listen",
        key: "server.listen",
        value: Value::from(address),
    });
    let names = (!args.served_model_name.is_empty()).then(|| FlagValue {
        flag: "--served-model-name",
        key: "model.served_names",
        value: Value::from(args.served_model_name.join(",")),
    });
    let flags = listen.into_iter().chain(names).chain(args.keys.flag_value()).collect();
    let sources = args.settings.sources(flags);
    let unknown = sources.unknown_variables()?;
    let configuration = Configuration::load(&sources)?;
    let authenticator = Arc::new(args.keys.authenticator(&configuration.settings)?);
    let telemetry = &configuration.settings.telemetry;
    let plan = TelemetryPlan::new(telemetry, |name| std::env::var(name).ok())?;
    start_logs(telemetry, plan.traces.as_ref())?;
    warn_of_unknown_variables(&unknown);
    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    let served = runtime.block_on(serve(sources, configuration, plan, authenticator));
    // A thread that loads a model cannot be stopped, and its result is not needed any more.
    runtime.shutdown_background();
    served
}

async fn serve(
    sources: Sources,
    configuration: Configuration,
    plan: TelemetryPlan,
    authenticator: Arc<Authenticator>,
) -> anyhow::Result<()> {
    // Bind first: an address in use should fail before a model is loaded.
    let settings = configuration.settings.clone();
    let address = settings.server.listen.clone();
    let listener = TcpListener::bind(&address).await.with_context(|| format!("cannot listen on {address}"))?;
    let local = listener.local_addr().context("cannot read the listener's address")?;
    let reloader = Reloader::new(sources.clone(), configuration, Arc::clone(&authenticator));
    let hangups = Hangups::new(&reloader).context("cannot wait for signals")?;
    let mut signals = Signals::new().context("cannot wait for signals")?;

    let (server, keys) = (settings.server.clone(), authenticator.key_count());
    let loading = async move {
        let models = tokio::task::spawn_blocking(move || app::load_models(&settings)).await;
        let models = models.context("loading the model panicked")??;
        models.load_start_models().await?;
        log_start(&sources, &models);
        hangups.reload_on_each(reloader, models.clone());
        log_authentication(keys, local);
        Ok(models)
    };
    let shutdown = async move {
        signals.next().await;
        tokio::spawn(async move {
            // A second signal ends the process at once.
            signals.next().await;
            std::process::exit(1);
        });
    };
    match app::serve(&server, plan, authenticator, loading, listener, shutdown).await? {
        ShutdownOutcome::Clean => Ok(()),
        ShutdownOutcome::DeviceLost(reason) => Err(RerankError::DeviceLost(reason.into()).into()),
        ShutdownOutcome::CutOff => anyhow::bail!(
            "requests did not finish within {} s (server.shutdown_seconds) and were answered with 503",
            server.shutdown_seconds
        ),
    }
}

fn log_start(sources: &Sources, models: &ModelSet) {
    let facts = models.default_model().facts();
    let (memory_bytes, _) = models.memory();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        configuration = sources.file.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string()),
        device = facts.device,
        dtype = facts.dtype,
        cpu_instructions = facts.cpu_instructions,
        threads = rayon::current_num_threads(),
        memory_bytes,
        "models loaded"
    );
    if facts.cpu_instructions == Some("plain") {
        tracing::warn!(
            dtype = facts.dtype,
            "no vector instructions are used for this data type: ranking is many times slower than with them"
        );
    }
}

fn log_authentication(keys: usize, local: SocketAddr) {
    if keys > 0 {
        tracing::info!(keys, "requests need an API key");
    } else if !local.ip().is_loopback() {
        tracing::warn!("no API keys are set: anyone who can reach this address can use the server");
    }
}

/// SIGHUP: reloads the settings. Without any file to read again, SIGHUP keeps its default and ends
/// the process.
///
/// The signal is caught from the start; while the models load, it waits until they are loaded.
struct Hangups {
    #[cfg(unix)]
    signal: Option<tokio::signal::unix::Signal>,
}

impl Hangups {
    fn new(reloader: &Reloader) -> std::io::Result<Self> {
        #[cfg(unix)]
        let signal = || tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup());
        #[cfg(not(unix))]
        let _no_such_signal = reloader;
        Ok(Self {
            #[cfg(unix)]
            signal: reloader.has_files().then(signal).transpose()?,
        })
    }

    fn reload_on_each(self, reloader: Reloader, models: ModelSet) {
        #[cfg(unix)]
        if let Some(mut signal) = self.signal {
            let reloader = Arc::new(reloader);
            tokio::spawn(async move {
                while signal.recv().await.is_some() {
                    Arc::clone(&reloader).reload_and_log(models.clone()).await;
                }
            });
        }
    }
}

/// The signals that stop the server: Ctrl-C and SIGTERM.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            terminate: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?,
        })
    }

    /// Waits for the next Ctrl-C or SIGTERM.
    async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = self.terminate.recv() => {}
        }
        #[cfg(not(unix))]
        let _received = tokio::signal::ctrl_c().await;
    }
}
