//! The reranker to measure: an endpoint, or a model in this process, with an HTTP server if that
//! route is measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::app::{self, ShutdownOutcome};
use crate::bench::machine::Machine;
use crate::bench::measure::Systems;
use crate::bench::memory;
use crate::bench::operations::CountingRuntime;
use crate::bench::report::SystemFacts;
use crate::bench::workload::{Route, Tokenizer, read_tokenizer};
use crate::config::Settings;
use crate::eval::endpoint::{Api, Endpoint};
use crate::eval::system::System;
use crate::http::{AuthSettings, Authenticator};
use crate::pipeline::Reranker;
use crate::telemetry::TelemetryPlan;

/// The reranker to measure, with its facts and its server.
pub(super) struct Subject {
    pub(super) systems: Systems,
    pub(super) facts: SystemFacts,
    /// Measures the device's reference speed; `None` for an endpoint.
    pub(super) machine: Option<Machine>,
    server: Option<Server>,
}

/// A server in this process.
struct Server {
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<ShutdownOutcome>>,
}

impl Subject {
    pub(super) fn endpoint(endpoint: Endpoint) -> Self {
        let facts = SystemFacts {
            name: endpoint.name(),
            family: None,
            device: None,
            dtype: None,
            parameters: None,
            url: Some(endpoint.display_url()),
            resident_bytes: None,
        };
        let system = Arc::new(System::Endpoint(Box::new(endpoint)));
        let systems = Systems { url: Some(system), ..Systems::default() };
        Self { systems, facts, machine: None, server: None }
    }

    /// Loads the model of the settings, and starts a server if the routes include HTTP. Also
    /// returns the model's tokenizer. `warm_prefixes` enables the prefix cache.
    pub(super) fn model(
        mut settings: Settings,
        routes: &[Route],
        warm_prefixes: bool,
        runtime: &tokio::runtime::Runtime,
    ) -> anyhow::Result<(Self, Tokenizer)> {
        // A slow case is a result, so requests have no time limit.
        settings.schedule.timeout_seconds = 0;
        if !warm_prefixes {
            settings.model.prefix_cache_bytes = 0;
        }
        let operations = Arc::new(AtomicU64::new(0));
        let mut tokenizer = None;
        let reranker = app::load_reranker_with(&settings, |checkpoint, runtime| {
            let file = checkpoint.location.join("tokenizer.json");
            tokenizer = Some(read_tokenizer(Some(checkpoint.tokenizer.clone()), &file.display().to_string())?);
            Ok(CountingRuntime::new(runtime, checkpoint, &operations)?)
        })?;
        let reranker = Arc::new(reranker);
        let facts = SystemFacts { resident_bytes: memory::resident_bytes(), ..facts(&reranker) };
        // The count would include cached prefixes, which are not computed.
        let operations = (!warm_prefixes).then_some(operations);
        let mut systems = Systems { operations, ..Systems::default() };
        let mut server = None;
        if routes.contains(&Route::Http) {
            let (address, running) = runtime.block_on(serve(settings.clone(), Arc::clone(&reranker)))?;
            let endpoint = Endpoint::new(&format!("http://{address}"), Api::Rerank, None, None)?;
            (systems.http, server) = (Some(Arc::new(System::Endpoint(Box::new(endpoint)))), Some(running));
        }
        if routes.contains(&Route::InProcess) {
            systems.in_process = Some(Arc::new(System::InProcess(reranker)));
        }
        let machine = Some(Machine::new(&settings.model.device, facts.dtype.as_deref().unwrap_or_default())?);
        let tokenizer = tokenizer.context("the model was not loaded")?;
        Ok((Self { systems, facts, machine, server }, tokenizer))
    }

    /// Stops the server, if it was started.
    pub(super) fn stop(self, runtime: &tokio::runtime::Runtime) {
        if let Some(Server { stop, task }) = self.server {
            drop(stop);
            // The measurement is complete, so an error of the server does not matter.
            let _outcome = runtime.block_on(task);
        }
    }
}

fn facts(reranker: &Reranker) -> SystemFacts {
    let facts = reranker.facts();
    SystemFacts {
        name: reranker.names().first().cloned().unwrap_or_default(),
        family: Some(reranker.family().to_owned()),
        device: Some(facts.device.clone()),
        dtype: Some(facts.dtype.clone()),
        parameters: Some(facts.parameters),
        url: None,
        resident_bytes: None,
    }
}

/// Starts a server on a free local port, as `podium serve` does.
async fn serve(settings: Settings, reranker: Arc<Reranker>) -> anyhow::Result<(SocketAddr, Server)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on a free port")?;
    let address = listener.local_addr().context("cannot read the listener's address")?;
    // Only this process uses the server, so it needs no API keys.
    let auth = AuthSettings { keys_file: String::new(), ..settings.auth.clone() };
    let authenticator = Arc::new(Authenticator::new(&auth, Vec::new())?);
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let models = std::future::ready(Ok(reranker.into()));
        // The server stops when `stop` is dropped.
        let stopped = async { drop(stopped.await) };
        app::serve(&settings.server, TelemetryPlan::default(), authenticator, models, listener, stopped).await
    });
    Ok((address, Server { stop, task }))
}
