//! Reading chunks: the replica that answers best first, another beside it when it is slow, every
//! block verified, damage reported in the background.

use crate::{
    error::{Error, Result},
    writer::Context,
};
use bytes::{Bytes, BytesMut};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use mooseng_core::{
    capability::Capability,
    checksum::{block_crc, blocks_of},
    chunk::{ChunkStore as _, Frame, ReadRequest},
    context::{CallContext, Credentials},
    error::ChunkError,
    ids::*,
    limits::BLOCK_BYTES,
    meta::{ChunkPlace, Replica, ReportReplica},
};
use std::time::Duration;
use tokio::time::Instant;

/// Silence after which a replica is given up.
pub(crate) const REPLICA_PATIENCE: Duration = Duration::from_secs(2);

/// One chunk's place with the right to touch it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub place: ChunkPlace,
    pub capability: Option<Capability>,
}

type Tried<'a> = BoxFuture<'a, (&'a Replica, Duration, std::result::Result<Bytes, ChunkError>)>;

/// Reads `len` bytes at `at` of a chunk; what lies past its end is zeros. `None`: no replica has it.
///
/// Errors: no replica could serve it; [`ChunkError::Stale`] and the like mean that the layout is to
/// be read again.
pub(crate) fn read_chunk<'a>(
    cx: &'a Context,
    place: &'a Place,
    at: u64,
    len: u64,
) -> BoxFuture<'a, Result<Option<Bytes>>> {
    read_any(cx, place, at, len).boxed()
}

async fn read_any(cx: &Context, place: &Place, at: u64, len: u64) -> Result<Option<Bytes>> {
    let chunk = place.place.chunk;
    let health = &cx.pool.health;
    let mut waiting = health.order(chunk, &place.place.chain, Instant::now()).into_iter();
    let mut asked: FuturesUnordered<Tried<'_>> = FuturesUnordered::new();
    let (mut tried, mut last) = (Vec::new(), ChunkError::NotFound(chunk.id));
    let (mut absent, mut slowest) = (0, None);
    let ask = |replica| -> Tried<'_> {
        Box::pin(async move {
            let begin = Instant::now();
            let got = read_replica(cx, replica, place, at, len).await;
            (replica, begin.elapsed(), got)
        })
    };
    loop {
        if asked.is_empty() {
            let Some(replica) = waiting.next() else { break };
            slowest = Some(replica.server);
            asked.push(ask(replica));
        }
        let patience = slowest.map_or(REPLICA_PATIENCE, |s| health.hedge_after(s, len));
        let more = waiting.len() > 0;
        tokio::select! {
            biased;
            Some((replica, took, got)) = asked.next() => match got {
                Ok(data) => {
                    health.answered(replica.server, took, Instant::now());
                    return Ok(Some(data));
                }
                Err(e) => {
                    absent += usize::from(matches!(e, ChunkError::NotFound(_)));
                    blame(cx, place, replica.server, &e);
                    tried.push(format!("{} ({e})", replica.server));
                    last = e;
                }
            },
            () = tokio::time::sleep(patience), if more => {
                if let Some(server) = slowest {
                    health.slow(server, Instant::now());
                }
                if let Some(replica) = waiting.next() {
                    slowest = Some(replica.server);
                    asked.push(ask(replica));
                }
            }
        }
    }
    if absent > 0 && absent == place.place.chain.len() {
        return Ok(None);
    }
    Err(Error::Chunk { chunk: chunk.id, tried: tried.join(", "), last })
}

/// What a replica's error says of its server; damage is told to the leader.
fn blame(cx: &Context, place: &Place, server: ServerId, e: &ChunkError) {
    match e {
        ChunkError::Damaged { .. } | ChunkError::BadFrame { .. }
            if cx.pool.health.damaged(place.place.chunk, server, Instant::now()) =>
        {
            report(cx, place, server, e);
        }
        // It answered: one block that is much written to says little of the others.
        ChunkError::Busy(_) => cx.pool.health.slow(server, Instant::now()),
        ChunkError::Net(_) | ChunkError::Disk { .. } => cx.pool.health.failed(server, Instant::now()),
        _ => {}
    }
}

/// Tells the leader of a replica that served nothing good.
fn report(cx: &Context, place: &Place, server: ServerId, e: &ChunkError) {
    let report = ReportReplica {
        inode: cx.inode,
        index: place.place.index,
        chunk: place.place.chunk,
        server,
        problem: e.to_string(),
        full: false,
    };
    let masters = cx.masters.clone();
    tokio::spawn(async move {
        if let Err(e) = masters.call(&Credentials::root(), report).await {
            tracing::warn!(error = %e, "a damaged replica could not be reported");
        }
    });
}

async fn read_replica(
    cx: &Context,
    replica: &Replica,
    place: &Place,
    at: u64,
    len: u64,
) -> std::result::Result<Bytes, ChunkError> {
    let chunk = place.place.chunk;
    let from = at / BLOCK_BYTES * BLOCK_BYTES;
    let to = (at + len).next_multiple_of(BLOCK_BYTES);
    let call = CallContext::internal(REPLICA_PATIENCE);
    let req = ReadRequest { chunk, at: Offset(from), len: to - from, capability: place.capability.clone() };
    let silent = || ChunkError::Busy(format!("no answer within {REPLICA_PATIENCE:?}"));
    let store = cx.pool.get(&replica.addr, REPLICA_PATIENCE).await?;
    let frames = tokio::time::timeout(REPLICA_PATIENCE, store.read(&call, req)).await;
    let mut frames = frames.map_err(|_| silent())??;
    let mut got = Gathered { chunk: chunk.id, at: from, to, parts: Vec::new() };
    while let Some(frame) =
        tokio::time::timeout(REPLICA_PATIENCE, frames.next()).await.map_err(|_| silent())?
    {
        got.add(frame?)?;
    }
    Ok(got.cut(at, len))
}

/// What came, in order; one frame stays the one piece it came in.
struct Gathered {
    chunk: ChunkId,
    at: u64,
    to: u64,
    parts: Vec<Bytes>,
}

static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

fn zeros(parts: &mut Vec<Bytes>, mut n: u64) {
    while n > 0 {
        let take = n.min(ZEROS.len() as u64);
        parts.push(Bytes::from_static(&ZEROS[..take as usize]));
        n -= take;
    }
}

impl Gathered {
    fn add(&mut self, frame: Frame) -> std::result::Result<(), ChunkError> {
        let bad = |what: &str| ChunkError::BadFrame { chunk: self.chunk, what: what.into() };
        if frame.head.at.get() != self.at {
            return Err(bad("frames are out of order"));
        }
        if (frame.data.len() as u64).max(frame.head.hole) > self.to.saturating_sub(self.at) {
            return Err(bad("more came than was asked for"));
        }
        if frame.head.hole > 0 {
            self.at += frame.head.hole;
            zeros(&mut self.parts, frame.head.hole);
            return Ok(());
        }
        let mut crcs = frame.head.crcs.iter();
        for (block, range) in blocks_of(frame.head.at, frame.data.len()) {
            if crcs.next() != Some(&block_crc(self.chunk, block, &frame.data[range])) {
                return Err(bad("data does not match its checksum"));
            }
        }
        self.at += frame.data.len() as u64;
        self.parts.push(frame.data);
        Ok(())
    }

    /// The bytes asked for; what did not come is zeros.
    fn cut(mut self, at: u64, len: u64) -> Bytes {
        let begin = self.at - self.parts.iter().map(|p| p.len() as u64).sum::<u64>();
        if self.at < at + len {
            zeros(&mut self.parts, at + len - self.at);
        }
        let skip = (at - begin) as usize;
        if self.parts.len() == 1 {
            return self.parts.remove(0).slice(skip..skip + len as usize);
        }
        let mut whole = BytesMut::with_capacity(self.parts.iter().map(Bytes::len).sum());
        for part in &self.parts {
            whole.extend_from_slice(part);
        }
        whole.freeze().slice(skip..skip + len as usize)
    }
}
