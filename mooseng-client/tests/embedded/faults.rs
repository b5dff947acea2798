//! What a client does when parts of the cluster are silent, refuse, or forget it.

use crate::common::*;
use mooseng_client::{Error, ErrorKind, embedded::Cluster};
use mooseng_core::{
    attr::SetAttr,
    context::Credentials,
    error::{Errno, Outcome},
    ids::InodeId,
    meta::CloseSession,
    name::Name,
    rpc::method,
};
use mooseng_meta::service::ServiceTimings;
use mooseng_net::memory::{Event, Fate, Faults, MemoryNetwork};
use parking_lot::Mutex;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// A network on which named nodes can be made silent: nothing that is sent to them or by them
/// arrives.
#[derive(Debug, Default)]
struct Silence {
    /// Chunkservers get what they copy from others this much later.
    slow_copies: Mutex<Duration>,
    silent: Mutex<BTreeSet<String>>,
    /// Requests for chunk reads that travelled to each silent node.
    reads: AtomicU64,
    /// This client is made silent by the next answer of a master to it, which is lost.
    silenced_by_answer: Mutex<Option<String>>,
}

impl Faults for Silence {
    fn fate(&self, from: &str, to: &str, event: Event) -> Fate {
        let mut silent = self.silent.lock();
        if silent.contains(from) || silent.contains(to) {
            if event == Event::Request(method::CHUNK_READ) {
                self.reads.fetch_add(1, Ordering::Relaxed);
            }
            return if matches!(event, Event::Connect) { Fate::Reset } else { Fate::Drop };
        }
        let mut armed = self.silenced_by_answer.lock();
        if event == Event::Reply(method::META_CALL) && armed.as_deref() == Some(to) {
            silent.extend(armed.take());
            return Fate::Reset;
        }
        let copies = from.starts_with("chunkserver") && event == Event::Request(method::CHUNK_READ);
        Fate::Deliver(if copies { *self.slow_copies.lock() } else { Duration::ZERO })
    }
}

impl Silence {
    fn silence(&self, name: &str) {
        self.silent.lock().insert(name.into());
    }
    fn hear(&self) {
        self.silent.lock().clear();
    }
}

async fn cluster(masters: u64, chunkservers: u64) -> (Cluster, Arc<Silence>) {
    let faults = Arc::new(Silence::default());
    let network = MemoryNetwork::with_faults(faults.clone());
    let builder = Cluster::builder().masters(masters).chunkservers(chunkservers).network(network);
    (builder.start().await.unwrap(), faults)
}

fn silence_chunkservers(faults: &Silence, n: u64) {
    (1..=n).for_each(|i| faults.silence(&format!("chunkserver-{i}")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_waits_for_its_second_disk_where_there_can_be_one() {
    let (mut cluster, faults) = cluster(1, 2).await;
    let client = cluster.client().await.unwrap();
    let file = client.filesystem().create("/f").await.unwrap();
    file.write_at(0, content(1, 1 << 20)).await.unwrap();
    assert_eq!(file.sync_all().await.unwrap().disks, Some(2));
    cluster.kill_chunkserver(1);
    file.write_at(1 << 20, content(2, 1 << 20)).await.unwrap();
    let synced = within("a sync without a second server", file.sync_all()).await.unwrap();
    assert_eq!(synced.disks, Some(1), "nobody can take another copy, and the receipt says so");
    *faults.slow_copies.lock() = Duration::from_secs(1);
    cluster.start_chunkserver(1).await.unwrap();
    cluster.wait_ready(DEADLINE).await.unwrap();
    until("the masters know it", || async {
        client.status().await.is_ok_and(|s| s.servers.iter().all(|c| c.alive))
    })
    .await;
    file.write_at(2 << 20, content(3, 1 << 20)).await.unwrap();
    let synced = within("a sync with a second server", file.sync_all()).await.unwrap();
    assert_eq!(synced.disks, Some(2), "the copy that is being made is waited for");
    file.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_is_kept_and_later_writes_work() {
    let (cluster, faults) = cluster(1, 2).await;
    let client = cluster.client_with(|b| b.deadline(Duration::from_secs(3))).await.unwrap();
    let fs = client.filesystem();
    let (first, second) = (content(1, 2 << 20), content(2, 1 << 20));
    let file = fs.create("/f").await.unwrap();
    file.write_at(0, first.slice(..1 << 20)).await.unwrap();
    file.sync_all().await.unwrap();
    silence_chunkservers(&faults, 2);
    file.write_at(1 << 20, first.slice(1 << 20..)).await.unwrap();
    let e = within("a flush without chunkservers", file.flush_all()).await.unwrap_err();
    assert!(e.is_retryable(), "it can be tried again: {e}");
    faults.hear();
    cluster.wait_ready(DEADLINE).await.unwrap();
    file.write_at(2 << 20, second.clone()).await.unwrap();
    // The masters may hold the silent servers for dead a little longer.
    until("the file can be written again", || async { file.sync_all().await.is_ok() }).await;
    file.close().await.unwrap();
    let other = cluster.client().await.unwrap().filesystem();
    let got = other.read("/f").await.unwrap();
    assert!(got[..2 << 20] == first && got[2 << 20..] == second, "nothing is missing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_data_is_told_once_to_each_handle() {
    let (cluster, _faults) = cluster(1, 2).await;
    let client = cluster.client().await.unwrap();
    let fs = client.filesystem();
    let a = fs.create("/f").await.unwrap();
    let b = fs.open("/f").await.unwrap();
    a.write_at(0, content(1, 100_000)).await.unwrap();
    fs.remove_file("/f").await.unwrap();
    // The session's end takes what it held along: the unlinked file is gone, its data is lost.
    client.request(CloseSession {}).await.unwrap();
    assert_eq!(within("the flush", a.flush_all()).await.unwrap_err().errno(), Errno::ESTALE);
    let e = b.flush_all().await.unwrap_err();
    assert!(matches!(e, Error::Earlier(_)), "{e}");
    assert_eq!((e.kind(), e.errno()), (ErrorKind::DataLoss, Errno::EIO));
    a.flush_all().await.unwrap();
    b.flush_all().await.unwrap();
    a.close().await.unwrap();
    b.close().await.unwrap();
    fs.write("/g", "later").await.unwrap();
    assert_eq!(&fs.read("/g").await.unwrap()[..], b"later");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_session_goes_on_with_open_files() {
    let (cluster, _faults) = cluster(1, 2).await;
    let client = cluster.client().await.unwrap();
    let fs = client.filesystem();
    let data = content(3, 3 << 20);
    let file = fs.create("/f").await.unwrap();
    file.write_at(0, data.slice(..1 << 20)).await.unwrap();
    file.flush_all().await.unwrap();
    client.request(CloseSession {}).await.unwrap();
    file.write_at(1 << 20, data.slice(1 << 20..2 << 20)).await.unwrap();
    file.sync_all().await.unwrap();
    client.request(CloseSession {}).await.unwrap();
    assert!(file.read_at(0, 8 << 20).await.unwrap() == data[..2 << 20]);
    client.request(CloseSession {}).await.unwrap();
    // A mutation that was refused for its session was not carried out: it is sent again.
    fs.create_dir("/d").await.unwrap();
    file.write_at(2 << 20, data.slice(2 << 20..)).await.unwrap();
    file.close().await.unwrap();
    assert!(fs.read("/f").await.unwrap() == data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_lost_with_its_session_is_unknown() {
    let faults = Arc::new(Silence::default());
    let network = MemoryNetwork::with_faults(faults.clone());
    let timings = ServiceTimings { session_lifetime: Duration::from_secs(2), ..ServiceTimings::default() };
    let builder = Cluster::builder().masters(1).chunkservers(1).network(network).timings(timings);
    let cluster = builder.start().await.unwrap();
    let (client, observer) = (cluster.client().await.unwrap(), cluster.client().await.unwrap());
    let fs = client.filesystem();
    // The answer is lost, and the client cannot ask again before its session has ended.
    *faults.silenced_by_answer.lock() = Some("client-1".into());
    let (root, name) = (Credentials::root(), Name::new("once").unwrap());
    let making = client.vfs().mkdir(&root, InodeId::ROOT, &name, 0o755);
    tokio::pin!(making);
    let forgotten = async {
        until("the session ends", || async { observer.sessions().await.unwrap().len() == 1 }).await;
        faults.hear();
    };
    let e = tokio::select! {
        biased;
        done = &mut making => panic!("it was answered: {done:?}"),
        () = forgotten => within("the mutation", making).await.unwrap_err(),
    };
    assert!(matches!(e, Error::Unknown { .. }), "{e}");
    assert_eq!((e.outcome(), e.is_retryable(), e.errno()), (Outcome::Unknown, false, Errno::EIO));
    fs.create_dir("/twice").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unlinked_file_that_is_open_survives_a_failover() {
    let (mut cluster, _faults) = cluster(3, 2).await;
    let client = cluster.client().await.unwrap();
    let fs = client.filesystem();
    let data = content(4, 300_000);
    let file = fs.create("/f").await.unwrap();
    file.write_at(0, data.slice(..200_000)).await.unwrap();
    file.sync_all().await.unwrap();
    let again = fs.open("/f").await.unwrap();
    fs.remove_file("/f").await.unwrap();
    let leader = cluster.leader().unwrap();
    cluster.kill_master(leader).await;
    file.write_at(200_000, data.slice(200_000..)).await.unwrap();
    within("a sync after the failover", file.sync_all()).await.unwrap();
    assert!(file.read_at(0, 1 << 20).await.unwrap() == data);
    again.close().await.unwrap();
    // One handle is left: the file is.
    assert!(file.read_at(0, 1 << 20).await.unwrap() == data);
    file.close().await.unwrap();
    until("the chunks of the file are deleted", || async {
        let s = client.status().await.unwrap();
        (s.chunks.total, s.chunks.deleting, s.fs.inodes) == (0, 0, 1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_client_keeps_nothing_that_is_removed_after_a_failover() {
    let (mut cluster, _faults) = cluster(3, 2).await;
    let (client, _idle) = (cluster.client().await.unwrap(), cluster.client().await.unwrap());
    let fs = client.filesystem();
    fs.write("/f", content(4, 300_000)).await.unwrap();
    let leader = cluster.leader().unwrap();
    cluster.kill_master(leader).await;
    within("a removal after the failover", fs.remove_file("/f")).await.unwrap();
    until("the chunks of the file are deleted", || async {
        let s = client.status().await.unwrap();
        (s.chunks.total, s.chunks.deleting) == (0, 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_flushed_before_another_clients_cut_does_not_come_back() {
    let (cluster, _faults) = cluster(1, 2).await;
    let (a, b) = (cluster.client().await.unwrap(), cluster.client().await.unwrap());
    let (fs, other) = (a.filesystem(), b.filesystem());
    let file = fs.create("/f").await.unwrap();
    file.write_at(0, content(1, 300_000)).await.unwrap();
    file.flush_all().await.unwrap();
    other.write("/f", content(2, 100_000)).await.unwrap();
    until("the first chunk is deleted", || async { b.status().await.unwrap().chunks.deleting == 0 }).await;
    within("a sync of what was cut away", file.sync_all()).await.unwrap();
    file.close().await.unwrap();
    assert!(other.read("/f").await.unwrap() == content(2, 100_000), "the older write is over the newer one");
    let more = SetAttr { size: Some(300_000), ..SetAttr::default() };
    other.set_attr("/f", more).await.unwrap();
    let grown = other.read("/f").await.unwrap();
    assert!(grown[100_000..].iter().all(|b| *b == 0), "what was cut away shows again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stat_and_reads_do_not_wait_for_a_stalled_writer() {
    let (cluster, faults) = cluster(1, 2).await;
    let client = cluster.client().await.unwrap();
    let fs = client.filesystem();
    let data = content(5, 1 << 20);
    let file = fs.create("/f").await.unwrap();
    file.write_at(0, data.clone()).await.unwrap();
    file.sync_all().await.unwrap();
    silence_chunkservers(&faults, 2);
    // Far more than a window: all of it waits.
    file.write_at(64 << 20, content(6, 40 << 20)).await.unwrap();
    let mut writer = Box::pin(file.sync_all());
    let looker = async {
        let attr = file.metadata().await.unwrap();
        assert_eq!(attr.size, 104 << 20, "own writes count at once");
        assert_eq!(fs.metadata("/f").await.unwrap().size, 104 << 20);
        // What is on its way is read from memory.
        let tail = file.read_at(100 << 20, 4096).await.unwrap();
        assert_eq!(tail, content(6, 40 << 20).slice(36 << 20..(36 << 20) + 4096));
        faults.silent.lock().remove("chunkserver-1");
        faults.silent.lock().remove("chunkserver-2");
        assert!(file.read_at(0, 1 << 20).await.unwrap() == data);
    };
    tokio::select! {
        biased;
        done = &mut writer => panic!("the writer ended first: {done:?}"),
        () = within("looking at a file that is being written", looker) => {}
    }
    within("the writer", writer.as_mut()).await.unwrap();
    drop(writer);
    file.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_replica_is_asked_once_and_then_passed_over() {
    let (cluster, faults) = cluster(1, 2).await;
    // No read-ahead: each read asks.
    let client = cluster.client_with(|b| b.read_ahead(0)).await.unwrap();
    let fs = client.filesystem();
    let data = content(7, 4 << 20);
    fs.write("/f", data.clone()).await.unwrap();
    let file = fs.open("/f").await.unwrap();
    assert!(file.read_at(0, 4096).await.unwrap() == data[..4096]);
    let first = fs.chunks("/f").await.unwrap()[0].replicas[0].place.addr.clone();
    faults.silence(&first);
    for i in 0..64 {
        let at = i * 65_536;
        let got = within("a read beside a silent replica", file.read_at(at, 65_536)).await.unwrap();
        assert!(got == data[at as usize..at as usize + 65_536]);
    }
    let asked = faults.reads.load(Ordering::Relaxed);
    assert!(asked <= 2, "the silent replica was asked {asked} times for 64 reads");
    file.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_wait_at_the_bound_and_nothing_is_lost() {
    let (cluster, faults) = cluster(1, 2).await;
    let client = cluster.client_with(|b| b.dirty_max(4 << 20)).await.unwrap();
    let fs = client.filesystem();
    let data = content(8, 40 << 20);
    let files: Vec<_> = futures::future::try_join_all((0..4).map(|i| {
        let fs = fs.clone();
        async move { fs.create(&format!("/f{i}")).await }
    }))
    .await
    .unwrap();
    let write = |i: usize| {
        let (file, data) = (&files[i], data.slice(i * (10 << 20)..(i + 1) * (10 << 20)));
        async move {
            for (n, piece) in data.chunks(300_000).enumerate() {
                file.write_at(n as u64 * 300_000, data.slice_ref(piece)).await?;
            }
            Ok::<_, Error>(())
        }
    };
    within("writing ten times the bound", futures::future::try_join_all((0..4).map(write))).await.unwrap();
    for (i, file) in files.into_iter().enumerate() {
        file.close().await.unwrap();
        assert!(fs.read(&format!("/f{i}")).await.unwrap() == data[i * (10 << 20)..(i + 1) * (10 << 20)]);
    }
    // With nobody to take it, a writer is held at the bound and told so.
    let client =
        cluster.client_with(|b| b.dirty_max(4 << 20).deadline(Duration::from_secs(2))).await.unwrap();
    let file = client.filesystem().create("/g").await.unwrap();
    silence_chunkservers(&faults, 2);
    let mut written = 0u64;
    let e = within("writing without chunkservers", async {
        loop {
            match file.write_at(written, content(9, 1 << 20)).await {
                Ok(()) => written += 1 << 20,
                Err(e) => return e,
            }
        }
    })
    .await;
    assert!(matches!(e, Error::Backlog { .. }), "{e}");
    assert!(written <= 4 << 20, "{written} bytes were taken over a bound of 4 MiB");
    assert_eq!(e.outcome(), Outcome::NotApplied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_leader_is_left_for_the_next_before_a_try_ends() {
    let (cluster, faults) = cluster(3, 2).await;
    // The longest that one try waits: there is no time for a second after it.
    let client = cluster.client_with(|b| b.deadline(Duration::from_secs(4))).await.unwrap();
    let fs = client.filesystem();
    fs.write("/before", "1").await.unwrap();
    let old = client.status().await.unwrap().masters.iter().find(|m| m.leader).unwrap().id;
    faults.silence(&format!("master-{}", old.get()));
    // Another leads by now: this client, which begins anew, is served.
    let another = within("another leader", cluster.client()).await.unwrap();
    within("a write", another.filesystem().write("/another", "2")).await.unwrap();
    fs.write("/after", "3").await.unwrap();
    assert_eq!(another.filesystem().read_to_string("/after").await.unwrap(), "3");
}
