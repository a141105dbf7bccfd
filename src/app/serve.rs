//! Running the server: from a bound listener to the last response.
//!
//! Connections are served before the models are loaded: `/health` answers, `/ready` and every route
//! that ranks answer 503 until then. Shutdown goes in this order: `/ready` fails; after
//! `drain_delay_seconds` new requests are refused; accepted ones finish, for at most
//! `shutdown_seconds`; connections are closed. If a device is lost, the server shuts down without a
//! signal, within seconds, and answers the accepted requests with 503.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::http::{self, Authenticator, ServerSettings, Service};
use crate::models::ModelSet;
use crate::telemetry::{Telemetry, TelemetryPlan};

/// Time between two calls of [`Telemetry::fold`].
const FOLD_INTERVAL: Duration = Duration::from_secs(5);

/// How long responses may take to reach their clients after the time for the work itself.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// The time for accepted requests after a device is lost: only their errors are left to send.
const SHUTDOWN_LIMIT_WITHOUT_DEVICE: Duration = Duration::from_secs(5);

/// How the server stopped, as its accepted requests see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShutdownOutcome {
    /// All of them were answered.
    Clean,
    /// Some took longer than `shutdown_seconds` and were answered with 503.
    CutOff,
    /// A device was lost, for this reason, and the server stopped without a signal.
    DeviceLost(String),
}

/// Tasks that end with the server.
struct BackgroundTasks([AbortHandle; 2]);

impl BackgroundTasks {
    fn start(authenticator: Arc<Authenticator>, telemetry: Arc<Telemetry>) -> Self {
        let watching = tokio::spawn(authenticator.watch());
        let folding = tokio::spawn(async move {
            let mut tick = tokio::time::interval(FOLD_INTERVAL);
            loop {
                tick.tick().await;
                telemetry.fold();
            }
        });
        Self([watching.abort_handle(), folding.abort_handle()])
    }
}

impl Drop for BackgroundTasks {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

/// The task that serves connections.
struct Connections {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Connections {
    fn serve(listener: TcpListener, service: Service, settings: &ServerSettings) -> Self {
        let stop = CancellationToken::new();
        let (settings, stopped) = (settings.clone(), stop.clone());
        let router = http::router(service);
        let serving = async move { http::serve_connections(listener, router, &settings, stopped).await };
        Self { stop, task: tokio::spawn(serving) }
    }

    /// Closes the listener and waits for the responses that are being sent. Responses that are not
    /// sent at the deadline are cut off. Returns whether all of them were sent.
    async fn close(self, deadline: Instant) -> bool {
        self.stop.cancel();
        let abort = self.task.abort_handle();
        let closed = timeout_at(deadline, self.task).await.is_ok();
        abort.abort();
        closed
    }
}

/// Serves on `listener` until `shutdown`. `loading` loads the models; requests that need one are
/// refused until it has ended.
///
/// # Errors
/// The error of `loading`.
pub async fn serve(
    settings: &ServerSettings,
    plan: TelemetryPlan,
    authenticator: Arc<Authenticator>,
    loading: impl Future<Output = anyhow::Result<ModelSet>>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<ShutdownOutcome> {
    let telemetry = Arc::new(Telemetry::new(plan.traces));
    let _tasks = BackgroundTasks::start(Arc::clone(&authenticator), Arc::clone(&telemetry));
    let service = Service::new(Arc::clone(&telemetry), authenticator, settings.clone());
    let set_models = |models: &ModelSet| {
        let sampled = Arc::clone(&telemetry);
        models.sample_drift(plan.drift_sample, move |sample| sampled.record_drift(sample));
        let sampled = Arc::clone(&telemetry);
        models.record_shadows(move |sample| sampled.record_shadow(sample));
        service.set_models(models.clone());
    };
    let address = listener.local_addr()?;
    let (mut loading, mut shutdown) = (pin!(loading), pin!(shutdown));
    // If `loading` is ready at once, the first connection already finds the models.
    let mut loaded = timeout(Duration::ZERO, loading.as_mut()).await.ok().transpose()?;
    loaded.iter().for_each(&set_models);
    let connections = Connections::serve(listener, service.clone(), settings);
    if loaded.is_none() {
        loaded = tokio::select! {
            models = loading => Some(models?),
            () = &mut shutdown => None,
        };
        loaded.iter().for_each(&set_models);
    }
    let Some(models) = loaded else {
        tracing::info!("shutting down before the models are loaded");
        service.start_leaving();
        connections.close(Instant::now() + LAST_BYTES).await;
        return Ok(ShutdownOutcome::Clean);
    };
    let default = models.default_model();
    let names = default.names().join(", ");
    // Now requests find the models. Programs that start a server wait for this line.
    tracing::info!(model = names, family = default.family(), "listening on http://{address}");

    let lost = tokio::select! {
        () = shutdown => None,
        reason = models.lost() => Some(reason),
    };
    tracing::info!("shutting down: /ready fails from now on");
    service.start_leaving();
    let limit = if lost.is_some() {
        settings.shutdown_limit().min(SHUTDOWN_LIMIT_WITHOUT_DEVICE)
    } else {
        tokio::time::sleep(settings.drain_delay()).await;
        settings.shutdown_limit()
    };
    let deadline = Instant::now() + limit;
    let drained = timeout_at(deadline, models.drain()).await.is_ok();
    if !drained {
        service.cut_off();
    }
    let closed = connections.close(deadline.max(Instant::now() + LAST_BYTES)).await;
    telemetry.flush().await;
    Ok(outcome(lost, drained && closed, settings))
}

/// Logs and returns how the server stopped.
fn outcome(lost: Option<String>, all_answered: bool, settings: &ServerSettings) -> ShutdownOutcome {
    if let Some(reason) = lost {
        tracing::error!(reason, "stopped, because the device is lost");
        ShutdownOutcome::DeviceLost(reason)
    } else if all_answered {
        tracing::info!("every accepted request is answered");
        ShutdownOutcome::Clean
    } else {
        let seconds = settings.shutdown_seconds;
        tracing::warn!(seconds, "accepted requests did not finish in time and were answered with 503");
        ShutdownOutcome::CutOff
    }
}
