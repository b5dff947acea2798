//! Small files that several clients write at once: content inside the inode, and its way to a chunk.

use bytes::Bytes;
use mooseng_client::{File, Filesystem, OpenFlags, embedded::Cluster};
use mooseng_core::{attr::SetAttr, context::Credentials, error::Errno, limits::INLINE_BYTES_MAX};
use std::time::Duration;

const RECORD: usize = 100;
/// Past what an inode holds.
const RECORDS: usize = 2 * INLINE_BYTES_MAX / RECORD;

fn record(n: usize) -> Bytes {
    let mut text = format!("record {n} ").into_bytes();
    text.resize(RECORD, b'a' + (n % 26) as u8);
    text.into()
}

async fn open(fs: &Filesystem, path: &str) -> File {
    let flags = OpenFlags { read: true, write: true, create: true, ..OpenFlags::default() };
    fs.open_with(path, flags, 0o644).await.unwrap()
}

async fn put(file: &File, n: usize) {
    file.write_at((n * RECORD) as u64, record(n)).await.unwrap();
}

/// All records are there, whoever looks.
async fn all_there(fs: &Filesystem, path: &str, count: usize) {
    let got = fs.read(path).await.unwrap();
    assert_eq!(got.len(), count * RECORD);
    let lost: Vec<_> = (0..count).filter(|n| got[n * RECORD..][..RECORD] != record(*n)).collect();
    assert!(lost.is_empty(), "records {lost:?} of {path} are lost");
}

async fn two(cluster: &Cluster) -> (Filesystem, Filesystem) {
    (cluster.client().await.unwrap().filesystem(), cluster.client().await.unwrap().filesystem())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_two_clients_in_turn_are_all_there() {
    let cluster = Cluster::builder().masters(1).start().await.unwrap();
    let (a, b) = two(&cluster).await;
    let files = [open(&a, "/f").await, open(&b, "/f").await];
    for n in 0..RECORDS {
        put(&files[n % 2], n).await;
        files[n % 2].flush_all().await.unwrap();
        if n % 7 == 0 {
            let before = n.saturating_sub(1);
            let got = files[n % 2].read_at((before * RECORD) as u64, RECORD as u64).await.unwrap();
            assert!(got == record(before), "the writer of record {n} sees the other's before it");
        }
    }
    for file in files {
        file.close().await.unwrap();
    }
    all_there(&b, "/f", RECORDS).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_clients_at_the_same_time_are_all_there() {
    let cluster = Cluster::builder().masters(1).start().await.unwrap();
    let (a, b) = two(&cluster).await;
    let c = cluster.client().await.unwrap().filesystem();
    for round in 0..6 {
        let path = format!("/f{round}");
        let writers = [&a, &b, &c].into_iter().enumerate().map(|(i, fs)| {
            let (fs, path) = (fs.clone(), path.clone());
            tokio::spawn(async move {
                let file = open(&fs, &path).await;
                for n in (i..RECORDS).step_by(3) {
                    put(&file, n).await;
                    // Another rhythm for each, so that the move to a chunk is met at all its steps.
                    if n % (5 + 4 * i + round) == 0 {
                        file.flush_all().await.unwrap();
                    }
                }
                file.close().await.unwrap();
            })
        });
        for done in writers.collect::<Vec<_>>() {
            done.await.unwrap();
        }
        all_there(&a, &path, RECORDS).await;
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_synced_inline_is_not_the_first_writers_to_lose() {
    let cluster = Cluster::builder().masters(1).start().await.unwrap();
    let (a, b) = two(&cluster).await;
    let (first, second) = (open(&a, "/f").await, open(&b, "/f").await);
    put(&first, 0).await;
    first.sync_all().await.unwrap();
    // The second client's picture is of the empty file.
    second.write_at(70 << 20, record(1)).await.unwrap();
    assert!(second.read_at(0, 4 * RECORD as u64).await.unwrap()[..RECORD] == record(0));
    second.write_at(20, &b"over"[..]).await.unwrap();
    let mut head = record(0).to_vec();
    head[20..24].copy_from_slice(b"over");
    assert!(second.read_at(0, RECORD as u64).await.unwrap() == head, "before anything is flushed");
    second.sync_all().await.unwrap();
    // An open handle looks again when it is told that somebody changed the file.
    first.metadata().await.unwrap();
    assert!(first.read_at(0, RECORD as u64).await.unwrap() == head);
    let got = a.read("/f").await.unwrap();
    assert!(got.len() == (70 << 20) + RECORD && got[..RECORD] == head && got[70 << 20..] == record(1));
    assert!(got[RECORD..70 << 20].iter().all(|b| *b == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_by_another_client_takes_nothing_of_what_is_written_after_it() {
    let cluster = Cluster::builder().masters(1).start().await.unwrap();
    let (a, b) = two(&cluster).await;
    let file = open(&a, "/f").await;
    put(&file, 0).await;
    put(&file, 1).await;
    file.flush_all().await.unwrap();
    put(&file, 3).await;
    b.set_attr("/f", SetAttr { size: Some(50), ..SetAttr::default() }).await.unwrap();
    file.flush_all().await.unwrap();
    let got = b.read("/f").await.unwrap();
    assert_eq!(got.len(), 4 * RECORD);
    assert!(got[..50] == record(0)[..50] && got[3 * RECORD..] == record(3));
    assert!(got[50..3 * RECORD].iter().all(|b| *b == 0), "what was cut away does not come back");
    assert!(file.read_at(0, 1000).await.unwrap() == got);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_dies_while_it_moves_the_content_stops_nobody() {
    let cluster = Cluster::builder().masters(1).start().await.unwrap();
    let (a, b) = two(&cluster).await;
    let file = open(&b, "/f").await;
    put(&file, 0).await;
    file.flush_all().await.unwrap();
    // The first step of the move, and nothing after it.
    let inode = a.metadata("/f").await.unwrap().inode;
    let (truncates, from) = (Default::default(), mooseng_core::ids::ChunkIndex(0));
    let op = mooseng_core::meta::Allocate { inode, truncates, from, count: 1 };
    let client = cluster.client().await.unwrap();
    let layout = client.request(op).await.unwrap();
    assert!(layout.inline.unwrap() == record(0), "the mover gets what it is to move");
    file.write_at(9000, record(90)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(25), file.sync_all()).await.unwrap().unwrap();
    let got = a.read("/f").await.unwrap();
    assert!(got[..RECORD] == record(0) && got[9000..] == record(90));
    assert_ne!(a.chunks("/f").await.unwrap()[0].chunk.id, layout.chunks[0].chunk.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handle_cuts_its_file_by_its_own_right_and_as_its_user() {
    let cluster = Cluster::builder().masters(1).start().await.unwrap();
    let (root, other) = two(&cluster).await;
    root.write("/f", record(0)).await.unwrap();
    let mode = |mode| SetAttr { mode: Some(mode), ..SetAttr::default() };
    root.set_attr("/f", mode(0o4777)).await.unwrap();
    let user = root.with_credentials(Credentials::user(5, 5));
    let file = open(&user, "/f").await;
    root.set_attr("/f", mode(0o4711)).await.unwrap();
    let cut = SetAttr { size: Some(10), ..SetAttr::default() };
    assert_eq!(user.set_attr("/f", cut.clone()).await.unwrap_err().errno(), Errno::EACCES);
    let stranger = other.with_credentials(Credentials::user(5, 5));
    assert_eq!(stranger.set_attr("/f", cut).await.unwrap_err().errno(), Errno::EACCES);
    file.set_len(10).await.unwrap();
    let attr = root.metadata("/f").await.unwrap();
    assert_eq!((attr.size, attr.mode), (10, 0o711), "set-user-id goes with a cut by another than root");
    let op = mooseng_core::meta::Truncate { inode: attr.inode, size: 5 };
    let without = cluster.client().await.unwrap();
    let refused = without.vfs().request(&Credentials::user(5, 5), op).await.unwrap_err();
    assert_eq!(refused.errno(), Errno::EACCES, "the masters ask who has it open");
}
