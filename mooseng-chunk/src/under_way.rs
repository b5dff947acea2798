//! What a server has sent on and has not applied, or the server behind it has not acknowledged. Clients are not served
//! it: of the two, one may not have it yet, and who asked both would see the older bytes after the new ones. The last
//! of a chain serves all that it has, for the others have it or are on their way to; so there is always one that
//! answers (after CRAQ, Terrace and Freedman, USENIX ATC 2009, which asks the last one where this waits for it).
//!
//! What was sent on is applied before another version is taken, or the replica becomes a suspect: somebody may have
//! read it behind. What a chain that has failed leaves here is served from the next version on, whose members are
//! equal.

use crate::slot::Slot;
use mooseng_core::{chunk::Frame, error::ChunkError, ids::*, limits::BLOCK_BYTES};
use parking_lot::Mutex;
use std::{ops::Range, sync::Arc, time::Duration};
use tokio::{sync::Notify, time::Instant};

/// Longest wait of a reader; then another replica may serve it.
const PATIENCE: Duration = Duration::from_millis(100);

struct Sent {
    session: SessionId,
    number: WriteNumber,
    blocks: Range<u64>,
    /// This server has applied it.
    here: bool,
    /// The server behind has acknowledged it.
    behind: bool,
}

#[derive(Default)]
struct State {
    version: ChunkVersion,
    sent: Vec<Sent>,
    /// Versions that are about to begin here.
    next: Vec<ChunkVersion>,
}

/// The frames of one chunk that this server and the one behind it do not both have.
#[derive(Default)]
pub(crate) struct UnderWay {
    state: Mutex<State>,
    moved: Notify,
}

/// While another version is made here, nothing is sent on.
pub(crate) struct Closed {
    slot: Arc<Slot>,
    next: ChunkVersion,
}

impl Closed {
    pub fn new(slot: &Arc<Slot>, next: ChunkVersion) -> Self {
        slot.under_way.state.lock().next.push(next);
        Self { slot: slot.clone(), next }
    }

    /// Waits until all that was sent on before is applied here. Not under the order lock, which that needs.
    pub async fn catches_up(&self) {
        let under_way = &self.slot.under_way;
        loop {
            let moved = under_way.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            // What belongs to a version that is over is applied nowhere.
            let here = self.slot.known.lock().version;
            {
                let state = under_way.state.lock();
                if state.version < here || state.version >= self.next || state.sent.iter().all(|s| s.here) {
                    return;
                }
            }
            moved.await;
        }
    }

    /// The version has begun. Under the order lock.
    pub fn begins(&self) {
        self.slot.under_way.state.lock().turn_to(self.next);
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        let mut state = self.slot.under_way.state.lock();
        if let Some(at) = state.next.iter().position(|v| *v == self.next) {
            state.next.swap_remove(at);
        }
    }
}

impl State {
    fn turn_to(&mut self, version: ChunkVersion) {
        if self.version < version {
            (self.version, self.sent) = (version, vec![]);
        }
    }
}

fn blocks_of(at: u64, len: u64) -> Range<u64> {
    at / BLOCK_BYTES..(at + len).div_ceil(BLOCK_BYTES)
}

impl UnderWay {
    /// A frame is about to be sent on. Before it is applied here.
    ///
    /// # Errors
    /// Another version has begun or is about to.
    pub fn sends(&self, chunk: ChunkRef, session: SessionId, frame: &Frame) -> Result<(), ChunkError> {
        let ChunkRef { id, version: asked } = chunk;
        let mut state = self.state.lock();
        let newest = state.next.iter().copied().fold(state.version, Ord::max);
        if newest > asked {
            return Err(ChunkError::Stale { chunk: id, here: newest, asked });
        }
        state.turn_to(asked);
        let blocks = blocks_of(frame.head.at.get(), frame.data.len() as u64);
        state.sent.push(Sent { session, number: frame.head.number, blocks, here: false, behind: false });
        Ok(())
    }

    /// The server behind has a session's frames up to a number.
    pub fn arrived(&self, session: SessionId, upto: WriteNumber) {
        self.note(session, upto, |s| s.behind = true);
    }

    /// This server has a session's frames up to a number: it applies them in their order.
    pub fn applied(&self, session: SessionId, upto: WriteNumber) {
        self.note(session, upto, |s| s.here = true);
    }

    fn note(&self, session: SessionId, upto: WriteNumber, done: impl Fn(&mut Sent)) {
        let mut state = self.state.lock();
        state.sent.iter_mut().filter(|s| s.session == session && s.number <= upto).for_each(done);
        state.sent.retain(|s| !(s.here && s.behind));
        drop(state);
        self.moved.notify_waiters();
    }

    /// Nothing that a session has sent on will be applied here any more.
    pub fn gives_up(&self, session: SessionId) {
        self.state.lock().sent.retain(|s| s.session != session || s.here);
        self.moved.notify_waiters();
    }

    /// Whether something of a range is under way. Under the order lock; what comes after waits for that.
    pub fn touches(&self, version: ChunkVersion, at: u64, len: u64) -> bool {
        let (blocks, state) = (blocks_of(at, len), self.state.lock());
        let meets = |s: &Sent| s.blocks.start < blocks.end && blocks.start < s.blocks.end;
        state.version == version && state.sent.iter().any(meets)
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
