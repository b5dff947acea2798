//! Whole clusters in memory: files go in, parts of the cluster die, files come out.

use crate::common::content;
use bytes::Bytes;
use futures::StreamExt as _;
use mooseng_client::{Filesystem, OpenFlags, embedded::Cluster};
use mooseng_core::{attr::SetAttr, context::Credentials, error::Errno};
use std::time::Duration;

async fn put(fs: &Filesystem, path: &str, data: &Bytes) {
    let f = fs.create(path).await.unwrap();
    f.write_at(0, data.clone()).await.unwrap();
    f.sync_all().await.unwrap();
    f.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_all_sizes_come_back() {
    let cluster = Cluster::builder().masters(1).start().await.unwrap();
    let (a, b) = (cluster.client().await.unwrap(), cluster.client().await.unwrap());
    let fs = a.filesystem();
    fs.create_dir_all("/d/e").await.unwrap();
    for (i, len) in [0, 1, 4096, 8192, 8193, 100_000, 3 << 20, (64 << 20) + 5].into_iter().enumerate() {
        let (path, data) = (format!("/d/e/f{i}"), content(i as u64, len));
        fs.write(&path, data.clone()).await.unwrap();
        assert!(b.filesystem().read(&path).await.unwrap() == data, "{len} bytes");
    }
    assert_eq!(fs.totals("/").await.unwrap().inodes, 11);
    let names: Vec<_> = fs.read_dir("/d/e").map(|e| e.unwrap().name.to_string()).collect().await;
    assert_eq!(names.len(), 8);
    fs.remove_dir_all("/d").await.unwrap();
    assert_eq!(fs.metadata("/d").await.unwrap_err().errno(), Errno::ENOENT);
    assert_eq!(fs.totals("/").await.unwrap().bytes, 0);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overwrites_appends_holes_and_cuts() {
    let cluster = Cluster::builder().masters(1).start().await.unwrap();
    let fs = cluster.client().await.unwrap().filesystem();
    let f = fs.create("/f").await.unwrap();
    let mut model = vec![0u8; 0];
    for i in 0..60u64 {
        let (at, len) = ((i * 7919) % 300_000, 1 + (i * 977) as usize % 20_000);
        let data = content(i, len);
        f.write_at(at, data.clone()).await.unwrap();
        let end = at as usize + len;
        model.resize(model.len().max(end), 0);
        model[at as usize..end].copy_from_slice(&data);
        if i % 9 == 0 {
            f.sync_all().await.unwrap();
        }
        if i % 13 == 12 {
            let cut = model.len() as u64 * 2 / 3;
            f.set_len(cut).await.unwrap();
            model.truncate(cut as usize);
        }
        if i % 5 == 0 {
            assert!(f.read_at(0, 1 << 20).await.unwrap() == model, "after write {i}");
        }
    }
    f.close().await.unwrap();
    assert!(fs.read("/f").await.unwrap() == model);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_leader_and_chunkserver_die() {
    let mut cluster = Cluster::builder().start().await.unwrap();
    let client = cluster.client().await.unwrap();
    let fs = client.filesystem();
    let data: Vec<_> = (0..12).map(|i| content(i, 700_000)).collect();
    for (i, d) in data.iter().enumerate() {
        if i == 4 {
            cluster.kill_chunkserver(0);
        }
        if i == 8 {
            let leader = cluster.leader().unwrap();
            cluster.kill_master(leader).await;
        }
        put(&fs, &format!("/f{i}"), d).await;
    }
    for (i, d) in data.iter().enumerate() {
        assert!(fs.read(&format!("/f{i}")).await.unwrap() == *d, "file {i}");
    }
    cluster.start_chunkserver(0).await.unwrap();
    let healthy = async {
        loop {
            let s = client.status().await.unwrap();
            if s.chunks.total == 12 && s.chunks.healthy == 12 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), healthy).await.expect("repair ends");
    for (i, d) in data.iter().enumerate() {
        assert!(fs.read(&format!("/f{i}")).await.unwrap() == *d, "file {i} after repair");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_a_tree_follows_no_link() {
    let cluster = Cluster::builder().masters(1).start().await.unwrap();
    let fs = cluster.client().await.unwrap().filesystem();
    fs.create_dir_all("/keep/sub").await.unwrap();
    fs.write("/keep/sub/f", "kept").await.unwrap();
    fs.create_dir("/gone").await.unwrap();
    fs.symlink("/keep", "/gone/link").await.unwrap();
    fs.symlink("/keep", "/link").await.unwrap();
    assert_eq!(fs.remove_dir_all("/link").await.unwrap_err().errno(), Errno::ENOTDIR);
    fs.remove_dir_all("/gone").await.unwrap();
    assert!(!fs.exists("/gone").await.unwrap());
    assert_eq!(&fs.read("/keep/sub/f").await.unwrap()[..], b"kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_handle_syncs_what_an_earlier_one_wrote() {
    let cluster = Cluster::builder().masters(1).start().await.unwrap();
    let fs = cluster.client().await.unwrap().filesystem();
    let data = content(5, 300_000);
    fs.write("/f", data.clone()).await.unwrap();
    assert!(cluster.dirty_chunks() > 0, "closed, not synced");
    let file = fs.open("/f").await.unwrap();
    file.sync_all().await.unwrap();
    assert_eq!(cluster.dirty_chunks(), 0, "fsync reaches what closed handles wrote");
    file.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_is_told_also_when_a_later_handle_wrote_more() {
    let mut cluster = Cluster::builder().masters(1).start().await.unwrap();
    let fs = cluster.client().await.unwrap().filesystem();
    let first = fs.create("/f").await.unwrap();
    for at in [0, 64 << 20] {
        first.write_at(at, content(5, 300_000)).await.unwrap();
    }
    first.close().await.unwrap();
    // What is not synced may be gone with those who had it in memory.
    for at in 0..3 {
        cluster.kill_chunkserver(at);
    }
    for at in 0..3 {
        cluster.start_chunkserver(at).await.unwrap();
    }
    cluster.wait_ready(Duration::from_secs(30)).await.unwrap();
    let write = OpenFlags { read: true, write: true, ..OpenFlags::default() };
    let later = fs.open_with("/f", write, 0).await.unwrap();
    later.write_at(300_000, content(6, 1000)).await.unwrap();
    later.close().await.unwrap();
    let last = fs.open_with("/f", write, 0).await.unwrap();
    let e = last.sync_all().await.expect_err("the later handle's servers do not vouch for the earlier one's");
    assert_eq!(e.errno(), Errno::EIO);
    last.sync_all().await.expect("the losses of both chunks were told with one failure");
    last.close().await.unwrap();
}

/// The other one that acknowledged it has it, and who restarted is made equal to that one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_servers_restart_loses_nothing_of_a_closed_file() {
    let mut cluster = Cluster::builder().masters(1).start().await.unwrap();
    let fs = cluster.client().await.unwrap().filesystem();
    for at in 0..3 {
        let path = format!("/{at}");
        fs.write(&path, content(at as u64, 300_000)).await.unwrap();
        cluster.kill_chunkserver(at);
        cluster.start_chunkserver(at).await.unwrap();
        cluster.wait_ready(Duration::from_secs(30)).await.unwrap();
        let file = fs.open(&path).await.unwrap();
        let synced = file.sync_all().await.unwrap_or_else(|e| panic!("server {at} restarted: {e}"));
        assert_eq!(synced.disks, Some(2));
    }
}

/// Whoever asks: it needs no right to write for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_users_fsync_reaches_what_an_earlier_handle_wrote() {
    let cluster = Cluster::builder().masters(1).start().await.unwrap();
    let fs = cluster.client().await.unwrap().filesystem();
    fs.create_dir("/d").await.unwrap();
    fs.set_permissions("/d", 0o777).await.unwrap();
    let [alice, bob] = [5, 6].map(|id| fs.with_credentials(Credentials::user(id, id)));
    alice.write("/d/f", content(5, 300_000)).await.unwrap();
    assert!(cluster.dirty_chunks() > 0, "closed, not synced");
    let file = bob.open("/d/f").await.unwrap();
    file.sync_all().await.unwrap();
    assert_eq!(cluster.dirty_chunks(), 0);
}

/// What a cut did not touch is not synced by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_clients_cut_does_not_stand_for_a_sync() {
    let mut cluster = Cluster::builder().masters(1).start().await.unwrap();
    let (fs, other) =
        (cluster.client().await.unwrap().filesystem(), cluster.client().await.unwrap().filesystem());
    let file = fs.create("/f").await.unwrap();
    file.write_at(0, content(5, 1 << 20)).await.unwrap();
    file.flush_all().await.unwrap();
    other.set_attr("/f", SetAttr { size: Some(512 << 10), ..SetAttr::default() }).await.unwrap();
    // What is not synced may be gone with those who had it in memory.
    for at in 0..3 {
        cluster.kill_chunkserver(at);
    }
    for at in 0..3 {
        cluster.start_chunkserver(at).await.unwrap();
    }
    cluster.wait_ready(Duration::from_secs(30)).await.unwrap();
    let e = file.sync_all().await.expect_err("the half that was not cut may be gone");
    assert_eq!(e.errno(), Errno::EIO);
    file.sync_all().await.unwrap();
    file.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handle_reads_its_file_after_the_replicas_changed() {
    let mut cluster = Cluster::builder().masters(1).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    let fs = client.filesystem();
    let data = content(6, 300_000);
    let file = fs.create("/f").await.unwrap();
    file.write_at(0, data.clone()).await.unwrap();
    file.sync_all().await.unwrap();
    let before = fs.chunks("/f").await.unwrap()[0].clone();
    let lost = before.replicas[0].place.server.get() as usize - 1;
    cluster.kill_chunkserver(lost);
    let bumped = async {
        loop {
            let now = fs.chunks("/f").await.unwrap()[0].clone();
            if now.chunk.version > before.chunk.version && !now.changing {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), bumped).await.expect("the lost server's chunk is repaired");
    assert!(file.read_at(0, 1 << 20).await.unwrap() == data);
    file.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_does_not_undo_another_clients_truncate() {
    let cluster = Cluster::builder().masters(1).start().await.unwrap();
    let (a, b) = (cluster.client().await.unwrap().filesystem(), cluster.client().await.unwrap().filesystem());
    for by_create in [true, false] {
        let file = a.create("/f").await.unwrap();
        file.write_at(0, content(7, 200_000)).await.unwrap();
        file.sync_all().await.unwrap();
        if by_create {
            b.create("/f").await.unwrap().close().await.unwrap();
        } else {
            let cut = SetAttr { size: Some(0), ..SetAttr::default() };
            b.set_attr("/f", cut).await.unwrap();
        }
        file.write_at(0, content(8, 10_000)).await.unwrap();
        file.close().await.unwrap();
        let size = b.metadata("/f").await.unwrap().size;
        assert_eq!(size, 10_000, "only what was written after the cut is there (by create: {by_create})");
        assert!(b.read("/f").await.unwrap() == content(8, 10_000));
    }
}

/// What the replicas have of a write that the masters do not know of goes with the cut: it is written
/// again before its size is told, also where the replicas would take it for a repeat.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cut_took_before_its_commit_is_written_again() {
    let cluster = Cluster::builder().masters(1).start().await.unwrap();
    let (a, b) = (cluster.client().await.unwrap().filesystem(), cluster.client().await.unwrap().filesystem());
    put(&a, "/f", &content(7, 2 << 20)).await;
    let file = a.open_with("/f", OpenFlags { write: true, ..OpenFlags::default() }, 0).await.unwrap();
    let new = content(8, 2 << 20);
    file.write_at(0, new.clone()).await.unwrap();
    // Whole frames go out at once; the size is committed with the close.
    let limit = tokio::time::Instant::now() + Duration::from_secs(10);
    while cluster.dirty_chunks() < 2 {
        assert!(tokio::time::Instant::now() < limit, "the replicas have nothing");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let cut = SetAttr { size: Some(10_000), ..SetAttr::default() };
    b.set_attr("/f", cut).await.unwrap();
    file.close().await.unwrap();
    assert!(b.read("/f").await.unwrap() == new, "the close succeeded after the cut");
}
