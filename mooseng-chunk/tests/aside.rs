//! A disk with errors is set aside: nothing new goes there, what is there is told, and gets another disk.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use common::{disk::CrashDisk, *};
use mooseng_chunk::Chunkserver;
use mooseng_core::{chunk::Control, error::ChunkError, ids::*, meta::*};

async fn start(world: &World, disks: [&CrashDisk; 2]) -> Chunkserver {
    let o = world.options(1, disks.map(CrashDisk::mount).into());
    let server = Chunkserver::start(o).await.unwrap();
    until("it is ready", || server.is_ready()).await;
    server
}

/// Chunks of a state, as the last whole report told.
fn told(world: &World, state: ReplicaState) -> Vec<ChunkId> {
    let heard = world.leader.heard.lock();
    let reports = heard.iter().filter_map(|r| if let MetaRequest::Report(r) = r { Some(r) } else { None });
    let last = reports.filter(|r| r.server == ServerId(1)).last().unwrap();
    last.chunks.iter().filter(|c| c.state == state).map(|c| c.chunk.id).collect()
}

#[tokio::test(start_paused = true)]
async fn its_chunks_are_told_and_filled_again_on_another_disk() {
    let (world, a, b) = (World::new().await, CrashDisk::new(), CrashDisk::new());
    let server = start(&world, [&a, &b]).await;
    let _other = world.start(2, &CrashDisk::new()).await;
    for id in 1..=6 {
        let (chain, data) = ([1, 2], pattern(id, 20_000));
        world.write(chunk(id, 1), &chain, vec![frame(id, 1, 0, data)]).await.unwrap();
        world.sync(chunk(id, 1), &chain, vec![]).await.unwrap();
    }
    let on_a: Vec<_> = (1..=6).filter(|id| a.has(&path(*id))).collect();
    assert!((1..6).contains(&on_a.len()), "both disks are used: {on_a:?}");
    a.fail_reads(true);
    let read = on_a[0];
    for _ in 0..3 {
        let e = world.read(chunk(read, 1), 1, 0, 20_000).await.unwrap_err();
        assert!(matches!(e, ChunkError::Disk { .. }), "{e}");
    }
    assert_eq!(server.status().disks.iter().filter(|d| d.error.is_some()).count(), 1);
    assert_eq!(world.stat(1, read).await.unwrap().report.state, ReplicaState::Damaged, "it was not read");
    let ids = || on_a.iter().map(|id| ChunkId(*id)).collect::<Vec<_>>();
    until("the masters are told", || told(&world, ReplicaState::Leaving) == ids()).await;

    // Nothing new goes there, and what was there is filled from the other server, on the other disk.
    for id in 7..=10 {
        world.write(chunk(id, 1), &[1, 2], vec![frame(id, 1, 0, pattern(id, 100))]).await.unwrap();
        assert!(b.has(&path(id)) && !a.has(&path(id)));
    }
    for id in &on_a {
        let (to, members) = (ChunkVersion(2), vec![ServerId(2), ServerId(1)]);
        let chunk_id = ChunkId(*id);
        let set = Control::SetVersion {
            chunk: chunk_id,
            to,
            members,
            cut_to: None,
            create: false,
            settle: false,
            term: Term(1),
        };
        let same = world.pull(1, chunk(*id, 1), &[2]).await;
        assert!(matches!(same, Err(ChunkError::Disk { .. })), "two copies of one version: {same:?}");
        world.control(2, set).await.unwrap();
        world.pull(1, chunk(*id, 2), &[2]).await.unwrap();
        assert!(b.has(&path(*id)));
        assert_eq!(world.stat(1, *id).await.unwrap().report.state, ReplicaState::Good);
        assert_eq!(world.read(chunk(*id, 2), 1, 0, 20_000).await.unwrap(), pattern(*id, 20_000));
    }
    // Somebody mends the disk: the newer copies are served, in whatever order the disks are named.
    server.shutdown().await;
    a.fail_reads(false);
    for disks in [[&a, &b], [&b, &a]] {
        let server = start(&world, disks).await;
        for id in &on_a {
            assert_eq!(world.stat(1, *id).await.unwrap().report.chunk, chunk(*id, 2));
        }
        server.shutdown().await;
    }
}
