//! A server is emptied: its copies are made elsewhere first, and it gets no new ones.

use crate::world::*;
use mooseng_core::{ids::*, meta::*};

async fn left(w: &World, server: ServerId) -> Option<u64> {
    let care = w.service().get_care(&cx(), GetCare {}).await.unwrap();
    care.drains.into_iter().find(|d| d.server == server).map(|d| d.left)
}

async fn drain(w: &World, server: ServerId, on: bool) {
    w.service().drain(&cx(), Drain { server, on }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drained_server_is_a_source_and_then_empty() {
    let mut w = World::of(3, quick()).await;
    let s = w.session("s").await;
    // More than the guard would let go in an hour.
    let mut files = Vec::new();
    for n in 0..40 {
        files.push(w.file(s, &format!("f{n}")).await);
    }
    let leaves = files[0].1.chain[0].server;
    let had = files.iter().filter(|(_, p)| p.chain.iter().any(|r| r.server == leaves)).count();
    drain(&w, leaves, true).await;
    drain(&w, leaves, true).await;
    until("no set names it", async || {
        w.service().keep_alive(&under(s), KeepAlive {}).await.unwrap();
        left(&w, leaves).await == Some(0)
    })
    .await;
    for (inode, place) in &files {
        let op = GetLayout { inode: *inode, from: ChunkIndex(0), count: 1 };
        let now = w.service().get_layout(&under(s), op).await.unwrap().chunks[0].clone();
        assert_eq!(now.chain.len(), 2, "{place:?}");
        assert!(now.chain.iter().all(|r| r.server != leaves), "{now:?}");
    }
    until("its copies are gone", async || {
        w.service().keep_alive(&under(s), KeepAlive {}).await.unwrap();
        w.fake(leaves).count("delete") >= had
    })
    .await;
    // It stays so for the next leader, and until it is taken back.
    w.restart_master().await;
    assert_eq!(left(&w, leaves).await, Some(0));
    let s = w.session("t").await;
    for n in 0..10 {
        let (_, place) = w.file(s, &format!("g{n}")).await;
        assert!(place.chain.iter().all(|r| r.server != leaves), "{place:?}");
    }
    drain(&w, leaves, false).await;
    assert_eq!(left(&w, leaves).await, None);
    let mut again = false;
    for n in 0..20 {
        let (_, place) = w.file(s, &format!("h{n}")).await;
        again |= place.chain.iter().any(|r| r.server == leaves);
    }
    assert!(again, "it gets copies again");
    let none = w.service().drain(&cx(), Drain { server: ServerId(9), on: true }).await;
    assert!(none.is_err(), "{none:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_given_up_when_nobody_can_take_it() {
    let w = World::of(2, quick()).await;
    let s = w.session("s").await;
    let (inode, place) = w.file(s, "f").await;
    let leaves = place.chain[0].server;
    drain(&w, leaves, true).await;
    tokio::time::sleep(w.timings.tick * 100).await;
    let op = GetLayout { inode, from: ChunkIndex(0), count: 1 };
    let now = w.service().get_layout(&under(s), op).await.unwrap().chunks[0].clone();
    assert_eq!((now.chunk, now.chain), (place.chunk, place.chain));
    assert_eq!((left(&w, leaves).await, w.fake(leaves).count("delete")), (Some(1), 0));
}

async fn disk_left(w: &World, server: u64) -> Option<Option<u64>> {
    let care = w.service().get_care(&cx(), GetCare {}).await.unwrap();
    let its = |d: &DrainingDisk| (d.server, d.disk) == (ServerId(server), DiskId(server));
    care.disks.into_iter().find(its).map(|d| d.left)
}

async fn drain_disk(w: &World, server: u64, disk: u64, on: bool) -> Result<(), String> {
    let op = DrainDisk { server: ServerId(server), disk: DiskId(disk), on };
    w.service().drain_disk(&cx(), op).await.map_err(|e| e.to_string())
}

#[tokio::test(start_paused = true)]
async fn a_drained_disk_is_a_source_and_then_empty() {
    let mut w = World::of(3, quick()).await;
    let s = w.session("s").await;
    // More than the guard would let go in an hour.
    let mut files = Vec::new();
    for n in 0..40 {
        files.push(w.file(s, &format!("f{n}")).await);
    }
    let leaves = files[0].1.chain[0].server;
    let n = leaves.get();
    drain_disk(&w, n, n, true).await.unwrap();
    drain_disk(&w, n, n, true).await.unwrap();
    assert_eq!(disk_left(&w, n).await, Some(None), "its server has not said that it takes nothing new");
    w.obey_drain(n).await;
    assert!(disk_left(&w, n).await > Some(Some(0)));
    until("its copies are gone", async || {
        w.service().keep_alive(&under(s), KeepAlive {}).await.unwrap();
        w.obey_drain(n).await;
        disk_left(&w, n).await == Some(Some(0))
    })
    .await;
    for (inode, place) in &files {
        let op = GetLayout { inode: *inode, from: ChunkIndex(0), count: 1 };
        let now = w.service().get_layout(&under(s), op).await.unwrap().chunks[0].clone();
        assert!(now.chain.len() == 2 && now.chain.iter().all(|r| r.server != leaves), "{place:?} {now:?}");
    }
    // It stays so for the next leader, which knows nothing before the server has spoken.
    w.restart_master().await;
    assert_eq!(disk_left(&w, n).await, Some(None));
    assert_eq!(w.register(n, 1).await.drains, [DiskId(n)]);
    w.obey_drain(n).await;
    assert_eq!(disk_left(&w, n).await, Some(Some(0)));
    let s = w.session("t").await;
    for n in 0..10 {
        let (_, place) = w.file(s, &format!("g{n}")).await;
        assert!(place.chain.iter().all(|r| r.server != leaves), "{place:?}");
    }
    drain_disk(&w, n, n, false).await.unwrap();
    assert_eq!(disk_left(&w, n).await, None);
    assert_eq!(w.register(n, 1).await.drains, []);
    let mut again = false;
    for n in 0..20 {
        let (_, place) = w.file(s, &format!("h{n}")).await;
        again |= place.chain.iter().any(|r| r.server == leaves);
    }
    assert!(again, "it gets copies again");
}

#[tokio::test(start_paused = true)]
async fn a_drain_of_a_disk_that_cannot_be_done_changes_nothing() {
    let w = World::of(2, quick()).await;
    let s = w.session("s").await;
    w.file(s, "f").await;
    for (server, disk, on, why) in [
        (9, 9, true, "there is no chunkserver 9"),
        (1, 9, true, "chunkserver 1 has no disk 0000000000000009; it has 0000000000000001 (d)"),
        (1, 1, false, "disk 0000000000000001 of chunkserver 1 is not being emptied"),
    ] {
        let said = drain_disk(&w, server, disk, on).await.unwrap_err();
        assert!(said.contains(why), "{said}");
    }
    // Two servers with a disk each, two copies.
    w.obey_drain(1).await;
    let said = drain_disk(&w, 1, 1, true).await.unwrap_err();
    assert!(said.contains("no room elsewhere") && said.contains("start another chunkserver"), "{said}");
    let care = w.service().get_care(&cx(), GetCare {}).await.unwrap();
    assert_eq!(care.disks, []);
    assert_eq!(w.register(1, 1).await.drains, []);
}
