//! Read-ahead of one handle: a sequential reader finds its next bytes fetched already.
//!
//! Pieces of 1 MiB, aligned so that each is one frame of one replica, are fetched side by side up
//! to a window that doubles with each read in sequence. A seek drops them; a write through this
//! client, a truncate, a fresh layout or a reopening makes them void (the file's epoch moves); none
//! is used when it is older than a second, so that another client's writes are seen by an open
//! handle soon, and by a handle opened after they were closed at once.
//!
//! What was read ahead when it was asked for, and what was not, is counted ([`CacheCounts`]).

use crate::{
    error::{Error, Result},
    node::Node,
};
use bytes::{Bytes, BytesMut};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, future::Shared, stream};
use mooseng_core::{limits::INLINE_BYTES_MAX, trace};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

/// Bytes read ahead at most, unless the builder says otherwise.
pub(crate) const READ_AHEAD: u64 = 8 << 20;
/// The same over all handles.
pub(crate) const READ_AHEAD_MAX: u64 = 128 << 20;
/// Bytes of one piece.
pub(crate) const PIECE: u64 = 1 << 20;
/// Pieces of one large read that are fetched side by side.
const PIECES_AT_ONCE: usize = 8;
/// Longest use of a piece after it was asked for.
pub(crate) const FRESH: Duration = Duration::from_secs(1);
/// How far a read may be from the expected position and still count as in sequence: requests of one
/// reader may overtake each other.
const JITTER: u64 = 1 << 20;

/// How often reading ahead was worth it, over all handles of a client. Counted are parts of reads, which are cut at
/// each MiB, of files of more than 8 KiB (smaller ones are known whole). What fails is not, nor what is past the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CacheCounts {
    /// An earlier read of the same handle had them read ahead. They may still have been on their way.
    pub hits: u64,
    /// They were asked for when they were read: of a chunkserver, unless they are a hole or own writes under way.
    pub misses: u64,
}

/// The same, as it goes on.
#[derive(Debug, Default)]
pub(crate) struct CacheCounters {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl CacheCounters {
    fn add(&self, is_hit: bool, parts: u64) {
        let to = if is_hit { &self.hits } else { &self.misses };
        to.fetch_add(parts, Relaxed);
    }

    pub(crate) fn now(&self) -> CacheCounts {
        CacheCounts { hits: self.hits.load(Relaxed), misses: self.misses.load(Relaxed) }
    }
}

type Fetched = Shared<BoxFuture<'static, Result<Bytes>>>;

/// A piece that serves a read.
#[derive(Clone)]
struct Serving {
    fetched: Fetched,
    /// Whether it had been begun before that read.
    is_ahead: bool,
}

struct Piece {
    fetched: Fetched,
    task: tokio::task::AbortHandle,
    epoch: u64,
    since: Instant,
    _room: OwnedSemaphorePermit,
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Default)]
struct State {
    /// Where a sequential reader goes on.
    next: u64,
    /// How far ahead is fetched now.
    window: u64,
    /// Begun, by position.
    pieces: BTreeMap<u64, Piece>,
}

/// The read-ahead of one handle.
pub(crate) struct Ahead {
    node: Arc<Node>,
    max: u64,
    state: Mutex<State>,
}

impl Ahead {
    pub(crate) fn new(node: Arc<Node>, max: u64) -> Self {
        Self { node, max, state: Mutex::default() }
    }

    /// Reads up to `len` bytes; fewer only at the end of the file.
    ///
    /// Cancellation: nothing is left behind but what was read ahead.
    pub(crate) async fn read(&self, at: u64, len: u64) -> Result<Bytes> {
        let known = at.saturating_add(len).min(self.node.size());
        if known <= at {
            return self.ask(at, len, None).await;
        }
        // A piece that fails late has spent the time in which a read of it could be tried again.
        let until = Some(Instant::now() + self.node.cx.masters.deadline());
        let pieces = self.plan(at, known);
        let part = |(from, to): (u64, u64)| {
            let piece = pieces.get(&(from / PIECE * PIECE)).cloned();
            async move {
                let within = (from % PIECE) as usize..(from % PIECE + to - from) as usize;
                let Some(piece) = piece else { return self.ask(from, to - from, None).await };
                match piece.fetched.await {
                    Ok(data) if data.len() >= within.end => {
                        self.node.cx.pool.cache.add(piece.is_ahead, 1);
                        Ok(data.slice(within))
                    }
                    // The file ends earlier, or an error: reading it now tells.
                    _ => self.ask(from, to - from, until).await,
                }
            }
        };
        let mut parts = stream::iter(cuts(at, known)).map(part).buffered(PIECES_AT_ONCE);
        let first = parts.next().await.unwrap_or_else(|| Ok(Bytes::new()))?;
        if first.len() as u64 == len {
            return Ok(first);
        }
        let mut all = BytesMut::with_capacity((known - at) as usize);
        let mut end = cuts(at, known).map(|(_, to)| to);
        all.extend_from_slice(&first);
        let mut short = end.next() != Some(at + all.len() as u64);
        while !short && let Some(data) = parts.next().await {
            all.extend_from_slice(&data?);
            short = end.next() != Some(at + all.len() as u64);
        }
        // Past the end as it was known: it may have moved.
        if !short && (all.len() as u64) < len {
            let got = all.len() as u64;
            all.extend_from_slice(&self.ask(at + got, len - got, None).await?);
        }
        Ok(all.freeze())
    }

    /// Reads what no piece has.
    async fn ask(&self, at: u64, len: u64, until: Option<Instant>) -> Result<Bytes> {
        let data = whole(&self.node, at, len, until).await?;
        if !data.is_empty() && self.node.size() > INLINE_BYTES_MAX as u64 {
            self.node.cx.pool.cache.add(false, cuts(at, at + data.len() as u64).count() as u64);
        }
        Ok(data)
    }

    /// Begins what is to be read ahead of a read of `at..end`; the pieces that serve it.
    fn plan(&self, at: u64, end: u64) -> BTreeMap<u64, Serving> {
        let size = self.node.size();
        let mut s = self.state.lock();
        let in_sequence = at <= s.next + JITTER && s.next <= at + JITTER;
        if !in_sequence || self.max == 0 || size <= INLINE_BYTES_MAX as u64 || self.node.is_dirty() {
            *s = State { next: end, ..State::default() };
            return BTreeMap::new();
        }
        let (epoch, now) = (self.node.epoch(), Instant::now());
        let held = s.pieces.len();
        s.pieces.retain(|_, p| p.epoch == epoch && p.since + FRESH > now);
        // A reader that is slower than the pieces last begins again with one.
        let window = if s.pieces.len() < held { 0 } else { s.window };
        s.window = (window * 2).clamp(PIECE, self.max.max(PIECE));
        s.next = s.next.max(end);
        let behind = at.saturating_sub(JITTER) / PIECE * PIECE;
        s.pieces = s.pieces.split_off(&behind);
        let far = end.saturating_add(s.window).min(size);
        let mut begun = BTreeSet::new();
        for from in (at / PIECE * PIECE..far).step_by(PIECE as usize) {
            if let Entry::Vacant(place) = s.pieces.entry(from) {
                let Some(piece) = self.fetch(from, PIECE.min(size - from), epoch) else { break };
                place.insert(piece);
                begun.insert(from);
            }
        }
        let serving = |(from, p): (&u64, &Piece)| {
            (*from, Serving { fetched: p.fetched.clone(), is_ahead: !begun.contains(from) })
        };
        s.pieces.range(at / PIECE * PIECE..end).map(serving).collect()
    }

    /// Begins one piece; `None` when the client has read enough ahead, over all handles.
    fn fetch(&self, from: u64, len: u64, epoch: u64) -> Option<Piece> {
        let room = self.node.cx.pool.ahead.clone().try_acquire_owned().ok()?;
        let node = self.node.clone();
        let task = tokio::spawn(trace::carry(async move { whole(&node, from, len, None).await }));
        let abort = task.abort_handle();
        let fetched = task.map(|done| done.unwrap_or(Err(Error::Closed))).boxed().shared();
        Some(Piece { fetched, task: abort, epoch, since: Instant::now(), _room: room })
    }
}

/// A range cut where pieces begin.
fn cuts(at: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    let first = at / PIECE * PIECE;
    (first..end).step_by(PIECE as usize).map(move |from| (from.max(at), (from + PIECE).min(end)))
}

/// Reads until there is nothing more. `until`: when failures are not tried again any more, other than
/// the client's deadline after each step.
async fn whole(node: &Node, at: u64, len: u64, until: Option<Instant>) -> Result<Bytes> {
    let first = node.read(at, len, until).await?;
    if first.len() as u64 == len || first.is_empty() {
        return Ok(first);
    }
    let mut all = BytesMut::from(&first[..]);
    while (all.len() as u64) < len {
        let got = all.len() as u64;
        let more = node.read(at + got, len - got, until).await?;
        if more.is_empty() {
            break;
        }
        all.extend_from_slice(&more);
    }
    Ok(all.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_cut_where_pieces_begin() {
        let cut: Vec<_> = cuts(PIECE - 1, 2 * PIECE + 1).collect();
        assert_eq!(cut, [(PIECE - 1, PIECE), (PIECE, 2 * PIECE), (2 * PIECE, 2 * PIECE + 1)]);
        assert_eq!(cuts(5, 6).collect::<Vec<_>>(), [(5, 6)]);
    }
}
