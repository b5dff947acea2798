//! The assembly line of a daemon: runtime, HTTP, service, READY, signal, clean stop.

use crate::{
    catalog,
    config::{Flags, Settings},
    http::{Endpoints, Health, Server},
    keys::Role,
    meter::Metered,
    metrics::{Metrics, plain},
    node::Common,
    signals::Signals,
    telemetry,
    trace::{self, Traced},
    transport,
};
use anyhow::Context as _;
use async_trait::async_trait;
use mooseng_core::net::{self, Transport};
use std::{future::Future, io::Write as _, net::SocketAddr, process::ExitCode, sync::Arc};

/// Exit code for a wrong configuration.
pub const EXIT_USAGE: u8 = 2;

/// What a daemon runs.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// How it is; may touch disks.
    fn health(&self) -> Health;
    /// Stops cleanly. The caller bounds its time.
    async fn stop(&self) -> anyhow::Result<()>;
    /// Waits until it ended by itself, as a mount does that somebody else unmounts.
    async fn ended(&self) -> anyhow::Result<()> {
        std::future::pending().await
    }
}

/// What a service is built from.
pub struct Parts {
    /// How it reaches others and is reached; calls are measured.
    pub transport: Arc<dyn Transport>,
    /// Where it registers what it measures.
    pub metrics: Arc<Metrics>,
    /// What HTTP answers.
    pub endpoints: Endpoints,
}

/// A TCP port for HTTP, and the flag that changes it.
#[derive(Clone, Copy, Debug)]
pub struct HttpPort {
    /// Where.
    pub at: SocketAddr,
    /// The flag without its dashes.
    pub flag: &'static str,
}

/// Reads settings, begins to log, and loads the identity. `None`: `--print-config` was answered.
pub fn begin<R: Role>(flags: &Flags<R>, roles: &[net::Role]) -> anyhow::Result<Option<(Settings, Common)>> {
    let settings = Settings::load(flags)?;
    if flags.print_config {
        std::io::stdout().write_all(settings.print(true).as_bytes())?;
        return Ok(None);
    }
    telemetry::init(&settings)?;
    let common = Common::new(&settings, roles)?;
    trace::begin(common.slow_call);
    Ok(Some((settings, common)))
}

/// Runs a daemon until a signal, or until it cannot start.
///
/// `start` may take its time; a signal meanwhile drops it. All tasks run on this call's runtime.
pub fn run<S, F>(common: &Common, ports: &[HttpPort], start: S) -> anyhow::Result<()>
where
    S: FnOnce(Parts) -> F,
    F: Future<Output = anyhow::Result<Arc<dyn Service>>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(common.worker_threads)
        .enable_all()
        .build()
        .context("the runtime does not start")?;
    runtime.block_on(serve(common, ports, start))
}

async fn serve<S, F>(common: &Common, ports: &[HttpPort], start: S) -> anyhow::Result<()>
where
    S: FnOnce(Parts) -> F,
    F: Future<Output = anyhow::Result<Arc<dyn Service>>>,
{
    let mut signals = Signals::install().context("signals cannot be taken")?;
    #[cfg(feature = "otlp")]
    trace::otlp::begin(&common.peer)?;
    let metrics = Arc::new(Metrics::new(&common.peer)?);
    let endpoints = Endpoints::new(metrics.clone());
    let ends = common.identity.validity()?.until.secs() as f64;
    metrics.gauge(&catalog::CERTIFICATE_EXPIRY, move || plain(ends));
    let inner = transport(common.transport, &common.identity, Some(endpoints.take_streams()))?;
    let transport = Traced::new(Metered::new(inner, &metrics));
    let parts = Parts { transport, metrics, endpoints: endpoints.clone() };
    let mut servers = Vec::new();
    for port in ports {
        let server = Server::start(endpoints.clone(), port.at, port.flag).await?;
        tracing::info!(addr = %server.addr, "HTTP listens");
        servers.push(server);
    }
    let service = tokio::select! {
        biased;
        name = signals.next() => {
            tracing::info!("{name} before the start was done");
            return Ok(());
        }
        service = start(parts) => service?,
    };
    let probe = service.clone();
    endpoints.serve(Arc::new(move || probe.health()));
    notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(name = common.peer.name, version = env!("CARGO_PKG_VERSION"), "serving");

    let ended = tokio::select! {
        biased;
        name = signals.next() => {
            tracing::info!("{name}: stopping, for {:?} at most", common.stop_timeout);
            Ok(())
        }
        ended = service.ended() => ended,
    };
    notify(&[sd_notify::NotifyState::Stopping]);
    endpoints.stopping();
    signals.exit_on_next();
    let stopped = tokio::time::timeout(common.stop_timeout, service.stop())
        .await
        .with_context(|| format!("the clean stop took longer than {:?}", common.stop_timeout))?;
    tracing::info!("stopped");
    ended.and(stopped)
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    match sd_notify::notify(states) {
        // Who waited for READY only is gone: mount.mooseng does.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => tracing::warn!(error = %e, "systemd was not told"),
        Ok(()) => {}
    }
}

/// Tells how a daemon ended: 2 for a wrong configuration, 1 for anything else that failed.
pub fn exit(name: &str, result: anyhow::Result<()>) -> ExitCode {
    let Err(e) = result else { return ExitCode::SUCCESS };
    eprintln!("{name}: {e:#}");
    if e.is::<crate::config::ConfigError>() { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
}
