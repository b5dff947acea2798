//! What is replaced while clients work: masters, and damaged blocks. They do not notice.

use crate::common::until;
use bytes::Bytes;
use mooseng_client::{Client, File, Filesystem, embedded::Cluster};
use mooseng_core::{ids::*, meta::*, net::Role, seam::Disk};
use mooseng_host::{MemDisk, sim_seams};
use mooseng_meta::{
    raft::{LogOptions, RaftTimings},
    server::{CACHE_BYTES, Master, MasterOptions},
    service::ServiceTimings,
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

const PART: usize = 20_000;

fn part(n: u64) -> Bytes {
    (0..PART).map(|i| (i as u64 * 31 + n * 17 + i as u64 / 251) as u8).collect::<Vec<_>>().into()
}

/// Writes and syncs one part, reads an earlier one, and makes a file.
async fn one_round(fs: &Filesystem, file: &File, n: u64) -> mooseng_client::Result<()> {
    file.write_at(n * PART as u64, part(n)).await?;
    file.sync_all().await?;
    let before = n * 7 % (n + 1);
    let got = file.read_at(before * PART as u64, PART as u64).await?;
    assert!(got == part(before), "round {n}: part {before} is other bytes");
    fs.write(&format!("/f{n}"), part(n)).await?;
    Ok(())
}

/// A client that writes, syncs and reads all the time, and how often.
struct Load {
    rounds: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    fn of(client: Client) -> Self {
        let (rounds, ends) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (round, end) = (rounds.clone(), ends.clone());
        let task = tokio::spawn(async move {
            let fs = client.filesystem();
            let file = fs.create("/long").await.unwrap();
            while !end.load(Relaxed) {
                let n = round.load(Relaxed);
                one_round(&fs, &file, n).await.unwrap_or_else(|e| panic!("round {n}: {e}"));
                round.store(n + 1, Relaxed);
                // Time for what is counted in it.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            file.close().await.unwrap();
        });
        Self { rounds, ends, task }
    }

    /// It has done so many rounds more.
    async fn goes_on(&self, more: u64) {
        let upto = self.rounds.load(Relaxed) + more;
        until("the client goes on", async || self.rounds.load(Relaxed) >= upto || self.task.is_finished())
            .await;
        assert!(!self.task.is_finished(), "the client has met an error");
    }

    async fn end(self) -> u64 {
        self.ends.store(true, Relaxed);
        self.task.await.unwrap();
        self.rounds.load(Relaxed)
    }
}

/// A master on an empty disk, which waits to be added.
async fn newcomer(cluster: &Cluster, id: u64, of: ClusterId) -> (Master, AddMaster) {
    let (id, client_addr) = (MasterId(id), format!("master-{id}"));
    let raft_addr = format!("{client_addr}/raft");
    let options = MasterOptions {
        id,
        cluster: of,
        listen: client_addr.clone(),
        raft_listen: raft_addr.clone(),
        members: vec![],
        disk: Arc::new(MemDisk::new("new")),
        transport: cluster.transport(Role::Master, id.get(), &client_addr),
        seams: sim_seams(100 + id.get()),
        raft_timings: RaftTimings::default(),
        log: LogOptions::default(),
        timings: ServiceTimings::default(),
        class: StorageClass { copies: 2 },
        cache_bytes: CACHE_BYTES,
        reserve: 0,
        authority: None,
    };
    (Master::start(options).await.unwrap(), AddMaster { id, raft_addr, client_addr })
}

async fn voters(client: &Client) -> Vec<u64> {
    let masters = client.status().await.unwrap().masters;
    masters.iter().filter(|m| m.voter).map(|m| m.id.get()).collect()
}

/// Who leads; a leader that has removed itself, and hands over, is no master any more.
async fn leader(client: &Client) -> Option<u64> {
    let masters = client.status().await.unwrap().masters;
    masters.iter().find(|m| m.leader).map(|m| m.id.get())
}

/// A follower goes and a new master comes; the leader goes and comes back with an empty directory. Then these two are
/// a quorum without the one that was there all the time, and have everything.
#[tokio::test(start_paused = true)]
async fn masters_are_replaced_while_a_client_writes_and_reads() {
    let seams = sim_seams(7);
    let mut cluster = Cluster::builder().masters(3).chunkservers(2).seams(seams).start().await.unwrap();
    let admin = cluster.client().await.unwrap();
    let of = admin.status().await.unwrap().cluster;
    let load = Load::of(cluster.client().await.unwrap());
    load.goes_on(20).await;

    let first = leader(&admin).await.unwrap();
    let gone = (1..=3).find(|id| *id != first).unwrap();
    let stays = (1..=3).find(|id| *id != first && *id != gone).unwrap();
    admin.request(RemoveMaster { id: MasterId(gone) }).await.unwrap();
    cluster.kill_master(gone as usize - 1).await;
    assert_eq!(voters(&admin).await.len(), 2);
    load.goes_on(20).await;
    let (fourth, add) = newcomer(&cluster, 4, of).await;
    admin.request(add).await.unwrap();
    assert!(voters(&admin).await.contains(&4), "the new one votes");
    load.goes_on(20).await;

    let leads = leader(&admin).await.unwrap();
    assert!(leads == first, "nobody had a reason to elect another");
    admin.request(RemoveMaster { id: MasterId(leads) }).await.unwrap();
    until("another one leads", async || leader(&admin).await.is_some_and(|l| l != leads)).await;
    assert!(!voters(&admin).await.contains(&leads));
    cluster.kill_master(leads as usize - 1).await;
    load.goes_on(20).await;
    let (wiped, add) = newcomer(&cluster, leads, of).await;
    admin.request(add).await.unwrap();
    until("the wiped one has made up for its loss", async || !wiped.status().raft.torn).await;
    let mut all = voters(&admin).await;
    all.sort_unstable();
    let mut expected = [4, stays, leads];
    expected.sort_unstable();
    assert_eq!(all, expected);
    load.goes_on(20).await;

    cluster.kill_master(stays as usize - 1).await;
    load.goes_on(20).await;
    assert!([4, leads].contains(&leader(&admin).await.unwrap()));
    let rounds = load.end().await;
    let fs = cluster.client().await.unwrap().filesystem();
    let long = fs.read("/long").await.unwrap();
    assert_eq!(long.len(), rounds as usize * PART);
    for n in 0..rounds {
        assert!(long[n as usize * PART..][..PART] == part(n), "round {n} of the long file");
        assert!(fs.read(&format!("/f{n}")).await.unwrap() == part(n), "file {n}");
    }
    until("the two are equal", async || {
        let (a, b) = (fourth.held().await.unwrap(), wiped.held().await.unwrap());
        (a.applied, a.state) == (b.applied, b.state)
    })
    .await;
    fourth.stop().await;
    wiped.stop().await;
}

type Disks = Arc<Mutex<BTreeMap<String, Arc<dyn Disk>>>>;

/// Where data begins in a chunk's file, and its blocks.
const DATA: u64 = 327_680;
const BLOCK: u64 = 4096;

/// The bytes of a chunk's file on a server's disks; `flip` changes one.
fn file_of(disks: &Disks, server: ServerId, chunk: ChunkId, flip: Option<u64>) -> Vec<u8> {
    let path = format!("chunks/{:02x}/{:016x}", chunk.get() & 0xff, chunk.get());
    let disks = disks.lock();
    let of = |d: u64| &disks[&format!("chunkserver-{}/disk-{d}", server.get())];
    let file = [1, 2].into_iter().find_map(|d| of(d).open(&path).ok()).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    if let Some(at) = flip {
        bytes[at as usize] ^= 0x10;
        file.write_at(at, &bytes[at as usize..=at as usize]).unwrap();
    }
    bytes
}

/// From the read that meets the damage on, in virtual time: the report, the leader's look, the next version and the
/// copy.
#[tokio::test(start_paused = true)]
async fn a_damaged_block_is_read_right_and_mended_within_10_s_of_being_read() {
    let disks = Disks::default();
    let made = disks.clone();
    let give = move |name: &str| -> Arc<dyn Disk> {
        made.lock().entry(name.into()).or_insert_with(|| Arc::new(MemDisk::new(name))).clone()
    };
    let cluster = Cluster::builder().masters(3).chunkservers(3).seams(sim_seams(8)).disks(give);
    let cluster = cluster.start().await.unwrap();
    let fs = cluster.client().await.unwrap().filesystem();
    let data: Bytes = (0..20).flat_map(part).collect::<Vec<_>>().into();
    let file = fs.create("/f").await.unwrap();
    file.write_at(0, data.clone()).await.unwrap();
    file.sync_all().await.unwrap();
    file.close().await.unwrap();
    for round in 0..8 {
        // Who knows nothing yet asks the first of the chain first.
        let info = fs.chunks("/f").await.unwrap().remove(0);
        let (first, chunk) = (info.replicas[0].place.server, info.chunk.id);
        let at = DATA + round * 11 * BLOCK + round * 500;
        let whole = file_of(&disks, first, chunk, None);
        file_of(&disks, first, chunk, Some(at));
        let reader = cluster.client().await.unwrap();
        let begin = Instant::now();
        assert!(
            reader.filesystem().read("/f").await.unwrap() == data,
            "round {round}: other bytes were read"
        );
        let mended = async {
            while file_of(&disks, first, chunk, None)[DATA as usize..] != whole[DATA as usize..] {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let within = Duration::from_secs(10).saturating_sub(begin.elapsed());
        tokio::time::timeout(within, mended).await.unwrap_or_else(|_| {
            panic!("round {round}: the block at {at} on {first} is damaged 10 s after it was read")
        });
        until("all copies are good", async || {
            let info = fs.chunks("/f").await.unwrap().remove(0);
            info.replicas.len() == 2 && info.replicas.iter().all(|r| r.state == Some(ReplicaState::Good))
        })
        .await;
    }
    cluster.shutdown().await;
}
