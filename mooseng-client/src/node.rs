//! One open file of a client: shared by all its handles, so that they see each other's writes at
//! once. Small files are kept whole and written into the inode; larger ones go to chunks, through a
//! buffer of one frame and a queue for each chunk.
//!
//! Nothing here waits for the network with the state locked: writers fill queues, the chunks' tasks
//! empty them, readers and `stat` look at the state and go on.

mod flush;
mod read;
mod session;

use crate::{
    budget::Share,
    error::{Error, Result},
    queue::{Queue, Writing},
    ranges::Ranges,
    reader::Place,
    writer::{Context, Shared},
};
use bytes::{Bytes, BytesMut};
use futures::{FutureExt as _, future::BoxFuture};
use mooseng_core::{
    attr::Attr,
    context::Credentials,
    error::Errno,
    ids::*,
    limits::{CHUNK_BYTES, FILE_BYTES_MAX, FRAME_BYTES_MAX, INLINE_BYTES_MAX},
    meta::{GetLayout, Layout},
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};
use tokio::time::Instant;

/// Queues without work that are kept, with their streams, for the next write to their chunks.
const IDLE_QUEUES: usize = 4;

/// A write from which on the rest of its frame is expected to follow.
const STREAMED: usize = 64 << 10;

/// Written data of a file that was given up, for those who have it open.
#[derive(Default)]
pub(crate) struct Losses(Mutex<(u64, Option<Error>)>);

impl Losses {
    pub(crate) fn note(&self, e: Error) {
        let mut l = self.0.lock();
        *l = (l.0 + 1, Some(e));
    }

    /// How many there were, and the last.
    pub(crate) fn last(&self) -> (u64, Option<Error>) {
        self.0.lock().clone()
    }
}

/// The file as it is known now.
pub(crate) struct State {
    pub size: u64,
    /// The change counter that this picture was taken at.
    change: u64,
    /// When the masters last said that this picture is the present one.
    seen: Option<Instant>,
    /// The session that what is held was written under, when it is known.
    session: Option<SessionStamp>,
    /// Commits under way: the change counter may be ahead of what is known.
    commits: usize,
    inline: Option<Vec<u8>>,
    /// What of it the masters do not have.
    dirty: Ranges,
    /// What of it was written since the flush that is under way, or was last, began.
    since_flush: Ranges,
    has_chunks: bool,
    places: BTreeMap<ChunkIndex, Place>,
    queues: BTreeMap<ChunkIndex, Writing>,
    buffer: Buffer,
    /// End of what was written here since the last commit. The masters raise the size to it; what
    /// is known of the size otherwise is not this client's to say.
    written_to: Option<u64>,
    /// Place among the files with data to be written out, when it has one.
    dirty_age: Option<u64>,
    /// Rises with every write and every fresh layout: what was read ahead before is void.
    pub epoch: u64,
    /// Rises with every fresh layout: places that were asked for before are void.
    layouts: u64,
}

/// Small writes that follow each other, up to a whole frame.
#[derive(Default)]
struct Buffer {
    at: u64,
    bytes: BytesMut,
    share: Option<Share>,
}

impl Buffer {
    fn end(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }
}

/// What the masters said of a file.
pub(crate) struct Known {
    pub attr: Attr,
    pub truncates: TruncateCounter,
    pub inline: Option<Bytes>,
    pub has_chunks: bool,
}

impl Known {
    pub(crate) fn of_layout(layout: &Layout) -> Self {
        let has_chunks = layout.attr.allocated > 0 && layout.inline.is_none();
        let (attr, truncates, inline) = (layout.attr.clone(), layout.truncates, layout.inline.clone());
        Self { attr, truncates, inline, has_chunks }
    }
}

/// An inode that is open.
pub(crate) struct Node {
    pub cx: Context,
    /// A user other than root who has written, and in whose name sizes are committed then: that is
    /// what takes set-user-id away, whoever opened the file first.
    pub writer: Mutex<Option<Credentials>>,
    me: Weak<Node>,
    pub shared: Arc<Shared>,
    state: Mutex<State>,
    /// One flush at a time. Held over the network; nothing else waits for it.
    flushing: tokio::sync::Mutex<()>,
}

fn chunk_of(at: u64) -> (ChunkIndex, u64) {
    (ChunkIndex(at / CHUNK_BYTES), at % CHUNK_BYTES)
}

/// The end of the frame that a position belongs to: frames are cut at multiples of 1 MiB.
fn frame_end(at: u64) -> u64 {
    (at / FRAME_BYTES_MAX as u64 + 1) * FRAME_BYTES_MAX as u64
}

impl State {
    fn new() -> Self {
        Self {
            size: 0,
            change: 0,
            seen: None,
            session: None,
            commits: 0,
            inline: None,
            dirty: Ranges::default(),
            since_flush: Ranges::default(),
            has_chunks: false,
            places: BTreeMap::new(),
            queues: BTreeMap::new(),
            buffer: Buffer::default(),
            written_to: None,
            dirty_age: None,
            epoch: 0,
            layouts: 0,
        }
    }

    /// Whether there is anything that the masters do not know of.
    fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
            || !self.buffer.bytes.is_empty()
            || self.written_to.is_some()
            || self.queues.values().any(|w| !w.queue.is_committed())
    }

    /// The masters carried out a change of this client's. When somebody else changed the file since
    /// it was looked at, what is known here is out of date.
    fn changed_here(&mut self, now: u64) {
        self.change = if now == self.change + 1 { now } else { 0 };
        self.seen = Some(Instant::now());
    }

    /// After a cut only what is still held is told to the masters with its end: it is written anew.
    fn count_from_cut(&mut self, truncates: TruncateCounter) {
        let mut end = (!self.buffer.bytes.is_empty()).then(|| self.buffer.end());
        for queue in self.queues.values().map(|w| &w.queue).filter(|q| !q.is_committed()) {
            if queue.inner.lock().truncates == Some(truncates) {
                // Written after the cut.
                return;
            }
            end = end.max(queue.uncommitted_end());
        }
        self.written_to = end;
    }

    fn is_inline(&self) -> bool {
        !self.has_chunks && (self.inline.is_some() || self.size == 0)
    }

    /// What is known of places and content is void.
    fn forget_places(&mut self) {
        self.places.clear();
        self.epoch += 1;
        self.layouts += 1;
    }

    /// Lets queues go that have nothing to do; the youngest stay when `keep`.
    fn retire(&mut self, keep: bool) {
        let idle = |w: &Writing| w.queue.is_synced() && w.queue.is_committed();
        let mut ages: Vec<_> = self.queues.values().filter(|w| idle(w)).map(|w| w.queue.age).collect();
        ages.sort_unstable();
        ages.truncate(if keep { ages.len().saturating_sub(IDLE_QUEUES) } else { ages.len() });
        self.queues.retain(|_, w| ages.binary_search(&w.queue.age).is_err());
    }
}

impl Node {
    pub(crate) fn new(cx: Context) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            cx,
            writer: Mutex::default(),
            me: me.clone(),
            shared: Arc::new(Shared { node: me.clone(), ..Shared::default() }),
            state: Mutex::new(State::new()),
            flushing: Default::default(),
        })
    }

    fn committer(&self) -> Credentials {
        self.writer.lock().clone().unwrap_or_else(|| self.cx.creds.clone())
    }

    async fn layout(&self, creds: &Credentials, from: ChunkIndex, count: u32) -> Result<Layout> {
        self.cx.masters.call(creds, GetLayout { inode: self.cx.inode, from, count }).await
    }

    /// Asks the masters for size, content and truncate counter.
    pub(crate) async fn reload(&self) -> Result<()> {
        let layout = self.layout(&self.cx.creds, ChunkIndex(0), 0).await?;
        self.refresh(Known::of_layout(&layout));
        Ok(())
    }

    /// Takes over what the masters know, when nothing is dirty here and nothing newer is known.
    pub(crate) fn refresh(&self, known: Known) {
        let mut s = self.state.lock();
        if s.is_dirty() || known.attr.change < s.change {
            return;
        }
        s.seen = Some(Instant::now());
        if known.attr.change == s.change && s.change > 0 {
            // Nothing changed: what is known of places serves until a server says otherwise.
            return;
        }
        s.size = known.attr.size;
        s.change = known.attr.change;
        s.inline = known.inline.map(|b| b.to_vec());
        s.has_chunks = known.has_chunks;
        s.forget_places();
        // Unsynced frames are still held for a sync to come.
        s.retire(false);
        *self.shared.truncates.lock() = known.truncates;
    }

    /// Own size over what the masters said. Never waits. The answer: whether what is known here is
    /// out of date, because somebody else changed the file.
    pub(crate) fn overlay(&self, attr: &mut Attr) -> bool {
        let mut s = self.state.lock();
        if s.is_dirty() {
            attr.size = attr.size.max(s.size);
            return false;
        }
        if attr.change == s.change {
            s.seen = Some(Instant::now());
        }
        attr.change > s.change
    }

    /// This client changed the file's attributes.
    pub(crate) fn note_change(&self, change: u64) {
        let mut s = self.state.lock();
        if change == s.change + 1 {
            s.change = change;
        }
    }

    /// What was read ahead is valid as long as this stays.
    pub(crate) fn epoch(&self) -> u64 {
        self.state.lock().epoch
    }

    pub(crate) fn size(&self) -> u64 {
        self.state.lock().size
    }

    /// Whether there is anything that the masters do not know of.
    pub(crate) fn is_dirty(&self) -> bool {
        self.state.lock().is_dirty()
    }

    /// Writes at a position, or at the end (`None`). Returns when the client has the bytes; waits
    /// only while the client holds too much.
    pub(crate) fn write(&self, at: Option<u64>, data: Bytes) -> BoxFuture<'_, Result<usize>> {
        self.take_and_send(at, data).boxed()
    }

    async fn take_and_send(&self, at: Option<u64>, data: Bytes) -> Result<usize> {
        if at.is_none() && !self.is_dirty() {
            self.reload().await?;
        }
        let len = data.len();
        if let Some(at) = at {
            end_of(at, len)?;
        }
        if len == 0 {
            return Ok(0);
        }
        let share = self.cx.pool.budget.take(len, self.cx.masters.deadline()).await?;
        let mut s = self.state.lock();
        let at = at.unwrap_or(s.size);
        let end = end_of(at, len)?;
        s.epoch += 1;
        if s.is_inline() && end <= INLINE_BYTES_MAX as u64 && s.size <= INLINE_BYTES_MAX as u64 {
            let size = end.max(s.size) as usize;
            let content = s.inline.get_or_insert_default();
            content.resize(size, 0);
            content[at as usize..end as usize].copy_from_slice(&data);
            s.size = size as u64;
            s.dirty.add(at as usize..end as usize);
            s.since_flush.add(at as usize..end as usize);
        } else {
            self.to_chunks(&mut s, at, data, share);
            s.size = s.size.max(end);
            s.written_to = s.written_to.max(Some(end));
        }
        if s.dirty_age.is_none() {
            s.session = self.cx.masters.session_now();
            s.dirty_age = Some(self.cx.pool.note_dirty(self.me.clone()));
        }
        Ok(len)
    }

    fn to_chunks(&self, s: &mut State, at: u64, data: Bytes, mut share: Share) {
        self.parts_to_chunks(s, &mut share);
        self.buffered(s, at, data, share);
    }

    /// The file has chunks from now on, and what was written to it inline goes there. What the masters
    /// have inline they know best: chunk 0's writer puts it there before anything else.
    fn parts_to_chunks(&self, s: &mut State, share: &mut Share) {
        s.has_chunks = true;
        let content = Bytes::from(s.inline.take().unwrap_or_default());
        s.since_flush = Ranges::default();
        for part in std::mem::take(&mut s.dirty).iter() {
            s.written_to = s.written_to.max(Some(part.end as u64));
            self.buffered(s, part.start as u64, content.slice(part.clone()), share.split(part.len()));
        }
    }

    /// Collects small writes that follow each other; whole frames are queued as they come.
    fn buffered(&self, s: &mut State, mut at: u64, mut data: Bytes, mut share: Share) {
        while !data.is_empty() {
            if !s.buffer.bytes.is_empty() && s.buffer.end() != at {
                self.queue_buffer(s);
            }
            let room = (frame_end(at) - at).min(data.len() as u64) as usize;
            let part = data.split_to(room);
            let its_share = share.split(room);
            let whole = at + room as u64 == frame_end(at);
            if s.buffer.bytes.is_empty() && whole {
                self.queue(s, at, part, its_share);
            } else {
                if s.buffer.bytes.is_empty() {
                    s.buffer.at = at;
                    if room >= STREAMED {
                        s.buffer.bytes.reserve((frame_end(at) - at) as usize);
                    }
                }
                s.buffer.bytes.extend_from_slice(&part);
                match &mut s.buffer.share {
                    Some(share) => share.join(its_share),
                    none => *none = Some(its_share),
                }
                if whole {
                    self.queue_buffer(s);
                }
            }
            at += room as u64;
        }
    }

    fn queue_buffer(&self, s: &mut State) {
        if s.buffer.bytes.is_empty() {
            return;
        }
        let (at, bytes) = (s.buffer.at, s.buffer.bytes.split().freeze());
        if let Some(share) = s.buffer.share.take() {
            self.queue(s, at, bytes, share);
        }
    }

    fn queue(&self, s: &mut State, at: u64, data: Bytes, share: Share) {
        let (index, within) = chunk_of(at);
        self.queue_of(s, index).push(Offset(within), data, share);
    }

    fn queue_of(&self, s: &mut State, index: ChunkIndex) -> Arc<Queue> {
        s.places.remove(&index);
        let start = || Writing::start(self.cx.clone(), self.shared.clone(), index);
        s.queues.entry(index).or_insert_with(start).queue.clone()
    }

    /// Writes the oldest data out to the replicas' disks, to make room. Whether some was.
    pub(crate) async fn relieve(&self) -> bool {
        let Some(queue) = self.oldest_queue() else { return false };
        queue.wait(queue.last(), true).await.is_ok() && (queue.is_synced() || self.tell_of(&queue).await)
    }

    fn oldest_queue(&self) -> Option<Arc<Queue>> {
        let mut s = self.state.lock();
        if s.queues.values().all(|w| w.queue.is_synced()) {
            self.queue_buffer(&mut s);
        }
        let held = s.queues.values().map(|w| &w.queue).filter(|q| !q.is_synced());
        held.min_by_key(|q| (q.is_parked(), q.age)).cloned()
    }

    /// Whether nothing is held here; then it is not among the dirty files any more.
    pub(crate) fn is_settled(&self) -> bool {
        let mut s = self.state.lock();
        let settled = !s.is_dirty() && s.queues.values().all(|w| w.queue.is_synced());
        if settled {
            s.dirty_age = None;
        }
        settled
    }
}

fn end_of(at: u64, len: usize) -> Result<u64> {
    at.checked_add(len as u64).filter(|e| *e <= FILE_BYTES_MAX).ok_or_else(|| Errno::EFBIG.into())
}

impl Drop for Node {
    fn drop(&mut self) {
        let s = self.state.get_mut();
        if let Some(age) = s.dirty_age {
            self.cx.pool.forget_dirty(age);
        }
        for w in s.queues.values() {
            if let Some(left) = w.queue.unsynced() {
                self.cx.pool.leave_unsynced(self.cx.inode, w.queue.index, left);
            }
        }
    }
}
