//! The masters' signing keys come and go: nobody who works meets it, and what an old key signed is worth
//! nothing afterwards.

use bytes::Bytes;
use mooseng_client::embedded::Cluster;
use mooseng_core::{
    capability::{Capability, Claims, KeyId},
    chunk::*,
    context::{CallContext, Credentials},
    error::ChunkError,
    ids::*,
    meta::*,
    net::Role,
    rpc::{RemoteChunks, RemoteMeta},
    wire,
};
use mooseng_host::sim_seams;
use mooseng_meta::service::ServiceTimings;
use std::{collections::BTreeSet, time::Duration};

const PERIOD: u64 = 20;
const LIFETIME: u64 = 60;
const SLACK: u64 = 30;
const ROUNDS: u64 = 400;
const PART: usize = 40_000;
/// The chunkserver that looks: it has no disks.
const LOOKER: ServerId = ServerId(9);

fn cx() -> CallContext {
    let mut cx = CallContext::internal(Duration::from_secs(10));
    cx.creds = Credentials::root();
    cx
}

fn part(n: u64) -> Bytes {
    (0..PART).map(|i| (i as u64 * 31 + n * 17) as u8).collect::<Vec<_>>().into()
}

/// Keys that a chunkserver is told of now.
async fn told(cluster: &Cluster) -> BTreeSet<KeyId> {
    let leader = cluster.master(cluster.leader().unwrap()).unwrap().service();
    let (addr, version) = ("nowhere".into(), "t".into());
    let r = Register { server: LOOKER, incarnation: Incarnation(1), addr, disks: vec![], version };
    leader.register(&cx(), r).await.unwrap().keys.into_iter().map(|k| k.id).collect()
}

/// A client that asks for rights and uses them by itself.
struct Watcher {
    session: SessionStamp,
    inode: InodeId,
}

impl Watcher {
    async fn right(&self, cluster: &Cluster) -> (ChunkRef, Capability) {
        let transport = cluster.transport(Role::Client, 77, "watcher");
        let addr = format!("master-{}", cluster.leader().unwrap() + 1);
        let meta = RemoteMeta::new(transport.connect(&addr).await.unwrap());
        let mut cx = cx();
        cx.session = Some(self.session);
        let op = GetLayout { inode: self.inode, from: ChunkIndex(0), count: 1 };
        let layout = meta.get_layout(&cx, op).await.unwrap();
        (layout.chunks[0].chunk, layout.capability.unwrap())
    }
}

async fn watcher(cluster: &Cluster, inode: InodeId) -> Watcher {
    let transport = cluster.transport(Role::Client, 77, "watcher");
    let addr = format!("master-{}", cluster.leader().unwrap() + 1);
    let meta = RemoteMeta::new(transport.connect(&addr).await.unwrap());
    let open = OpenSession { client: "w".into(), host: "h".into(), version: "v".into() };
    Watcher { session: meta.open_session(&cx(), open).await.unwrap().stamp, inode }
}

async fn read(cluster: &Cluster, (chunk, cap): &(ChunkRef, Capability)) -> Result<(), ChunkError> {
    let transport = cluster.transport(Role::Client, 77, "watcher");
    let chunks = RemoteChunks::new(transport.connect("chunkserver-1").await.unwrap());
    let req = ReadRequest { chunk: *chunk, at: Offset(0), len: 4096, capability: Some(cap.clone()) };
    chunks.read(&cx(), req).await.map(drop)
}

fn key_of(cap: &Capability) -> KeyId {
    wire::decode::<Claims>(&cap.claims).unwrap().key
}

#[tokio::test(start_paused = true)]
async fn keys_come_and_go_while_a_client_works() {
    let secs = Duration::from_secs;
    let (key_period, capability, key_slack) = (secs(PERIOD), secs(LIFETIME), secs(SLACK));
    let timings = ServiceTimings { key_period, capability, key_slack, ..ServiceTimings::default() };
    let builder = Cluster::builder().masters(3).chunkservers(2).seams(sim_seams(5)).timings(timings);
    let mut cluster = builder.start().await.unwrap();
    let client = cluster.client().await.unwrap();
    let fs = client.filesystem();
    let file = fs.create("/f").await.unwrap();
    file.write_at(0, part(0)).await.unwrap();
    file.sync_all().await.unwrap();
    let watcher = watcher(&cluster, fs.metadata("/f").await.unwrap().inode).await;
    let old = watcher.right(&cluster).await;
    read(&cluster, &old).await.unwrap();
    let (mut seen, mut most) = (BTreeSet::new(), 0);
    for n in 1..ROUNDS {
        // What is signed now is signed with a key that each chunkserver, this one too, was told of.
        let keys = told(&cluster).await;
        // Time in which a key may be made and come into use.
        tokio::time::sleep(secs(1)).await;
        let right = watcher.right(&cluster).await;
        assert!(keys.contains(&key_of(&right.1)), "round {n}: signed before the key was told");
        read(&cluster, &right).await.unwrap_or_else(|e| panic!("round {n}: {e}"));
        most = most.max(keys.len());
        seen.extend(keys);
        file.write_at(n * PART as u64, part(n)).await.unwrap_or_else(|e| panic!("round {n}: {e}"));
        file.sync_all().await.unwrap_or_else(|e| panic!("round {n}: {e}"));
        let before = file.read_at((n - 1) * PART as u64, PART as u64).await.unwrap();
        assert!(before == part(n - 1), "round {n}");
        // Keys of starts that are over go as well.
        if n % 100 == 0 {
            let leader = cluster.leader().unwrap();
            cluster.kill_master(leader).await;
            cluster.start_master(leader).await.unwrap();
            cluster.wait_ready(secs(30)).await.unwrap();
        }
    }
    // Those of the last 90 s, one in use and one to come, and one more for each of two failovers in between.
    assert!(seen.len() > (ROUNDS / PERIOD) as usize / 2, "{} keys were made", seen.len());
    assert!(most <= ((LIFETIME + SLACK) / PERIOD) as usize + 4, "{most} keys at a time");
    let keys = told(&cluster).await;
    assert!(!keys.contains(&key_of(&old.1)), "the first key is still known");
    let refused = read(&cluster, &old).await;
    assert!(
        matches!(&refused, Err(ChunkError::Forbidden(why)) if why.contains("key is not known")),
        "{refused:?}"
    );
}
