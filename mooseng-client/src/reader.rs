//! Reading chunks: replicas in order, every block verified, the next replica on error, damage
//! reported in the background.

use crate::{
    error::{Error, Result},
    masters::Masters,
    pool::Pool,
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use mooseng_core::{
    capability::Capability,
    checksum::{block_crc, blocks_of},
    chunk::{ChunkStore as _, Frame, ReadRequest},
    context::{CallContext, Credentials},
    error::ChunkError,
    ids::*,
    limits::BLOCK_BYTES,
    meta::{ChunkPlace, ReportReplica},
};
use std::{sync::Arc, time::Duration};

/// Silence after which another replica is asked.
pub(crate) const REPLICA_PATIENCE: Duration = Duration::from_secs(2);

/// One chunk's place with the right to touch it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub place: ChunkPlace,
    pub capability: Option<Capability>,
}

/// Reads `len` bytes at `at` of a chunk; what lies past its end is zeros.
///
/// Errors: no replica could serve it; [`ChunkError::Stale`] and the like mean that the layout is to
/// be read again.
pub(crate) async fn read_chunk(
    masters: &Arc<Masters>,
    pool: &Pool,
    inode: InodeId,
    place: &Place,
    at: u64,
    len: u64,
) -> Result<Bytes> {
    let chunk = place.place.chunk;
    let (mut tried, mut last) = (Vec::new(), ChunkError::NotFound(chunk.id));
    for replica in &place.place.chain {
        match read_replica(pool, &replica.addr, place, at, len).await {
            Ok(data) => return Ok(data),
            Err(e) => {
                if matches!(e, ChunkError::Damaged { .. } | ChunkError::BadFrame { .. }) {
                    report(masters, inode, place, replica.server, &e);
                }
                tried.push(format!("{} ({e})", replica.server));
                last = e;
            }
        }
    }
    Err(Error::Chunk { chunk: chunk.id, tried: tried.join(", "), last })
}

/// Tells the leader of a replica that served nothing good.
fn report(masters: &Arc<Masters>, inode: InodeId, place: &Place, server: ServerId, e: &ChunkError) {
    let report = ReportReplica {
        inode,
        index: place.place.index,
        chunk: place.place.chunk,
        server,
        problem: e.to_string(),
    };
    let masters = masters.clone();
    tokio::spawn(async move {
        if let Err(e) = masters.call(&Credentials::root(), report).await {
            tracing::warn!(error = %e, "a damaged replica could not be reported");
        }
    });
}

async fn read_replica(
    pool: &Pool,
    addr: &str,
    place: &Place,
    at: u64,
    len: u64,
) -> std::result::Result<Bytes, ChunkError> {
    let chunk = place.place.chunk;
    let from = at / BLOCK_BYTES * BLOCK_BYTES;
    let to = (at + len).next_multiple_of(BLOCK_BYTES);
    let cx = CallContext::internal(REPLICA_PATIENCE);
    let req = ReadRequest { chunk, at: Offset(from), len: to - from, capability: place.capability.clone() };
    let silent = || ChunkError::Busy(format!("no answer within {REPLICA_PATIENCE:?}"));
    let store = pool.get(addr, REPLICA_PATIENCE).await?;
    let frames = tokio::time::timeout(REPLICA_PATIENCE, store.read(&cx, req)).await.map_err(|_| silent())?;
    let mut frames = frames?;
    let mut got = Gathered { chunk: chunk.id, at: from, parts: Vec::new() };
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
        let mut whole = BytesMut::with_capacity(skip + len as usize);
        for part in &self.parts {
            whole.extend_from_slice(part);
        }
        whole.freeze().slice(skip..skip + len as usize)
    }
}
