//! Kills, power failures, failed fsyncs, full disks.

use crate::common::{disk::CrashDisk, *};
use mooseng_core::{
    chunk::*,
    error::ChunkError,
    ids::*,
    meta::{MetaRequest, ReplicaState},
};
use std::time::Duration;

/// Where the data of a chunk file begins.
const DATA: usize = 320 << 10;

/// Waits until what was synced is known to be clean by the disk too.
async fn settle_marks() {
    tokio::time::sleep(Duration::from_secs(3)).await;
}

#[tokio::test(start_paused = true)]
async fn after_a_power_failure_what_was_dirty_is_suspect_and_what_was_synced_is_read() {
    let world = World::new().await;
    let disk = CrashDisk::new();
    let server = world.start(1, &disk).await;
    let (synced, dirty) = (pattern(1, 10_000), pattern(2, 10_000));
    world.write(chunk(1, 1), &[1], vec![frame(1, 1, 0, synced.clone())]).await.unwrap();
    world.sync(chunk(1, 1), &[1], vec![]).await.unwrap();
    settle_marks().await;
    let ack = world.write(chunk(2, 1), &[1], vec![frame(2, 1, 0, dirty)]).await.unwrap().unwrap();
    drop(server);
    disk.power_fails();
    let _server = world.start(1, &disk).await;
    assert_eq!(world.read(chunk(1, 1), 1, 0, 10_000).await.unwrap(), synced);
    // The headers of a chunk that was never synced may be gone with it; nothing of it is served.
    let e = world.read(chunk(2, 1), 1, 0, 10_000).await.unwrap_err();
    assert!(matches!(e, ChunkError::Suspect(_) | ChunkError::NotFound(_)), "{e}");
    let e = world.sync(chunk(2, 1), &[1], ack.members).await.unwrap_err();
    assert!(matches!(e, ChunkError::Lost { server: ServerId(1), .. }), "{e}");
    // The writer sends it again.
    let again = pattern(3, 10_000);
    match world.write(chunk(2, 1), &[1], vec![frame(2, 2, 0, again.clone())]).await {
        Ok(_) => assert_eq!(world.read(chunk(2, 1), 1, 0, 10_000).await.unwrap(), again),
        Err(e) => assert!(matches!(e, ChunkError::Suspect(_)), "{e}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_synced_chunk_that_became_dirty_again_is_suspect_until_it_is_settled() {
    let world = World::new().await;
    let disk = CrashDisk::new();
    let server = world.start(1, &disk).await;
    let old = pattern(1, 9000);
    world.write(chunk(1, 1), &[1], vec![frame(1, 1, 0, old.clone())]).await.unwrap();
    world.sync(chunk(1, 1), &[1], vec![]).await.unwrap();
    settle_marks().await;
    world.write(chunk(1, 1), &[1], vec![frame(1, 2, 0, pattern(2, 9000))]).await.unwrap();
    drop(server);
    disk.power_fails();
    let server = world.start(1, &disk).await;
    assert_eq!(server.status().suspect, 1);
    assert!(matches!(world.read(chunk(1, 1), 1, 0, 1).await, Err(ChunkError::Suspect(_))));
    assert!(matches!(world.sync(chunk(1, 1), &[1], vec![]).await, Err(ChunkError::Suspect(_))));
    let mut next = settle(chunk(1, 2), &[1]);
    if let Control::SetVersion { settle, .. } = &mut next {
        *settle = false;
    }
    assert!(matches!(world.control(1, next).await, Err(ChunkError::Suspect(_))), "a new version alone");
    world.control(1, settle(chunk(1, 2), &[1])).await.unwrap();
    assert_eq!(world.read(chunk(1, 2), 1, 0, 9000).await.unwrap(), old);
    let late = world.read(chunk(1, 1), 1, 0, 1).await;
    assert!(matches!(late, Err(ChunkError::Stale { .. })), "it is never good at its old version: {late:?}");
    server.shutdown().await;
    // It is clean: the next start suspects nothing.
    let server = world.start(1, &disk).await;
    assert_eq!((server.status().good, server.status().suspect), (1, 0));
}

/// Whether it is on the disk nobody knows: it may have been, with the older content.
#[tokio::test(start_paused = true)]
async fn a_version_that_could_not_be_flushed_is_not_good_after_a_restart() {
    for failing in [false, true] {
        let world = World::new().await;
        let disk = CrashDisk::new();
        let server = world.start(1, &disk).await;
        world.write(chunk(1, 1), &[1], vec![frame(1, 1, 0, pattern(1, 9000))]).await.unwrap();
        world.sync(chunk(1, 1), &[1], vec![]).await.unwrap();
        settle_marks().await;
        disk.fail_syncs(failing);
        let mut next = settle(chunk(1, 2), &[1]);
        if let Control::SetVersion { settle, .. } = &mut next {
            *settle = false;
        }
        assert_eq!(world.control(1, next).await.is_err(), failing);
        disk.fail_syncs(false);
        drop(server);
        disk.kill();
        let _server = world.start(1, &disk).await;
        let now = world.stat(1, 1).await.unwrap().report;
        let taken = now.state == ReplicaState::Good && now.chunk.version == ChunkVersion(2);
        assert!(!failing || !taken, "{now:?}");
    }
}

/// Power tore a first write that no sync covered: nothing was promised of it.
#[tokio::test(start_paused = true)]
async fn what_was_never_synced_and_is_torn_everywhere_is_a_hole_again() {
    let world = World::new().await;
    let disk = CrashDisk::new();
    let server = world.start(1, &disk).await;
    let synced = pattern(1, 3 * BLOCK);
    world.write(chunk(1, 1), &[1], vec![frame(1, 1, 0, synced.clone())]).await.unwrap();
    world.sync(chunk(1, 1), &[1], vec![]).await.unwrap();
    settle_marks().await;
    // Twice, so that neither is what was there before.
    for n in 2..=3 {
        let frames = vec![frame(1, n, 4 * BLOCK as u64, pattern(n, BLOCK))];
        world.write(chunk(1, 1), &[1], frames).await.unwrap();
    }
    drop(server);
    disk.kill();
    disk.rot(&path(1), DATA + 4 * BLOCK + 9, 0x20);
    disk.rot(&path(1), DATA + BLOCK + 9, 0x20);
    let _server = world.start(1, &disk).await;
    world.control(1, settle(chunk(1, 2), &[1])).await.unwrap();
    let hole = world.read(chunk(1, 2), 1, 4 * BLOCK as u64, BLOCK as u64).await.unwrap();
    assert!(hole.iter().all(|b| *b == 0));
    assert!(world.read(chunk(1, 2), 1, 0, BLOCK as u64).await.unwrap() == synced[..BLOCK]);
    let e = world.read(chunk(1, 2), 1, BLOCK as u64, 1).await.unwrap_err();
    assert!(matches!(e, ChunkError::Damaged { .. }), "what was synced is never a hole: {e}");
}

#[tokio::test(start_paused = true)]
async fn what_was_deleted_is_not_made_again_by_a_late_write() {
    let world = World::new().await;
    let disk = CrashDisk::new();
    let _server = world.start(1, &disk).await;
    let late = || world.write(chunk(1, 1), &[1], vec![frame(1, 1, 0, pattern(1, 100))]);
    late().await.unwrap();
    for _ in 0..2 {
        world.control(1, Control::Delete { chunk: chunk(1, 1), term: Term(1) }).await.unwrap();
        let e = late().await.unwrap_err();
        assert!(matches!(e, ChunkError::NotFound(_)), "{e}");
    }
    assert!(!disk.has(&path(1)));
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_leaves_nothing_suspect() {
    let world = World::new().await;
    let disk = CrashDisk::new();
    let server = world.start(1, &disk).await;
    let data = pattern(1, 70_000);
    world.write(chunk(1, 1), &[1], vec![frame(1, 1, 5, data.clone())]).await.unwrap();
    server.shutdown().await;
    disk.power_fails();
    let server = world.start(1, &disk).await;
    assert_eq!(server.status().suspect, 0);
    assert_eq!(world.read(chunk(1, 1), 1, 0, 1 << 20).await.unwrap()[5..], data);
}

/// The process dies before each of the changes that two overwrites make, one run for each. Whatever
/// the moment, every block is what it was, or what was being written to it, and nothing is damaged.
#[tokio::test(start_paused = true)]
async fn a_kill_between_any_two_changes_loses_nothing() {
    let soon = kills_between_changes(Duration::ZERO).await;
    // Long after the sync, the note that the chunk is dirty has to be made again.
    let late = kills_between_changes(Duration::from_secs(60)).await;
    assert!(soon > 3 && late > soon, "the kills hit {soon} and {late} moments");
}

/// With so much time between the sync and the overwrites; how many moments there were.
async fn kills_between_changes(rest: Duration) -> u32 {
    let mut points = 0;
    for dies_after in 1.. {
        let world = World::new().await;
        let disk = CrashDisk::new();
        let server = world.start(1, &disk).await;
        // Block 2 is a hole before; blocks 0 and 1 are synced, then overwritten twice.
        let images: Vec<_> = (0..3).map(|n| pattern(n, 2 * BLOCK)).collect();
        world.write(chunk(1, 1), &[1], vec![frame(1, 1, 0, images[0].clone())]).await.unwrap();
        world.sync(chunk(1, 1), &[1], vec![]).await.unwrap();
        tokio::time::sleep(rest).await;
        disk.dies_after(dies_after);
        let mut acked = 0;
        for (n, image) in images.iter().enumerate().skip(1) {
            let at = (n as u64 - 1) * 100;
            let frames = vec![frame(1, n as u64 + 1, at, image.clone())];
            if world.write(chunk(1, 1), &[1], frames).await.is_ok() {
                acked = n;
            }
        }
        let died = disk.is_dead();
        drop(server);
        disk.kill();
        let server = world.start(1, &disk).await;
        if server.status().suspect == 1 {
            world.control(1, settle(chunk(1, 1), &[1])).await.unwrap();
        }
        assert_eq!(server.status().damaged, 0, "killed after {dies_after} changes");
        let got = world.read(chunk(1, 1), 1, 0, 1 << 20).await.unwrap();
        let mut states = vec![images[0].clone()];
        for (n, image) in images.iter().enumerate().skip(1) {
            let (mut next, at) = (states[n - 1].clone(), (n - 1) * 100);
            next.resize(next.len().max(at + 2 * BLOCK), 0);
            next[at..at + 2 * BLOCK].copy_from_slice(image);
            states.push(next);
        }
        for block in 0..got.len().div_ceil(BLOCK) {
            let of = |image: &Vec<u8>| {
                let mut b = image.get(block * BLOCK..).unwrap_or_default().to_vec();
                b.resize(BLOCK, 0);
                b
            };
            let mut here = got[block * BLOCK..got.len().min((block + 1) * BLOCK)].to_vec();
            here.resize(BLOCK, 0);
            let possible = states[acked..].iter().any(|s| of(s) == here);
            assert!(possible, "killed after {dies_after} changes: block {block}, {acked} acknowledged");
        }
        points += 1;
        if !died {
            break;
        }
    }
    points
}

#[tokio::test(start_paused = true)]
async fn a_failed_fsync_poisons_the_chunk_and_is_told() {
    let world = World::new().await;
    let disk = CrashDisk::new();
    let server = world.start(1, &disk).await;
    world.write(chunk(1, 1), &[1], vec![frame(1, 1, 0, pattern(1, 5000))]).await.unwrap();
    disk.fail_syncs(true);
    assert!(matches!(world.sync(chunk(1, 1), &[1], vec![]).await, Err(ChunkError::Disk { .. })));
    disk.fail_syncs(false);
    // It does not become good by trying again.
    assert!(matches!(world.sync(chunk(1, 1), &[1], vec![]).await, Err(ChunkError::Damaged { .. })));
    assert!(matches!(world.read(chunk(1, 1), 1, 0, 1).await, Err(ChunkError::Damaged { .. })));
    assert_eq!(world.stat(1, 1).await.unwrap().report.state, ReplicaState::Damaged);
    assert_eq!(server.status().damaged, 1);
    let heard = |r: &MetaRequest| matches!(r, MetaRequest::Heartbeat(h) if h.damaged == [chunk(1, 1)]);
    until("the leader hears of it", || world.leader.heard.lock().iter().any(heard)).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_and_keeps_what_it_has() {
    let world = World::new().await;
    let disk = CrashDisk::new();
    let _server = world.start(1, &disk).await;
    let data = pattern(1, 10_000);
    world.write(chunk(1, 1), &[1], vec![frame(1, 1, 0, data.clone())]).await.unwrap();
    disk.fill(true);
    let e = world.write(chunk(1, 1), &[1], vec![frame(1, 2, 8000, pattern(2, 50_000))]).await.unwrap_err();
    assert_eq!(e, ChunkError::NoSpace(ServerId(1)));
    assert_eq!(world.read(chunk(1, 1), 1, 0, 10_000).await.unwrap(), data);
    // What fits is taken, and the refused write comes through once there is room.
    world.write(chunk(1, 1), &[1], vec![frame(1, 2, 0, pattern(3, 100))]).await.unwrap();
    disk.fill(false);
    let more = pattern(2, 50_000);
    world.write(chunk(1, 1), &[1], vec![frame(1, 3, 8000, more.clone())]).await.unwrap();
    assert_eq!(world.read(chunk(1, 1), 1, 0, 1 << 20).await.unwrap()[8000..], more);
}

#[tokio::test(start_paused = true)]
async fn the_reserve_is_not_written_to() {
    let world = World::new().await;
    let disk = mooseng_host::MemDisk::with_capacity("small", 16 << 20);
    let mut options = world.options(1, vec![std::sync::Arc::new(disk)]);
    options.reserve = 8 << 20;
    let server = mooseng_chunk::Chunkserver::start(options).await.unwrap();
    until("it is ready", || server.is_ready()).await;
    let mut at = 0;
    let e = loop {
        match world.write(chunk(1, 1), &[1], vec![frame(1, at + 1, at << 20, pattern(at, 1 << 20))]).await {
            Ok(_) => at += 1,
            Err(e) => break e,
        }
    };
    assert_eq!(e, ChunkError::NoSpace(ServerId(1)));
    assert!((5..=8).contains(&at), "{at} MiB were taken of 8");
    assert!(server.status().disks[0].free_bytes < 1 << 20);
    // No other chunk is begun either.
    let e = world.write(chunk(2, 1), &[1], vec![frame(2, 1, 0, vec![1])]).await.unwrap_err();
    assert_eq!(e, ChunkError::NoSpace(ServerId(1)));
    assert!(matches!(world.stat(1, 2).await, Err(ChunkError::NotFound(_))), "nothing of it is reported");
}

#[tokio::test(start_paused = true)]
async fn a_directory_belongs_to_one_server() {
    let world = World::new().await;
    let disk = CrashDisk::new();
    world.start(1, &disk).await.shutdown().await;
    let e = world.try_start(2, &disk).await.unwrap_err().to_string();
    assert!(e.contains("belongs to chunkserver 1") && e.contains("not to chunkserver 2"), "{e}");
}

/// Power took the file of a chunk that was never synced. It must not come again with holes where acknowledged
/// data was: the head has the chunk, so that the one behind it has lost it.
#[tokio::test(start_paused = true)]
async fn a_member_that_lost_a_new_chunk_does_not_make_it_again() {
    let world = World::new().await;
    let (one, two) = (CrashDisk::new(), CrashDisk::new());
    let _first = world.start(1, &one).await;
    let second = world.start(2, &two).await;
    let (it, chain) = (chunk(1, 1), [1, 2]);
    let (a, b) = (pattern(1, BLOCK), pattern(2, BLOCK));
    world.write(it, &chain, vec![frame(1, 1, 0, a.clone())]).await.unwrap();
    drop(second);
    two.power_fails();
    let _second = world.start(2, &two).await;
    assert!(matches!(world.stat(2, 1).await, Err(ChunkError::NotFound(_))));
    // The writer's stream broke: it sends again what it holds, and goes on.
    let again = vec![frame(1, 1, 0, a.clone()), frame(1, 2, BLOCK as u64, b.clone())];
    let e = world.write(it, &chain, again).await.unwrap_err();
    assert!(matches!(e, ChunkError::Chain { server: ServerId(2), .. }), "{e}");
    assert!(matches!(world.stat(2, 1).await, Err(ChunkError::NotFound(_))));
    // The next version has all of it at both.
    let op = Control::SetVersion {
        chunk: it.id,
        to: ChunkVersion(2),
        members: vec![ServerId(1), ServerId(2)],
        cut_to: None,
        create: false,
        settle: false,
        term: Term(1),
    };
    world.control(1, op).await.unwrap();
    world.pull(2, chunk(1, 2), &[1]).await.unwrap();
    world.write(chunk(1, 2), &chain, vec![frame(1, 2, BLOCK as u64, b.clone())]).await.unwrap();
    for server in chain {
        let got = world.read(chunk(1, 2), server, 0, 2 * BLOCK as u64).await.unwrap();
        assert_eq!(got, [a.clone(), b.clone()].concat(), "server {server}");
    }
}

const OTHER: SessionStamp = SessionStamp { id: SessionId(8), epoch: SessionEpoch(1) };

/// What one client repeats, which it does not know to be on disk, undoes nothing that another has synced.
#[tokio::test(start_paused = true)]
async fn a_synced_write_stays_though_the_one_before_it_comes_again_after_a_power_failure() {
    for logged in [false, true] {
        let world = World::new().await;
        let disk = CrashDisk::new();
        let server = world.start(1, &disk).await;
        let (ours, theirs) = (pattern(1, 5000), pattern(2, 5000));
        let write = async |session, frames| {
            let req = world.write_request_of(session, chunk(1, 1), &[1]);
            world.write_as(req, frames).await.unwrap();
        };
        if logged {
            // A write beside what is synced, and one over it, both durable in the file; then the other's.
            write(SESSION, vec![frame(1, 1, 0, pattern(0, 5000))]).await;
            world.sync(chunk(1, 1), &[1], vec![]).await.unwrap();
            write(SESSION, vec![frame(1, 2, 1 << 20, ours.clone()), frame(1, 3, 0, ours.clone())]).await;
            world.sync(chunk(1, 1), &[1], vec![]).await.unwrap();
        } else {
            write(SESSION, vec![frame(1, 3, 0, ours.clone())]).await;
        }
        write(OTHER, vec![frame(1, 1, 0, theirs.clone())]).await;
        world.sync(chunk(1, 1), &[1], vec![]).await.unwrap();
        settle_marks().await;
        drop(server);
        disk.power_fails();
        let _server = world.start(1, &disk).await;
        assert!(world.read(chunk(1, 1), 1, 0, 5000).await.unwrap().starts_with(&theirs));
        write(SESSION, vec![frame(1, 3, 0, ours)]).await;
        let now = world.read(chunk(1, 1), 1, 0, 5000).await.unwrap();
        assert!(now.starts_with(&theirs), "logged: {logged}");
    }
}

/// The same when power tears the sync after it: no header that is durable is written over before another is.
#[tokio::test(start_paused = true)]
async fn a_torn_header_does_not_take_the_numbers_of_the_sync_before() {
    let theirs = pattern(2, 5000);
    for (changes, seed) in (0..8).flat_map(|n| (1..24).map(move |seed| (n, seed * 7919))) {
        let world = World::new().await;
        let disk = CrashDisk::new();
        let server = world.start(1, &disk).await;
        let write = async |chunk, session, frames| {
            let req = world.write_request_of(session, chunk, &[1]);
            world.write_as(req, frames).await
        };
        write(chunk(1, 1), SESSION, vec![frame(1, 3, 0, pattern(1, 5000))]).await.unwrap();
        write(chunk(1, 1), OTHER, vec![frame(1, 1, 0, theirs.clone())]).await.unwrap();
        world.sync(chunk(1, 1), &[1], vec![]).await.unwrap();
        let third = SessionStamp { id: SessionId(9), ..OTHER };
        write(chunk(1, 1), third, vec![frame(1, 1, 1 << 20, pattern(3, 5000))]).await.unwrap();
        disk.dies_after(changes);
        let _ = world.sync(chunk(1, 1), &[1], vec![]).await;
        drop(server);
        disk.power_tears(seed);
        let _server = world.start(1, &disk).await;
        world.control(1, settle(chunk(1, 2), &[1])).await.unwrap();
        write(chunk(1, 2), SESSION, vec![frame(1, 3, 0, pattern(1, 5000))]).await.unwrap();
        let now = world.read(chunk(1, 2), 1, 0, 5000).await.unwrap();
        assert!(now.starts_with(&theirs), "{changes} changes, seed {seed}");
    }
}

/// What a start cannot take from the redo log was synced all the same: nothing is done with the chunk before.
#[tokio::test(start_paused = true)]
async fn what_a_start_has_no_room_for_is_taken_from_the_redo_log_before_anything_else() {
    for copied in [false, true] {
        let world = World::new().await;
        let disk = CrashDisk::new();
        let server = world.start(1, &disk).await;
        let _other = world.start(2, &CrashDisk::new()).await;
        let (old, new) = (pattern(1, 50), pattern(2, 50));
        world.write(chunk(1, 1), &[1, 2], vec![frame(1, 1, 0, pattern(0, 100))]).await.unwrap();
        world.sync(chunk(1, 1), &[1, 2], vec![]).await.unwrap();
        world.write(chunk(2, 1), &[1], vec![frame(2, 1, 0, pattern(3, 5000))]).await.unwrap();
        world.sync(chunk(2, 1), &[1], vec![]).await.unwrap();
        settle_marks().await;
        world.write(chunk(1, 1), &[1], vec![frame(1, 2, 0, old.clone())]).await.unwrap();
        world.sync(chunk(1, 1), &[1], vec![]).await.unwrap();
        settle_marks().await;
        drop(server);
        disk.power_fails();
        // A whole block is more than the file has.
        disk.fill(true);
        let server = world.start(1, &disk).await;
        assert_eq!(world.stat(1, 1).await.unwrap().report.state, ReplicaState::Suspect);
        let e = world.control(1, settle(chunk(1, 2), &[1])).await.unwrap_err();
        assert!(matches!(e, ChunkError::NoSpace(_)), "{e}");
        // Nothing goes over what the log has of it.
        let beside = || vec![frame(2, 2, 0, pattern(4, 5000))];
        let e = world.write(chunk(2, 1), &[1], beside()).await.unwrap_err();
        assert!(matches!(e, ChunkError::NoSpace(_)), "{e}");
        if copied {
            world.write(chunk(1, 1), &[2], vec![frame(1, 2, 0, new.clone())]).await.unwrap();
            world.bump(chunk(1, 1), &[2]).await;
        }
        disk.fill(false);
        let want = if copied { &new } else { &old };
        match copied {
            true => world.pull(1, chunk(1, 2), &[2]).await.unwrap(),
            false => world.control(1, settle(chunk(1, 2), &[1])).await.unwrap(),
        };
        assert!(world.read(chunk(1, 2), 1, 0, 50).await.unwrap().starts_with(want));
        world.write(chunk(2, 1), &[1], beside()).await.unwrap();
        settle_marks().await;
        drop(server);
        disk.power_fails();
        let _server = world.start(1, &disk).await;
        assert!(world.read(chunk(1, 2), 1, 0, 50).await.unwrap().starts_with(want), "copied: {copied}");
    }
}

/// A flush that a write needs is as much of a flush as a sync's: what it failed with is not known.
#[tokio::test(start_paused = true)]
async fn a_flush_that_fails_in_the_midst_of_a_write_ends_the_replica() {
    let world = World::new().await;
    let disk = CrashDisk::new();
    let _server = world.start(1, &disk).await;
    world.write(chunk(1, 1), &[1], vec![frame(1, 1, 0, pattern(1, 5000))]).await.unwrap();
    world.sync(chunk(1, 1), &[1], vec![]).await.unwrap();
    disk.fail_syncs(true);
    let req = world.write_request_of(OTHER, chunk(1, 1), &[1]);
    world.write_as(req, vec![frame(1, 1, 0, pattern(2, 5000))]).await.unwrap_err();
    disk.fail_syncs(false);
    assert_eq!(world.stat(1, 1).await.unwrap().report.state, ReplicaState::Damaged);
    world.sync(chunk(1, 1), &[1], vec![]).await.unwrap_err();
}

/// What the kernel shows after a failed flush may never be on the disk: a copy does not take it for what is there.
#[tokio::test(start_paused = true)]
async fn a_replica_whose_flush_failed_is_written_anew() {
    let world = World::new().await;
    let disk = CrashDisk::new();
    let server = world.start(1, &disk).await;
    let _other = world.start(2, &CrashDisk::new()).await;
    world.write(chunk(1, 1), &[2, 1], vec![frame(1, 1, 0, pattern(1, 50_000))]).await.unwrap();
    disk.fail_syncs(true);
    world.sync(chunk(1, 1), &[2, 1], vec![]).await.unwrap_err();
    disk.fail_syncs(false);
    let v2 = world.bump(chunk(1, 1), &[2]).await;
    world.pull_of(Some(ChunkVersion(1)), 1, v2, &[2]).await.unwrap();
    world.sync(v2, &[2, 1], vec![]).await.unwrap();
    settle_marks().await;
    drop(server);
    disk.power_fails();
    let _server = world.start(1, &disk).await;
    assert!(world.read(v2, 1, 0, 50_000).await.unwrap().starts_with(&pattern(1, 50_000)));
}

/// What is durable in the redo log and waits for room does not come back behind a cut.
#[tokio::test(start_paused = true)]
async fn a_cut_waits_for_what_has_no_room_in_the_file_yet() {
    let world = World::new().await;
    let disk = CrashDisk::new();
    let server = world.start(1, &disk).await;
    world.write(chunk(1, 1), &[1], vec![frame(1, 1, 0, pattern(1, 100))]).await.unwrap();
    world.sync(chunk(1, 1), &[1], vec![]).await.unwrap();
    world.write(chunk(1, 1), &[1], vec![frame(1, 2, 0, pattern(2, 100))]).await.unwrap();
    disk.fill(true);
    world.sync(chunk(1, 1), &[1], vec![]).await.unwrap();
    let mut cut = settle(chunk(1, 2), &[1]);
    if let Control::SetVersion { settle, cut_to, .. } = &mut cut {
        (*settle, *cut_to) = (false, Some(0));
    }
    let e = world.control(1, cut.clone()).await.unwrap_err();
    assert!(matches!(e, ChunkError::NoSpace(_)), "{e}");
    disk.fill(false);
    world.control(1, cut).await.unwrap();
    settle_marks().await;
    drop(server);
    disk.power_fails();
    let _server = world.start(1, &disk).await;
    assert_eq!(world.stat(1, 1).await.unwrap().report.length, 0);
}

/// A chunk that is gone needs nothing of the log.
#[tokio::test(start_paused = true)]
async fn the_redo_log_is_held_no_longer_than_for_chunks_that_are_there() {
    let world = World::new().await;
    let disk = CrashDisk::new();
    let server = world.start(1, &disk).await;
    for id in [1, 2] {
        world.write(chunk(id, 1), &[1], vec![frame(id, 1, 0, pattern(id, 100))]).await.unwrap();
        world.sync(chunk(id, 1), &[1], vec![]).await.unwrap();
    }
    settle_marks().await;
    world.write(chunk(1, 1), &[1], vec![frame(1, 2, 0, pattern(3, 100))]).await.unwrap();
    world.sync(chunk(1, 1), &[1], vec![]).await.unwrap();
    drop(server);
    disk.power_fails();
    disk.fill(true);
    let _server = world.start(1, &disk).await;
    let over = || vec![frame(2, 2, 0, pattern(4, 50))];
    let e = world.write(chunk(2, 1), &[1], over()).await.unwrap_err();
    assert!(matches!(e, ChunkError::NoSpace(_)), "{e}");
    disk.fill(false);
    world.control(1, Control::Delete { chunk: chunk(1, 1), term: Term(1) }).await.unwrap();
    world.write(chunk(2, 1), &[1], over()).await.unwrap();
}
