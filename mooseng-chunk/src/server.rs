//! A whole chunkserver: disks, store, listener, and the task that keeps the masters informed.

use crate::{
    disk::{DataDisk, StartError},
    logkeeper,
    peers::Peers,
    scrub::Scrub,
    store::DiskStore,
};
use futures::{
    FutureExt as _,
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt as _},
};
use mooseng_core::{
    chunk::ChunkStore as _,
    context::CallContext,
    error::{MetaError, NetError},
    ids::*,
    limits::REPORT_CHUNKS_MAX,
    meta::{DiskReport, DiskScrub, Heartbeat, MetadataExt as _, Register, Report, ServerOrders, TellScrub},
    net::{Listening, Transport},
    rpc::{ChunkHandler, RemoteMeta},
    seam::{Disk, Seams, on_lane},
};
use parking_lot::Mutex;
use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet};

/// Longest wait of a clean stop for writes under way.
const STOP: Duration = Duration::from_secs(5);

/// Times of a chunkserver.
#[derive(Clone, Debug)]
pub struct Timings {
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// Wait for the server behind in a chain before the writer hears of it.
    pub chain: Duration,
    /// Bytes a second that scrubs read from each disk; 0: no rounds but those asked for.
    pub scrub_bytes_per_s: u64,
    /// From the beginning of a scrub's round to the next, at least.
    pub scrub_every: Duration,
}

/// Heartbeats between two tellings of how scrubs stand.
const TELL_SCRUB: u32 = 5;
/// Heartbeats between two reports while something is left on a disk that is being emptied: what was suspect
/// or came late was not told to be leaving.
const TELL_LEFT: u32 = 60;

impl Default for Timings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            chain: Duration::from_millis(1200),
            scrub_bytes_per_s: 8 << 20,
            scrub_every: Duration::from_secs(6 * 3600),
        }
    }
}

/// What a chunkserver is made of.
#[derive(Clone)]
pub struct ChunkserverOptions {
    /// Which; kept in its directories, another one is refused.
    pub server: ServerId,
    /// Of which cluster.
    pub cluster: ClusterId,
    /// Where it listens.
    pub listen: String,
    /// Where others reach it; empty: where it listens.
    pub advertise: String,
    /// Its storage directories.
    pub disks: Vec<Arc<dyn Disk>>,
    /// How it reaches others and is reached.
    pub transport: Arc<dyn Transport>,
    /// Client addresses of the masters.
    pub masters: Vec<String>,
    /// Time, randomness, threads.
    pub seams: Seams,
    /// Times.
    pub timings: Timings,
    /// Bytes of each disk that chunks never use.
    pub reserve: u64,
}

/// What a chunkserver is doing.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its disks.
    pub disks: Vec<DiskReport>,
    /// Chunks that can be served.
    pub good: u64,
    /// Chunks that wait to be compared with other replicas.
    pub suspect: u64,
    /// Chunks with damage that the masters were told of.
    pub damaged: u64,
    /// Whether the leading master answers it and knows it.
    pub registered: bool,
    /// Whether that one knows all its chunks, too.
    pub ready: bool,
    /// How the scrubs of its disks stand, in the order of the disks.
    pub scrubs: Vec<DiskScrub>,
    /// When it is being emptied: chunks that still need it, as the leading master last said.
    pub drain_left: Option<u64>,
}

/// How it stands with the leading master.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Standing {
    registered: bool,
    reported: bool,
}

impl Standing {
    fn is_ready(self) -> bool {
        self.registered && self.reported
    }
}

/// A running chunkserver. Dropped without [`Chunkserver::shutdown`], it has crashed.
pub struct Chunkserver {
    store: DiskStore,
    scrub: Arc<Scrub>,
    drain_left: Arc<Mutex<Option<u64>>>,
    listening: Option<Box<dyn Listening>>,
    tasks: JoinSet<()>,
    standing: watch::Receiver<Standing>,
}

impl std::fmt::Debug for Chunkserver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunkserver").finish_non_exhaustive()
    }
}

impl Drop for Chunkserver {
    fn drop(&mut self) {
        self.tasks.abort_all();
        self.scrub.stop();
        self.store.0.crashed.cancel();
    }
}

impl Chunkserver {
    /// Starts on its directories.
    ///
    /// Promise: on `Ok` it listens and looks for the masters by itself.
    /// Errors: nothing was changed but, in new directories, their identity.
    pub fn start(options: ChunkserverOptions) -> BoxFuture<'static, Result<Self, StartError>> {
        // In a box that is made here: an `async fn` would be compiled anew in each crate that awaits it.
        Self::begin(options).boxed()
    }

    async fn begin(o: ChunkserverOptions) -> Result<Self, StartError> {
        if o.disks.is_empty() {
            return Err(StartError::NoDisks);
        }
        let mut disks = Vec::new();
        for disk in &o.disks {
            let (disk, seams) = (disk.clone(), o.seams.clone());
            let (cluster, server, reserve) = (o.cluster, o.server, o.reserve);
            let new_id = DiskId(o.seams.rng.next_u64());
            let dir = disk.describe();
            let lane = o.seams.lanes.lane("open");
            let opened =
                on_lane(&lane, move || DataDisk::open(disk, cluster, server, new_id, reserve, &seams)).await;
            let cause = || io::Error::other("its thread was stopped");
            disks.push(opened.ok_or_else(|| StartError::Disk { dir, cause: cause() })??);
        }
        let store = DiskStore::new(o.server, disks, o.transport.clone(), &o.seams, o.timings.chain);
        let handler = Arc::new(ChunkHandler::new(Arc::new(store.clone())));
        let listening = o.transport.listen(&o.listen, handler).await?;
        let addr = if o.advertise.is_empty() { listening.local_addr() } else { o.advertise.clone() };
        let (said, standing) = watch::channel(Standing::default());
        let scrub = Arc::new(Scrub::start(&store.0, &o.seams.clock, &o.timings));
        let drain_left = Arc::<Mutex<_>>::default();
        let masters = Masters {
            store: store.clone(),
            scrub: scrub.clone(),
            drain_left: drain_left.clone(),
            addr,
            server: o.server,
            addrs: o.masters,
            peers: Peers::new(o.transport),
            timings: o.timings,
            hint: None,
            turn: 0,
            registered: None,
            reported: false,
            refused: false,
            beats: 0,
            leaving: vec![],
        };
        let mut tasks = JoinSet::new();
        for disk in &store.0.disks {
            tasks.spawn(logkeeper::keep_room(store.0.clone(), disk.clone()));
        }
        tasks.spawn(masters.keep_informed(said));
        Ok(Self { store, scrub, drain_left, listening: Some(listening), tasks, standing })
    }

    /// The store, for callers in the same process.
    pub fn store(&self) -> &DiskStore {
        &self.store
    }

    /// Where it listens.
    pub fn local_addr(&self) -> String {
        self.listening.as_ref().map_or_else(String::new, |l| l.local_addr())
    }

    /// Whether the leading master knows it and all its chunks.
    pub fn is_ready(&self) -> bool {
        self.standing.borrow().is_ready()
    }

    /// What it is doing, at this moment. Operations are counted in [`DiskStore::counters`].
    pub fn status(&self) -> Status {
        let (good, suspect) = self.store.count();
        let damaged = self.store.0.damaged.lock().len() as u64;
        let (disks, scrubs) = (self.store.disk_reports(), self.scrub.state());
        let (standing, drain_left) = (*self.standing.borrow(), *self.drain_left.lock());
        let (registered, ready) = (standing.registered, standing.is_ready());
        Status { disks, good, suspect, damaged, registered, ready, scrubs, drain_left }
    }

    /// Stops cleanly: nothing is taken any more, everything is on disk, nothing will be suspect.
    pub fn shutdown(self) -> BoxFuture<'static, ()> {
        self.end().boxed()
    }

    async fn end(mut self) {
        self.tasks.abort_all();
        self.scrub.stop();
        if let Some(listening) = self.listening.take() {
            listening.close().await;
        }
        // What was admitted is completed; what waits for others is not waited for long.
        let tasks = &self.store.0.tasks;
        tasks.close();
        let _ = tokio::time::timeout(STOP, tasks.wait()).await;
        self.store.sync_all().await;
    }
}

struct Masters {
    store: DiskStore,
    scrub: Arc<Scrub>,
    drain_left: Arc<Mutex<Option<u64>>>,
    addr: String,
    server: ServerId,
    addrs: Vec<String>,
    peers: Peers,
    timings: Timings,
    hint: Option<String>,
    turn: usize,
    /// With which leader's term it is registered.
    registered: Option<Term>,
    reported: bool,
    /// The masters refuse this server's certificate, and the log says so.
    refused: bool,
    /// Heartbeats since the start.
    beats: u32,
    /// Disks set aside or being emptied that the masters were told of, chunk by chunk.
    leaving: Vec<DiskId>,
}

impl Masters {
    async fn keep_informed(mut self, standing: watch::Sender<Standing>) {
        loop {
            let mut pause = self.timings.heartbeat;
            match self.once().await {
                Ok(()) if self.registered.is_none() => pause = Duration::ZERO,
                Ok(()) => self.refused = false,
                Err(MetaError::NotLeader { leader }) => {
                    self.hint = leader.map(|(_, addr)| addr);
                    self.lost_leader();
                    pause = self.timings.heartbeat / 10;
                }
                Err(MetaError::Busy(why)) => {
                    tracing::debug!(why, "the leader does not know this server");
                    self.lost_leader();
                    pause = self.timings.heartbeat / 20;
                }
                Err(e) => {
                    let refused = matches!(e, MetaError::Net(NetError::Identity { .. }));
                    if refused && !std::mem::replace(&mut self.refused, true) {
                        tracing::error!(error = %e, "a master and this server do not accept each other");
                    }
                    tracing::debug!(error = %e, "no leading master was reached, trying the next");
                    self.hint = None;
                    self.lost_leader();
                    pause = self.timings.heartbeat / 5;
                }
            }
            let now = Standing { registered: self.registered.is_some(), reported: self.reported };
            standing.send_if_modified(|s| std::mem::replace(s, now) != now);
            self.store.trim();
            self.store.0.settle_marks(false).await;
            let refresh = self.store.0.access.refresh.notified();
            let _ = tokio::time::timeout(pause, refresh).await;
        }
    }

    fn lost_leader(&mut self) {
        self.registered = None;
        self.reported = false;
        self.turn += 1;
    }

    async fn once(&mut self) -> Result<(), MetaError> {
        let addr = match &self.hint {
            Some(addr) => addr.clone(),
            None => self.addrs.get(self.turn % self.addrs.len().max(1)).cloned().unwrap_or_default(),
        };
        let budget = self.timings.heartbeat * 2;
        let asked = tokio::select! {
            biased;
            asked = tokio::time::timeout(budget, self.ask(&addr, budget)) => asked,
            found = self.elsewhere(&addr) => {
                tracing::info!(silent = addr, leader = found, "another master leads");
                self.lost_leader();
                self.hint = Some(found);
                return Ok(());
            }
        };
        let silent = || MetaError::Deadline(addr.clone());
        let (meta, orders) = asked.map_err(|_| silent())??;
        self.hint = Some(addr);
        self.registered = Some(orders.term);
        let want_report = orders.want_report;
        self.obey(orders).await;
        // What is on a disk set aside, or on one that is being emptied, is told to be so.
        let disks = &self.store.0.disks;
        let leaving: Vec<_> = disks.iter().filter(|d| !d.takes_new()).map(|d| d.id).collect();
        let again = self.beats.is_multiple_of(TELL_LEFT)
            && disks.iter().any(|d| d.drains() && d.chunks.load(Ordering::Relaxed) > 0);
        if want_report || again || leaving != self.leaving {
            self.reported &= !want_report;
            self.report(&meta).await?;
            self.leaving = leaving;
        }
        self.reported = true;
        if self.beats.is_multiple_of(TELL_SCRUB) {
            self.tell_scrub(meta, budget);
        }
        self.beats = self.beats.wrapping_add(1);
        Ok(())
    }

    /// Registers with a master, or tells it that this server lives.
    async fn ask(&self, addr: &str, budget: Duration) -> Result<(RemoteMeta, ServerOrders), MetaError> {
        let cx = CallContext::internal(budget);
        let meta = RemoteMeta::new(self.peers.get(addr, budget).await?);
        let (server, incarnation) = (self.server, self.store.incarnation());
        let disks = self.store.disk_reports();
        let orders = if self.registered.is_none() {
            let version = env!("CARGO_PKG_VERSION").to_owned();
            let r = Register { server, incarnation, addr: self.addr.clone(), disks, version };
            meta.register(&cx, r).await?
        } else {
            let (damaged, broken) = (self.store.0.damaged_now(), self.store.0.broken_now());
            let clock = self.store.0.access.wall();
            meta.heartbeat(&cx, Heartbeat { server, incarnation, clock, disks, damaged, broken }).await?
        };
        Ok((meta, orders))
    }

    /// Ends when another master than `asked`, which has not answered for a while, says that it leads: a killed
    /// leader is not waited for longer than its successor needs.
    async fn elsewhere(&self, asked: &str) -> String {
        // A right that a new leader signed is as good a reason to look.
        let refresh = self.store.0.access.refresh.notified();
        let _ = tokio::time::timeout(self.timings.heartbeat / 2, refresh).await;
        loop {
            let others = self.addrs.iter().filter(|a| *a != asked);
            let mut looks: FuturesUnordered<_> = others.map(|addr| self.leads(addr)).collect();
            while let Some(found) = looks.next().await {
                if let Some(found) = found {
                    return found;
                }
            }
            drop(looks);
            tokio::time::sleep(self.timings.heartbeat / 10).await;
        }
    }

    /// Only a leader takes a heartbeat, or tells that it has to be registered with first.
    async fn leads(&self, addr: &str) -> Option<String> {
        let budget = self.timings.heartbeat / 2;
        let (server, incarnation) = (self.server, self.store.incarnation());
        let disks = self.store.disk_reports();
        let look = async {
            let meta = RemoteMeta::new(self.peers.get(addr, budget).await?);
            let clock = self.store.0.access.wall();
            let beat = Heartbeat { server, incarnation, clock, disks, damaged: vec![], broken: vec![] };
            meta.heartbeat(&CallContext::internal(budget), beat).await
        };
        match tokio::time::timeout(budget, look).await {
            Ok(Ok(_) | Err(MetaError::Busy(_))) => Some(addr.to_owned()),
            _ => None,
        }
    }

    /// Tells how scrubs stand and what was served, and hears whether a round is asked for and what is left of a drain.
    /// Heartbeats do not wait for it.
    fn tell_scrub(&self, meta: RemoteMeta, budget: Duration) {
        let (server, incarnation, scrub) = (self.server, self.store.incarnation(), self.scrub.clone());
        let (drain_left, served) = (self.drain_left.clone(), self.store.counters().served());
        self.store.0.spawn(async move {
            let tell = TellScrub { server, incarnation, disks: scrub.state(), served };
            let cx = CallContext::internal(budget);
            match tokio::time::timeout(budget, meta.tell_scrub(&cx, tell)).await {
                Ok(Ok(told)) => {
                    scrub.ask(told.scrub_asked);
                    *drain_left.lock() = told.drain_left;
                }
                Ok(Err(e)) => tracing::debug!(error = %e, "the leader did not hear how scrubs stand"),
                Err(_) => {}
            }
        });
    }

    async fn obey(&self, orders: ServerOrders) {
        if let Err(e) = self.store.0.take_term(orders.term).await {
            tracing::warn!(error = %e, "orders of a master that does not lead any more, or that no disk keeps");
            return;
        }
        for disk in &self.store.0.disks {
            disk.drain(orders.drains.contains(&disk.id));
        }
        self.store.0.access.obey(orders);
    }

    async fn report(&self, meta: &RemoteMeta) -> Result<(), MetaError> {
        let cx = CallContext::internal(Duration::from_secs(10));
        let (server, incarnation) = (self.server, self.store.incarnation());
        let mut after = None;
        loop {
            let page = self.store.list(&cx, after, REPORT_CHUNKS_MAX as u32).await;
            let page = page.map_err(|e| MetaError::Internal(e.to_string()))?;
            let next = page.chunks.last().map(|c| c.chunk.id);
            let last = page.last;
            meta.report(&cx, Report { server, incarnation, after, chunks: page.chunks, last }).await?;
            if last {
                return Ok(());
            }
            after = next;
        }
    }
}
