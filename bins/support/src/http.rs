//! HTTP: `/health` (JSON), `/livez`, `/readyz`, `/metrics`, and `/join` of masters.

use crate::{
    joins::{self, JOINS_MAX, Joins},
    metrics::Metrics,
    ports,
};
use anyhow::anyhow;
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use mooseng_net::tcp::TakeOther;
use parking_lot::Mutex;
use serde::Serialize;
use std::{fmt, future::IntoFuture as _, net::SocketAddr, sync::Arc};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};

/// Connections that were accepted elsewhere and wait to be served.
const WAITING_MAX: usize = 64;

/// How a service is.
#[derive(Clone, Debug, Serialize)]
pub struct Health {
    /// One word: ok, starting, stopping, or what is wrong.
    pub status: String,
    /// Whether it can do its work now.
    pub ready: bool,
    /// Whether it will without being restarted.
    pub live: bool,
    /// What a person wants to know besides.
    pub details: serde_json::Value,
}

impl Health {
    fn plain(status: &str) -> Self {
        Self { status: status.into(), ready: false, live: true, details: serde_json::Value::Null }
    }
}

/// What `/health` answers: how the service is, and what others compare.
#[derive(Serialize)]
struct Told {
    #[serde(flatten)]
    health: Health,
    /// Of the program.
    version: &'static str,
    /// By this machine's clock.
    time: String,
}

/// Tells how a service is; may take a moment, not more.
pub type Probe = Arc<dyn Fn() -> Health + Send + Sync>;

/// What the endpoints tell, shared by all listeners of a process.
#[derive(Clone)]
pub struct Endpoints {
    metrics: Arc<Metrics>,
    probe: Arc<Mutex<Probe>>,
    joins: Arc<Mutex<Option<Arc<dyn Joins>>>>,
    join_room: Arc<Semaphore>,
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Endpoints")
    }
}

impl Endpoints {
    /// Of a process that is starting.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let probe: Probe = Arc::new(|| Health::plain("starting"));
        let (probe, joins) = (Arc::new(Mutex::new(probe)), Arc::default());
        Self { metrics, probe, joins, join_room: Arc::new(Semaphore::new(JOINS_MAX)) }
    }
    /// From now on joins are answered.
    pub fn serve_joins(&self, joins: Arc<dyn Joins>) {
        *self.joins.lock() = Some(joins);
    }
    pub(crate) fn joins(&self) -> Option<Arc<dyn Joins>> {
        self.joins.lock().clone()
    }
    pub(crate) fn join_room(&self) -> &Semaphore {
        &self.join_room
    }
    /// From now on `probe` is asked.
    pub fn serve(&self, probe: Probe) {
        *self.probe.lock() = probe;
    }
    /// From now on the process is stopping.
    pub fn stopping(&self) {
        *self.joins.lock() = None;
        self.serve(Arc::new(|| Health::plain("stopping")));
    }
    /// How it is. The probe may touch disks, so it has a thread.
    pub async fn health(&self) -> Health {
        let probe = self.probe.lock().clone();
        tokio::task::spawn_blocking(move || probe()).await.unwrap_or_else(|_| Health {
            live: false,
            ..Health::plain("the health check failed: see the log")
        })
    }

    /// Takes connections that were accepted elsewhere: HTTP on a port of the `tcp` transport. More
    /// than a few that wait are closed. Inside a tokio runtime.
    pub fn take_streams(&self) -> TakeOther {
        let (give, take) = mpsc::channel(WAITING_MAX);
        let served = axum::serve(Given(take), self.clone().router());
        tokio::spawn(served.into_future());
        Arc::new(move |stream| {
            if give.try_send(stream).is_err() {
                tracing::debug!("an HTTP connection was closed: too many wait");
            }
        })
    }

    fn router(self) -> Router {
        Router::new()
            .route("/health", get(health))
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .route("/join", post(joins::post))
            .with_state(self)
    }
}

/// Connections that were accepted elsewhere, as a listener.
struct Given(mpsc::Receiver<TcpStream>);

impl axum::serve::Listener for Given {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.0.recv().await {
                Some(stream) => {
                    if let Ok(addr) = stream.peer_addr() {
                        return (stream, addr);
                    }
                }
                // Nobody gives any more.
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(SocketAddr::from(([0, 0, 0, 0], 0)))
    }
}

const fn code(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn health(State(e): State<Endpoints>) -> Response {
    let health = e.health().await;
    let status = code(health.ready && health.live);
    let (version, time) = (env!("CARGO_PKG_VERSION"), jiff::Timestamp::now().to_string());
    (status, Json(Told { health, version, time })).into_response()
}

async fn livez(State(e): State<Endpoints>) -> Response {
    let health = e.health().await;
    (code(health.live), format!("{}\n", health.status)).into_response()
}

async fn readyz(State(e): State<Endpoints>) -> Response {
    let health = e.health().await;
    (code(health.ready), format!("{}\n", health.status)).into_response()
}

async fn metrics(State(e): State<Endpoints>) -> Response {
    let text = tokio::task::spawn_blocking(move || e.metrics.text()).await;
    match text {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Ok(Err(e)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")).into_response(),
    }
}

/// A listener that answers until it is dropped.
#[derive(Debug)]
pub struct Server {
    /// Where, with the port that was chosen when 0 was asked for.
    pub addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens; an error names the port, who has it, and the flag that changes it.
    pub async fn start(endpoints: Endpoints, at: SocketAddr, flag: &str) -> anyhow::Result<Self> {
        let failed = |e: std::io::Error| anyhow!(ports::explain(&e, ports::Kind::Tcp, at, flag));
        let listener = TcpListener::bind(at).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let task = tokio::spawn(async move {
            if let Err(e) = axum::serve(listener, endpoints.router()).await {
                tracing::error!(error = %e, %addr, "the HTTP listener ended");
            }
        });
        Ok(Self { addr, task })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
