//! Copies that fail, come twice, or have nobody to be copied from: what every member had stays.

use crate::common::*;
use mooseng_core::{error::ChunkError, ids::*, limits::CHUNK_BYTES, meta::ReplicaState};
use mooseng_net::memory::{Event, Fate, Faults, MemoryNetwork};
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    time::Duration,
};

/// The version after this one at each of `servers`, which are not made equal.
async fn take_version(world: &World, c: ChunkRef, servers: &[u64]) -> ChunkRef {
    for server in servers {
        world.bump(c, &[*server]).await;
    }
    ChunkRef { version: c.version.next(), ..c }
}

/// A chunk on all of `servers`, and more of it on the first, at the next version everywhere.
async fn unequal(world: &World, servers: &[u64], more: u64) -> ChunkRef {
    world.write(chunk(1, 1), servers, vec![frame(1, 1, 0, pattern(1, 9000))]).await.unwrap();
    let frames = (0..more).map(|n| frame(1, n + 2, n << 20, pattern(n + 2, 1 << 20))).collect();
    world.write(chunk(1, 1), &servers[..1], frames).await.unwrap();
    take_version(world, chunk(1, 1), servers).await
}

#[tokio::test(start_paused = true)]
async fn a_member_is_made_equal_to_the_first_source_or_to_none() {
    let world = World::new().await;
    let mut s = servers(&world, 4).await;
    let c = unequal(&world, &[1, 2, 3], 1).await;
    s.remove(&1).unwrap().1.shutdown().await;
    // Server 2 waits for its own copy of what 1 has: it is no measure for 3.
    world.pull(3, c, &[1, 2]).await.unwrap_err();
    world.pull(4, c, &[1, 2]).await.unwrap_err();
    assert!(matches!(world.stat(4, 1).await, Err(ChunkError::NotFound(_))), "nothing was begun");
    // It has what it had, and the next version can be made of it.
    let now = world.stat(3, 1).await.unwrap().report;
    assert_eq!((now.chunk, now.state), (c, ReplicaState::Good));
    assert!(world.read(c, 3, 0, CHUNK_BYTES).await.unwrap() == pattern(1, 9000));
    world.bump(c, &[3, 2]).await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_asked_for_twice_undoes_nothing() {
    for damaged in [false, true] {
        let world = World::new().await;
        let mut s = servers(&world, 2).await;
        let c = unequal(&world, &[1, 2], 1).await;
        if damaged {
            // A block that verifies nowhere: it is damaged in the copy, too.
            let (disk, old) = s.remove(&1).unwrap();
            old.shutdown().await;
            disk.rot(&path(1), (320 << 10) + 100 * BLOCK, 1);
            s.insert(1, (disk.clone(), world.start(1, &disk).await));
        }
        world.pull(2, c, &[1]).await.unwrap();
        let state = if damaged { ReplicaState::Damaged } else { ReplicaState::Good };
        assert_eq!(world.stat(2, 1).await.unwrap().report.state, state);
        // The version is open, and server 2 has what is on its way to 1.
        let late = pattern(9, 5000);
        world.write(c, &[2], vec![frame(1, 9, 0, late.clone())]).await.unwrap();
        world.pull(2, c, &[1]).await.unwrap();
        assert!(world.read(c, 2, 0, 5000).await.unwrap().starts_with(&late));
        // What comes again is a repeat, too.
        world.write(c, &[2], vec![frame(1, 9, 0, pattern(8, 5000))]).await.unwrap();
        assert!(world.read(c, 2, 0, 5000).await.unwrap().starts_with(&late));
    }
}

/// Lets so many MiB through between two servers, and nothing behind them.
#[derive(Debug)]
struct Ends(AtomicI64);

impl Faults for Ends {
    fn fate(&self, from: &str, to: &str, event: Event) -> Fate {
        let data = matches!(event, Event::Piece(_)) && from == addr(1) && to == addr(2);
        match data && self.0.fetch_sub(1, SeqCst) <= 0 {
            true => Fate::Drop,
            false => Fate::Deliver(Duration::ZERO),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_is_what_it_was_until_all_that_it_is_to_be_has_come() {
    let pieces = Arc::new(Ends(AtomicI64::new(i64::MAX)));
    let world = World::on(MemoryNetwork::with_faults(pieces.clone())).await;
    let _s = servers(&world, 3).await;
    let c = unequal(&world, &[1, 2], 5).await;
    // A piece of data has come, and the next does not.
    pieces.0.store(3, SeqCst);
    world.pull_of(Some(ChunkVersion(1)), 2, c, &[1]).await.unwrap_err();
    assert!(pieces.0.load(SeqCst) < 0);
    let now = world.stat(2, 1).await.unwrap().report;
    assert_eq!((now.chunk, now.state), (c, ReplicaState::Good));
    assert!(world.read(c, 2, 0, CHUNK_BYTES).await.unwrap() == pattern(1, 9000));
    world.pull(3, c, &[2]).await.unwrap();
    // Its source is back, and another version is made.
    pieces.0.store(i64::MAX, SeqCst);
    let c = world.bump(c, &[1]).await;
    world.pull(2, c, &[1]).await.unwrap();
    assert!(
        world.read(c, 2, 0, CHUNK_BYTES).await.unwrap() == world.read(c, 1, 0, CHUNK_BYTES).await.unwrap()
    );
}
