//! Reading an open file.

use super::*;
use crate::{ahead::FRESH, reader::read_chunk};
use mooseng_core::{error::ChunkError, limits::LAYOUT_CHUNKS_MAX};
use std::time::Duration;
use tokio::time::Instant;

/// First and longest wait between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// What a look at the state says of a read.
enum Look {
    /// This is the answer.
    Bytes(Bytes),
    /// What is known may be old.
    Reload,
    /// Own writes are on their way to there.
    Wait(Arc<Queue>, u64),
    /// Of this length, from the chunk at this place, from this position in it.
    Chunk(u64, ChunkIndex, Option<Place>, u64),
}

/// Where the masters say that content is.
enum Found {
    At(Place),
    /// In the inode still: nothing of this client's that was acknowledged is beside it.
    Inline(Bytes),
    Hole,
}

fn zeros(len: u64) -> Bytes {
    Bytes::from(vec![0; len as usize])
}

impl Node {
    /// Reads up to `len` bytes: fewer at the end of a chunk and of the file. Waits for no write but
    /// those of the same bytes. Failures are tried again until the client's deadline, or `until`.
    pub(crate) async fn read(&self, at: u64, len: u64, until: Option<Instant>) -> Result<Bytes> {
        let until = until.unwrap_or_else(|| Instant::now() + self.cx.masters.deadline());
        let (mut reloaded, mut again, mut pause) = (false, false, PAUSE.0);
        loop {
            let (len, index, place, within) = match self.look(at, len, reloaded, again) {
                Look::Bytes(data) => return Ok(data),
                Look::Reload => {
                    self.reload().await?;
                    reloaded = true;
                    continue;
                }
                Look::Wait(queue, upto) => {
                    queue.wait(upto, false).await?;
                    continue;
                }
                Look::Chunk(len, index, place, within) => (len, index, place, within),
            };
            let place = match place {
                Some(place) => place,
                None => match self.find(index).await? {
                    Found::At(place) => place,
                    Found::Inline(content) => return Ok(from_inline(&content, at, len)),
                    Found::Hole => return Ok(zeros(len)),
                },
            };
            let e = match read_chunk(&self.cx, &place, within, len).await {
                Ok(Some(data)) => return Ok(data),
                // Allocated and never written, by nobody: zeros.
                Ok(None) if place.place.is_fresh() && !self.wrote(index) => return Ok(zeros(len)),
                Ok(None) => {
                    let (chunk, tried) = (place.place.chunk.id, "all replicas".into());
                    Error::Chunk { chunk, tried, last: ChunkError::NotFound(chunk) }
                }
                Err(e) => e,
            };
            if Instant::now() + pause >= until || !can_change(&e) {
                return Err(e);
            }
            tracing::debug!(error = %e, "read again with a new layout");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
            again = true;
            self.state.lock().places.clear();
        }
    }

    fn look(&self, at: u64, len: u64, reloaded: bool, again: bool) -> Look {
        let s = self.state.lock();
        // The end may have moved, or somebody else changed the file between two looks at it, or since a while.
        let old = s.seen.is_none_or(|seen| seen.elapsed() >= FRESH);
        let doubtful = old || s.change == 0 || at.saturating_add(len) > s.size;
        if doubtful && !reloaded && !s.is_dirty() {
            return Look::Reload;
        }
        let len = len.min(s.size.saturating_sub(at));
        if len == 0 {
            return Look::Bytes(Bytes::new());
        }
        if s.is_inline() || s.inline.is_some() {
            return Look::Bytes(from_inline(s.inline.as_deref().unwrap_or_default(), at, len));
        }
        let (index, within) = chunk_of(at);
        let len = len.min(CHUNK_BYTES - within);
        // The newest writes first: the buffer, then the queue.
        let (buffered, end) = (s.buffer.at, s.buffer.end());
        if !s.buffer.bytes.is_empty() && buffered < at + len && at < end {
            // What is before the buffer, or the part of it that is asked for.
            if at < buffered {
                return self.look_at_chunk(&s, buffered - at, index, within, again);
            }
            let part = len.min(end - at);
            let from = (at - buffered) as usize;
            return Look::Bytes(Bytes::copy_from_slice(&s.buffer.bytes[from..from + part as usize]));
        }
        self.look_at_chunk(&s, len, index, within, again)
    }

    fn look_at_chunk(&self, s: &State, len: u64, index: ChunkIndex, within: u64, again: bool) -> Look {
        let queue = s.queues.get(&index).map(|w| &w.queue);
        match queue.and_then(|q| q.unacked(within, len).map(|u| (q, u))) {
            Some((_, Ok(data))) => return Look::Bytes(data),
            Some((q, Err(upto))) => return Look::Wait(q.clone(), upto),
            None => {}
        }
        // The writer's place is asked first only: a bump since leaves it behind.
        let place = queue.filter(|_| !again).and_then(|q| q.readable_place());
        Look::Chunk(len, index, place.or_else(|| s.places.get(&index).cloned()), within)
    }

    /// Whether writes of this client were acknowledged for a chunk and not committed yet.
    fn wrote(&self, index: ChunkIndex) -> bool {
        let s = self.state.lock();
        s.queues.get(&index).is_some_and(|w| w.queue.is_written())
    }

    /// Asks the masters where a chunk is.
    async fn find(&self, index: ChunkIndex) -> Result<Found> {
        let layouts = self.state.lock().layouts;
        let layout = self.layout(&self.cx.creds, index, LAYOUT_CHUNKS_MAX).await?;
        let capability = layout.capability;
        let places = layout.chunks.into_iter().map(|p| {
            let place = Place { place: p, capability: capability.clone() };
            (place.place.index, place)
        });
        let places: BTreeMap<_, _> = places.collect();
        if let Some(content) = layout.inline {
            return Ok(if index == ChunkIndex(0) { Found::Inline(content) } else { Found::Hole });
        }
        let found = places.get(&index).cloned().map_or(Found::Hole, Found::At);
        let mut s = self.state.lock();
        // A cut since makes them void.
        if s.layouts == layouts {
            s.places.extend(places);
        }
        Ok(found)
    }
}

/// Whether a fresh layout, with fresh rights, may serve.
fn can_change(e: &Error) -> bool {
    let refused = |last: &ChunkError| matches!(last, ChunkError::Forbidden(_) | ChunkError::Fenced);
    e.is_retryable() || matches!(e, Error::Chunk { last, .. } if refused(last))
}

/// Inline content may be shorter than the file: the rest is a hole.
fn from_inline(content: &[u8], at: u64, len: u64) -> Bytes {
    let from = (at as usize).min(content.len());
    let to = ((at + len) as usize).min(content.len());
    let mut bytes = BytesMut::from(&content[from..to]);
    bytes.resize(len as usize, 0);
    bytes.freeze()
}
