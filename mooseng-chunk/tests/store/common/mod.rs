//! Chunkservers on a memory network, with masters that say what a test wants.

pub mod disk;

use async_trait::async_trait;
use bytes::Bytes;
use disk::CrashDisk;
use futures::StreamExt as _;
use mooseng_chunk::{Chunkserver, ChunkserverOptions, StartError, Timings};
use mooseng_core::{
    attr::Timestamp,
    capability::{Capability, Claims, KeyId, Rights, SigningKey},
    checksum::frame_crcs,
    chunk::*,
    context::CallContext,
    error::{ChunkError, MetaError},
    ids::*,
    meta::*,
    net::{CertHash, Listening, PeerIdentity, Role},
    rpc::{MetaHandler, RemoteChunks},
    seam::Disk,
};
use mooseng_net::memory::MemoryNetwork;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

pub const BLOCK: usize = 4096;
pub const SESSION: SessionStamp = SessionStamp { id: SessionId(7), epoch: SessionEpoch(1) };

pub fn cluster() -> ClusterId {
    "00000000-0000-7000-8000-000000000009".parse().unwrap()
}

pub fn identity(role: Role, node: u64) -> PeerIdentity {
    let name = format!("{role}-{node}");
    let cert_hash = CertHash([role as u8 * 16 + node as u8; 32]);
    PeerIdentity { cluster: cluster(), role, node, name, cert_hash }
}

/// A leader that knows nothing but its orders, and remembers what it heard.
pub struct Leader {
    pub orders: Mutex<Option<ServerOrders>>,
    pub heard: Mutex<Vec<MetaRequest>>,
    /// When a scrub was asked for.
    pub scrub: Mutex<Option<Timestamp>>,
    /// What is left of a drain.
    pub drain: Mutex<Option<u64>>,
    /// It answers nothing, as one that was killed.
    pub silent: AtomicBool,
}

impl Leader {
    pub fn with(orders: Option<ServerOrders>) -> Arc<Self> {
        let (heard, scrub, drain, silent) = Default::default();
        Arc::new(Self { orders: Mutex::new(orders), heard, scrub, drain, silent })
    }
}

#[async_trait]
impl MetadataService for Leader {
    async fn call(&self, _: &CallContext, req: MetaRequest) -> Result<MetaReply, MetaError> {
        if self.silent.load(Ordering::Relaxed) {
            futures::future::pending::<()>().await;
        }
        let orders =
            self.orders.lock().clone().ok_or_else(|| MetaError::NoQuorum("as the test wants".into()))?;
        self.heard.lock().push(req.clone());
        match req {
            MetaRequest::Register(_) => Ok(MetaReply::Register(ServerOrders { want_report: true, ..orders })),
            MetaRequest::Heartbeat(_) => Ok(MetaReply::Heartbeat(orders)),
            MetaRequest::Report(_) => Ok(MetaReply::Report(())),
            MetaRequest::TellScrub(_) => {
                let told = ToldServer { scrub_asked: *self.scrub.lock(), drain_left: *self.drain.lock() };
                Ok(MetaReply::TellScrub(told))
            }
            other => Err(MetaError::Invalid(other.name().into())),
        }
    }
    async fn events(&self, _: &CallContext, _: EventSeq) -> Result<Events, MetaError> {
        Err(MetaError::Invalid("no events here".into()))
    }
}

/// A suspect becomes good as it is, at a version.
pub fn settle(it: ChunkRef, members: &[u64]) -> Control {
    let members = members.iter().map(|s| ServerId(*s)).collect();
    let (chunk, to) = (it.id, it.version);
    let (cut_to, create, settle, term) = (None, false, true, Term(1));
    Control::SetVersion { chunk, to, members, cut_to, create, settle, term }
}

pub struct World {
    pub net: MemoryNetwork,
    pub key: SigningKey,
    pub leader: Arc<Leader>,
    pub patience: Duration,
    _listening: Box<dyn Listening>,
}

pub fn addr(server: u64) -> String {
    format!("chunkserver-{server}")
}

pub fn chain(servers: &[u64]) -> Vec<Replica> {
    servers.iter().map(|s| Replica { server: ServerId(*s), addr: addr(*s) }).collect()
}

pub fn chunk(id: u64, version: u64) -> ChunkRef {
    ChunkRef { id: ChunkId(id), version: ChunkVersion(version) }
}

pub fn path(id: u64) -> String {
    format!("chunks/{:02x}/{id:016x}", id & 0xff)
}

impl World {
    pub async fn new() -> Self {
        Self::on(MemoryNetwork::new()).await
    }

    pub async fn on(net: MemoryNetwork) -> Self {
        let key = SigningKey::from_seed(KeyId(1), &[3; 32]);
        let orders = ServerOrders { term: Term(1), keys: vec![key.public()], ..Default::default() };
        let leader = Leader::with(Some(orders));
        let master = net.transport(identity(Role::Master, 1));
        let listening = master.listen("leader", Arc::new(MetaHandler::new(leader.clone()))).await.unwrap();
        Self { net, key, leader, patience: Duration::from_millis(1500), _listening: listening }
    }

    pub fn options(&self, server: u64, disks: Vec<Arc<dyn Disk>>) -> ChunkserverOptions {
        ChunkserverOptions {
            server: ServerId(server),
            cluster: cluster(),
            listen: addr(server),
            advertise: String::new(),
            disks,
            transport: self.net.transport(identity(Role::Chunkserver, server)),
            masters: vec!["leader".into()],
            seams: mooseng_host::sim_seams(server * 1000 + self.leader.heard.lock().len() as u64),
            timings: Timings { chain: self.patience, ..Default::default() },
            reserve: 0,
        }
    }

    pub async fn try_start(&self, server: u64, disk: &CrashDisk) -> Result<Chunkserver, StartError> {
        Chunkserver::start(self.options(server, vec![disk.mount()])).await
    }

    /// A server that has its orders.
    pub async fn start(&self, server: u64, disk: &CrashDisk) -> Chunkserver {
        let server = self.try_start(server, disk).await.unwrap();
        until("it is ready", || server.is_ready()).await;
        server
    }

    pub async fn remote(&self, role: Role, server: u64) -> RemoteChunks {
        RemoteChunks::new(self.net.transport(identity(role, 1)).connect(&addr(server)).await.unwrap())
    }

    /// The last start of each server that was heard.
    pub fn makers(&self) -> Vec<(ServerId, Incarnation)> {
        let heard = self.leader.heard.lock();
        let starts = heard.iter().filter_map(|r| match r {
            MetaRequest::Register(r) => Some((r.server, r.incarnation)),
            _ => None,
        });
        starts.collect::<BTreeMap<_, _>>().into_iter().collect()
    }

    pub fn claims(&self, chunk: ChunkRef, session: SessionStamp) -> Claims {
        Claims {
            key: KeyId(0),
            cert: identity(Role::Client, 1).cert_hash,
            session,
            chunks: vec![(chunk, Rights::READ.and(Rights::WRITE).and(Rights::CREATE))],
            makers: self.makers(),
            expires: Timestamp::new(i64::MAX / 4, 0),
        }
    }

    pub fn right(&self, chunk: ChunkRef) -> Option<Capability> {
        Some(self.key.sign(self.claims(chunk, SESSION)))
    }

    /// A write in the name of another session of the same client.
    pub fn write_request_of(&self, session: SessionStamp, chunk: ChunkRef, servers: &[u64]) -> WriteRequest {
        let capability = Some(self.key.sign(self.claims(chunk, session)));
        WriteRequest { session, capability, ..self.write_request(chunk, servers) }
    }

    pub fn write_request(&self, chunk: ChunkRef, servers: &[u64]) -> WriteRequest {
        let capability = self.right(chunk);
        let (chain, makers) = (self::chain(servers), self.makers());
        WriteRequest { chunk, chain, makers, head: None, session: SESSION, capability }
    }

    /// Writes frames as the client and returns the last acknowledgement, or the error.
    pub async fn write(
        &self,
        chunk: ChunkRef,
        servers: &[u64],
        frames: Vec<Frame>,
    ) -> Result<Option<Ack>, ChunkError> {
        self.write_as(self.write_request(chunk, servers), frames).await
    }

    pub async fn write_as(&self, req: WriteRequest, frames: Vec<Frame>) -> Result<Option<Ack>, ChunkError> {
        let client = self.remote(Role::Client, req.chain[0].server.get()).await;
        let frames = futures::stream::iter(frames.into_iter().map(Ok)).boxed();
        let mut acks = client.write(&cx(), req, frames).await?;
        let mut last = None;
        while let Some(ack) = acks.next().await {
            last = Some(ack?);
        }
        Ok(last)
    }

    /// Of what was acknowledged at the chunk's version.
    pub async fn sync(
        &self,
        chunk: ChunkRef,
        servers: &[u64],
        by: Vec<(ServerId, Incarnation)>,
    ) -> Result<SyncDone, ChunkError> {
        self.sync_of(chunk, servers, acknowledged(chunk, by)).await
    }

    pub async fn sync_of(
        &self,
        chunk: ChunkRef,
        servers: &[u64],
        acknowledged_by: Vec<Acknowledged>,
    ) -> Result<SyncDone, ChunkError> {
        let capability = self.right(chunk);
        let req =
            SyncRequest { chunk, chain: self::chain(servers), acknowledged_by, session: SESSION, capability };
        self.remote(Role::Client, servers[0]).await.sync(&cx(), req).await
    }

    /// Bytes of a range as a client gets them, each frame verified.
    pub async fn read(&self, chunk: ChunkRef, server: u64, at: u64, len: u64) -> Result<Vec<u8>, ChunkError> {
        let client = self.remote(Role::Client, server).await;
        let req = ReadRequest { chunk, at: Offset(at), len, capability: self.right(chunk) };
        let mut frames = client.read(&cx(), req).await?;
        let mut got = Vec::new();
        while let Some(frame) = frames.next().await {
            let frame = frame?;
            assert_eq!(frame.head.at.get(), at + got.len() as u64, "frames follow each other");
            assert_eq!(
                frame.head.crcs,
                frame_crcs(chunk.id, frame.head.at, &frame.data),
                "checksums are right"
            );
            got.extend_from_slice(&frame.data);
            got.resize(got.len() + frame.head.hole as usize, 0);
        }
        Ok(got)
    }

    pub async fn control(&self, server: u64, op: Control) -> Result<ControlReply, ChunkError> {
        self.remote(Role::Master, server).await.control(&cx(), op).await
    }

    /// Makes the next version of a chunk, with `servers` equal to the first of them.
    pub async fn bump(&self, chunk: ChunkRef, servers: &[u64]) -> ChunkRef {
        let to = ChunkRef { version: chunk.version.next(), ..chunk };
        for server in servers {
            let members = servers.iter().map(|s| ServerId(*s)).collect();
            let (cut_to, create, settle, term) = (None, false, false, Term(1));
            let (chunk, to) = (chunk.id, to.version);
            let op = Control::SetVersion { chunk, to, members, cut_to, create, settle, term };
            self.control(*server, op).await.unwrap();
        }
        for server in &servers[1..] {
            self.pull_of(Some(chunk.version), *server, to, &servers[..1]).await.unwrap();
        }
        to
    }

    pub async fn stat(&self, server: u64, id: u64) -> Result<ChunkStat, ChunkError> {
        match self.control(server, Control::Stat { chunk: ChunkId(id) }).await? {
            ControlReply::Done(stat) => Ok(stat),
            other => panic!("{other:?}"),
        }
    }

    pub async fn pull(&self, server: u64, chunk: ChunkRef, from: &[u64]) -> Result<ControlReply, ChunkError> {
        self.pull_of(None, server, chunk, from).await
    }

    /// The same of a member of a version.
    pub async fn pull_of(
        &self,
        member_of: Option<ChunkVersion>,
        server: u64,
        chunk: ChunkRef,
        from: &[u64],
    ) -> Result<ControlReply, ChunkError> {
        let from = self::chain(from);
        self.control(server, Control::Pull { chunk, from, ahead: false, member_of, term: Term(1) }).await
    }

    /// The same ahead of the bump.
    pub async fn pull_ahead(
        &self,
        server: u64,
        chunk: ChunkRef,
        from: &[u64],
    ) -> Result<ControlReply, ChunkError> {
        let from = self::chain(from);
        self.control(server, Control::Pull { chunk, from, ahead: true, member_of: None, term: Term(1) }).await
    }
}

pub fn cx() -> CallContext {
    CallContext::internal(Duration::from_secs(20))
}

pub fn frame(id: u64, number: u64, at: u64, data: impl Into<Bytes>) -> Frame {
    let data = data.into();
    let crcs = frame_crcs(ChunkId(id), Offset(at), &data);
    Frame { head: FrameHead { number: WriteNumber(number), at: Offset(at), crcs, hole: 0 }, data }
}

pub fn acknowledged(chunk: ChunkRef, by: Vec<(ServerId, Incarnation)>) -> Vec<Acknowledged> {
    let version = chunk.version;
    by.into_iter().map(|(server, incarnation)| Acknowledged { version, server, incarnation }).collect()
}

/// Bytes that tell where they are and whose they are.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(31).wrapping_add(seed * 97) >> 3) as u8 | 1).collect()
}

/// Waits for a condition.
pub async fn until(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("within 20 s it did not come true that {what}");
}

/// Disks for servers 1 to n, and the servers.
pub async fn servers(world: &World, n: u64) -> BTreeMap<u64, (CrashDisk, Chunkserver)> {
    let mut all = BTreeMap::new();
    for s in 1..=n {
        let disk = CrashDisk::new();
        let server = world.start(s, &disk).await;
        all.insert(s, (disk, server));
    }
    all
}
