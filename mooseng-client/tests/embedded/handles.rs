//! Calls of a handle that are dropped half-way, and what a handle sees that stays open.

use futures::poll;
use mooseng_client::{File, OpenFlags, embedded::Cluster};
use std::{io::SeekFrom, pin::pin, time::Duration};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

const MIB: usize = 1 << 20;

async fn open(cluster: &Cluster, path: &str, append: bool) -> File {
    let flags = OpenFlags { read: true, write: true, create: true, append, ..OpenFlags::default() };
    cluster.client().await.unwrap().filesystem().open_with(path, flags, 0o644).await.unwrap()
}

fn pieces(n: usize) -> Vec<u8> {
    (0..n).flat_map(|i| std::iter::repeat_n(b'a' + i as u8, MIB)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_read_gives_nothing_to_a_later_one() {
    let cluster = Cluster::builder().masters(1).start().await.unwrap();
    let mut file = open(&cluster, "/f", false).await;
    file.write_all(&pieces(3)).await.unwrap();
    file.close().await.unwrap();
    let mut buf = [0; 10];
    // On a busy machine the answer may be there before it is looked for: then there was nothing to drop.
    let mut file = loop {
        let mut file = open(&cluster, "/f", false).await;
        if poll!(pin!(file.read(&mut buf))).is_pending() {
            break file;
        }
    };
    file.seek(SeekFrom::Start(2 * MIB as u64)).await.unwrap();
    file.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"cccccccccc");
    // What it read ahead is not what it has written since.
    let at = 2 * MIB as u64 + 10;
    file.write_at(at, &b"0123456789"[..]).await.unwrap();
    file.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"0123456789");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_write_gives_nothing_to_a_later_one() {
    let cluster = Cluster::builder().masters(1).start().await.unwrap();
    let mut tries = 0;
    // An append asks for the end first. Where that is answered at once, nothing was dropped.
    let mut file = loop {
        let mut file = open(&cluster, &format!("/{tries}"), true).await;
        if poll!(pin!(file.write(b"the first, which is dropped"))).is_pending() {
            break file;
        }
        tries += 1;
    };
    file.write_all(b"the second").await.unwrap();
    file.sync_all().await.unwrap();
    assert_eq!(&file.read_at(0, 100).await.unwrap()[..], b"the second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_flush_does_not_stand_for_a_later_one() {
    let cluster = Cluster::builder().masters(1).start().await.unwrap();
    let (mut file, other) = (open(&cluster, "/f", false).await, open(&cluster, "/f", false).await);
    file.write_at(0, pieces(1)).await.unwrap();
    // Stays as far as it comes in these polls.
    let mut polls = 0;
    while polls < 3 && poll!(pin!(file.flush())).is_pending() {
        polls += 1;
    }
    file.write_at(MIB as u64, &b"and more"[..]).await.unwrap();
    file.flush().await.unwrap();
    assert_eq!(&other.read_at(MIB as u64, 100).await.unwrap()[..], b"and more");
}

/// No later than some two seconds: what a picture of the file allows, and what was read ahead by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_handle_sees_what_others_wrote_without_being_told() {
    let cluster = Cluster::builder().masters(1).start().await.unwrap();
    for len in [100, MIB] {
        let path = format!("/{len}");
        let (reader, writer) = (open(&cluster, &path, false).await, open(&cluster, &path, false).await);
        writer.write_at(0, vec![b'o'; len]).await.unwrap();
        writer.sync_all().await.unwrap();
        let old = reader.read_at(0, len as u64).await.unwrap();
        assert!(old.len() == len && old.iter().all(|b| *b == b'o'));
        // A replaced chunk, and another end.
        writer.set_len(0).await.unwrap();
        writer.write_at(0, vec![b'n'; len / 2]).await.unwrap();
        writer.sync_all().await.unwrap();
        let seen = tokio::time::timeout(Duration::from_secs(30), async {
            while reader.read_at(0, 10).await.unwrap()[..] != [b'n'; 10] {
                // Not without a pause: it would take a core from the tests beside it.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        seen.await.expect("it is seen");
    }
}
