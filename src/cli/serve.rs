//! `podium serve`.

use anyhow::Context;
use clap::Args;
use tokio::net::TcpListener;
use toml::Value;

use super::SettingsArgs;
use crate::app::{self, Farewell};
use crate::config::{FlagValue, Settings};
use crate::telemetry::start_logs;

#[derive(Debug, Args)]
#[command(after_help = "\
Try it:
  podium serve
  curl http://127.0.0.1:8080/v1/rerank -H 'content-type: application/json' -d '{
    \"query\": \"how do I reset my password?\",
    \"instruction\": \"prefer official documentation\",
    \"documents\": [\"Cats sleep a lot.\", \"Open Settings, then Security, then Reset password.\"]}'")]
pub(super) struct ServeArgs {
    /// Address and port to listen on [default: 127.0.0.1:8080]
    #[arg(long, short, value_name = "ADDRESS", help_heading = "Settings")]
    listen: Option<String>,
    /// One more name for the model, for clients that insist on a vendor's; may be given many times
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = "Settings")]
    served_model_name: Vec<String>,
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
    let settings = args.settings.configuration(listen.into_iter().chain(names).collect())?.settings;
    start_logs(&settings.telemetry)?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    // First, because it is the quickest thing to fail.
    let address = &settings.server.listen;
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let local = listener.local_addr().context("cannot tell the listener's address")?;
    let mut signals = Signals::new().context("cannot wait for signals")?;

    let server = settings.server.clone();
    let loading = tokio::task::spawn_blocking(move || app::load_reranker(&settings));
    let reranker = tokio::select! {
        loaded = loading => loaded.context("loading the model panicked")??,
        // The thread that loads cannot be stopped, and nobody needs what it makes.
        () = signals.next() => std::process::exit(0),
    };
    let names = reranker.names().join(", ");
    tracing::info!(model = names, family = reranker.family(), "listening on http://{local}");

    let shutdown = async move {
        signals.next().await;
        tokio::spawn(async move {
            // Who asks twice does not want to wait.
            signals.next().await;
            std::process::exit(1);
        });
    };
    match app::serve(&server, reranker, listener, shutdown).await {
        Farewell::Clean => Ok(()),
        Farewell::CutOff => anyhow::bail!("requests were cut off after {} s", server.shutdown_seconds),
    }
}

/// The ways in which a process is asked to stop.
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
