//! A server that sends on what it cannot apply yet: those behind serve it, so it neither serves what is older nor
//! takes another version without it.

use crate::common::{disk::CrashDisk, *};
use futures::StreamExt as _;
use mooseng_chunk::Chunkserver;
use mooseng_core::{
    chunk::*,
    error::ChunkError,
    ids::*,
    meta::{MetaRequest, ReplicaState},
    net::Role,
};
use mooseng_host::HeldLanes;
use std::{sync::Arc, time::Duration};

/// More than a frame that finds no room leaves of a segment.
const PART: usize = 64 << 10;
const FRAME: usize = 32 << 10;
/// More than both segments of a redo log take.
const FRAMES: usize = 256;

fn writes(server: &Chunkserver) -> usize {
    server.store().counters().writes.load(std::sync::atomic::Ordering::Relaxed) as usize
}

/// Servers 1 to n, and one's disk, whose commits can stand still: then its notes are not written, and a redo log that is
/// full stays so.
async fn with_held(world: &World, n: u64, one: u64) -> (Vec<Chunkserver>, CrashDisk, HeldLanes) {
    let (mut servers, disk, held) = (vec![], CrashDisk::new(), HeldLanes::of("commit"));
    for n in 1..=n {
        let its = if n == one { disk.clone() } else { CrashDisk::new() };
        let mut options = world.options(n, vec![its.mount()]);
        if n == one {
            options.seams.lanes = Arc::new(held.clone());
        }
        let server = Chunkserver::start(options).await.unwrap();
        until("it is ready", || server.is_ready()).await;
        servers.push(server);
    }
    (servers, disk, held)
}

/// A head whose redo log is full of another chunk, and a tail that has a frame which the head has not.
struct Full {
    world: World,
    servers: Vec<Chunkserver>,
    held: HeldLanes,
    /// The head's.
    disk: CrashDisk,
    c: ChunkRef,
    old: Vec<u8>,
    new: Vec<u8>,
    acks: Acks,
    _fillers: Vec<Acks>,
}

impl Full {
    async fn new() -> Self {
        let world = World::new().await;
        // A log is emptied in the order of chunks, and has the lock of the one that it is at: one for each segment.
        let (c, fillers) = (chunk(3, 1), [chunk(1, 1), chunk(2, 1)]);
        let (servers, disk, held) = with_held(&world, 2, 1).await;
        // Synced, so that more goes to the log; and written again, so that the notes say that they are dirty.
        let (old, new) = (pattern(1, 2 * PART), pattern(2, PART));
        let fill = |it: ChunkRef, first: usize, byte: u8| -> Vec<Frame> {
            let one =
                |n: usize| frame(it.id.get(), (first + n) as u64, (n * FRAME) as u64, vec![byte; FRAME]);
            (0..FRAMES).map(one).collect()
        };
        let mut whole = vec![(c, &[1, 2][..], vec![frame(3, 1, 0, old.clone())])];
        whole.extend(fillers.map(|it| (it, &[1][..], fill(it, 1, 1))));
        for (it, chain, frames) in whole {
            let again = frame(it.id.get(), frames.len() as u64 + 1, 0, frames[0].data.slice(..1));
            let ack = world.write(it, chain, frames).await.unwrap().unwrap();
            world.sync(it, chain, ack.members).await.unwrap();
            world.write(it, chain, vec![again]).await.unwrap();
        }
        held.hold();
        let client = world.remote(Role::Client, 1).await;
        let (mut full, mut _fillers) = (writes(&servers[0]), vec![]);
        for it in fillers {
            let (before, more) = (full, fill(it, FRAMES + 2, 2).into_iter().map(Ok));
            let more = futures::stream::iter(more.collect::<Vec<_>>()).boxed();
            _fillers.push(client.write(&cx(), world.write_request(it, &[1]), more).await.unwrap());
            until("no more goes", || {
                std::mem::replace(&mut full, writes(&servers[0])) == full && full > before
            })
            .await;
            assert!(before < full && full < before + FRAMES, "the log has room for {}", full - before);
        }
        let behind = writes(&servers[1]);
        let one = futures::stream::iter([Ok(frame(3, 3, PART as u64, new.clone()))]).boxed();
        let acks = client.write(&cx(), world.write_request(c, &[1, 2]), one).await.unwrap();
        until("the one behind has it", || writes(&servers[1]) == behind + 1).await;
        assert_eq!(writes(&servers[0]), full, "and the head has not");
        Self { world, servers, held, disk, c, old, new, acks, _fillers }
    }

    async fn read(&self, server: u64, part: usize) -> Result<Vec<u8>, ChunkError> {
        self.world.read(self.c, server, (part * PART) as u64, PART as u64).await
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_one_behind_serves_is_not_read_older_from_the_head() {
    let mut w = Full::new().await;
    assert_eq!(w.read(2, 1).await.unwrap(), w.new);
    let got = w.read(1, 1).await;
    assert!(matches!(got, Err(ChunkError::Busy(_))), "{:?}", got.map(|b| b == w.old[PART..]));
    assert_eq!(w.read(1, 0).await.unwrap(), w.old[..PART], "what is beside it waits for nothing");
    w.held.go_on();
    assert_eq!(w.acks.next().await.unwrap().unwrap().upto, WriteNumber(3));
    assert_eq!(w.read(1, 1).await.unwrap(), w.new);
    for server in w.servers {
        server.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_version_begins_without_what_was_sent_on() {
    let w = Full::new().await;
    let next = ChunkRef { version: w.c.version.next(), ..w.c };
    let set = settle(next, &[1, 2]);
    let e = w.world.control(1, set.clone()).await.unwrap_err();
    assert!(matches!(e, ChunkError::Busy(_)), "{e}");
    // While it waits, which it does for a second.
    let later = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        w.held.go_on();
    };
    let (set, ()) = tokio::join!(w.world.control(1, set), later);
    set.unwrap();
    let got = w.world.read(next, 1, PART as u64, PART as u64).await.unwrap();
    assert_eq!(got, w.new, "somebody may have read it behind");
}

/// A head that loses what it sent on is no source any more.
#[tokio::test(start_paused = true)]
async fn who_cannot_apply_what_it_sent_on_is_a_suspect() {
    let mut w = Full::new().await;
    w.disk.dies_after(0);
    w.held.go_on();
    let e = w.acks.next().await.unwrap().unwrap_err();
    assert_eq!(e, ChunkError::NoSpace(ServerId(1)));
    assert_eq!(w.world.stat(1, 3).await.unwrap().report.state, ReplicaState::Suspect);
    assert!(matches!(w.read(1, 1).await, Err(ChunkError::Suspect(_))));
    let tells = |r: &MetaRequest| matches!(r, MetaRequest::Heartbeat(b) if b.damaged.contains(&w.c));
    until("the masters hear of it", || w.world.leader.heard.lock().iter().any(tells)).await;
    assert_eq!(w.read(2, 1).await.unwrap(), w.new);
}

/// Or it could come back without it, and not know.
#[tokio::test(start_paused = true)]
async fn whoever_sends_on_notes_it_first() {
    for one in [1, 2] {
        let world = World::new().await;
        let (servers, _disk, held) = with_held(&world, 3, one).await;
        let (c, all) = (chunk(1, 1), [1, 2, 3]);
        let ack = world.write(c, &all, vec![frame(1, 1, 0, pattern(1, 9000))]).await.unwrap().unwrap();
        world.sync(c, &all, ack.members).await.unwrap();
        until("all is clean", || servers.iter().all(|s| s.store().dirty_chunks() == 0)).await;
        // The note on the disk goes some time later, in virtual time.
        tokio::time::sleep(Duration::from_secs(3)).await;
        held.hold();
        let client = world.remote(Role::Client, 1).await;
        let next = futures::stream::iter([Ok(frame(1, 2, 0, pattern(2, 9000)))]).boxed();
        let mut acks = client.write(&cx(), world.write_request(c, &all), next).await.unwrap();
        // Less than the chain's patience, in virtual time.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let behind = &servers[one as usize];
        assert_eq!(writes(behind), 1, "{one} has no note of it yet");
        held.go_on();
        assert_eq!(acks.next().await.unwrap().unwrap().upto, WriteNumber(2));
        assert_eq!(writes(behind), 2);
    }
}
