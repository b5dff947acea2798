//! Chains of three: everybody has it, and whoever fails is named.

use crate::common::*;
use futures::StreamExt as _;
use mooseng_core::{
    chunk::*,
    error::ChunkError,
    ids::*,
    limits::{CHUNK_BYTES, WRITE_WINDOW_FRAMES},
    net::Role,
    rpc::method,
};
use mooseng_net::memory::{Event, Fate, Faults, MemoryNetwork};
use parking_lot::Mutex;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};

/// Pieces to and from these are swallowed, as by a partition.
#[derive(Debug, Default)]
struct Cut(Mutex<BTreeSet<String>>);

impl Faults for Cut {
    fn fate(&self, from: &str, to: &str, event: Event) -> Fate {
        let cut = self.0.lock();
        let data = matches!(event, Event::Connect)
            || matches!(event, Event::Request(m) | Event::Reply(m) | Event::Piece(m) if m != method::META_CALL);
        if data && (cut.contains(from) || cut.contains(to)) {
            Fate::Drop
        } else {
            Fate::Deliver(Duration::ZERO)
        }
    }
}

/// Pieces from one to another take their time.
#[derive(Debug, Default)]
struct Slow(Mutex<Option<(String, String)>>);

impl Faults for Slow {
    fn fate(&self, from: &str, to: &str, event: Event) -> Fate {
        let slow = self.0.lock();
        let is_slow = slow.as_ref().is_some_and(|(f, t)| f == from && t == to);
        let long = is_slow && matches!(event, Event::Piece(_));
        Fate::Deliver(Duration::from_millis(if long { 900 } else { 0 }))
    }
}

/// A stream of writes that stays open.
struct Open {
    frames: mpsc::Sender<Frame>,
    acks: Acks,
}

async fn open(world: &World, c: ChunkRef, servers: &[u64]) -> Open {
    let (frames, rx) = mpsc::channel(1024);
    let source = futures::stream::unfold(rx, |mut rx| async move { rx.recv().await.map(|f| (Ok(f), rx)) });
    let client = world.remote(Role::Client, servers[0]).await;
    let long = cx().with_budget(Duration::from_secs(3600));
    let acks = client.write(&long, world.write_request(c, servers), source.boxed()).await.unwrap();
    Open { frames, acks }
}

#[tokio::test(start_paused = true)]
async fn an_acknowledged_write_is_at_every_member_and_a_sync_on_every_disk() {
    let world = World::new().await;
    let s = servers(&world, 3).await;
    let data = pattern(1, 3 << 20);
    let frames =
        (0..3).map(|n| frame(1, n + 1, n << 20, data[(n as usize) << 20..][..1 << 20].to_vec())).collect();
    let ack = world.write(chunk(1, 1), &[1, 2, 3], frames).await.unwrap().unwrap();
    assert_eq!(ack.upto, WriteNumber(3));
    assert_eq!(ack.members.iter().map(|m| m.0.get()).collect::<Vec<_>>(), [1, 2, 3]);
    let done = world.sync(chunk(1, 1), &[1, 2, 3], ack.members).await.unwrap();
    assert_eq!(done.on_disk, [ServerId(1), ServerId(2), ServerId(3)]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    for (n, (disk, server)) in s {
        assert!(world.read(chunk(1, 1), n, 0, CHUNK_BYTES).await.unwrap() == data);
        drop(server);
        disk.power_fails();
        let _server = world.start(n, &disk).await;
        assert!(
            world.read(chunk(1, 1), n, 0, CHUNK_BYTES).await.unwrap() == data,
            "server {n} after its power failed"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_any_member_before_the_sync_is_lost_and_names_it() {
    for restarted in 1..=3 {
        let world = World::new().await;
        let mut s = servers(&world, 3).await;
        let frames = vec![frame(1, 1, 0, pattern(1, 5000))];
        let ack = world.write(chunk(1, 1), &[1, 2, 3], frames).await.unwrap().unwrap();
        let (disk, server) = s.remove(&restarted).unwrap();
        server.shutdown().await;
        let _server = world.start(restarted, &disk).await;
        let e = world.sync(chunk(1, 1), &[1, 2, 3], ack.members).await.unwrap_err();
        assert_eq!(e, ChunkError::Lost { chunk: ChunkId(1), server: ServerId(restarted) });
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_dies_ends_the_stream_and_is_named() {
    for dies in [2, 3] {
        let world = World::new().await;
        let mut s = servers(&world, 3).await;
        let mut open = open(&world, chunk(1, 1), &[1, 2, 3]).await;
        open.frames.send(frame(1, 1, 0, pattern(1, 9000))).await.unwrap();
        assert_eq!(open.acks.next().await.unwrap().unwrap().upto, WriteNumber(1));
        let (disk, server) = s.remove(&dies).unwrap();
        drop(server);
        disk.kill();
        open.frames.send(frame(1, 2, 0, pattern(2, 9000))).await.unwrap();
        let e = open.acks.next().await.unwrap().unwrap_err();
        assert!(
            matches!(e, ChunkError::Chain { server, .. } if server == ServerId(dies)),
            "{dies} died: {e}"
        );
        // What was admitted is at the survivors before the one that died.
        until("the head has it", || {
            s[&1].1.store().counters().writes.load(std::sync::atomic::Ordering::Relaxed) == 2
        })
        .await;
        // Whoever comes after the one that died may not: nobody is served it before the next version.
        let doubtful = world.read(chunk(1, 1), 1, 0, CHUNK_BYTES).await;
        assert!(matches!(doubtful, Err(ChunkError::Busy(_))), "{doubtful:?}");
        // A new stream along the survivors goes on, the frame that was not acknowledged first.
        let rest: Vec<u64> = [1, 2, 3].into_iter().filter(|n| *n != dies).collect();
        let c = world.bump(chunk(1, 1), &rest).await;
        world.write(c, &rest, vec![frame(1, 2, 0, pattern(2, 9000))]).await.unwrap();
        assert_eq!(world.read(c, rest[1], 0, CHUNK_BYTES).await.unwrap(), pattern(2, 9000));
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_dies_leaves_the_others_with_what_was_acknowledged() {
    let world = World::new().await;
    let mut s = servers(&world, 3).await;
    let mut open = open(&world, chunk(1, 1), &[1, 2, 3]).await;
    open.frames.send(frame(1, 1, 0, pattern(1, 9000))).await.unwrap();
    open.acks.next().await.unwrap().unwrap();
    drop(s.remove(&1));
    let end = open.acks.next().await;
    assert!(!matches!(end, Some(Ok(_))), "{end:?}");
    for n in [2, 3] {
        assert_eq!(world.read(chunk(1, 1), n, 0, CHUNK_BYTES).await.unwrap(), pattern(1, 9000));
    }
    world.write(chunk(1, 1), &[2, 3], vec![frame(1, 2, 0, pattern(2, 9000))]).await.unwrap();
    assert_eq!(world.read(chunk(1, 1), 3, 0, CHUNK_BYTES).await.unwrap(), pattern(2, 9000));
}

#[tokio::test(start_paused = true)]
async fn a_member_that_falls_silent_is_named_within_the_patience() {
    for silent in [2, 3] {
        let cut = Arc::new(Cut::default());
        let world = World::on(MemoryNetwork::with_faults(cut.clone())).await;
        let s = servers(&world, 3).await;
        let mut open = open(&world, chunk(1, 1), &[1, 2, 3]).await;
        open.frames.send(frame(1, 1, 0, pattern(1, 9000))).await.unwrap();
        assert_eq!(open.acks.next().await.unwrap().unwrap().upto, WriteNumber(1));
        // A writer that pauses for long is no failure.
        tokio::time::sleep(Duration::from_secs(600)).await;
        cut.0.lock().insert(addr(silent));
        let since = Instant::now();
        // A whole window, which is all that a writer has under way: none of it may get stuck behind
        // the one that is silent.
        let many = WRITE_WINDOW_FRAMES as u64;
        for n in 2..2 + many {
            open.frames.send(frame(1, n, n * 100, pattern(n, 100))).await.unwrap();
        }
        let e = open.acks.next().await.unwrap().unwrap_err();
        assert!(matches!(e, ChunkError::Chain { server, .. } if server == ServerId(silent)), "{silent}: {e}");
        assert!(since.elapsed() <= Duration::from_secs(2), "{:?}", since.elapsed());
        let writes = &s[&1].1.store().counters().writes;
        until("the head has all", || writes.load(std::sync::atomic::Ordering::Relaxed) == 1 + many).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_sync_does_not_wait_for_a_member_that_fell_silent() {
    for silent in [2, 3] {
        let cut = Arc::new(Cut::default());
        let world = World::on(MemoryNetwork::with_faults(cut.clone())).await;
        let _s = servers(&world, 3).await;
        let frames = vec![frame(1, 1, 0, pattern(1, 5000))];
        let ack = world.write(chunk(1, 1), &[1, 2, 3], frames).await.unwrap().unwrap();
        cut.0.lock().insert(identity(Role::Chunkserver, silent).name);
        let begin = Instant::now();
        let e = world.sync(chunk(1, 1), &[1, 2, 3], ack.members).await.unwrap_err();
        assert!(
            matches!(e, ChunkError::Chain { server, .. } if server == ServerId(silent)),
            "{silent} is silent: {e}"
        );
        // In virtual time.
        assert!(begin.elapsed() < 2 * world.patience, "{:?}", begin.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_reads_what_a_replica_behind_may_lack() {
    for (from, to) in [(1, 2), (2, 3)] {
        let slow = Arc::new(Slow::default());
        let world = World::on(MemoryNetwork::with_faults(slow.clone())).await;
        let s = servers(&world, 3).await;
        let c = chunk(1, 1);
        let (old, new) = (pattern(1, 3 * BLOCK), pattern(2, BLOCK));
        let mut open = open(&world, c, &[1, 2, 3]).await;
        open.frames.send(frame(1, 1, 0, old.clone())).await.unwrap();
        open.acks.next().await.unwrap().unwrap();
        *slow.0.lock() = Some((addr(from), addr(to)));
        open.frames.send(frame(1, 2, BLOCK as u64, new.clone())).await.unwrap();
        let count = |n: u64| s[&n].1.store().counters().writes.load(std::sync::atomic::Ordering::Relaxed);
        until("all before the slow way have it", || (1..=from).all(|n| count(n) == 2)).await;
        let block = |n: u64, at: usize| world.read(c, n, (at * BLOCK) as u64, BLOCK as u64);
        for n in 1..=3 {
            let got = block(n, 1).await;
            match n <= from {
                true => assert!(matches!(got, Err(ChunkError::Busy(_))), "{n} of {from} → {to}: {got:?}"),
                false => assert_eq!(got.unwrap(), old[BLOCK..2 * BLOCK], "{n} has not got it"),
            }
            // What is beside it waits for nothing.
            assert_eq!(block(n, 0).await.unwrap(), old[..BLOCK]);
            assert_eq!(block(n, 2).await.unwrap(), old[2 * BLOCK..]);
        }
        assert_eq!(open.acks.next().await.unwrap().unwrap().upto, WriteNumber(2));
        for n in 1..=3 {
            assert_eq!(block(n, 1).await.unwrap(), new);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_admitted_is_completed_when_the_client_goes() {
    let world = World::new().await;
    let s = servers(&world, 3).await;
    let Open { frames, acks } = open(&world, chunk(1, 1), &[1, 2, 3]).await;
    for n in 0..10 {
        frames.send(frame(1, n + 1, n << 20, pattern(n, 1 << 20))).await.unwrap();
    }
    let count = |n: u64| s[&n].1.store().counters().writes.load(std::sync::atomic::Ordering::Relaxed);
    until("the head has one", || count(1) > 0).await;
    drop((frames, acks));
    tokio::time::sleep(Duration::from_secs(10)).await;
    // All have the same prefix.
    assert_eq!((count(1), count(2)), (count(3), count(3)));
    let whole = world.read(chunk(1, 1), 1, 0, CHUNK_BYTES).await.unwrap();
    assert_eq!(whole.len() as u64, count(1) << 20);
    for n in [2, 3] {
        assert!(world.read(chunk(1, 1), n, 0, CHUNK_BYTES).await.unwrap() == whole);
    }
    // Nothing of the stream stays behind: a clean stop does not wait for anybody.
    let since = Instant::now();
    for (_, server) in s.into_values() {
        server.shutdown().await;
    }
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_full_member_is_named_wherever_it_is() {
    for full in [1, 3] {
        let world = World::new().await;
        let s = servers(&world, 3).await;
        world.write(chunk(1, 1), &[1, 2, 3], vec![frame(1, 1, 0, vec![1])]).await.unwrap();
        s[&full].0.fill(true);
        let e = world
            .write(chunk(1, 1), &[1, 2, 3], vec![frame(1, 2, 9000, pattern(1, 9000))])
            .await
            .unwrap_err();
        assert_eq!(e, ChunkError::NoSpace(ServerId(full)));
    }
}

#[tokio::test(start_paused = true)]
async fn different_chunks_are_written_side_by_side() {
    let world = Arc::new(World::new().await);
    let _s = servers(&world, 3).await;
    let one = |id: u64| {
        let world = world.clone();
        async move {
            let frames = (0..20).map(|n| frame(id, n + 1, n * 5000, pattern(id + n, 5000))).collect();
            world.write(chunk(id, 1), &[1, 2, 3], frames).await.unwrap();
            let want: Vec<u8> = (0..20).flat_map(|n| pattern(id + n, 5000)).collect();
            for server in 1..=3 {
                assert!(
                    world.read(chunk(id, 1), server, 0, CHUNK_BYTES).await.unwrap() == want,
                    "chunk {id}"
                );
            }
        }
    };
    futures::future::join_all((1..=20).map(one)).await;
}

#[tokio::test(start_paused = true)]
async fn an_ended_session_writes_nothing_anywhere_though_its_capability_is_good() {
    let world = World::new().await;
    let s = servers(&world, 2).await;
    world.write(chunk(1, 1), &[1, 2], vec![frame(1, 1, 0, vec![1; 100])]).await.unwrap();
    // A stream that is open when the session ends.
    let (tx, rx) = tokio::sync::mpsc::channel(4);
    let frames = futures::stream::unfold(rx, |mut rx| async move { rx.recv().await.map(|f| (f, rx)) });
    let client = world.remote(mooseng_core::net::Role::Client, 1).await;
    let req = world.write_request(chunk(1, 1), &[1, 2]);
    let mut acks = client.write(&cx(), req, frames.boxed()).await.unwrap();
    tx.send(Ok(frame(1, 2, 0, vec![2; 100]))).await.unwrap();
    acks.next().await.unwrap().unwrap();
    let fenced = SessionStamp { epoch: SESSION.epoch.next(), ..SESSION };
    for server in 1..=2 {
        world.control(server, Control::Fence { session: fenced, term: Term(1) }).await.unwrap();
    }
    tx.send(Ok(frame(1, 3, 0, vec![3; 100]))).await.unwrap();
    assert!(matches!(acks.next().await, Some(Err(ChunkError::Fenced))));
    // The masters leave it out of their orders, which is what a server that restarts hears.
    let sessions = vec![SessionStamp { id: SessionId(8), epoch: SessionEpoch(1) }];
    world.leader.orders.lock().as_mut().unwrap().sessions = sessions;
    world.leader.orders.lock().as_mut().unwrap().next_session = SessionId(9);
    let mut s = s;
    let (disk, old) = s.remove(&1).unwrap();
    old.shutdown().await;
    let _again = world.start(1, &disk).await;
    let late = world.write(chunk(1, 1), &[1, 2], vec![frame(1, 4, 0, vec![4; 100])]).await;
    assert!(matches!(late, Err(ChunkError::Fenced)), "{late:?}");
    let master = |server| world.remote(mooseng_core::net::Role::Master, server);
    for server in 1..=2 {
        let read = ReadRequest { chunk: chunk(1, 1), at: Offset(0), len: 100, capability: None };
        let mut frames = master(server).await.read(&cx(), read).await.unwrap();
        assert_eq!(frames.next().await.unwrap().unwrap().data[..100], [2; 100], "on server {server}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_opened_after_the_orders_writes() {
    let world = World::new().await;
    world.leader.orders.lock().as_mut().unwrap().next_session = SESSION.id;
    let _s = servers(&world, 1).await;
    world.write(chunk(1, 1), &[1], vec![frame(1, 1, 0, vec![1; 100])]).await.unwrap();
}
