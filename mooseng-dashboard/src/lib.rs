//! # mooseng-dashboard: web pages that show a cluster
//!
//! A [`Dashboard`] is a set of pages, and the same as JSON, over a [`mooseng_client::Client`]. It reads all that it
//! shows through the SDK's public calls, and changes nothing. It is *not* where anything is decided about a cluster's
//! health (that is `mooseng_core::health`), and knows no transport, no certificates and no daemon's files.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # use mooseng_client::embedded::Cluster;
//! use mooseng_dashboard::{Dashboard, Options};
//! # let cluster = Cluster::builder().masters(1).chunkservers(2).start().await?;
//! let dashboard = Dashboard::new(cluster.client().await?, Options::default());
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! println!("http://{}/", listener.local_addr()?);
//! # let _ = tokio::time::timeout(std::time::Duration::from_millis(10), async {
//! dashboard.serve(listener).await?;
//! # anyhow::Ok(()) }).await;
//! # anyhow::Ok(()) }).unwrap();
//! ```
//!
//! ```text
//!   feed: pulse ─ every 2 s what the leader has at hand ─▶ events, history (rates of the last 10 minutes)
//!         look ── through all chunks, as long as it takes ─▶ picture
//!                                                    │
//!   browser ─ guard (token, headers, limits) ─┬─ pages ─ templates, charts
//!                 ▲                           ├─ api ─── the command line's schemas
//!                 └── live (server-sent) ─────┴─ what a page needs besides is asked when it is looked at
//! ```
//!
//! Invariants: off this machine nothing is shown without the token; what names and errors say is escaped by the
//! templates; nothing is loaded from elsewhere; every list is a page of bounded length; viewers that watch cost the
//! cluster one viewer's questions.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may panic"))]

mod api;
mod assets;
mod chart;
mod feed;
mod fresh;
mod guard;
mod history;
mod live;
mod page;
mod pages;
mod token;
mod waiting;

pub use token::{TOKEN_BYTES_MAX, TOKEN_CHARS_MIN, Token, TokenError};
pub use waiting::turn_away;

use axum::{
    Router,
    http::StatusCode,
    middleware,
    routing::{get, post},
};
use feed::Feed;
use fresh::{Fresh, Told, look};
use mooseng_client::Client;
use mooseng_core::meta::{ChunkMatrix, GetChunkMatrix, ListSessions, SessionInfo};
use std::{fmt, io, sync::Arc};
use tokio::{net::TcpListener, sync::Semaphore};

/// How a dashboard behaves.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Options {
    /// Who presents it may look; without one, everybody on this machine, and nobody else.
    pub token: Option<Token>,
}

impl Options {
    /// With a token.
    #[must_use]
    pub fn with_token(mut self, token: Token) -> Self {
        self.token = Some(token);
        self
    }
}

/// Why a dashboard does not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Others could reach it, and it has no token.
    #[error("{at} can be reached from elsewhere: give the dashboard a token, or listen on 127.0.0.1")]
    NoToken {
        /// Where it was to listen.
        at: std::net::SocketAddr,
    },
    /// The listener failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What all requests share.
pub(crate) struct Shared {
    client: Client,
    token: Option<Token>,
    feed: Feed,
    matrix: Fresh<ChunkMatrix>,
    sessions: Fresh<Vec<SessionInfo>>,
    requests: Semaphore,
    viewers: Arc<Semaphore>,
}

impl Shared {
    /// All chunks by copies.
    async fn matrix(&self) -> Told<ChunkMatrix> {
        self.matrix.get(|| look(self.client.clone(), GetChunkMatrix {})).await
    }

    /// Who uses the cluster.
    async fn sessions(&self) -> Told<Vec<SessionInfo>> {
        self.sessions.get(|| look(self.client.clone(), ListSessions {})).await
    }
}

/// Pages that show a cluster. It begins to look at the cluster when it is made, and ends when the last clone is dropped.
#[derive(Clone)]
pub struct Dashboard(Arc<Shared>);

impl fmt::Debug for Dashboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dashboard")
    }
}

impl Dashboard {
    /// Of the cluster that a client is connected to. Inside a tokio runtime.
    pub fn new(client: Client, options: Options) -> Self {
        Self(Arc::new(Shared {
            feed: Feed::start(client.clone()),
            client,
            token: options.token,
            matrix: Fresh::default(),
            sessions: Fresh::default(),
            requests: Semaphore::new(guard::REQUESTS_MAX),
            viewers: Arc::new(Semaphore::new(live::VIEWERS_MAX)),
        }))
    }

    /// Whether the masters answered when they were asked last; `true` before the first time.
    pub fn is_answered(&self) -> bool {
        self.0.feed.last().failed.is_none()
    }

    /// The pages, for a program that serves them beside its own. The token is asked for by them; where they can be
    /// reached is the program's to see to.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/", get(pages::overview))
            .route("/topology", get(pages::topology))
            .route("/chunks", get(pages::chunks))
            .route("/chunks/{wanted}/{copies}", get(pages::cell))
            .route("/sessions", get(pages::sessions))
            .route("/operations", get(pages::operations))
            .route("/jobs", get(pages::jobs))
            .route("/files", get(pages::files))
            .route("/login", get(guard::login_page).post(guard::login))
            .route("/logout", post(guard::logout))
            .route("/live", get(live::live))
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(pages::readyz))
            .route("/assets/{name}", get(assets::asset))
            .nest("/api", api::routes())
            .fallback(guard::nothing)
            .layer(middleware::from_fn_with_state(self.0.clone(), guard::keep))
            .with_state(self.0.clone())
    }

    /// Answers until the future is dropped, or the listener fails.
    ///
    /// Errors: others could reach it, and it has no token.
    pub async fn serve(self, listener: TcpListener) -> Result<(), ServeError> {
        let at = listener.local_addr()?;
        if self.0.token.is_none() && !at.ip().is_loopback() {
            return Err(ServeError::NoToken { at });
        }
        Ok(axum::serve(listener, self.router()).await?)
    }
}

/// The status code for an error of the SDK, and its kind for programs.
pub(crate) fn status_of(e: &mooseng_client::Error) -> (StatusCode, &'static str) {
    use mooseng_client::ErrorKind as K;
    match e.kind() {
        K::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        K::PermissionDenied => (StatusCode::FORBIDDEN, "permission"),
        K::InvalidInput | K::Refused => (StatusCode::BAD_REQUEST, "invalid"),
        K::TimedOut => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
        K::Unreachable | K::Closed => (StatusCode::SERVICE_UNAVAILABLE, "unreachable"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    }
}
