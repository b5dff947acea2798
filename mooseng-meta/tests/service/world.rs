//! A master on a memory network, and chunkservers of a few lines.

use async_trait::async_trait;
use mooseng_core::{
    attr::Timestamp,
    chunk::*,
    context::{CallContext, Credentials},
    error::{ChunkError, MetaError},
    ids::*,
    join::Authority,
    meta::*,
    name::Name,
    net::{CertHash, Listening, PeerIdentity, Role},
    rpc::ChunkHandler,
    seam::{Clock, Disk},
};
use mooseng_host::{MemDisk, VirtualClock};
use mooseng_meta::{
    raft::{LogOptions, Member, RaftTimings},
    server::{Master, MasterOptions},
    service::ServiceTimings,
};
use mooseng_net::memory::MemoryNetwork;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub fn cluster() -> ClusterId {
    "00000000-0000-7000-8000-000000000009".parse().unwrap()
}

pub fn identity(role: Role, node: u64) -> PeerIdentity {
    let cert_hash = CertHash([role as u8 * 16 + node as u8; 32]);
    PeerIdentity { cluster: cluster(), role, node, name: format!("{role}-{node}"), cert_hash }
}

pub fn name(s: &str) -> Name {
    Name::new(s).unwrap()
}

/// A replica as a chunkserver of a test has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Has {
    pub version: u64,
    pub state: ReplicaState,
    pub length: u64,
}

/// What a chunkserver of a test has, and how it behaves.
#[derive(Default)]
pub struct State {
    pub has: BTreeMap<ChunkId, Has>,
    /// Kinds of commands that are not answered.
    pub deaf_to: BTreeSet<&'static str>,
    /// Those of which the first is not answered.
    pub deaf_once: BTreeSet<&'static str>,
    /// Kinds of commands that wait until the test lets them on.
    pub held: BTreeSet<&'static str>,
    /// Those that have come and wait.
    pub waiting: usize,
    /// A block that is damaged here is whole nowhere.
    pub nowhere: bool,
    /// Kinds of commands that are refused.
    pub refuses: BTreeSet<&'static str>,
    /// Those of which the first is refused.
    pub refuses_once: BTreeSet<&'static str>,
    /// Commands as they came.
    pub heard: Vec<Control>,
}

/// The chunkserver.
#[derive(Default)]
pub struct Fake(pub Mutex<State>, tokio::sync::Notify);

fn kind(op: &Control) -> &'static str {
    match op {
        Control::Stat { .. } => "stat",
        Control::SetVersion { .. } => "set-version",
        Control::Pull { ahead: true, .. } => "pull-ahead",
        Control::Pull { .. } => "pull",
        Control::Delete { .. } => "delete",
        Control::Table { .. } => "table",
        Control::Numbers { .. } => "numbers",
        Control::Fence { .. } => "fence",
    }
}

impl Fake {
    pub fn count(&self, what: &str) -> usize {
        self.0.lock().heard.iter().filter(|op| kind(op) == what).count()
    }

    /// Lets on what is held.
    pub fn free(&self) {
        self.0.lock().held.clear();
        self.1.notify_waiters();
    }

    async fn hold(&self, what: &'static str) {
        self.0.lock().waiting += 1;
        loop {
            let freed = self.1.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if !self.0.lock().held.contains(what) {
                break;
            }
            freed.await;
        }
        self.0.lock().waiting -= 1;
    }

    fn obey(&self, op: Control) -> Result<ControlReply, ChunkError> {
        let mut s = self.0.lock();
        s.heard.push(op.clone());
        if s.refuses.contains(kind(&op)) || s.refuses_once.remove(kind(&op)) {
            return Err(ChunkError::Busy("as the test wants".into()));
        }
        let suspect = |id, h: &Has| match h.state {
            ReplicaState::Suspect => Err(ChunkError::Suspect(id)),
            _ => Ok(()),
        };
        let id = match op {
            Control::Stat { chunk } => chunk,
            Control::SetVersion { chunk, to, cut_to, create, settle, .. } => {
                if create {
                    let empty = Has { version: 0, state: ReplicaState::Good, length: 0 };
                    s.has.entry(chunk).or_insert(empty);
                }
                let h = s.has.get_mut(&chunk).ok_or(ChunkError::NotFound(chunk))?;
                if settle && h.version > 0 {
                    h.state = ReplicaState::Good;
                }
                suspect(chunk, h)?;
                h.version = to.get();
                h.length = cut_to.map_or(h.length, |c| c.min(h.length));
                chunk
            }
            Control::Pull { chunk, ahead: true, .. } => {
                if let Some(h) = s.has.get(&chunk.id).filter(|h| h.version >= chunk.version.0) {
                    let here = ChunkVersion(h.version);
                    return Err(ChunkError::Stale { chunk: chunk.id, here, asked: chunk.version });
                }
                let half = Has { version: 0, state: ReplicaState::Suspect, length: 1 };
                s.has.insert(chunk.id, half);
                chunk.id
            }
            Control::Pull { chunk, .. } => {
                // It is made equal on the disk where it is.
                let state = match s.has.get(&chunk.id) {
                    _ if s.nowhere => ReplicaState::Damaged,
                    Some(h) if h.state == ReplicaState::Leaving => ReplicaState::Leaving,
                    _ => ReplicaState::Good,
                };
                s.has.insert(chunk.id, Has { version: chunk.version.get(), state, length: 1 });
                chunk.id
            }
            Control::Delete { chunk, .. } => {
                s.has.remove(&chunk.id);
                return Ok(ControlReply::Gone);
            }
            Control::Fence { .. } => return Ok(ControlReply::Gone),
            Control::Table { .. } => {
                return Ok(ControlReply::Table(ChecksumTable { length: 0, blocks: vec![] }));
            }
            Control::Numbers { .. } => return Ok(ControlReply::Numbers(vec![])),
        };
        let h = *s.has.get(&id).ok_or(ChunkError::NotFound(id))?;
        let chunk = ChunkRef { id, version: ChunkVersion(h.version) };
        let report = ChunkReport { chunk, length: h.length, state: h.state };
        Ok(ControlReply::Done(ChunkStat {
            report,
            server: ServerId(0),
            incarnation: Incarnation(0),
            dirty: false,
        }))
    }
}

struct Store(Arc<Fake>);

#[async_trait]
impl ChunkStore for Store {
    async fn read(&self, _: &CallContext, _: ReadRequest) -> Result<Frames, ChunkError> {
        Err(ChunkError::Invalid("not here".into()))
    }
    async fn write(&self, _: &CallContext, _: WriteRequest, _: Frames) -> Result<Acks, ChunkError> {
        Err(ChunkError::Invalid("not here".into()))
    }
    async fn sync(&self, _: &CallContext, _: SyncRequest) -> Result<SyncDone, ChunkError> {
        Err(ChunkError::Invalid("not here".into()))
    }
    async fn control(&self, _: &CallContext, op: Control) -> Result<ControlReply, ChunkError> {
        let is_lost = {
            let mut s = self.0.0.lock();
            s.deaf_once.remove(kind(&op)) || s.deaf_to.contains(kind(&op))
        };
        if is_lost {
            futures::future::pending::<()>().await;
        }
        self.0.hold(kind(&op)).await;
        self.0.obey(op)
    }
    async fn list(&self, _: &CallContext, _: Option<ChunkId>, _: u32) -> Result<ChunkPage, ChunkError> {
        Ok(ChunkPage { chunks: vec![], last: true })
    }
}

/// The master and its chunkservers.
pub struct World {
    pub net: MemoryNetwork,
    pub master: Option<Master>,
    pub disk: Arc<dyn Disk>,
    pub reserve: u64,
    pub timings: ServiceTimings,
    pub servers: BTreeMap<u64, Arc<Fake>>,
    /// Signs joins from the master's next start on.
    pub authority: Option<Arc<dyn Authority>>,
    /// The master's clock.
    pub clock: Arc<dyn Clock>,
    listening: Vec<Box<dyn Listening>>,
    slot: AtomicU64,
}

pub fn disk(id: u64) -> DiskReport {
    DiskReport {
        disk: DiskId(id),
        path: "d".into(),
        total_bytes: 1 << 40,
        free_bytes: 1 << 39,
        chunks: 0,
        errors: 0,
        error: None,
        drains: false,
    }
}

pub fn quick() -> ServiceTimings {
    ServiceTimings {
        server_dead: Duration::from_secs(3600),
        repair_after: Duration::from_secs(3600),
        session_lifetime: Duration::from_secs(30),
        tick: Duration::from_millis(100),
        ..ServiceTimings::default()
    }
}

impl World {
    /// A master that leads, and `n` chunkservers that are registered with it.
    pub async fn of(n: u64, timings: ServiceTimings) -> Self {
        let mut w = Self {
            net: MemoryNetwork::new(),
            master: None,
            disk: Arc::new(MemDisk::new("master")),
            reserve: 0,
            timings,
            servers: BTreeMap::new(),
            authority: None,
            clock: Arc::new(VirtualClock::new()),
            listening: Vec::new(),
            slot: AtomicU64::new(0),
        };
        w.start_master().await;
        for id in 1..=n {
            w.add_server(id).await;
        }
        w
    }

    pub async fn start_master(&mut self) {
        let id = MasterId(1);
        let member = Member { id, raft_addr: "master/raft".into(), client_addr: "master".into() };
        let seams = mooseng_host::sim_seams(1);
        self.clock = seams.clock.clone();
        let options = MasterOptions {
            id,
            cluster: cluster(),
            listen: member.client_addr.clone(),
            raft_listen: member.raft_addr.clone(),
            members: vec![member],
            disk: self.disk.clone(),
            transport: self.net.transport(identity(Role::Master, 1)),
            seams,
            raft_timings: RaftTimings::default(),
            log: LogOptions::default(),
            timings: self.timings.clone(),
            class: StorageClass { copies: 2 },
            cache_bytes: 4 << 20,
            reserve: self.reserve,
            authority: self.authority.clone(),
        };
        let master = Master::start(options).await.unwrap();
        until("the master leads", async || master.status().leading).await;
        self.master = Some(master);
    }

    /// The master stops and starts on its disk; its chunkservers register again.
    pub async fn restart_master(&mut self) {
        self.master.take().unwrap().stop().await;
        self.start_master().await;
        for id in self.servers.keys().copied().collect::<Vec<_>>() {
            self.register(id, 1).await;
        }
    }

    pub async fn add_server(&mut self, id: u64) {
        let fake = Arc::new(Fake::default());
        let transport = self.net.transport(identity(Role::Chunkserver, id));
        let handler = Arc::new(ChunkHandler::new(Arc::new(Store(fake.clone()))));
        self.listening.push(transport.listen(&format!("cs-{id}"), handler).await.unwrap());
        self.servers.insert(id, fake);
        self.register(id, 1).await;
    }

    /// A chunkserver lives, and its clock is right.
    pub async fn beat(&self, id: u64) {
        self.beat_at(id, 0).await;
    }

    /// The same of one whose clock is so many milliseconds ahead.
    pub async fn beat_at(&self, id: u64, ahead_ms: i64) {
        let (server, incarnation, disks) = (ServerId(id), Incarnation(1), vec![disk(id)]);
        let clock = Timestamp(self.clock.wall().0 + ahead_ms * 1_000_000);
        let beat = Heartbeat { server, incarnation, clock, disks, damaged: vec![], broken: vec![] };
        self.service().heartbeat(&cx(), beat).await.unwrap();
    }

    pub async fn register(&self, id: u64, incarnation: u64) -> ServerOrders {
        let r = Register {
            server: ServerId(id),
            incarnation: Incarnation(incarnation),
            addr: format!("cs-{id}"),
            disks: vec![disk(id)],
            version: "t".into(),
        };
        self.service().register(&cx(), r).await.unwrap()
    }

    /// A chunkserver hears that its disk drains, if it does, says so, and tells what is there as leaving.
    pub async fn obey_drain(&self, id: u64) {
        let (server, incarnation) = (ServerId(id), Incarnation(1));
        let clock = self.clock.wall();
        let beat = |disks| Heartbeat { server, incarnation, clock, disks, damaged: vec![], broken: vec![] };
        let orders = self.service().heartbeat(&cx(), beat(vec![disk(id)])).await.unwrap();
        let drains = orders.drains == [DiskId(id)];
        let state = if drains { ReplicaState::Leaving } else { ReplicaState::Good };
        let chunks: Vec<_> = {
            let mut s = self.fake(server).0.lock();
            s.has.values_mut().for_each(|h| h.state = state);
            let version = |h: &Has| ChunkVersion(h.version);
            let report = |(id, h): (&ChunkId, &Has)| ChunkReport {
                chunk: ChunkRef { id: *id, version: version(h) },
                length: h.length,
                state,
            };
            s.has.iter().map(report).collect()
        };
        let left = chunks.len() as u64;
        let report = Report { server, incarnation, after: None, chunks, last: true };
        self.service().report(&cx(), report).await.unwrap();
        let now = DiskReport { drains, chunks: left, ..disk(id) };
        self.service().heartbeat(&cx(), beat(vec![now])).await.unwrap();
    }

    pub fn service(&self) -> Arc<dyn MetadataService> {
        self.master.as_ref().unwrap().service()
    }

    /// A session of its own for a client.
    pub async fn session(&self, client: &str) -> SessionStamp {
        let mut cx = cx();
        cx.trace = TraceId(client.bytes().fold(7, |h, b| h * 131 + u64::from(b)));
        let open = OpenSession { client: client.into(), host: "h".into(), version: "v".into() };
        self.service().open_session(&cx, open).await.unwrap().stamp
    }

    /// A mutation's context: the session, and a slot number that was never used.
    pub fn fresh(&self, session: SessionStamp) -> CallContext {
        let seq = SlotSeq(self.slot.fetch_add(1, Ordering::Relaxed) + 1);
        let mut cx = under(session);
        cx.slot = Some(SlotStamp { slot: SlotId(0), seq });
        cx
    }

    pub async fn create(&self, session: SessionStamp, file: &str) -> Created {
        let open = mooseng_core::attr::Access::READ.and(mooseng_core::attr::Access::WRITE);
        let (parent, name) = (InodeId::ROOT, name(file));
        let op = Create { parent, name, mode: 0o644, exclusive: true, open, truncate: false, id: None };
        self.service().create(&self.fresh(session), op).await.unwrap()
    }

    pub async fn unlink(&self, session: SessionStamp, file: &str) -> Result<Removed, MetaError> {
        self.service().unlink(&self.fresh(session), Unlink { parent: InodeId::ROOT, name: name(file) }).await
    }

    pub async fn allocate(&self, session: SessionStamp, inode: InodeId) -> Result<ChunkPlace, MetaError> {
        let op = Allocate { inode, truncates: TruncateCounter(0), from: ChunkIndex(0), count: 1 };
        let layout = self.service().allocate(&self.fresh(session), op).await?;
        Ok(layout.chunks[0].clone())
    }

    pub async fn commit(
        &self,
        session: SessionStamp,
        inode: InodeId,
        chunk: ChunkRef,
    ) -> Result<mooseng_core::attr::Attr, MetaError> {
        let chunks = vec![(ChunkIndex(0), chunk)];
        let op = CommitWrite { inode, truncates: TruncateCounter(0), size: 1, chunks, drop_inline: false };
        self.service().commit_write(&self.fresh(session), op).await
    }

    /// The replicas that a write to a place makes.
    pub fn written(&self, place: &ChunkPlace, state: ReplicaState) {
        for r in &place.chain {
            let has = Has { version: place.chunk.version.get(), state, length: 1 };
            self.servers[&r.server.get()].0.lock().has.insert(place.chunk.id, has);
        }
    }

    /// The same with so many copies.
    pub async fn copies(&self, session: SessionStamp, file: &str, copies: u8) -> (InodeId, ChunkPlace) {
        let inode = self.create(session, file).await.attr.inode;
        let class = StorageClass { copies };
        self.service().set_class(&self.fresh(session), SetClass { inode, class }).await.unwrap();
        let place = self.allocate(session, inode).await.unwrap();
        self.written(&place, ReplicaState::Good);
        self.commit(session, inode, place.chunk).await.unwrap();
        (inode, place)
    }

    /// A file with one chunk that was written and committed; where it is.
    pub async fn file(&self, session: SessionStamp, file: &str) -> (InodeId, ChunkPlace) {
        let inode = self.create(session, file).await.attr.inode;
        let place = self.allocate(session, inode).await.unwrap();
        self.written(&place, ReplicaState::Good);
        self.commit(session, inode, place.chunk).await.unwrap();
        (inode, place)
    }

    /// The same with one copy only.
    pub async fn one_copy(&self, session: SessionStamp, file: &str) -> (InodeId, ChunkPlace) {
        self.copies(session, file, 1).await
    }

    pub async fn report(
        &self,
        session: SessionStamp,
        inode: InodeId,
        chunk: ChunkRef,
        server: ServerId,
    ) -> Result<(), MetaError> {
        self.tell(session, inode, chunk, (server, false)).await
    }

    /// A client reports that a server's disk is full.
    pub async fn report_full(
        &self,
        session: SessionStamp,
        inode: InodeId,
        chunk: ChunkRef,
        server: ServerId,
    ) -> Result<(), MetaError> {
        self.tell(session, inode, chunk, (server, true)).await
    }

    async fn tell(
        &self,
        session: SessionStamp,
        inode: InodeId,
        chunk: ChunkRef,
        (server, full): (ServerId, bool),
    ) -> Result<(), MetaError> {
        let r = ReportReplica { inode, index: ChunkIndex(0), chunk, server, problem: "test".into(), full };
        self.service().report_replica(&under(session), r).await
    }

    /// Waits until the chunk can be had at a version above `than`.
    pub async fn opened(&self, session: SessionStamp, inode: InodeId, than: ChunkVersion) -> ChunkPlace {
        until_some("the chunk's next version opens", async || {
            let op = GetLayout { inode, from: ChunkIndex(0), count: 1 };
            let layout = self.service().get_layout(&under(session), op).await.ok()?;
            layout.chunks.into_iter().find(|c| c.chunk.version > than)
        })
        .await
    }

    pub fn fake(&self, server: ServerId) -> &Fake {
        &self.servers[&server.get()]
    }
}

pub fn cx() -> CallContext {
    let mut cx = CallContext::internal(Duration::from_secs(20));
    cx.creds = Credentials::root();
    cx
}

pub fn under(session: SessionStamp) -> CallContext {
    let mut cx = cx();
    cx.session = Some(session);
    cx
}

/// Waits for a condition.
pub async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    until_some(what, async || is().await.then_some(())).await;
}

/// Waits for something.
pub async fn until_some<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), wait)
        .await
        .unwrap_or_else(|_| panic!("within two minutes it did not come true that {what}"))
}
