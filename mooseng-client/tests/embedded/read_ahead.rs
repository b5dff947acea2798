//! Read-ahead: it happens, and what it fetched is never served when it is void.

use bytes::Bytes;
use mooseng_client::{CacheCounts, embedded::Cluster};
use mooseng_core::rpc::method;
use mooseng_net::memory::{Event, Fate, Faults, MemoryNetwork};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

const MIB: u64 = 1 << 20;

/// Counts chunk reads.
#[derive(Debug, Default)]
struct Reads(AtomicU64);

impl Faults for Reads {
    fn fate(&self, _: &str, _: &str, event: Event) -> Fate {
        if event == Event::Request(method::CHUNK_READ) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Fate::Deliver(Duration::ZERO)
    }
}

async fn cluster() -> (Cluster, Arc<Reads>) {
    let reads = Arc::new(Reads::default());
    let network = MemoryNetwork::with_faults(reads.clone());
    let builder = Cluster::builder().masters(1).chunkservers(2).network(network);
    (builder.start().await.unwrap(), reads)
}

fn content(seed: u8, len: u64) -> Bytes {
    (0..len).map(|i| (i >> 12) as u8 ^ (i as u8).wrapping_mul(31) ^ seed).collect::<Vec<_>>().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequential_reader_is_read_ahead_of_and_a_random_one_is_not() {
    let (cluster, reads) = cluster().await;
    let (writer, reader) = (cluster.client().await.unwrap(), cluster.client().await.unwrap());
    let data = content(1, 64 * MIB);
    writer.filesystem().write("/f", data.clone()).await.unwrap();
    let file = reader.filesystem().open("/f").await.unwrap();
    for at in (0..4 * MIB).step_by(128 << 10) {
        assert!(file.read_at(at, 128 << 10).await.unwrap() == data[at as usize..at as usize + (128 << 10)]);
    }
    let ahead = async {
        while reads.0.load(Ordering::Relaxed) < 10 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ahead).await.expect("more is fetched than was read");
    let sequential = reads.0.load(Ordering::Relaxed);
    assert!(sequential <= 13, "{sequential} pieces for 4 MiB read and 8 MiB ahead");

    let file = reader.filesystem().open("/f").await.unwrap();
    let begin = reads.0.load(Ordering::Relaxed);
    for i in 0..10 {
        let at = (7 * i + 5) * 5 % 60 * MIB + 12_345;
        assert!(file.read_at(at, 4096).await.unwrap() == data[at as usize..at as usize + 4096]);
    }
    assert_eq!(reads.0.load(Ordering::Relaxed) - begin, 10, "a random reader gets what it asks for");
    // A read of any size and place is right, also across pieces and chunks and past the end.
    for (at, len) in [(MIB - 1, 2), (5, 9 * MIB), (63 * MIB, 4 * MIB), (64 * MIB, 1), (0, 100 * MIB)] {
        let end = (at + len).min(64 * MIB);
        assert!(file.read_at(at, len).await.unwrap() == data[at as usize..end as usize], "{len} at {at}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_reads_are_counted_by_whether_they_had_been_read_ahead() {
    let (cluster, _) = cluster().await;
    let (writer, reader) = (cluster.client().await.unwrap(), cluster.client().await.unwrap());
    let data = content(6, 64 * MIB);
    writer.filesystem().write("/f", data.clone()).await.unwrap();
    writer.filesystem().write("/small", data.slice(..8192)).await.unwrap();
    let fs = reader.filesystem();
    let counts = || reader.vfs().cache_counts();
    assert!(fs.read("/small").await.unwrap() == data[..8192]);
    let file = fs.open("/f").await.unwrap();
    assert!(file.read_at(64 * MIB, 1).await.unwrap().is_empty());
    assert_eq!(counts(), CacheCounts::default(), "a file that is known whole, and what is not there");
    for at in (0..4 * MIB).step_by(128 << 10) {
        file.read_at(at, 128 << 10).await.unwrap();
    }
    let sequential = counts();
    assert_eq!(sequential.hits + sequential.misses, 32, "each read once: {sequential:?}");
    // The first one, and where this machine was so slow that a piece became too old.
    assert!((1..=8).contains(&sequential.misses), "{sequential:?}");

    let since = |before: CacheCounts| {
        let now = counts();
        (now.hits - before.hits, now.misses - before.misses)
    };
    let (file, before) = (fs.open("/f").await.unwrap(), counts());
    for i in 0..10 {
        let at = (7 * i + 5) * 5 % 60 * MIB + 12_345;
        file.read_at(at, 4096).await.unwrap();
    }
    assert_eq!(since(before), (0, 10), "a random reader finds nothing");
    // One large read asks for its pieces itself, side by side; a small one across a border has two parts.
    let (file, before) = (fs.open("/f").await.unwrap(), counts());
    file.read_at(0, 4 * MIB).await.unwrap();
    assert_eq!(since(before), (0, 4));
    let (file, before) = (fs.open("/f").await.unwrap(), counts());
    file.read_at(MIB - 1, 2).await.unwrap();
    assert_eq!(since(before), (0, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_handles_share_one_bound_of_what_is_read_ahead() {
    let (cluster, reads) = cluster().await;
    let data = content(5, 8 * MIB);
    cluster.client().await.unwrap().filesystem().write("/f", data.clone()).await.unwrap();
    let reader = cluster.client_with(|b| b.read_ahead_max(0)).await.unwrap();
    let file = reader.filesystem().open("/f").await.unwrap();
    for at in (0..8 * MIB).step_by(512 << 10) {
        assert!(file.read_at(at, 512 << 10).await.unwrap() == data[at as usize..at as usize + (512 << 10)]);
    }
    assert_eq!(reads.0.load(Ordering::Relaxed), 16, "what was asked for, and nothing ahead of it");
    assert_eq!(reader.vfs().cache_counts(), CacheCounts { hits: 0, misses: 16 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_ahead_is_void_after_a_change() {
    let (cluster, _) = cluster().await;
    let (a, b) = (cluster.client().await.unwrap().filesystem(), cluster.client().await.unwrap().filesystem());
    let mut data = content(2, 8 * MIB).to_vec();
    a.write("/f", Bytes::from(data.clone())).await.unwrap();
    let (reader, writer) = (b.open("/f").await.unwrap(), a.open_with("/f", read_write(), 0).await.unwrap());
    // Everything is fetched ahead.
    for at in 0..3 {
        reader.read_at(at * MIB, MIB).await.unwrap();
    }
    // Another client's write, of the same size: a handle opened after its close shows it.
    let new = content(3, MIB);
    data[5 << 20..6 << 20].copy_from_slice(&new);
    writer.write_at(5 * MIB, new).await.unwrap();
    writer.close().await.unwrap();
    let again = b.open("/f").await.unwrap();
    assert!(again.read_at(0, 8 * MIB).await.unwrap() == data[..], "by a new handle");
    assert!(reader.read_at(3 * MIB, 5 * MIB).await.unwrap() == data[3 << 20..], "by the old one as well");
    // An own write through another handle shows at once.
    for at in 0..3 {
        reader.read_at(at * MIB, MIB).await.unwrap();
    }
    let own = b.open_with("/f", read_write(), 0).await.unwrap();
    let new = content(4, 2 * MIB);
    data[4 << 20..6 << 20].copy_from_slice(&new);
    own.write_at(4 * MIB, new).await.unwrap();
    assert!(reader.read_at(3 * MIB, 5 * MIB).await.unwrap() == data[3 << 20..], "while it is on its way");
    own.sync_all().await.unwrap();
    assert!(reader.read_at(3 * MIB, 5 * MIB).await.unwrap() == data[3 << 20..], "when it is on disk");
    // So does a cut.
    own.set_len(4 * MIB).await.unwrap();
    assert!(reader.read_at(3 * MIB, 5 * MIB).await.unwrap() == data[3 << 20..4 << 20]);
    own.set_len(6 * MIB).await.unwrap();
    data.truncate(4 << 20);
    data.resize(6 << 20, 0);
    assert!(reader.read_at(3 * MIB, 5 * MIB).await.unwrap() == data[3 << 20..], "zeros where it was cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_file_rewritten_by_another_client_is_seen() {
    let (cluster, _) = cluster().await;
    let (a, b) = (cluster.client().await.unwrap().filesystem(), cluster.client().await.unwrap().filesystem());
    a.write("/f", "first").await.unwrap();
    let open = b.open("/f").await.unwrap();
    assert_eq!(&open.read_at(0, 10).await.unwrap()[..], b"first");
    a.write("/f", "other").await.unwrap();
    // The same size: only the change counter tells.
    open.metadata().await.unwrap();
    assert_eq!(&open.read_at(0, 10).await.unwrap()[..], b"other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_two_clients_write_is_seen_whole() {
    let (cluster, _) = cluster().await;
    let (a, b) = (cluster.client().await.unwrap().filesystem(), cluster.client().await.unwrap().filesystem());
    let data = content(5, 2 * MIB);
    a.write("/f", data.slice(..100_000)).await.unwrap();
    let (mine, theirs) = (
        a.open_with("/f", read_write(), 0).await.unwrap(),
        b.open_with("/f", read_write(), 0).await.unwrap(),
    );
    theirs.write_at(100_000, data.slice(100_000..)).await.unwrap();
    theirs.sync_all().await.unwrap();
    // An own commit after theirs must not hide it.
    mine.write_at(0, data.slice(..1000)).await.unwrap();
    mine.sync_all().await.unwrap();
    assert_eq!(mine.metadata().await.unwrap().size, 2 * MIB);
    assert!(mine.read_at(0, 4 * MIB).await.unwrap() == data);
}

fn read_write() -> mooseng_client::OpenFlags {
    mooseng_client::OpenFlags { read: true, write: true, ..Default::default() }
}
