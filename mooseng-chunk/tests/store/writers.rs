//! Two clients that write one chunk at the same time: whoever wins, wins at every replica.

use crate::common::*;
use futures::StreamExt as _;
use mooseng_core::{chunk::*, error::ChunkError, ids::*, limits::CHUNK_BYTES, meta::MetaRequest, net::Role};
use mooseng_net::memory::{Event, Fate, Faults, MemoryNetwork};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

const OTHER: SessionStamp = SessionStamp { id: SessionId(8), epoch: SessionEpoch(1) };

/// Sessions that are remembered for a chunk (docs/format.md).
const WRITERS: u64 = 127;

/// Delays in milliseconds of the next pieces from the head to the server behind it.
#[derive(Debug, Default)]
struct Late(Mutex<VecDeque<u64>>);

impl Faults for Late {
    fn fate(&self, from: &str, to: &str, event: Event) -> Fate {
        let between = matches!(event, Event::Piece(_)) && from == addr(1) && to == addr(2);
        let delay = if between { self.0.lock().pop_front() } else { None };
        Fate::Deliver(Duration::from_millis(delay.unwrap_or(0)))
    }
}

/// Writes frames one after the other, four at a time under way.
async fn write_slowly(world: &World, session: SessionStamp, seed: u64, writes: u64) {
    let (tx, rx) = tokio::sync::mpsc::channel(4);
    let frames = futures::stream::unfold(rx, |mut rx| async move { rx.recv().await.map(|f| (Ok(f), rx)) });
    let client = world.remote(Role::Client, 1).await;
    let req = world.write_request_of(session, chunk(1, 1), &[1, 2, 3]);
    let mut acks = client.write(&cx(), req, frames.boxed()).await.unwrap();
    for n in 1..=writes {
        tx.send(frame(1, n, n % 3 * 1000, pattern(seed + n, 3000))).await.unwrap();
        if n % 4 == 0 {
            while acks.next().await.unwrap().unwrap().upto < WriteNumber(n) {}
        }
    }
}

async fn same_everywhere(world: &World, c: ChunkRef, servers: &[u64]) -> Vec<u8> {
    let head = world.read(c, servers[0], 0, CHUNK_BYTES).await.unwrap();
    for n in &servers[1..] {
        assert!(world.read(c, *n, 0, CHUNK_BYTES).await.unwrap() == head, "server {n} has something else");
    }
    head
}

#[tokio::test(start_paused = true)]
async fn writes_of_two_clients_have_one_order_at_all_replicas() {
    for seed in 0..20 {
        let late = Late(Mutex::new((0..1000).map(|n| (n * n * 37 + seed * 11) % 23).collect()));
        let world = World::on(MemoryNetwork::with_faults(Arc::new(late))).await;
        let _s = servers(&world, 3).await;
        tokio::join!(
            write_slowly(&world, SESSION, 1000, 40),
            write_slowly(&world, OTHER, 5000, 40),
            write_slowly(&world, SessionStamp { id: SessionId(9), ..OTHER }, 9000, 40),
        );
        same_everywhere(&world, chunk(1, 1), &[1, 2, 3]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_hangs_on_its_way_does_not_come_after_another_clients_write() {
    let late = Arc::new(Late::default());
    let world = World::on(MemoryNetwork::with_faults(late.clone())).await;
    let s = servers(&world, 2).await;
    let failed = |e: ChunkError| assert!(matches!(e, ChunkError::Chain { server: ServerId(2), .. }), "{e}");
    world.write(chunk(1, 1), &[1, 2], vec![frame(1, 1, 0, pattern(0, 3000))]).await.unwrap();
    late.0.lock().push_back(60_000);
    failed(world.write(chunk(1, 1), &[1, 2], vec![frame(1, 2, 0, pattern(1, 3000))]).await.unwrap_err());
    // Nobody goes along this chain any more, until the masters made a new version.
    let other = |c| world.write_request_of(OTHER, c, &[1, 2]);
    let frames = || vec![frame(1, 1, 0, pattern(2, 3000))];
    failed(world.write_as(other(chunk(1, 1)), frames()).await.unwrap_err());
    let c = world.bump(chunk(1, 1), &[1, 2]).await;
    world.write_as(other(c), frames()).await.unwrap();
    let writes = || s[&2].1.store().counters().writes.load(Relaxed);
    let before = writes();
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(same_everywhere(&world, c, &[1, 2]).await, pattern(2, 3000));
    assert_eq!(writes(), before, "the late one was refused");
}

/// A reader of the next session may ask any of them.
#[tokio::test(start_paused = true)]
async fn once_a_fence_is_acknowledged_what_it_let_pass_is_at_all_replicas() {
    let late = Arc::new(Late::default());
    let world = World::on(MemoryNetwork::with_faults(late.clone())).await;
    let s = servers(&world, 2).await;
    world.write(chunk(1, 1), &[1, 2], vec![frame(1, 1, 0, pattern(0, 3000))]).await.unwrap();
    late.0.lock().push_back(500);
    let head_has = async {
        while s[&1].1.store().counters().writes.load(Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (begin, other) =
            (tokio::time::Instant::now(), SessionStamp { epoch: OTHER.epoch.next(), ..OTHER });
        world.control(1, Control::Fence { session: other, term: Term(1) }).await.unwrap();
        assert!(begin.elapsed() < Duration::from_millis(100), "what others sent is not waited for");
        let fenced = SessionStamp { epoch: SESSION.epoch.next(), ..SESSION };
        world.control(1, Control::Fence { session: fenced, term: Term(1) }).await.unwrap();
        assert_eq!(world.read(chunk(1, 1), 2, 0, 3000).await.unwrap(), pattern(1, 3000), "at the one behind");
    };
    let (written, ()) =
        tokio::join!(world.write(chunk(1, 1), &[1, 2], vec![frame(1, 2, 0, pattern(1, 3000))]), head_has);
    written.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_masters_hear_of_a_broken_chain_though_its_writer_is_gone() {
    let late = Arc::new(Late::default());
    let world = World::on(MemoryNetwork::with_faults(late.clone())).await;
    let _s = servers(&world, 2).await;
    world.write(chunk(1, 1), &[1, 2], vec![frame(1, 1, 0, pattern(0, 3000))]).await.unwrap();
    late.0.lock().push_back(60_000);
    let one = futures::stream::iter([Ok(frame(1, 2, 0, pattern(1, 3000)))]).boxed();
    let client = world.remote(Role::Client, 1).await;
    drop(client.write(&cx(), world.write_request(chunk(1, 1), &[1, 2]), one).await.unwrap());
    drop(client);
    let told = || {
        let mut heard = world.leader.heard.lock();
        heard.drain(..).any(|r| matches!(r, MetaRequest::Heartbeat(h) if h.broken == [chunk(1, 1)]))
    };
    until("the head tells it", told).await;
    world.bump(chunk(1, 1), &[1, 2]).await;
    until("it is over", || !told() && late.0.lock().is_empty()).await;
    world.leader.heard.lock().clear();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!told(), "a version that is over is told of");
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_again_after_a_bump_does_not_come_after_another_clients_write() {
    let late = Arc::new(Late::default());
    let world = World::on(MemoryNetwork::with_faults(late.clone())).await;
    let _s = servers(&world, 2).await;
    world.write(chunk(1, 1), &[1, 2], vec![frame(1, 1, 0, pattern(0, 3000))]).await.unwrap();
    let again = || vec![frame(1, 2, 0, pattern(1, 3000))];
    late.0.lock().push_back(60_000);
    world.write(chunk(1, 1), &[1, 2], again()).await.unwrap_err();
    let c = world.bump(chunk(1, 1), &[1, 2]).await;
    assert_eq!(same_everywhere(&world, c, &[1, 2]).await, pattern(1, 3000), "the head had it");
    let other = world.write_request_of(OTHER, c, &[1, 2]);
    world.write_as(other, vec![frame(1, 1, 0, pattern(2, 3000))]).await.unwrap();
    let ack = world.write(c, &[1, 2], again()).await.unwrap().unwrap();
    assert_eq!(ack.upto, WriteNumber(2), "a repeat is acknowledged");
    assert_eq!(same_everywhere(&world, c, &[1, 2]).await, pattern(2, 3000));
}

#[tokio::test(start_paused = true)]
async fn a_member_that_restarted_takes_no_repeat_for_new() {
    for restarted in [&[1][..], &[2], &[3], &[1, 2, 3]] {
        let world = World::new().await;
        let mut s = servers(&world, 3).await;
        let (c, chain) = (chunk(1, 1), [1, 2, 3]);
        let first = || vec![frame(1, 1, 0, pattern(1, 3000))];
        let other = || world.write_request_of(OTHER, c, &chain);
        world.write(c, &chain, first()).await.unwrap();
        world.write_as(other(), vec![frame(1, 1, 0, pattern(2, 3000))]).await.unwrap();
        for server in restarted {
            let (disk, old) = s.remove(server).unwrap();
            old.shutdown().await;
            s.insert(*server, (disk.clone(), world.start(*server, &disk).await));
        }
        // The first client heard of the restart, and sends again what it does not know to be synced.
        world.write(c, &chain, first()).await.unwrap();
        assert_eq!(same_everywhere(&world, c, &chain).await, pattern(2, 3000), "{restarted:?}");
        world.write(c, &chain, vec![frame(1, 2, 0, pattern(3, 3000))]).await.unwrap();
        assert_eq!(same_everywhere(&world, c, &chain).await, pattern(3, 3000), "{restarted:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_only_replica_knows_after_its_end_what_it_had_applied() {
    for power in [false, true] {
        let world = World::new().await;
        let disk = crate::common::disk::CrashDisk::new();
        let server = world.start(1, &disk).await;
        let (c, first) = (chunk(1, 1), || vec![frame(1, 1, 0, pattern(1, 9000))]);
        let other = |n, at| {
            world.write_as(world.write_request_of(OTHER, c, &[1]), vec![frame(1, n, at, pattern(n, 9000))])
        };
        world.write(c, &[1], first()).await.unwrap();
        world.sync(c, &[1], vec![]).await.unwrap();
        // Over synced blocks: by the redo log alone.
        other(2, 0).await.unwrap();
        world.sync(c, &[1], vec![]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        drop(server);
        if power {
            disk.power_fails()
        } else {
            disk.kill()
        }
        let server = world.start(1, &disk).await;
        assert_eq!(server.status().suspect, 0);
        world.write(c, &[1], first()).await.unwrap();
        assert!(same_everywhere(&world, c, &[1]).await == pattern(2, 9000), "power: {power}");
        let told = world.control(1, Control::Numbers { chunk: c, head: None }).await.unwrap();
        let known = vec![(SESSION.id, WriteNumber(1)), (OTHER.id, WriteNumber(2))];
        assert_eq!(told, ControlReply::Numbers(known), "power: {power}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_bump_from_a_head_that_restarted_takes_no_numbers_away() {
    let world = World::new().await;
    let mut s = servers(&world, 2).await;
    let first = || vec![frame(1, 1, 0, pattern(1, 3000))];
    world.write(chunk(1, 1), &[1, 2], first()).await.unwrap();
    let other = world.write_request_of(OTHER, chunk(1, 1), &[1, 2]);
    world.write_as(other, vec![frame(1, 1, 0, pattern(2, 3000))]).await.unwrap();
    let (disk, old) = s.remove(&1).unwrap();
    old.shutdown().await;
    let _again = world.start(1, &disk).await;
    let c = world.bump(chunk(1, 1), &[1, 2]).await;
    world.write(c, &[1, 2], first()).await.unwrap();
    assert_eq!(same_everywhere(&world, c, &[1, 2]).await, pattern(2, 3000));
}

#[tokio::test(start_paused = true)]
async fn a_place_that_may_be_made_and_is_there_keeps_its_numbers() {
    let world = World::new().await;
    let _s = servers(&world, 1).await;
    let first = || vec![frame(1, 1, 0, pattern(1, 3000))];
    world.write(chunk(1, 1), &[1], first()).await.unwrap();
    let other = world.write_request_of(OTHER, chunk(1, 1), &[1]);
    world.write_as(other, vec![frame(1, 1, 0, pattern(2, 3000))]).await.unwrap();
    let mut made = settle(chunk(1, 2), &[1]);
    if let Control::SetVersion { create, settle, .. } = &mut made {
        (*create, *settle) = (true, false);
    }
    world.control(1, made).await.unwrap();
    world.write(chunk(1, 2), &[1], first()).await.unwrap();
    assert_eq!(same_everywhere(&world, chunk(1, 2), &[1]).await, pattern(2, 3000));
}

/// Otherwise it would take for a repeat, after its start, what never reached the server behind it.
#[tokio::test(start_paused = true)]
async fn a_head_that_stops_with_frames_under_way_is_a_suspect_at_its_start() {
    let late = Arc::new(Late::default());
    let world = World::on(MemoryNetwork::with_faults(late.clone())).await;
    let mut s = servers(&world, 2).await;
    world.write(chunk(1, 1), &[1, 2], vec![frame(1, 1, 0, pattern(0, 3000))]).await.unwrap();
    world.sync(chunk(1, 1), &[1, 2], vec![]).await.unwrap();
    until("what is through is clean", || s[&1].1.store().dirty_chunks() == 0).await;
    late.0.lock().push_back(600_000);
    world.write(chunk(1, 1), &[1, 2], vec![frame(1, 2, 0, pattern(1, 3000))]).await.unwrap_err();
    let (disk, old) = s.remove(&1).unwrap();
    old.shutdown().await;
    let again = world.start(1, &disk).await;
    assert_eq!(again.status().suspect, 1);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_becomes_the_head_knows_what_its_source_knew() {
    let world = World::new().await;
    let _s = servers(&world, 2).await;
    let first = || vec![frame(1, 1, 0, pattern(1, 3000))];
    world.write(chunk(1, 1), &[1], first()).await.unwrap();
    world
        .write_as(world.write_request_of(OTHER, chunk(1, 1), &[1]), vec![frame(1, 1, 0, pattern(2, 3000))])
        .await
        .unwrap();
    world.pull(2, chunk(1, 1), &[1]).await.unwrap();
    let c = world.bump(chunk(1, 1), &[2]).await;
    world.write(c, &[2], first()).await.unwrap();
    assert_eq!(same_everywhere(&world, c, &[2]).await, pattern(2, 3000));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_lost_a_fresh_chunk_does_not_make_it_anew_over_those_behind() {
    let world = World::new().await;
    let mut s = servers(&world, 2).await;
    world.write(chunk(1, 1), &[1, 2], vec![frame(1, 1, 0, pattern(1, 3000))]).await.unwrap();
    let (disk, old) = s.remove(&1).unwrap();
    drop(old);
    disk.power_fails();
    let again = world.start(1, &disk).await;
    until("its orders are there", || again.is_ready()).await;
    let e = world.write(chunk(1, 1), &[1, 2], vec![frame(1, 2, 9000, vec![2])]).await.unwrap_err();
    assert!(matches!(e, ChunkError::NotFound(_) | ChunkError::Suspect(_)), "{e}");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_died_before_it_applied_does_not_believe_those_behind() {
    let world = World::new().await;
    let mut s = servers(&world, 2).await;
    let write = |n| world.write(chunk(1, 1), &[1, 2], vec![frame(1, n, 0, pattern(n, 3000))]);
    write(1).await.unwrap();
    world.sync(chunk(1, 1), &[1, 2], vec![]).await.unwrap();
    // So that nothing is noted as dirty.
    let (disk, old) = s.remove(&1).unwrap();
    old.shutdown().await;
    let again = world.start(1, &disk).await;
    disk.kill();
    write(2).await.unwrap_err();
    drop(again);
    let _again = world.start(1, &disk).await;
    // It is a suspect, or it takes the write; it does not say that it has what it has not.
    if write(2).await.is_ok() {
        assert_eq!(same_everywhere(&world, chunk(1, 1), &[1, 2]).await, pattern(2, 3000));
    } else {
        let stat = world.stat(1, 1).await.unwrap();
        assert_eq!(stat.report.state, mooseng_core::meta::ReplicaState::Suspect);
    }
}

/// A session that lives may repeat what it wrote, so none is forgotten.
#[tokio::test(start_paused = true)]
async fn more_sessions_than_can_be_remembered_are_refused_until_one_has_ended() {
    let world = World::new().await;
    let _s = servers(&world, 2).await;
    let session = |n: u64| SessionStamp { id: SessionId(n), epoch: SessionEpoch(1) };
    let write = async |n: u64, seed: u64| {
        let req = world.write_request_of(session(n), chunk(1, 1), &[1, 2]);
        world.write_as(req, vec![frame(1, 1, 0, pattern(seed, 3000))]).await
    };
    let last = 100 + WRITERS;
    for n in 101..=last {
        write(n, n).await.unwrap();
    }
    let e = write(last + 1, 1).await.unwrap_err();
    assert!(matches!(&e, ChunkError::Invalid(why) if why.contains("sessions that live")), "{e}");
    write(101, 2).await.unwrap();
    assert!(same_everywhere(&world, chunk(1, 1), &[1, 2]).await == pattern(last, 3000));
    // All but a few have ended.
    {
        let mut orders = world.leader.orders.lock();
        let orders = orders.as_mut().unwrap();
        orders.sessions = vec![SESSION, session(102), session(last + 1)];
        orders.next_session = SessionId(last + 2);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    write(last + 1, 3).await.unwrap();
    write(102, 4).await.unwrap();
    assert!(same_everywhere(&world, chunk(1, 1), &[1, 2]).await == pattern(3, 3000));
}
