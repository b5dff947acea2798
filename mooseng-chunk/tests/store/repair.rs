//! Damage is never served nor copied as anything else; copies make replicas equal.

use crate::common::*;
use mooseng_core::{chunk::*, error::ChunkError, ids::*, limits::CHUNK_BYTES, meta::ReplicaState};

const DATA: usize = 320 << 10;

fn set_version(id: u64, to: u64, cut_to: Option<u64>) -> Control {
    let members = vec![ServerId(1), ServerId(2)];
    Control::SetVersion {
        chunk: ChunkId(id),
        to: ChunkVersion(to),
        members,
        cut_to,
        create: false,
        settle: false,
        term: Term(1),
    }
}

/// A chunk with data, a hole and data on a second table page, synced on servers 1 to `n`.
async fn filled(world: &World, n: u64) -> Vec<u8> {
    let all: Vec<u64> = (1..=n).collect();
    let (first, far) = (pattern(1, 50_000), pattern(2, 30_000));
    let at = 600 * BLOCK;
    let frames = vec![frame(1, 1, 0, first.clone()), frame(1, 2, at as u64, far.clone())];
    world.write(chunk(1, 1), &all, frames).await.unwrap();
    world.sync(chunk(1, 1), &all, vec![]).await.unwrap();
    let mut whole = first;
    whole.resize(at, 0);
    whole.extend(far);
    whole
}

/// Restarts cleanly a server whose file is changed while it is down.
async fn rotten(world: &World, server: u64, s: &mut Servers, rot: impl Fn(&crate::common::disk::CrashDisk)) {
    let (disk, old) = s.remove(&server).unwrap();
    old.shutdown().await;
    rot(&disk);
    let new = world.start(server, &disk).await;
    s.insert(server, (disk, new));
}

type Servers = std::collections::BTreeMap<u64, (crate::common::disk::CrashDisk, mooseng_chunk::Chunkserver)>;

#[tokio::test(start_paused = true)]
async fn no_flipped_bit_yields_wrong_data() {
    let world = World::new().await;
    let mut s = servers(&world, 1).await;
    let whole = filled(&world, 1).await;
    let len = s[&1].0.len_of(&path(1));
    let (mut refused, mut harmless) = (0, 0);
    for round in 0..200usize {
        let at = (round * 7919 * 13 + round * round * 31) % (DATA + 60_000).min(len);
        rotten(&world, 1, &mut s, |d| d.rot(&path(1), at, 1 << (round % 8))).await;
        // Block by block, so that damage in one does not hide the others.
        for block in 0..whole.len().div_ceil(BLOCK) {
            let from = block * BLOCK;
            match world.read(chunk(1, 1), 1, from as u64, BLOCK as u64).await {
                Ok(got) => {
                    assert!(got == whole[from..whole.len().min(from + BLOCK)], "byte {at}, block {block}");
                    harmless += 1;
                }
                Err(ChunkError::Damaged { .. } | ChunkError::NotFound(_)) => refused += 1,
                Err(e) => panic!("byte {at}, block {block}: {e}"),
            }
        }
        rotten(&world, 1, &mut s, |d| d.rot(&path(1), at, 1 << (round % 8))).await;
    }
    assert!(refused > 100 && harmless > 1000, "{refused} refused, {harmless} served");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_block_of_the_source_comes_from_the_next_and_never_as_zeros() {
    let world = World::new().await;
    let mut s = servers(&world, 4).await;
    let whole = filled(&world, 3).await;
    // Different blocks of one run are damaged in 1 and 2; the first table page is lost in 3.
    rotten(&world, 1, &mut s, |d| d.rot(&path(1), DATA + 2 * BLOCK, 1)).await;
    rotten(&world, 2, &mut s, |d| d.rot(&path(1), DATA + 5 * BLOCK, 1)).await;
    rotten(&world, 3, &mut s, |d| d.rot(&path(1), 2 * BLOCK + 100, 1)).await;
    world.pull(4, chunk(1, 1), &[1, 2]).await.unwrap();
    assert!(world.read(chunk(1, 1), 4, 0, CHUNK_BYTES).await.unwrap() == whole);
    // Where no source has a block, everything else is copied all the same, and the block is damaged.
    world.control(4, Control::Delete { chunk: chunk(1, 1), term: Term(1) }).await.unwrap();
    for only in [1, 3] {
        world.control(4, Control::Delete { chunk: chunk(1, 1), term: Term(1) }).await.unwrap();
        world.pull(4, chunk(1, 1), &[only]).await.unwrap();
        let got = world.read(chunk(1, 1), 4, 2 * BLOCK as u64, 1).await;
        assert!(matches!(got, Err(ChunkError::Damaged { .. })), "{got:?}");
        let far = 600 * BLOCK;
        assert!(world.read(chunk(1, 1), 4, far as u64, 30_000).await.unwrap() == whole[far..]);
    }
    // The source with the lost table page leads, another has what it lacks.
    world.control(4, Control::Delete { chunk: chunk(1, 1), term: Term(1) }).await.unwrap();
    world.pull(4, chunk(1, 1), &[3, 2, 1]).await.unwrap();
    assert!(world.read(chunk(1, 1), 4, 0, CHUNK_BYTES).await.unwrap() == whole);
}

#[tokio::test(start_paused = true)]
async fn a_member_keeps_the_block_that_only_it_has() {
    let world = World::new().await;
    let mut s = servers(&world, 3).await;
    let whole = filled(&world, 3).await;
    // Server 1 leads to the next version with a block overwritten and then damaged; 2 has the old one.
    world.write(chunk(1, 1), &[1], vec![frame(1, 3, 0, pattern(5, BLOCK))]).await.unwrap();
    world.control(1, set_version(1, 2, None)).await.unwrap();
    rotten(&world, 1, &mut s, |d| d.rot(&path(1), DATA + 5, 1)).await;
    world.pull_of(Some(ChunkVersion(1)), 2, chunk(1, 2), &[1]).await.unwrap();
    assert!(world.read(chunk(1, 2), 2, 0, CHUNK_BYTES).await.unwrap() == whole);
    // What it claims to have is in both contents.
    let numbers = world.control(2, Control::Numbers { chunk: chunk(1, 2), head: None }).await.unwrap();
    assert_eq!(numbers, ControlReply::Numbers(vec![(SESSION.id, WriteNumber(2))]));
    // Who was no member of that version does not bring anything back, whatever it has.
    world.pull(3, chunk(1, 2), &[1]).await.unwrap();
    assert!(matches!(world.read(chunk(1, 2), 3, 0, 1).await, Err(ChunkError::Damaged { .. })));
    world.pull(1, chunk(1, 2), &[2]).await.unwrap();
    assert!(world.read(chunk(1, 2), 1, 0, CHUNK_BYTES).await.unwrap() == whole);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_block_does_not_keep_a_chunk_from_being_cut_within_it() {
    let world = World::new().await;
    let mut s = servers(&world, 1).await;
    let whole = filled(&world, 1).await;
    rotten(&world, 1, &mut s, |d| d.rot(&path(1), DATA + 2 * BLOCK + 9, 1)).await;
    let told = world.control(1, set_version(1, 2, Some(2 * BLOCK as u64 + 100))).await.unwrap();
    let ControlReply::Done(told) = told else { panic!("{told:?}") };
    assert_eq!(
        told.report.state,
        ReplicaState::Damaged,
        "a copy elsewhere may be all that is left of the block"
    );
    let before = world.read(chunk(1, 2), 1, 0, 2 * BLOCK as u64).await.unwrap();
    assert!(before == whole[..2 * BLOCK]);
    let within = world.read(chunk(1, 2), 1, 2 * BLOCK as u64, 1).await;
    assert!(matches!(within, Err(ChunkError::Damaged { .. })), "{within:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pull_mends_blocks_table_pages_and_what_differs() {
    let world = World::new().await;
    let mut s = servers(&world, 2).await;
    let mut whole = filled(&world, 2).await;
    let rots = [DATA + 3 * BLOCK + 7, 2 * BLOCK + 99, 3 * BLOCK + 1, DATA + 601 * BLOCK];
    for at in rots {
        rotten(&world, 2, &mut s, |d| d.rot(&path(1), at, 0x10)).await;
        world.pull(2, chunk(1, 1), &[1]).await.unwrap();
        assert!(world.read(chunk(1, 1), 2, 0, CHUNK_BYTES).await.unwrap() == whole, "byte {at}");
    }
    // Server 2 has more, other, and bytes where 1 has a hole; at the next version it is as 1.
    let more =
        vec![frame(1, 9, 1000, pattern(8, 9000)), frame(1, 10, 100 * BLOCK as u64, pattern(9, 1 << 20))];
    world.write(chunk(1, 1), &[2], more).await.unwrap();
    world.write(chunk(1, 1), &[2], vec![frame(1, 11, 700 * BLOCK as u64, pattern(9, 5000))]).await.unwrap();
    world.control(1, set_version(1, 2, None)).await.unwrap();
    world.pull(2, chunk(1, 2), &[1]).await.unwrap();
    assert!(world.read(chunk(1, 2), 2, 0, CHUNK_BYTES).await.unwrap() == whole);
    // A copy is durable and clean.
    let (disk, server) = s.remove(&2).unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    drop(server);
    disk.power_fails();
    let _server = world.start(2, &disk).await;
    assert_eq!(world.stat(2, 1).await.unwrap().report.state, ReplicaState::Good);
    assert!(world.read(chunk(1, 2), 2, 0, CHUNK_BYTES).await.unwrap() == whole);
    // Writes go on from it.
    world.write(chunk(1, 2), &[2], vec![frame(1, 12, 10, vec![7; 100])]).await.unwrap();
    whole[10..110].fill(7);
    assert!(world.read(chunk(1, 2), 2, 0, CHUNK_BYTES).await.unwrap() == whole);
}

#[tokio::test(start_paused = true)]
async fn a_cut_takes_the_end_and_growing_again_shows_zeros() {
    let world = World::new().await;
    let mut s = servers(&world, 1).await;
    let whole = filled(&world, 1).await;
    for (version, to) in [(2, 601 * BLOCK as u64), (3, 40_000), (4, 4096), (5, 100), (6, 0)] {
        let done = world.control(1, set_version(1, version, Some(to))).await.unwrap();
        let ControlReply::Done(stat) = done else { panic!("{done:?}") };
        assert_eq!((stat.report.length, stat.dirty), (to, false));
        rotten(&world, 1, &mut s, |_| ()).await;
        let got = world.read(chunk(1, version), 1, 0, CHUNK_BYTES).await.unwrap();
        assert_eq!(got, whole[..to as usize], "cut to {to}");
    }
    world.write(chunk(1, 6), &[1], vec![frame(1, 3, 50_000, vec![1])]).await.unwrap();
    let got = world.read(chunk(1, 6), 1, 0, CHUNK_BYTES).await.unwrap();
    assert!(got[..50_000].iter().all(|b| *b == 0), "nothing that was cut comes back");
}

#[tokio::test(start_paused = true)]
async fn a_repeated_version_command_does_not_cut_again() {
    let world = World::new().await;
    let _s = servers(&world, 1).await;
    filled(&world, 1).await;
    world.control(1, set_version(1, 2, Some(10))).await.unwrap();
    world.write(chunk(1, 2), &[1], vec![frame(1, 3, 0, pattern(4, 5000))]).await.unwrap();
    world.control(1, set_version(1, 2, Some(10))).await.unwrap();
    assert_eq!(world.read(chunk(1, 2), 1, 0, 9000).await.unwrap(), pattern(4, 5000));
    let older = world.control(1, set_version(1, 1, None)).await;
    assert!(matches!(older, Err(ChunkError::Stale { .. })), "{older:?}");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_chunk_is_gone_twice_and_a_newer_one_stays() {
    let world = World::new().await;
    let s = servers(&world, 1).await;
    filled(&world, 1).await;
    world.control(1, set_version(1, 3, None)).await.unwrap();
    let delete = |v| Control::Delete { chunk: chunk(1, v), term: Term(1) };
    assert!(matches!(world.control(1, delete(2)).await, Err(ChunkError::Stale { .. })));
    world.control(1, delete(3)).await.unwrap();
    world.control(1, delete(3)).await.unwrap();
    assert!(!s[&1].0.has(&path(1)));
    assert!(matches!(world.stat(1, 1).await, Err(ChunkError::NotFound(_))));
    assert_eq!(s[&1].1.status().disks[0].chunks, 0);
}

#[tokio::test(start_paused = true)]
async fn a_place_that_got_a_version_empty_refuses_a_late_first_write() {
    let world = World::new().await;
    let mut s = servers(&world, 1).await;
    let create = |create: bool| {
        let members = vec![ServerId(1)];
        let (chunk, to) = (ChunkId(1), ChunkVersion(2));
        Control::SetVersion { chunk, to, members, cut_to: None, create, settle: false, term: Term(1) }
    };
    assert!(matches!(world.control(1, create(false)).await, Err(ChunkError::NotFound(_))));
    world.control(1, create(true)).await.unwrap();
    world.control(1, create(true)).await.unwrap();
    let (disk, old) = s.remove(&1).unwrap();
    disk.power_fails();
    drop(old);
    world.net.cut("chunkserver-1");
    let _new = world.start(1, &disk).await;
    let report = world.stat(1, 1).await.unwrap().report;
    // Its note that it was under way may still be there: it is suspect then, until a bump settles it.
    assert_eq!(report.chunk.version, ChunkVersion(2), "it was durable");
    let late = world.write(chunk(1, 1), &[1], vec![frame(1, 1, 0, vec![1])]).await;
    assert!(matches!(late, Err(ChunkError::Stale { .. })), "{late:?}");
    world.control(1, settle(chunk(1, 3), &[1])).await.unwrap();
    world.write(chunk(1, 3), &[1], vec![frame(1, 1, 0, vec![1])]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_what_was_there_before_a_lost_write_can_be_read() {
    for changes in 0..12 {
        let world = World::new().await;
        let mut s = servers(&world, 2).await;
        world.write(chunk(1, 1), &[1, 2], vec![frame(1, 1, 0, pattern(1, 3 * BLOCK))]).await.unwrap();
        world.sync(chunk(1, 1), &[1, 2], vec![]).await.unwrap();
        // The second server alone begins a write that no other has, and dies in the middle.
        s[&2].0.dies_after(changes);
        let _ = world.write(chunk(1, 1), &[2], vec![frame(1, 2, 0, pattern(2, BLOCK))]).await;
        let (disk, old) = s.remove(&2).unwrap();
        drop(old);
        disk.kill();
        let _again = world.start(2, &disk).await;
        world.pull(2, chunk(1, 1), &[1]).await.unwrap();
        let read = world.read(chunk(1, 1), 2, 0, CHUNK_BYTES).await;
        assert!(
            read.as_ref().is_ok_and(|r| *r == pattern(1, 3 * BLOCK)),
            "after {changes} changes: {:?}",
            read.err()
        );
        let table = |n| world.control(n, Control::Table { chunk: chunk(1, 1) });
        assert_eq!(table(1).await.unwrap(), table(2).await.unwrap(), "after {changes} changes");
    }
}

#[tokio::test(start_paused = true)]
async fn a_set_that_begins_with_nothing_takes_again_what_is_written_again() {
    let world = World::new().await;
    let _s = servers(&world, 1).await;
    let frames = || vec![frame(1, 1, 0, pattern(1, 9000))];
    world.write(chunk(1, 1), &[1], frames()).await.unwrap();
    let (members, term) = (vec![ServerId(1)], Term(1));
    let (to, cut_to) = (ChunkVersion(2), Some(0));
    let anew =
        Control::SetVersion { chunk: ChunkId(1), to, members, cut_to, create: true, settle: false, term };
    world.control(1, anew.clone()).await.unwrap();
    world.write(chunk(1, 2), &[1], frames()).await.unwrap();
    assert_eq!(world.read(chunk(1, 2), 1, 0, CHUNK_BYTES).await.unwrap(), pattern(1, 9000));
    // The command again changes nothing.
    world.control(1, anew).await.unwrap();
    assert_eq!(world.read(chunk(1, 2), 1, 0, CHUNK_BYTES).await.unwrap(), pattern(1, 9000));
}

/// The only member has a damaged block; a copy that was left out has it whole. What was written since is
/// not taken from there.
#[tokio::test(start_paused = true)]
async fn a_block_that_is_damaged_at_the_members_comes_from_a_copy_that_was_left_out() {
    let world = World::new().await;
    let servers = servers(&world, 3).await;
    let data = pattern(1, 5 * BLOCK);
    world.write(chunk(1, 1), &[1, 2], vec![frame(1, 1, 0, data.clone())]).await.unwrap();
    world.sync(chunk(1, 1), &[1, 2], vec![]).await.unwrap();
    let v2 = world.bump(chunk(1, 1), &[1]).await;
    let new = pattern(2, BLOCK);
    world.write(v2, &[1], vec![frame(1, 2, 4 * BLOCK as u64, new.clone())]).await.unwrap();
    world.sync(v2, &[1], vec![]).await.unwrap();
    servers[&1].0.rot(&path(1), DATA + BLOCK + 7, 4);
    let v3 = world.bump(v2, &[1]).await;
    world.pull(3, v3, &[1, 2]).await.unwrap();
    let mut want = data;
    want[4 * BLOCK..].copy_from_slice(&new);
    assert_eq!(world.read(v3, 3, 0, 5 * BLOCK as u64).await.unwrap(), want);
    // The member says at once that it is damaged, so that nobody takes the set for whole.
    assert_eq!(world.stat(1, 1).await.unwrap().report.state, ReplicaState::Damaged);
    assert_eq!(world.stat(3, 1).await.unwrap().report.state, ReplicaState::Good);
    // And a block that changed since is not taken from the old copy.
    servers[&1].0.rot(&path(1), DATA + 4 * BLOCK + 7, 4);
    world.control(3, Control::Delete { chunk: v3, term: Term(1) }).await.unwrap();
    let v4 = world.bump(v3, &[1]).await;
    world.pull(3, v4, &[1, 2]).await.unwrap();
    assert_eq!(world.read(v4, 3, 0, 4 * BLOCK as u64).await.unwrap(), want[..4 * BLOCK]);
    let e = world.read(v4, 3, 4 * BLOCK as u64, BLOCK as u64).await.unwrap_err();
    assert!(matches!(e, ChunkError::Damaged { .. }), "{e}");
}

/// A copy without a version is no replica; what it has of a member's blocks is good all the same.
#[tokio::test(start_paused = true)]
async fn a_block_that_is_damaged_everywhere_comes_from_a_copy_that_was_broken_off() {
    let world = World::new().await;
    let servers = servers(&world, 3).await;
    let data = pattern(1, 5 * BLOCK);
    world.write(chunk(1, 1), &[1, 2], vec![frame(1, 1, 0, data.clone())]).await.unwrap();
    world.sync(chunk(1, 1), &[1, 2], vec![]).await.unwrap();
    world.pull_ahead(3, chunk(1, 1), &[1, 2]).await.unwrap();
    // One block is damaged at both; another was written since.
    for server in [1, 2] {
        servers[&server].0.rot(&path(1), DATA + BLOCK + 7, 4);
    }
    let new = pattern(2, BLOCK);
    world.write(chunk(1, 1), &[1, 2], vec![frame(1, 2, 3 * BLOCK as u64, new.clone())]).await.unwrap();
    world.sync(chunk(1, 1), &[1, 2], vec![]).await.unwrap();
    let mut want = data;
    want[3 * BLOCK..4 * BLOCK].copy_from_slice(&new);
    for server in [1, 2] {
        world.control(server, set_version(1, 2, None)).await.unwrap();
    }
    world.pull(2, chunk(1, 2), &[1, 3]).await.unwrap();
    assert!(world.read(chunk(1, 2), 2, 0, CHUNK_BYTES).await.unwrap() == want);
}

/// Where the checksum of a block is lost with it, an older copy's block may be any older one.
#[tokio::test(start_paused = true)]
async fn what_nobody_can_compare_is_not_taken_from_an_older_copy() {
    let world = World::new().await;
    let mut s = servers(&world, 3).await;
    world.write(chunk(1, 1), &[1, 3], vec![frame(1, 1, 0, pattern(1, 5 * BLOCK))]).await.unwrap();
    world.sync(chunk(1, 1), &[1, 3], vec![]).await.unwrap();
    let v2 = world.bump(chunk(1, 1), &[1]).await;
    world.write(v2, &[1], vec![frame(1, 2, 0, pattern(2, 5 * BLOCK))]).await.unwrap();
    world.sync(v2, &[1], vec![]).await.unwrap();
    for slot in 2..4 {
        rotten(&world, 1, &mut s, |d| d.rot(&path(1), slot * BLOCK + 100, 1)).await;
    }
    let v3 = world.bump(v2, &[1]).await;
    world.pull(2, v3, &[1, 3]).await.unwrap();
    let got = world.read(v3, 2, 0, BLOCK as u64).await;
    assert!(matches!(got, Err(ChunkError::Damaged { .. })), "{got:?}");
}
