//! What a server has sent on and the server behind it has not acknowledged. Clients are not served it: a replica
//! behind may not have it yet, and who asked that one next would see the older bytes again. The last of a chain
//! serves all that it has, for the others have it or are on their way to; so there is always one that answers
//! (after CRAQ, Terrace and Freedman, USENIX ATC 2009, which asks the last one where this waits for it).
//!
//! What a chain that has failed leaves here is served from the next version on, whose members are equal.

use mooseng_core::{chunk::Frame, error::ChunkError, ids::*, limits::BLOCK_BYTES};
use parking_lot::Mutex;
use std::{ops::Range, time::Duration};
use tokio::{sync::Notify, time::Instant};

/// Longest wait of a reader; then another replica may serve it.
const PATIENCE: Duration = Duration::from_millis(100);

struct Sent {
    session: SessionId,
    number: WriteNumber,
    blocks: Range<u64>,
}

/// The frames of one chunk that are under way to the server behind.
#[derive(Default)]
pub(crate) struct UnderWay {
    sent: Mutex<(ChunkVersion, Vec<Sent>)>,
    moved: Notify,
}

fn blocks_of(at: u64, len: u64) -> Range<u64> {
    at / BLOCK_BYTES..(at + len).div_ceil(BLOCK_BYTES)
}

impl UnderWay {
    /// A frame is about to be sent on. Before it is applied here.
    pub fn sends(&self, version: ChunkVersion, session: SessionId, frame: &Frame) {
        let mut sent = self.sent.lock();
        if sent.0 < version {
            *sent = (version, vec![]);
        }
        // What belongs to an older version is applied nowhere.
        if sent.0 == version {
            let blocks = blocks_of(frame.head.at.get(), frame.data.len() as u64);
            sent.1.push(Sent { session, number: frame.head.number, blocks });
        }
    }

    /// The server behind has a session's frames up to a number.
    pub fn arrived(&self, session: SessionId, upto: WriteNumber) {
        self.sent.lock().1.retain(|s| s.session != session || s.number > upto);
        self.moved.notify_waiters();
    }

    /// Whether something of a range is under way. Under the order lock; what comes after waits for that.
    pub fn touches(&self, version: ChunkVersion, at: u64, len: u64) -> bool {
        let (blocks, sent) = (blocks_of(at, len), self.sent.lock());
        sent.0 == version && sent.1.iter().any(|s| s.blocks.start < blocks.end && blocks.start < s.blocks.end)
    }

    /// Waits for a change while something of a range is under way, not under the order lock.
    ///
    /// # Errors
    /// It still is, some time after `since`: another replica may serve the range.
    pub async fn moves(
        &self,
        chunk: ChunkRef,
        (at, len): (u64, u64),
        since: Instant,
    ) -> Result<(), ChunkError> {
        let moved = self.moved.notified();
        tokio::pin!(moved);
        moved.as_mut().enable();
        if !self.touches(chunk.version, at, len) {
            return Ok(());
        }
        tokio::time::timeout_at(since + PATIENCE, moved).await.map_err(|_| {
            ChunkError::Busy(format!("{} is being written there, and a replica has not got it yet", chunk.id))
        })
    }
}
