//! A whole cluster in this process, on the memory transport: tests, examples, `mooseng mini`.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use mooseng_client::embedded::Cluster;
//! let cluster = Cluster::builder().masters(1).chunkservers(2).start().await?;
//! let fs = cluster.client().await?.filesystem();
//! fs.write("/hello.txt", "hello").await?;
//! assert_eq!(&fs.read("/hello.txt").await?[..], b"hello");
//! # anyhow::Ok(()) }).unwrap();
//! ```

use crate::{Client, ClientBuilder, Error, Result};
use futures::{FutureExt as _, future::BoxFuture};
use mooseng_chunk::{Chunkserver, ChunkserverOptions};
use mooseng_core::{
    ids::*,
    meta::StorageClass,
    net::{CertHash, PeerIdentity, Role, Transport},
    seam::{Disk, Seams},
};
use mooseng_host::{MemDisk, OsDisk};
use mooseng_meta::{
    raft::{LogOptions, Member, RaftTimings},
    server::{CACHE_BYTES, Master, MasterOptions},
    service::ServiceTimings,
};
use mooseng_net::memory::MemoryNetwork;
use std::{path::PathBuf, sync::Arc, time::Duration};

/// What an embedded cluster is made of.
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    masters: u64,
    chunkservers: u64,
    dir: Option<PathBuf>,
    seams: Seams,
    network: MemoryNetwork,
    timings: ServiceTimings,
    disks: Option<DiskSource>,
    raft: RaftTimings,
    seams_of: Option<SeamSource>,
}

/// Gives a node's disk by name, for each start of the node.
#[derive(Clone)]
struct DiskSource(Arc<GiveDisk>);

type GiveDisk = dyn Fn(&str) -> Arc<dyn Disk> + Send + Sync;

impl std::fmt::Debug for DiskSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DiskSource")
    }
}

/// Gives a node's seams by name.
#[derive(Clone)]
struct SeamSource(Arc<GiveSeams>);

type GiveSeams = dyn Fn(&str) -> Seams + Send + Sync;

impl std::fmt::Debug for SeamSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SeamSource")
    }
}

/// How a node's disk is found: in memory or below a directory.
type Disks = Vec<Arc<dyn Disk>>;

/// A running cluster.
pub struct Cluster {
    builder: ClusterBuilder,
    id: ClusterId,
    members: Vec<Member>,
    masters: Vec<(Arc<dyn Disk>, Option<Master>)>,
    chunkservers: Vec<(Disks, Option<Chunkserver>)>,
    clients: std::sync::atomic::AtomicU64,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("id", &self.id).finish_non_exhaustive()
    }
}

fn failed(e: impl std::fmt::Display) -> Error {
    Error::Invalid(e.to_string())
}

impl ClusterBuilder {
    /// How many masters: 1, 3 or 5.
    #[must_use]
    pub fn masters(mut self, n: u64) -> Self {
        self.masters = n;
        self
    }
    /// How many chunkservers, with two disks each.
    #[must_use]
    pub fn chunkservers(mut self, n: u64) -> Self {
        self.chunkservers = n;
        self
    }
    /// Keeps everything below this directory instead of in memory.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }
    /// Time, randomness, threads: other than this machine's, for simulations.
    #[must_use]
    pub fn seams(mut self, seams: Seams) -> Self {
        self.seams = seams;
        self
    }
    /// A network with faults, for simulations.
    #[must_use]
    pub fn network(mut self, network: MemoryNetwork) -> Self {
        self.network = network;
        self
    }
    /// Times of the masters' service.
    #[must_use]
    pub fn timings(mut self, timings: ServiceTimings) -> Self {
        self.timings = timings;
        self
    }

    /// Disks by name, asked for at each start of a node: for simulations in which disks lose what
    /// was not synced.
    #[must_use]
    pub fn disks(mut self, source: impl Fn(&str) -> Arc<dyn Disk> + Send + Sync + 'static) -> Self {
        self.disks = Some(DiskSource(Arc::new(source)));
        self
    }

    /// Times and sizes of the masters' Raft.
    #[must_use]
    pub fn raft(mut self, timings: RaftTimings) -> Self {
        self.raft = timings;
        self
    }

    /// Seams by a node's or client's name: for simulations in which their clocks differ.
    #[must_use]
    pub fn seams_of(mut self, source: impl Fn(&str) -> Seams + Send + Sync + 'static) -> Self {
        self.seams_of = Some(SeamSource(Arc::new(source)));
        self
    }

    fn seams_for(&self, name: &str) -> Seams {
        self.seams_of.as_ref().map_or_else(|| self.seams.clone(), |SeamSource(source)| source(name))
    }

    fn disk(&self, name: &str) -> Result<Arc<dyn Disk>> {
        if let Some(DiskSource(source)) = &self.disks {
            return Ok(source(name));
        }
        match &self.dir {
            None => Ok(Arc::new(MemDisk::new(name))),
            Some(dir) => Ok(Arc::new(OsDisk::open(dir.join(name)).map_err(failed)?)),
        }
    }

    /// Starts it and waits until it serves.
    pub fn start(self) -> BoxFuture<'static, Result<Cluster>> {
        self.begin().boxed()
    }

    async fn begin(self) -> Result<Cluster> {
        if self.masters == 0 || self.chunkservers == 0 {
            return Err(failed("a cluster needs a master and a chunkserver"));
        }
        // The identity is of the directory: the same one finds its cluster again.
        let id = ClusterId(uuid_of(self.dir.as_ref().map_or(0, |_| 1)));
        let member = |n: u64| Member {
            id: MasterId(n),
            raft_addr: format!("master-{n}/raft"),
            client_addr: format!("master-{n}"),
        };
        let members = (1..=self.masters).map(member).collect();
        let (masters, chunkservers) = (Vec::new(), Vec::new());
        let mut c =
            Cluster { builder: self, id, members, masters, chunkservers, clients: Default::default() };
        for n in 1..=c.builder.masters {
            let disk = c.builder.disk(&format!("master-{n}"))?;
            c.masters.push((disk, None));
            c.start_master(n as usize - 1).await?;
        }
        for n in 1..=c.builder.chunkservers {
            let disk = |d: u64| c.builder.disk(&format!("chunkserver-{n}/disk-{d}"));
            let disks = vec![disk(1)?, disk(2)?];
            c.chunkservers.push((disks, None));
            c.start_chunkserver(n as usize - 1).await?;
        }
        c.wait_ready(Duration::from_secs(30)).await?;
        Ok(c)
    }
}

fn uuid_of(n: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(0x6d6f_6f73_656e_6700_0000_0000_0000_0000 | n)
}

impl Cluster {
    /// Begins to make one: 3 masters and 3 chunkservers in memory unless said otherwise.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder {
            masters: 3,
            chunkservers: 3,
            dir: None,
            seams: mooseng_host::host_seams(),
            network: MemoryNetwork::new(),
            timings: ServiceTimings::default(),
            disks: None,
            raft: RaftTimings::default(),
            seams_of: None,
        }
    }

    /// The place of one more node on the network, for tests and simulations that look at the others.
    pub fn transport(&self, role: Role, node: u64, name: &str) -> Arc<dyn Transport> {
        let mut hash = [0; 32];
        for (i, b) in name.bytes().enumerate() {
            hash[i % 32] ^= b.rotate_left((i / 32) as u32);
        }
        let identity =
            PeerIdentity { cluster: self.id, role, node, name: name.into(), cert_hash: CertHash(hash) };
        self.builder.network.transport(identity)
    }

    /// Starts a master that does not run, on its disk.
    pub async fn start_master(&mut self, at: usize) -> Result<()> {
        if self.builder.disks.is_some() {
            self.masters[at].0 = self.builder.disk(&format!("master-{}", at + 1))?;
        }
        let m = &self.members[at];
        let options = MasterOptions {
            id: m.id,
            cluster: self.id,
            listen: m.client_addr.clone(),
            raft_listen: m.raft_addr.clone(),
            members: self.members.clone(),
            disk: self.masters[at].0.clone(),
            transport: self.transport(Role::Master, m.id.get(), &m.client_addr),
            seams: self.builder.seams_for(&m.client_addr),
            raft_timings: self.builder.raft.clone(),
            log: LogOptions::default(),
            timings: self.builder.timings.clone(),
            class: StorageClass { copies: self.builder.chunkservers.min(2) as u8 },
            cache_bytes: CACHE_BYTES,
            reserve: 0,
            authority: None,
        };
        self.masters[at].1 = Some(Master::start(options).await.map_err(failed)?);
        Ok(())
    }

    /// Starts a chunkserver that does not run, on its disks.
    pub async fn start_chunkserver(&mut self, at: usize) -> Result<()> {
        let n = at as u64 + 1;
        let name = format!("chunkserver-{n}");
        if self.builder.disks.is_some() {
            let disk = |d: u64| self.builder.disk(&format!("chunkserver-{n}/disk-{d}"));
            self.chunkservers[at].0 = vec![disk(1)?, disk(2)?];
        }
        let options = ChunkserverOptions {
            server: ServerId(n),
            cluster: self.id,
            listen: name.clone(),
            advertise: name.clone(),
            disks: self.chunkservers[at].0.clone(),
            transport: self.transport(Role::Chunkserver, n, &name),
            masters: self.members.iter().map(|m| m.client_addr.clone()).collect(),
            seams: self.builder.seams_for(&name),
            timings: Default::default(),
            reserve: 0,
        };
        self.chunkservers[at].1 = Some(Chunkserver::start(options).await.map_err(failed)?);
        Ok(())
    }

    /// Position of the leading master, when there is one.
    pub fn leader(&self) -> Option<usize> {
        self.masters.iter().position(|(_, m)| m.as_ref().is_some_and(|m| m.status().leading))
    }

    /// A master that runs, to look at it.
    pub fn master(&self, at: usize) -> Option<&Master> {
        self.masters.get(at)?.1.as_ref()
    }

    /// Ends a master at once: its connections are cut, nothing is handed over.
    pub async fn kill_master(&mut self, at: usize) {
        self.builder.network.cut(&self.members[at].client_addr);
        if let Some(m) = self.masters[at].1.take() {
            m.stop().await;
        }
    }

    /// Ends a chunkserver at once: what it has not synced is dirty when it comes back.
    pub fn kill_chunkserver(&mut self, at: usize) {
        self.builder.network.cut(&format!("chunkserver-{}", at + 1));
        self.chunkservers[at].1 = None;
    }

    /// Replicas with acknowledged writes that are not on disk yet, over all running chunkservers.
    pub fn dirty_chunks(&self) -> usize {
        let running = self.chunkservers.iter().filter_map(|(_, c)| c.as_ref());
        running.map(|c| c.store().dirty_chunks()).sum()
    }

    /// Waits until somebody leads and every running chunkserver is known to it.
    pub async fn wait_ready(&self, within: Duration) -> Result<()> {
        let ready = async {
            loop {
                let known =
                    self.chunkservers.iter().filter_map(|(_, c)| c.as_ref()).all(Chunkserver::is_ready);
                if self.leader().is_some() && known {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let late = |_| failed(format!("the cluster was not ready within {within:?}"));
        tokio::time::timeout(within, ready).await.map_err(late)
    }

    /// A client of the cluster.
    pub async fn client(&self) -> Result<Client> {
        self.client_with(|builder| builder).await
    }

    /// A client with other options than the defaults.
    pub async fn client_with(&self, options: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Result<Client> {
        let n = self.next_client();
        self.connect(n, &format!("client-{n}"), options).await
    }

    /// The same under a name of its own on the network, for simulations that tell clients apart.
    pub async fn client_named(
        &self,
        name: &str,
        options: impl FnOnce(ClientBuilder) -> ClientBuilder,
    ) -> Result<Client> {
        self.connect(self.next_client(), name, options).await
    }

    fn next_client(&self) -> u64 {
        self.clients.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1
    }

    async fn connect(
        &self,
        n: u64,
        name: &str,
        options: impl FnOnce(ClientBuilder) -> ClientBuilder,
    ) -> Result<Client> {
        let builder = Client::builder()
            .masters(self.members.iter().map(|m| m.client_addr.clone()))
            .transport(self.transport(Role::Admin, n, name))
            .seams(self.builder.seams_for(name))
            .name(name);
        options(builder).connect().await
    }

    /// Stops everything cleanly.
    pub async fn shutdown(mut self) {
        for (_, c) in &mut self.chunkservers {
            if let Some(c) = c.take() {
                c.shutdown().await;
            }
        }
        for (_, m) in &mut self.masters {
            if let Some(m) = m.take() {
                m.stop().await;
            }
        }
    }
}
