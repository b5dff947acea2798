//! A chunk with acknowledged writes that are not synced is never taken for clean, whatever becomes of the notes.

use crate::common::{disk::CrashDisk, *};
use mooseng_core::{
    error::ChunkError,
    ids::*,
    meta::{MetaRequest, ReplicaState},
};
use std::time::Duration;

const NOTES: &str = "dirty.redb";
const DATA: usize = 320 << 10;

async fn write(world: &World, id: u64, number: u64, at: u64, data: Vec<u8>) {
    world.write(chunk(id, 1), &[1], vec![frame(id, number, at, data)]).await.unwrap();
}

async fn sync(world: &World, id: u64) {
    world.sync(chunk(id, 1), &[1], vec![]).await.unwrap();
    notes_go().await;
}

/// Those of chunks that were synced.
async fn notes_go() {
    tokio::time::sleep(Duration::from_secs(3)).await;
}

async fn state(world: &World, id: u64) -> ReplicaState {
    world.stat(1, id).await.unwrap().report.state
}

/// Of a flipped bit in its newest commit redb knows the cure of going back to the one before.
#[tokio::test(start_paused = true)]
async fn a_chunk_whose_note_was_lost_is_suspect_all_the_same() {
    let (world, disk) = (World::new().await, CrashDisk::new());
    let server = world.start(1, &disk).await;
    // Of the second something is synced; the third stays as it was synced.
    write(&world, 2, 1, 0, pattern(2, 10_000)).await;
    write(&world, 3, 1, 0, pattern(3, 10_000)).await;
    sync(&world, 2).await;
    sync(&world, 3).await;
    let before = disk.copy();
    write(&world, 1, 1, 0, pattern(1, 200_000)).await;
    write(&world, 2, 2, 90_000, pattern(22, 5000)).await;
    drop(server);
    disk.kill();
    disk.goes_back(NOTES, &before);
    let server = world.start(1, &disk).await;
    let e = world.read(chunk(1, 1), 1, 0, 200_000).await.unwrap_err();
    assert!(matches!(e, ChunkError::Suspect(_)), "not zeros: {e}");
    // Who asks before anybody has read hears it, too.
    assert_eq!(state(&world, 2).await, ReplicaState::Suspect);
    assert_eq!(state(&world, 3).await, ReplicaState::Good);
    assert_eq!(world.read(chunk(3, 1), 1, 0, 10_000).await.unwrap(), pattern(3, 10_000));
    until("the masters hear of both", || {
        let heard = world.leader.heard.lock();
        let damaged = heard.iter().rev().find_map(|r| match r {
            MetaRequest::Heartbeat(h) => Some(h.damaged.iter().map(|c| c.id).collect::<Vec<_>>()),
            _ => None,
        });
        damaged == Some(vec![ChunkId(1), ChunkId(2)])
    })
    .await;
    // All that was written is there.
    world.control(1, settle(chunk(1, 2), &[1])).await.unwrap();
    world.control(1, settle(chunk(2, 2), &[1])).await.unwrap();
    assert_eq!(world.read(chunk(1, 2), 1, 0, 200_000).await.unwrap(), pattern(1, 200_000));
    let second = world.read(chunk(2, 2), 1, 0, 95_000).await.unwrap();
    assert!(second[..10_000] == pattern(2, 10_000) && second[90_000..] == pattern(22, 5000));
    notes_go().await;
    drop(server);
    disk.kill();
    let server = world.start(1, &disk).await;
    assert_eq!((server.status().good, server.status().suspect), (3, 0), "it is settled for good");
}

#[tokio::test(start_paused = true)]
async fn what_the_redo_log_has_is_clean_and_what_went_in_beside_it_is_not() {
    for beside in [false, true] {
        let (world, disk) = (World::new().await, CrashDisk::new());
        let server = world.start(1, &disk).await;
        write(&world, 1, 1, 0, pattern(1, 3 * BLOCK)).await;
        sync(&world, 1).await;
        let before = disk.copy();
        // By the log, and put into the file by the sync that follows, without a header.
        write(&world, 1, 2, 0, pattern(2, BLOCK)).await;
        world.sync(chunk(1, 1), &[1], vec![]).await.unwrap();
        if beside {
            write(&world, 1, 3, 8 * BLOCK as u64, pattern(3, BLOCK)).await;
        }
        drop(server);
        disk.kill();
        disk.goes_back(NOTES, &before);
        let _server = world.start(1, &disk).await;
        let expected = if beside { ReplicaState::Suspect } else { ReplicaState::Good };
        assert_eq!(state(&world, 1).await, expected, "written beside the log: {beside}");
        if beside {
            world.control(1, settle(chunk(1, 2), &[1])).await.unwrap();
        }
        let version = 1 + u64::from(beside);
        let got = world.read(chunk(1, version), 1, 0, 3 * BLOCK as u64).await.unwrap();
        assert!(got[..BLOCK] == pattern(2, BLOCK) && got[BLOCK..] == pattern(1, 3 * BLOCK)[BLOCK..]);
        if beside {
            let got = world.read(chunk(1, 2), 1, 8 * BLOCK as u64, BLOCK as u64).await.unwrap();
            assert_eq!(got, pattern(3, BLOCK));
        }
    }
}

/// Nothing in the log is behind the last record, and no chunk is noted that it could be a torn write of.
#[tokio::test(start_paused = true)]
async fn a_bit_of_the_last_record_of_the_redo_log_is_not_taken_for_a_torn_end() {
    for flips in [false, true] {
        let (world, disk) = (World::new().await, CrashDisk::new());
        let server = world.start(1, &disk).await;
        write(&world, 1, 1, 0, pattern(1, 3 * BLOCK)).await;
        sync(&world, 1).await;
        write(&world, 1, 2, 0, pattern(2, BLOCK)).await;
        sync(&world, 1).await;
        drop(server);
        disk.power_fails();
        if flips {
            disk.rot("redo.0", 8192 + 100, 1);
        }
        let _server = world.start(1, &disk).await;
        let expected = if flips { ReplicaState::Suspect } else { ReplicaState::Good };
        assert_eq!(state(&world, 1).await, expected, "a bit flipped: {flips}");
    }
}

/// What made all chunks suspect is forgotten by then.
#[tokio::test(start_paused = true)]
async fn after_lost_notes_or_a_damaged_log_another_kill_blesses_nothing() {
    for damage in [NOTES, "redo.0"] {
        let (world, disk) = (World::new().await, CrashDisk::new());
        let server = world.start(1, &disk).await;
        for id in 1..=2 {
            write(&world, id, 1, 0, pattern(id, BLOCK)).await;
            sync(&world, id).await;
        }
        write(&world, 1, 2, 0, pattern(9, BLOCK)).await;
        sync(&world, 1).await;
        write(&world, 1, 3, 0, pattern(10, BLOCK)).await;
        sync(&world, 1).await;
        drop(server);
        disk.kill();
        // All of the notes; the first record of the log, which a second one says was durable.
        let places = if damage == NOTES { 0..disk.len_of(NOTES) } else { 8292..8293 };
        places.for_each(|at| disk.rot(damage, at, 0x40));
        for start in 1..=3 {
            let server = world.start(1, &disk).await;
            assert_eq!((server.status().good, server.status().suspect), (0, 2), "{damage}, start {start}");
            drop(server);
            disk.kill();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_flipped_bit_in_a_directorys_identity_is_refused() {
    let (world, disk) = (World::new().await, CrashDisk::new());
    drop(world.start(1, &disk).await);
    disk.kill();
    for bit in 0..disk.len_of("identity") * 8 {
        let damaged = disk.copy();
        damaged.rot("identity", bit / 8, 1 << (bit % 8));
        let e = world.try_start(1, &damaged).await.err().unwrap().to_string();
        assert!(e.contains("identity file is damaged"), "bit {bit}: {e}");
    }
    drop(world.start(1, &disk).await);
}

/// A power failure leaves the header that was flushed, and not the twin that follows it.
#[tokio::test(start_paused = true)]
async fn a_lost_twin_of_the_header_makes_nothing_suspect() {
    let (world, disk) = (World::new().await, CrashDisk::new());
    let server = world.start(1, &disk).await;
    write(&world, 1, 1, 0, pattern(1, 10_000)).await;
    sync(&world, 1).await;
    drop(server);
    disk.power_fails();
    let server = world.start(1, &disk).await;
    assert_eq!(state(&world, 1).await, ReplicaState::Good);
    assert_eq!(world.read(chunk(1, 1), 1, 0, 10_000).await.unwrap(), pattern(1, 10_000));
    assert_eq!(server.status().suspect, 0);
}

/// The header that is left is of the file's making, knows of no length and of no page, and the page that would belie it is
/// the other that was damaged.
#[tokio::test(start_paused = true)]
async fn an_older_header_is_not_believed_because_the_newer_one_is_damaged() {
    // Of a page that reads as zeros only a server that runs knows.
    for (while_it_runs, as_zeros) in [(false, false), (true, false), (true, true)] {
        let (world, disk) = (World::new().await, CrashDisk::new());
        let server = world.start(1, &disk).await;
        write(&world, 1, 1, 0, pattern(1, 20_000)).await;
        sync(&world, 1).await;
        notes_go().await;
        drop(server);
        disk.power_fails();
        let damage = || {
            disk.rot(&path(1), 4096 + 20, 1);
            match as_zeros {
                true => disk.loses(&path(1), 2 * 4096..3 * 4096),
                false => disk.rot(&path(1), 2 * 4096 + 20, 1),
            }
        };
        if !while_it_runs {
            damage();
        }
        let _server = world.start(1, &disk).await;
        if while_it_runs {
            damage();
        }
        let got = world.read(chunk(1, 1), 1, 0, 20_000).await;
        assert!(
            matches!(got, Err(ChunkError::Damaged { .. })),
            "{while_it_runs}: {:?}",
            got.map(|b| b.len())
        );
    }
}

/// That a block is what it was before its last write is right after a kill only.
#[tokio::test(start_paused = true)]
async fn a_write_that_the_disk_lost_is_damage_while_its_server_runs() {
    let (world, disk) = (World::new().await, CrashDisk::new());
    let server = world.start(1, &disk).await;
    write(&world, 1, 1, 0, pattern(1, 3 * BLOCK)).await;
    disk.loses(&path(1), DATA..DATA + BLOCK);
    let e = world.read(chunk(1, 1), 1, 0, BLOCK as u64).await.unwrap_err();
    assert!(matches!(e, ChunkError::Damaged { .. }), "not zeros: {e}");
    let rest = world.read(chunk(1, 1), 1, BLOCK as u64, 2 * BLOCK as u64).await.unwrap();
    assert!(rest == pattern(1, 3 * BLOCK)[BLOCK..]);
    drop(server);
    disk.kill();
    let _server = world.start(1, &disk).await;
    assert_eq!(state(&world, 1).await, ReplicaState::Suspect);
    world.control(1, settle(chunk(1, 2), &[1])).await.unwrap();
    let all = world.read(chunk(1, 2), 1, 0, 3 * BLOCK as u64).await.unwrap();
    assert!(all[..BLOCK].iter().all(|b| *b == 0) && all[BLOCK..] == pattern(1, 3 * BLOCK)[BLOCK..]);
}
