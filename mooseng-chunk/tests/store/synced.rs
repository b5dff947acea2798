//! A sync of what was acknowledged at a version before: what the head has kept is at all members, whoever restarted.

use crate::common::*;
use mooseng_core::{chunk::*, error::ChunkError, ids::*, limits::CHUNK_BYTES};

/// A version of these members, in this order; the first takes it, the others are made equal to it.
async fn bump(world: &World, to: ChunkRef, members: &[u64], settle: bool) {
    let (first, all) = (members[0], members.iter().map(|s| ServerId(*s)).collect());
    let (chunk, to_version, cut_to, create, term) = (to.id, to.version, None, false, Term(1));
    let op = Control::SetVersion { chunk, to: to_version, members: all, cut_to, create, settle, term };
    world.control(first, op).await.unwrap();
    for other in &members[1..] {
        world.pull(*other, to, &members[..1]).await.unwrap();
    }
}

/// Written through both servers and not synced, over what was.
async fn written(world: &World) -> Vec<Acknowledged> {
    world.write(chunk(1, 1), &[1, 2], vec![frame(1, 1, 0, pattern(7, 9000))]).await.unwrap();
    world.sync(chunk(1, 1), &[1, 2], vec![]).await.unwrap();
    let ack =
        world.write(chunk(1, 1), &[1, 2], vec![frame(1, 2, 0, pattern(1, 9000))]).await.unwrap().unwrap();
    acknowledged(chunk(1, 1), ack.members)
}

#[tokio::test(start_paused = true)]
async fn what_one_member_kept_is_synced_though_the_other_restarted() {
    for dies in [1, 2] {
        let world = World::new().await;
        let mut s = servers(&world, 2).await;
        let by = written(&world).await;
        let (disk, server) = s.remove(&dies).unwrap();
        drop(server);
        disk.power_fails();
        s.insert(dies, (disk.clone(), world.start(dies, &disk).await));
        let order = [3 - dies, dies];
        bump(&world, chunk(1, 2), &order, false).await;
        let done = world.sync_of(chunk(1, 2), &order, by).await.unwrap();
        assert_eq!(done.on_disk, order.map(ServerId), "{dies} died");
        // It is true.
        for (n, (disk, server)) in s {
            drop(server);
            disk.power_fails();
            let _again = world.start(n, &disk).await;
            world.control(n, settle(chunk(1, 3), &[n])).await.unwrap();
            let got = world.read(chunk(1, 3), n, 0, CHUNK_BYTES).await.unwrap();
            // The end of its last block may show: that is behind the end of the file.
            assert!(got[..9000] == pattern(1, 9000), "{n} does not have it after {dies} died");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_member_kept_is_lost_at_the_next_version_too() {
    let world = World::new().await;
    let s = servers(&world, 2).await;
    let by = written(&world).await;
    let mut again = vec![];
    for (n, (disk, server)) in s {
        drop(server);
        disk.power_fails();
        again.push(world.start(n, &disk).await);
    }
    bump(&world, chunk(1, 2), &[1, 2], true).await;
    let e = world.sync_of(chunk(1, 2), &[1, 2], by).await.unwrap_err();
    assert_eq!(e, ChunkError::Lost { chunk: ChunkId(1), server: ServerId(1) });
}

#[tokio::test(start_paused = true)]
async fn who_was_made_equal_to_one_that_lost_it_does_not_stand_for_it() {
    let world = World::new().await;
    let mut s = servers(&world, 2).await;
    let by = written(&world).await;
    // The second loses it, and is the only one that the masters reach for a while.
    let (disk, server) = s.remove(&2).unwrap();
    drop(server);
    disk.power_fails();
    let _second = world.start(2, &disk).await;
    bump(&world, chunk(1, 2), &[2, 1], true).await;
    // And the first, which never restarted, heads the next version.
    world.bump(chunk(1, 2), &[1, 2]).await;
    let e = world.sync_of(chunk(1, 3), &[1, 2], by).await.unwrap_err();
    assert_eq!(e, ChunkError::Lost { chunk: ChunkId(1), server: ServerId(1) });
}
