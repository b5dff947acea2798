//! Copies that are made ahead of a bump: never a replica, and of use to the bump that comes.

use crate::common::*;
use async_trait::async_trait;
use futures::StreamExt as _;
use mooseng_core::{
    chunk::*,
    context::CallContext,
    error::ChunkError,
    ids::*,
    limits::CHUNK_BYTES,
    meta::ReplicaState,
    net::{Listening, Role},
    rpc::{ChunkHandler, RemoteChunks},
};
use std::sync::{Arc, atomic::Ordering};
use tokio::sync::Notify;

const DATA: usize = 3 << 20;

async fn is_no_replica(world: &World, server: u64) {
    let report = world.stat(server, 1).await.unwrap().report;
    assert_eq!((report.chunk.version, report.state), (ChunkVersion(0), ReplicaState::Suspect));
    for version in [0, 1, 2] {
        let got = world.read(chunk(1, version), server, 0, CHUNK_BYTES).await;
        assert!(got.is_err(), "version {version} is served");
        let table = world.control(server, Control::Table { chunk: chunk(1, version) }).await;
        assert!(table.is_err(), "version {version} passes for a source");
    }
    // Not even as the best that there is.
    let settled = world.control(server, settle(chunk(1, 2), &[server])).await;
    assert!(matches!(settled, Err(ChunkError::Suspect(_))), "{settled:?}");
}

#[tokio::test(start_paused = true)]
async fn a_copy_ahead_is_no_replica_also_after_a_restart() {
    let world = World::new().await;
    let mut s = servers(&world, 3).await;
    world.write(chunk(1, 1), &[1, 2], vec![frame(1, 1, 0, pattern(1, 50_000))]).await.unwrap();
    world.sync(chunk(1, 1), &[1, 2], vec![]).await.unwrap();
    world.pull_ahead(3, chunk(1, 1), &[1, 2]).await.unwrap();
    is_no_replica(&world, 3).await;
    for power in [false, true] {
        let (disk, old) = s.remove(&3).unwrap();
        match power {
            false => old.shutdown().await,
            true => {
                drop(old);
                world.net.cut("chunkserver-3");
                disk.power_fails();
            }
        }
        let new = world.start(3, &disk).await;
        s.insert(3, (disk, new));
        is_no_replica(&world, 3).await;
    }
    // It is removed as a copy too many.
    world.control(3, Control::Delete { chunk: chunk(1, 1), term: Term(1) }).await.unwrap();
    assert!(!s[&3].0.has(&path(1)));
}

#[tokio::test(start_paused = true)]
async fn a_member_is_not_copied_over() {
    let world = World::new().await;
    let _s = servers(&world, 2).await;
    world.write(chunk(1, 1), &[1, 2], vec![frame(1, 1, 0, pattern(1, 9000))]).await.unwrap();
    let v2 = world.bump(chunk(1, 1), &[1, 2]).await;
    // A command that was long under way, and one that is of now.
    for late in [chunk(1, 1), v2] {
        let e = world.pull_ahead(2, late, &[1]).await;
        assert!(matches!(e, Err(ChunkError::Stale { .. })), "{e:?}");
    }
    assert_eq!(world.read(v2, 2, 0, CHUNK_BYTES).await.unwrap(), pattern(1, 9000));
}

#[tokio::test(start_paused = true)]
async fn the_bump_copies_only_what_was_written_since() {
    let world = World::new().await;
    let s = servers(&world, 3).await;
    let served = || s[&1].1.store().counters().read_bytes.load(Ordering::Relaxed) as usize;
    let mut whole = pattern(1, DATA);
    let frames = (0..3).map(|n| frame(1, n + 1, n << 20, whole[(n as usize) << 20..][..1 << 20].to_vec()));
    world.write(chunk(1, 1), &[1, 2], frames.collect()).await.unwrap();
    world.sync(chunk(1, 1), &[1, 2], vec![]).await.unwrap();
    // Written while it is copied: over synced blocks, and more.
    let (over, more) = (pattern(2, 2 * BLOCK), pattern(3, 5000));
    let writes = vec![frame(1, 4, 10 * BLOCK as u64, over.clone()), frame(1, 5, DATA as u64, more.clone())];
    let (ahead, wrote) =
        tokio::join!(world.pull_ahead(3, chunk(1, 1), &[1, 2]), world.write(chunk(1, 1), &[1, 2], writes));
    ahead.unwrap();
    wrote.unwrap();
    // And afterwards.
    let late = pattern(4, BLOCK);
    world.write(chunk(1, 1), &[1, 2], vec![frame(1, 6, 600 * BLOCK as u64, late.clone())]).await.unwrap();
    whole[10 * BLOCK..12 * BLOCK].copy_from_slice(&over);
    whole[600 * BLOCK..601 * BLOCK].copy_from_slice(&late);
    whole.extend(&more);
    let (v2, before) = (world.bump(chunk(1, 1), &[1, 2]).await, served());
    assert!(before >= DATA, "it was copied ahead");
    world.pull(3, v2, &[1, 2]).await.unwrap();
    let took = served() - before;
    assert!((1..=16 * BLOCK).contains(&took), "the bump took {took} bytes");
    assert!(world.read(v2, 3, 0, CHUNK_BYTES).await.unwrap() == whole);
    assert_eq!(world.stat(3, 1).await.unwrap().report.state, ReplicaState::Good);
    // A repeat is one there, too.
    world.write(v2, &[3], vec![frame(1, 6, 600 * BLOCK as u64, vec![9; BLOCK])]).await.unwrap();
    assert!(world.read(v2, 3, 0, CHUNK_BYTES).await.unwrap() == whole);
}

#[tokio::test(start_paused = true)]
async fn much_that_changed_is_copied_again_ahead() {
    let world = World::new().await;
    let s = servers(&world, 2).await;
    world.write(chunk(1, 1), &[1], vec![frame(1, 1, 0, pattern(1, 1 << 20))]).await.unwrap();
    let changing = Source::Changing(chunk(1, 1), world.remote(Role::Chunkserver, 1).await);
    let _listening = listen(&world, changing).await;
    world.pull_ahead(2, chunk(1, 1), &[9]).await.unwrap();
    let ahead = s[&1].1.store().counters().read_bytes.load(Ordering::Relaxed);
    assert_eq!(ahead, 5 << 20, "the first MiB, and four that came while it was copied");
}

/// A source that does not behave.
enum Source {
    /// It is written when its table was told for the first time.
    Changing(ChunkRef, RemoteChunks),
    /// It tells what it has and then nothing more.
    Silent(Arc<Notify>),
}

#[async_trait]
impl ChunkStore for Source {
    async fn read(&self, cx: &CallContext, req: ReadRequest) -> Result<Frames, ChunkError> {
        match self {
            Self::Changing(_, remote) => remote.read(cx, req).await,
            Self::Silent(asked) => {
                asked.notify_one();
                std::future::pending().await
            }
        }
    }
    async fn control(&self, cx: &CallContext, op: Control) -> Result<ControlReply, ChunkError> {
        let Self::Changing(chunk, remote) = self else {
            return Ok(ControlReply::Table(ChecksumTable { length: 4096, blocks: vec![Some(1)] }));
        };
        let told = remote.control(cx, op).await?;
        if let ControlReply::Table(t) = &told
            && t.length == 1 << 20
        {
            let frames: Vec<_> =
                (1..5u64).map(|n| Ok(frame(1, n + 1, n << 20, pattern(n, 1 << 20)))).collect();
            let (chunk, chain, makers, session) = (*chunk, chain(&[1]), vec![], SESSION);
            let req = WriteRequest { chunk, chain, makers, head: None, session, capability: None };
            let acks = remote.write(cx, req, futures::stream::iter(frames).boxed()).await?;
            let acks: Vec<_> = acks.collect().await;
            assert!(acks.iter().all(Result::is_ok), "{acks:?}");
        }
        Ok(told)
    }
    async fn write(&self, _: &CallContext, _: WriteRequest, _: Frames) -> Result<Acks, ChunkError> {
        Err(ChunkError::Invalid("not here".into()))
    }
    async fn sync(&self, _: &CallContext, _: SyncRequest) -> Result<SyncDone, ChunkError> {
        Err(ChunkError::Invalid("not here".into()))
    }
    async fn list(&self, _: &CallContext, _: Option<ChunkId>, _: u32) -> Result<ChunkPage, ChunkError> {
        Err(ChunkError::Invalid("not here".into()))
    }
}

async fn listen(world: &World, store: impl ChunkStore) -> Box<dyn Listening> {
    let transport = world.net.transport(identity(Role::Chunkserver, 9));
    transport.listen(&addr(9), Arc::new(ChunkHandler::new(Arc::new(store)))).await.unwrap()
}

/// A source that does not answer would hold it up for ten seconds, and the network may lose word that the master
/// gave it up.
#[tokio::test(start_paused = true)]
async fn a_copy_ahead_keeps_no_command_waiting() {
    let world = World::new().await;
    let _s = servers(&world, 2).await;
    world.write(chunk(1, 1), &[1], vec![frame(1, 1, 0, pattern(1, 9000))]).await.unwrap();
    let asked = Arc::new(Notify::new());
    let _listening = listen(&world, Source::Silent(asked.clone())).await;
    let v2 = world.bump(chunk(1, 1), &[1]).await;
    let delete = Control::Delete { chunk: chunk(1, 1), term: Term(1) };
    let (from, member_of) = (chain(&[1]), None);
    let others = [delete, Control::Pull { chunk: v2, from, ahead: false, member_of, term: Term(1) }];
    for other in others {
        let then = async {
            asked.notified().await;
            world.control(2, other).await
        };
        // Whichever answers first: with a gate that never opens only one can.
        let ahead = world.pull_ahead(2, chunk(1, 1), &[9]);
        tokio::pin!(ahead, then);
        let (e, done) = tokio::join!(ahead, then);
        assert!(matches!(e, Err(ChunkError::Busy(ref why)) if why.contains("something else")), "{e:?}");
        done.unwrap();
    }
    assert_eq!(world.read(v2, 2, 0, CHUNK_BYTES).await.unwrap(), pattern(1, 9000));
}
