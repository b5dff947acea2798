//! Scrub finds damage that nobody reads, at its pace, and leaves alone what is not settled.

use crate::common::{disk::CrashDisk, *};
use mooseng_chunk::{Chunkserver, Timings};
use mooseng_core::{attr::Timestamp, ids::*, limits::FRAME_BYTES_MAX, meta::*};
use std::time::Duration;

const DATA: usize = 320 << 10;
const MIB: usize = 1 << 20;
/// A little less than the wait before the first round.
const FIRST: Duration = Duration::from_secs(55);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

async fn start(world: &World, disk: &CrashDisk, bytes_per_s: u64, every: Duration) -> Chunkserver {
    let mut o = world.options(1, vec![disk.mount()]);
    o.timings = Timings { scrub_bytes_per_s: bytes_per_s, scrub_every: every, ..o.timings };
    let server = Chunkserver::start(o).await.unwrap();
    until("it is ready", || server.is_ready()).await;
    server
}

/// Chunks of a number of frames of 1 MiB, synced.
async fn fill(world: &World, ids: std::ops::RangeInclusive<u64>, frames: u64) {
    for id in ids {
        let one = |n: u64| frame(id, n + 1, n * MIB as u64, pattern(id, FRAME_BYTES_MAX));
        world.write(chunk(id, 1), &[1], (0..frames).map(one).collect()).await.unwrap();
        world.sync(chunk(id, 1), &[1], vec![]).await.unwrap();
    }
}

fn told(world: &World) -> Vec<ChunkId> {
    let heard = world.leader.heard.lock();
    let beats = heard.iter().filter_map(|r| if let MetaRequest::Heartbeat(h) = r { Some(h) } else { None });
    beats.last().map(|h| h.damaged.iter().map(|c| c.id).collect()).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn damage_that_nobody_reads_is_found_and_told() {
    let (world, disk) = (World::new().await, CrashDisk::new());
    let server = start(&world, &disk, 8 << 20, secs(600)).await;
    fill(&world, 1..=5, 2).await;
    tokio::time::sleep(FIRST).await;
    until("a whole round is done", || server.status().scrubs[0].rounds == 1).await;
    let s = server.status().scrubs[0];
    assert_eq!((s.chunks, s.bytes, s.damages), (5, 10 << 20, 0));
    // A block, a page of the table, both headers: all while the files are open and were read.
    disk.rot(&path(2), DATA + 300 * BLOCK + 5, 1);
    disk.rot(&path(3), 2 * BLOCK + 99, 1);
    disk.rot(&path(4), 20, 1);
    disk.rot(&path(4), BLOCK + 20, 1);
    tokio::time::sleep(secs(600)).await;
    until("the next one is done", || server.status().scrubs[0].rounds == 2).await;
    let s = server.status().scrubs[0];
    assert_eq!((s.chunks, s.damages, s.found), (7, 3, 3));
    until("the masters are told", || told(&world) == [2, 3, 4].map(ChunkId)).await;
    assert_eq!(server.status().damaged, 3);
}

#[tokio::test(start_paused = true)]
async fn a_round_goes_at_its_pace_and_slower_beside_other_work() {
    let (world, disk) = (World::new().await, CrashDisk::new());
    let server = start(&world, &disk, 1 << 20, secs(3600)).await;
    fill(&world, 1..=3, 8).await;
    tokio::time::sleep(FIRST).await;
    until("a round begins", || server.status().scrubs[0].total > 0).await;
    let begun = tokio::time::Instant::now();
    tokio::time::sleep(secs(4)).await;
    let idle = server.status().scrubs[0].bytes;
    assert!((3 << 20..=5 << 20).contains(&idle), "{idle} bytes in 4 s");
    while begun.elapsed() < secs(12) {
        world.read(chunk(3, 1), 1, 0, 4096).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let busy = server.status().scrubs[0].bytes - idle;
    assert!((1 << 20..=3 << 20).contains(&busy), "{busy} bytes in 8 s beside reads");
}

#[tokio::test(start_paused = true)]
async fn a_round_that_is_asked_for_begins_at_once_also_when_scrubs_are_off() {
    let (world, disk) = (World::new().await, CrashDisk::new());
    let server = start(&world, &disk, 0, secs(1)).await;
    fill(&world, 1..=2, 4).await;
    tokio::time::sleep(secs(600)).await;
    assert_eq!(server.status().scrubs[0].bytes, 0, "they are off");
    let asked = Some(Timestamp::new(7, 0));
    *world.leader.scrub.lock() = asked;
    until("it is answered", || server.status().scrubs[0].answered == asked).await;
    tokio::time::sleep(secs(600)).await;
    let s = server.status().scrubs[0];
    assert_eq!((s.rounds, s.chunks), (1, 2), "one round for one asking");
}

#[tokio::test(start_paused = true)]
async fn what_is_dirty_or_gone_is_left_alone() {
    let (world, disk) = (World::new().await, CrashDisk::new());
    let server = start(&world, &disk, 1 << 20, secs(3600)).await;
    fill(&world, 1..=2, 2).await;
    world.write(chunk(3, 1), &[1], vec![frame(3, 1, 0, pattern(3, BLOCK))]).await.unwrap();
    tokio::time::sleep(FIRST).await;
    until("a round begins", || server.status().scrubs[0].total == 3).await;
    let delete = mooseng_core::chunk::Control::Delete { chunk: chunk(2, 1), term: Term(1) };
    world.control(1, delete).await.unwrap();
    until("the round is done", || server.status().scrubs[0].rounds == 1).await;
    let s = server.status().scrubs[0];
    assert_eq!((s.chunks, s.damages), (1, 0));
    assert_eq!(server.status().damaged, 0);
}

#[tokio::test(start_paused = true)]
async fn one_damaged_header_of_two_is_written_anew() {
    for slot in 0..2 {
        let (world, disk) = (World::new().await, CrashDisk::new());
        let server = start(&world, &disk, 8 << 20, secs(600)).await;
        fill(&world, 1..=1, 1).await;
        disk.rot(&path(1), slot * BLOCK + 20, 1);
        tokio::time::sleep(FIRST).await;
        until("a round is done", || server.status().scrubs[0].rounds == 1).await;
        let s = server.status().scrubs[0];
        assert_eq!((s.chunks, s.found), (1, 1));
        assert_eq!(server.status().damaged, 0, "nothing is for the masters to do");
        // Each is enough by itself, and says the same.
        drop(server);
        for gone in 0..2 {
            let disk = disk.copy();
            disk.rot(&path(1), gone * BLOCK + 20, 1);
            let server = world.start(1, &disk).await;
            let all = world.read(chunk(1, 1), 1, 0, MIB as u64).await.unwrap();
            assert!(all == pattern(1, FRAME_BYTES_MAX), "slot {slot} was mended, {gone} is damaged");
            drop(server);
        }
    }
}
