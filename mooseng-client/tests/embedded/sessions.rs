//! What a client holds outlives neither what others wrote meanwhile, nor a set of replicas that the
//! masters gave up.

use crate::common::{DEADLINE, until};
use bytes::Bytes;
use mooseng_client::{Client, Error, ErrorKind, embedded::Cluster};
use mooseng_core::{
    error::Errno,
    ids::{ChunkVersion, SpanId, TraceId},
    meta::GetStatus,
    rpc::method,
    trace::{self, Here},
};
use mooseng_meta::service::ServiceTimings;
use mooseng_net::memory::{Event, Fate, Faults, MemoryNetwork};
use parking_lot::Mutex;
use std::{
    collections::BTreeSet,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

/// Pairs of nodes, by how their names begin, that do not hear each other.
#[derive(Debug, Default)]
struct Cuts {
    pairs: Mutex<BTreeSet<(String, String)>>,
    /// Whoever takes part in the next write of a chunk is not heard by the masters and the second client
    /// from then on.
    by_write: AtomicBool,
    /// Streams of writes that clients began.
    streams: AtomicU64,
    /// A client heard that its writes are on the disks.
    synced: AtomicBool,
    /// Answers of masters to clients take longer than a try.
    slow: AtomicBool,
}

impl Cuts {
    fn cut(&self, a: &str, b: &str) {
        self.pairs.lock().insert((a.into(), b.into()));
    }
    fn heal(&self) {
        self.by_write.store(false, SeqCst);
        self.pairs.lock().clear();
    }
}

impl Faults for Cuts {
    fn fate(&self, from: &str, to: &str, event: Event) -> Fate {
        if event == Event::Request(method::CHUNK_WRITE) && self.by_write.load(SeqCst) {
            for node in [from, to] {
                self.cut(node, "master");
                self.cut(node, "client-2");
            }
        }
        let between = |(a, b): &(String, String)| {
            (from.starts_with(a) && to.starts_with(b)) || (from.starts_with(b) && to.starts_with(a))
        };
        if self.pairs.lock().iter().any(between) {
            return if event == Event::Connect { Fate::Reset } else { Fate::Drop };
        }
        if event == Event::Request(method::CHUNK_WRITE) && from.starts_with("client") {
            self.streams.fetch_add(1, SeqCst);
        }
        if event == Event::Reply(method::CHUNK_SYNC) && to.starts_with("client") {
            self.synced.store(true, SeqCst);
        }
        if event == Event::Reply(method::META_CALL) && to.starts_with("client") && self.slow.load(SeqCst) {
            return Fate::Deliver(Duration::from_secs(5));
        }
        Fate::Deliver(Duration::ZERO)
    }
}

async fn cluster(chunkservers: u64, session_lifetime: Duration) -> (Cluster, Arc<Cuts>, MemoryNetwork) {
    let cuts = Arc::new(Cuts::default());
    let timings = ServiceTimings {
        session_lifetime,
        server_dead: Duration::from_secs(1),
        repair_after: Duration::from_secs(1),
        ..ServiceTimings::default()
    };
    let network = MemoryNetwork::with_faults(cuts.clone());
    let builder = Cluster::builder().masters(1).chunkservers(chunkservers);
    let builder = builder.network(network.clone()).timings(timings);
    (builder.start().await.unwrap(), cuts, network)
}

/// Cuts the first client off until its session has ended.
async fn until_forgotten<T>(cuts: &Cuts, other: &Client, meanwhile: impl Future<Output = T>) -> T {
    cuts.cut("client-1", "master");
    cuts.cut("client-1", "chunkserver");
    let done = meanwhile.await;
    until("its session ends", || async { other.sessions().await.unwrap().len() == 1 }).await;
    cuts.heal();
    done
}

fn bytes(byte: u8, len: usize) -> Bytes {
    vec![byte; len].into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_was_not_heard_does_not_undo_what_others_wrote_since() {
    for (len, flushed) in [(100, false), (100_000, false), (100_000, true), (3 << 20, true)] {
        let (cluster, cuts, _) = cluster(2, Duration::from_secs(2)).await;
        let (silent, other) = (cluster.client().await.unwrap(), cluster.client().await.unwrap());
        let (fs, others) = (silent.filesystem(), other.filesystem());
        fs.write("/f", bytes(0, len)).await.unwrap();
        fs.write("/mine", bytes(0, len)).await.unwrap();
        let (a, b) = (fs.open_with("/f", rw(), 0).await.unwrap(), fs.open_with("/f", rw(), 0).await.unwrap());
        let mine = fs.open_with("/mine", rw(), 0).await.unwrap();
        for file in [&a, &mine] {
            file.write_at(0, bytes(1, len)).await.unwrap();
            if flushed {
                file.flush_all().await.unwrap();
            }
        }
        until_forgotten(&cuts, &other, async {
            let file = others.open_with("/f", rw(), 0).await.unwrap();
            file.write_at(0, bytes(2, len)).await.unwrap();
            file.sync_all().await.unwrap();
            file.close().await.unwrap();
        })
        .await;
        let note = format!("{len} bytes, flushed: {flushed}");
        let e = a.sync_all().await.unwrap_err();
        assert!(matches!(e, Error::Overtaken { .. }), "{note}: {e}");
        assert_eq!((e.errno(), e.kind(), e.is_retryable()), (Errno::EIO, ErrorKind::DataLoss, false));
        assert!(b.sync_all().await.is_err(), "{note}: each handle hears of it");
        a.sync_all().await.unwrap_or_else(|e| panic!("{note}: once, not again: {e}"));
        b.sync_all().await.unwrap_or_else(|e| panic!("{note}: once, not again: {e}"));
        assert!(others.read("/f").await.unwrap() == bytes(2, len), "{note}");
        assert!(a.read_at(0, len as u64).await.unwrap() == bytes(2, len), "{note}: read by the silent one");
        // The file goes on, and a file that nobody else wrote has lost nothing.
        a.write_at(10, bytes(3, 10)).await.unwrap();
        a.close().await.unwrap();
        assert_eq!(others.read("/f").await.unwrap()[8..12], [2, 2, 3, 3], "{note}");
        mine.close().await.unwrap_or_else(|e| panic!("{note}: its own file: {e}"));
        assert!(others.read("/mine").await.unwrap() == bytes(1, len), "{note}");
    }
}

/// Neither the masters nor another client hear anybody of a new chunk's first set, and make another; its
/// writer hears the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_fsync_covers_a_set_that_was_made_anew() {
    let (cluster, cuts, _) = cluster(4, DEADLINE).await;
    let client = cluster.client_with(|b| b.deadline(DEADLINE)).await.unwrap();
    let other = cluster.client_with(|b| b.deadline(DEADLINE)).await.unwrap();
    let file = client.filesystem().create("/f").await.unwrap();
    let others = other.filesystem().open_with("/f", rw(), 0).await.unwrap();
    cuts.by_write.store(true, SeqCst);
    file.write_at(0, bytes(7, 300_000)).await.unwrap();
    let made_anew = async {
        until("its set has it on disk", || async { cuts.synced.load(SeqCst) }).await;
        cuts.by_write.store(false, SeqCst);
        others.write_at(1 << 20, bytes(8, 1000)).await.unwrap();
        others.sync_all().await.unwrap();
        let chunks = other.filesystem().chunks("/f").await.unwrap();
        assert!(chunks[0].chunk.version > ChunkVersion::FIRST, "{chunks:?}");
        cuts.heal();
    };
    let (synced, ()) = tokio::join!(file.sync_all(), made_anew);
    synced.unwrap();
    let content = other.filesystem().read("/f").await.unwrap();
    assert!(content[..300_000] == bytes(7, 300_000), "what was synced is lost");
    assert!(content[1 << 20..] == bytes(8, 1000));
}

/// What is on the disks is held until the masters know of its chunk; a stream that breaks meanwhile goes on
/// behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_goes_on_behind_what_is_on_the_disks() {
    let (cluster, cuts, network) = cluster(2, DEADLINE).await;
    let client = cluster.client_with(|b| b.deadline(DEADLINE)).await.unwrap();
    let other = cluster.client().await.unwrap();
    let file = client.filesystem().create("/f").await.unwrap();
    cuts.by_write.store(true, SeqCst);
    file.write_at(0, bytes(7, 3 << 20)).await.unwrap();
    let broken = async {
        until("its set has it on disk", || async { cuts.synced.load(SeqCst) }).await;
        cuts.by_write.store(false, SeqCst);
        let streams = cuts.streams.load(SeqCst);
        let between = |a: &str, b: &str| a.starts_with("client-1") && b.starts_with("chunkserver");
        network.sever(|a, b| between(a, b) || between(b, a));
        // So that the idle stream is missed before there is more to write; else the masters are asked first.
        tokio::time::sleep(Duration::from_millis(200)).await;
        file.write_at(3 << 20, bytes(8, 1 << 20)).await.unwrap();
        let again = until("it goes on", || async { cuts.streams.load(SeqCst) > streams });
        let _ = tokio::time::timeout(Duration::from_secs(3), again).await;
        cuts.heal();
    };
    let (synced, ()) = tokio::join!(file.sync_all(), broken);
    synced.unwrap();
    file.close().await.unwrap();
    let content = other.filesystem().read("/f").await.unwrap();
    assert!(content == [bytes(7, 3 << 20), bytes(8, 1 << 20)].concat());
}

fn rw() -> mooseng_client::OpenFlags {
    mooseng_client::OpenFlags { read: true, write: true, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_that_takes_long_is_given_more_time_by_each_try() {
    let (cluster, cuts, _) = cluster(2, Duration::from_secs(600)).await;
    let client = cluster.client().await.unwrap();
    cuts.slow.store(true, SeqCst);
    let status = client.request_within(GetStatus {}, Duration::from_secs(40)).await.unwrap();
    assert_eq!(status.servers.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_are_made_in_one_trace_have_a_session_each() {
    let (cluster, ..) = cluster(2, Duration::from_secs(600)).await;
    let here = Here { trace: TraceId::kept(8), span: SpanId(5) };
    let make =
        async { [cluster.client_named("twin", |b| b).await, cluster.client_named("twin", |b| b).await] };
    let [a, b] = trace::within(here, make).await.map(Result::unwrap);
    // The first mutations of both have the same slot and number: those of one session would be one.
    for (client, path) in [(&a, "/a"), (&b, "/b")] {
        trace::within(here, client.filesystem().create_dir(path)).await.unwrap();
    }
    assert!(a.filesystem().exists("/a").await.unwrap() && a.filesystem().exists("/b").await.unwrap());
    let sessions: BTreeSet<_> = a.sessions().await.unwrap().iter().map(|s| s.stamp.id).collect();
    assert_eq!(sessions.len(), 2);
    // Nobody records here: the place is kept all the same.
    assert_eq!(trace::asked(here, String::new, async { trace::here() }).await, here);
}
