//! [`Client`]: a session with a cluster.

use crate::{
    ahead::{READ_AHEAD, READ_AHEAD_MAX},
    background::{relieve, write_back},
    budget::DIRTY_MAX,
    error::{Error, Result},
    fs::Filesystem,
    masters::{Masters, Names},
    pool::Pool,
    vfs::Vfs,
};
use futures::{FutureExt as _, future::BoxFuture};
use mooseng_core::{
    context::Credentials, limits::CALL_DEADLINE_SECS, meta::MetaOp, net::Transport, seam::Seams,
};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinHandle;

/// What a client is made of.
#[derive(Default)]
pub struct ClientBuilder {
    pub(crate) masters: Vec<String>,
    pub(crate) transport: Option<Arc<dyn Transport>>,
    seams: Option<Seams>,
    name: String,
    host: String,
    deadline: Option<Duration>,
    dirty_max: Option<usize>,
    read_ahead: Option<u64>,
    read_ahead_max: Option<u64>,
}

impl std::fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientBuilder").field("masters", &self.masters).finish_non_exhaustive()
    }
}

impl ClientBuilder {
    /// Client addresses of the masters, any or all of them: `host:port` or `[v6]:port`.
    #[must_use]
    pub fn masters(mut self, addrs: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.masters = addrs.into_iter().map(Into::into).collect();
        self
    }
    /// How they are reached: `mooseng_net::quic`, or the memory transport in tests.
    #[must_use]
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }
    /// Time and randomness: `mooseng_host::host_seams()`.
    #[must_use]
    pub fn seams(mut self, seams: Seams) -> Self {
        self.seams = Some(seams);
        self
    }
    /// What the session is called in listings.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
    /// The host's name in listings.
    #[must_use]
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = host.into();
        self
    }
    /// How long a call may take; 30 s unless said.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Bytes of written data that the client may hold in memory, over all files; 256 MiB unless
    /// said. Past half of it the oldest is written out; writers wait while it is full.
    #[must_use]
    pub fn dirty_max(mut self, bytes: usize) -> Self {
        self.dirty_max = Some(bytes);
        self
    }
    /// Bytes that a handle reads ahead of a sequential reader at most; 8 MiB unless said, 0 for
    /// none.
    #[must_use]
    pub fn read_ahead(mut self, bytes: u64) -> Self {
        self.read_ahead = Some(bytes);
        self
    }
    /// Bytes that all handles together hold read ahead at most, in steps of 1 MiB; 128 MiB unless said.
    #[must_use]
    pub fn read_ahead_max(mut self, bytes: u64) -> Self {
        self.read_ahead_max = Some(bytes);
        self
    }

    /// Opens a session.
    ///
    /// Errors: no master was reached within the deadline, or something was left out.
    pub fn connect(self) -> BoxFuture<'static, Result<Client>> {
        // In a box that is made here: an `async fn` would be compiled anew, with all that it calls, in each crate that
        // awaits it. The same elsewhere.
        self.open_session().boxed()
    }

    async fn open_session(self) -> Result<Client> {
        let missing = |what: &str| Error::Invalid(format!("a client needs {what}"));
        if self.masters.is_empty() {
            return Err(missing("the address of a master"));
        }
        let transport = self.transport.ok_or_else(|| missing("a transport"))?;
        let seams = self.seams.ok_or_else(|| missing("seams (time and randomness)"))?;
        let deadline = self.deadline.unwrap_or(Duration::from_secs(CALL_DEADLINE_SECS));
        let names = Names { client: self.name, host: self.host };
        let masters = Arc::new(Masters::new(transport.clone(), self.masters, names, seams, deadline));
        let read_ahead_max = self.read_ahead_max.unwrap_or(READ_AHEAD_MAX);
        let pool = Arc::new(Pool::new(transport, self.dirty_max.unwrap_or(DIRTY_MAX), read_ahead_max));
        let vfs = Vfs::new(masters.clone(), pool.clone(), self.read_ahead.unwrap_or(READ_AHEAD));
        masters.begin().await?;
        let write_back = tokio::spawn(write_back(masters.clone(), pool.clone()));
        let relieve = tokio::spawn(relieve(pool));
        let keeper = tokio::spawn(masters.keep());
        Ok(Client { vfs, keeper: Arc::new(Keeper([keeper, write_back, relieve])) })
    }
}

/// Ends the tasks that keep the session and sync in the background when the last clone goes.
struct Keeper([JoinHandle<()>; 3]);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Keeper {
    fn stop(&self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// A session with a cluster. Cheap to clone; the session ends with [`Client::shutdown`], or by
/// silence when the last clone was dropped without it.
#[derive(Clone)]
pub struct Client {
    vfs: Vfs,
    keeper: Arc<Keeper>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// Begins to make a client.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Files by inode.
    pub fn vfs(&self) -> &Vfs {
        &self.vfs
    }

    /// Files by path, as the superuser; see [`Filesystem::with_credentials`].
    pub fn filesystem(&self) -> Filesystem {
        Filesystem::new(self.clone(), Credentials::root())
    }

    /// Any request of the protocol, as the superuser.
    pub async fn request<O: MetaOp + Clone>(&self, op: O) -> Result<O::Reply> {
        self.vfs.request(&Credentials::root(), op).await
    }

    /// The same with a time limit of its own, in place of the client's deadline: a look at all chunks takes long where
    /// there are many.
    pub async fn request_within<O: MetaOp + Clone>(&self, op: O, within: Duration) -> Result<O::Reply> {
        self.vfs.request_within(&Credentials::root(), op, within).await
    }

    /// Flushes what is open and ends the session. What could not be flushed is the error.
    pub fn shutdown(self, within: Duration) -> BoxFuture<'static, Result<()>> {
        let ended = async move {
            let done = tokio::time::timeout(within, self.vfs.shutdown(within)).await;
            self.keeper.stop();
            done.unwrap_or_else(|_| Err(Error::Invalid(format!("the shutdown took longer than {within:?}"))))
        };
        ended.boxed()
    }
}
