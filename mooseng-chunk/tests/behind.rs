//! A server that sends on what it cannot apply yet: those behind serve it, so it neither serves what is older nor
//! takes another version without it.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use common::{disk::CrashDisk, *};
use futures::StreamExt as _;
use mooseng_chunk::Chunkserver;
use mooseng_core::{
    chunk::*,
    error::ChunkError,
    ids::*,
    meta::ReplicaState,
    net::Role,
    seam::{Job, Lane, Lanes},
};
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};

/// Jobs of the commit lanes, while they are held.
type Held = Arc<Mutex<Option<Vec<(Arc<dyn Lane>, Job)>>>>;

/// Lanes whose commits can be held: then a redo log that is full stays so.
struct HeldCommits {
    lanes: Arc<dyn Lanes>,
    held: Held,
}

struct HeldLane {
    lane: Arc<dyn Lane>,
    held: Held,
}

macro_rules! opaque {
    ($($t:ident),*) => {$(
        impl std::fmt::Debug for $t {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($t)).finish_non_exhaustive()
            }
        }
    )*};
}
opaque!(HeldCommits, HeldLane);

impl Lanes for HeldCommits {
    fn lane(&self, name: &str) -> Arc<dyn Lane> {
        let lane = self.lanes.lane(name);
        match name.starts_with("commit") {
            true => Arc::new(HeldLane { lane, held: self.held.clone() }),
            false => lane,
        }
    }
}

impl Lane for HeldLane {
    fn run(&self, job: Job) {
        match &mut *self.held.lock() {
            Some(held) => held.push((self.lane.clone(), job)),
            None => self.lane.run(job),
        }
    }
}

fn hold(held: &Held) {
    *held.lock() = Some(vec![]);
}

fn go_on(held: &Held) {
    let jobs = held.lock().take().unwrap_or_default();
    jobs.into_iter().for_each(|(lane, job)| lane.run(job));
}

/// More than a frame that finds no room leaves of a segment.
const PART: usize = 64 << 10;
const FRAME: usize = 32 << 10;
/// More than both segments of a redo log take.
const FRAMES: usize = 256;

fn writes(server: &Chunkserver) -> usize {
    server.store().counters().writes.load(std::sync::atomic::Ordering::Relaxed) as usize
}

/// A head whose redo log is full of another chunk, and a tail that has a frame which the head has not.
struct Full {
    world: World,
    servers: Vec<Chunkserver>,
    held: Held,
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
        let (world, held) = (World::new().await, Held::default());
        // A log is emptied in the order of chunks, and has the lock of the one that it is at: one for each segment.
        let (c, fillers) = (chunk(3, 1), [chunk(1, 1), chunk(2, 1)]);
        let (mut servers, head) = (vec![], CrashDisk::new());
        for n in 1..=2 {
            let disk = if n == 1 { head.clone() } else { CrashDisk::new() };
            let mut options = world.options(n, vec![disk.mount()]);
            if n == 1 {
                let lanes = options.seams.lanes.clone();
                options.seams.lanes = Arc::new(HeldCommits { lanes, held: held.clone() });
            }
            let server = Chunkserver::start(options).await.unwrap();
            until("it is ready", || server.is_ready()).await;
            servers.push(server);
        }
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
        hold(&held);
        let client = world.remote(Role::Client, 1).await;
        let (mut full, mut _fillers) = (writes(&servers[0]), vec![]);
        for it in fillers {
            let (before, more) = (full, fill(it, FRAMES + 2, 2).into_iter().map(Ok));
            let more = futures::stream::iter(more.collect::<Vec<_>>()).boxed();
            _fillers.push(client.write(&cx(), world.write_request(it, &[1]), more).await.unwrap());
            tokio::time::sleep(Duration::from_millis(50)).await;
            full = writes(&servers[0]);
            assert!(before < full && full < before + FRAMES, "the log has room for {}", full - before);
        }
        let behind = writes(&servers[1]);
        let one = futures::stream::iter([Ok(frame(3, 3, PART as u64, new.clone()))]).boxed();
        let acks = client.write(&cx(), world.write_request(c, &[1, 2]), one).await.unwrap();
        until("the one behind has it", || writes(&servers[1]) == behind + 1).await;
        assert_eq!(writes(&servers[0]), full, "and the head has not");
        Self { world, servers, held, disk: head, c, old, new, acks, _fillers }
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
    go_on(&w.held);
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
    let later = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        go_on(&w.held);
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
    go_on(&w.held);
    let e = w.acks.next().await.unwrap().unwrap_err();
    assert_eq!(e, ChunkError::NoSpace(ServerId(1)));
    assert_eq!(w.world.stat(1, 3).await.unwrap().report.state, ReplicaState::Suspect);
    assert!(matches!(w.read(1, 1).await, Err(ChunkError::Suspect(_))));
    assert_eq!(w.read(2, 1).await.unwrap(), w.new);
}
