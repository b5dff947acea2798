//! One open file of a client: shared by all its handles, so that they see each other's writes at
//! once. Small files are kept whole and written into the inode; larger ones go to chunks through a
//! write-behind buffer of one frame.

use crate::{
    error::{Error, Result},
    masters::Masters,
    pool::{Pool, Unsynced},
    reader::{Place, read_chunk},
    writer::{ChunkWriter, Context},
};
use bytes::{Bytes, BytesMut};
use mooseng_core::{
    attr::Attr,
    context::Credentials,
    error::{ChunkError, Errno, MetaError},
    ids::*,
    limits::{CHUNK_BYTES, FILE_BYTES_MAX, FRAME_BYTES_MAX, INLINE_BYTES_MAX, LAYOUT_CHUNKS_MAX},
    meta::{CommitWrite, GetLayout, Layout, WriteInline},
};
use std::{collections::BTreeMap, sync::Arc};

/// Unsynced bytes that a file may hold in memory; past it older chunks are synced first.
const HELD_BYTES_MAX: usize = 96 << 20;
/// Between two rounds of syncing what closed files left.
const WRITE_BACK: std::time::Duration = std::time::Duration::from_secs(5);
/// Tries to read through layouts that change.
const READ_TRIES: u32 = 8;

/// The file as it is known now.
pub(crate) struct State {
    pub size: u64,
    truncates: TruncateCounter,
    inline: Option<Vec<u8>>,
    inline_dirty: bool,
    /// Whether the masters may have content for chunk 0 inline that no chunk has yet.
    drop_inline: bool,
    has_chunks: bool,
    places: BTreeMap<ChunkIndex, Place>,
    writers: BTreeMap<ChunkIndex, ChunkWriter>,
    buffer: Buffer,
    /// Chunks that took data since the last commit, also those whose writers are gone.
    uncommitted: BTreeMap<ChunkIndex, ChunkRef>,
    /// End of what was written here since the last commit. The masters raise the size to it; what
    /// is known of the size otherwise is not this client's to say.
    written_to: Option<u64>,
    failed: Option<Arc<Error>>,
    /// Rises with every write and every fresh layout: what was read ahead before is void.
    pub epoch: u64,
}

#[derive(Default)]
struct Buffer {
    at: u64,
    bytes: BytesMut,
}

impl Buffer {
    fn end(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }
}

/// An inode that is open.
pub(crate) struct Node {
    pub cx: Context,
    pub state: tokio::sync::Mutex<State>,
}

fn chunk_of(at: u64) -> (ChunkIndex, u64) {
    (ChunkIndex(at / CHUNK_BYTES), at % CHUNK_BYTES)
}

/// The end of the frame that a position belongs to: frames are cut at multiples of 1 MiB.
fn frame_end(at: u64) -> u64 {
    (at / FRAME_BYTES_MAX as u64 + 1) * FRAME_BYTES_MAX as u64
}

impl State {
    pub(crate) fn new(
        size: u64,
        truncates: TruncateCounter,
        inline: Option<Bytes>,
        has_chunks: bool,
    ) -> Self {
        Self {
            size,
            truncates,
            inline: inline.map(|b| b.to_vec()),
            inline_dirty: false,
            drop_inline: false,
            has_chunks,
            places: BTreeMap::new(),
            writers: BTreeMap::new(),
            buffer: Buffer::default(),
            uncommitted: BTreeMap::new(),
            written_to: None,
            failed: None,
            epoch: 0,
        }
    }

    pub(crate) fn of_layout(layout: &Layout) -> Self {
        let has_chunks = layout.attr.allocated > 0 && layout.inline.is_none();
        Self::new(layout.attr.size, layout.truncates, layout.inline.clone(), has_chunks)
    }

    /// Whether there is anything that the masters do not know of.
    pub(crate) fn is_dirty(&self) -> bool {
        self.inline_dirty
            || !self.buffer.bytes.is_empty()
            || !self.uncommitted.is_empty()
            || self.written_to.is_some()
    }

    /// Takes over what the masters know, when nothing is dirty here.
    pub(crate) fn refresh(&mut self, layout: &Layout) {
        self.replace_clean(Self::of_layout(layout));
    }

    /// Takes over another state, when nothing is dirty here.
    pub(crate) fn replace_clean(&mut self, state: Self) {
        if self.is_dirty() {
            return;
        }
        let (failed, epoch) = (self.failed.take(), self.epoch);
        let writers = std::mem::take(&mut self.writers);
        *self = Self { failed, epoch: epoch + 1, ..state };
        // Unsynced frames are still held for a sync to come.
        self.writers.extend(writers.into_iter().filter(|(_, w)| !w.is_synced()));
    }

    /// Own sizes and times over what the masters said.
    pub(crate) fn overlay(&self, attr: &mut Attr) {
        if self.is_dirty() {
            attr.size = attr.size.max(self.size);
        }
    }

    fn is_inline(&self) -> bool {
        !self.has_chunks && (self.inline.is_some() || self.size == 0)
    }
}

impl Node {
    /// Tells an earlier failure once.
    fn check(s: &mut State) -> Result<()> {
        s.failed.take().map_or(Ok(()), |e| Err(Error::Earlier(e)))
    }

    async fn layout(&self, creds: &Credentials, from: ChunkIndex, count: u32) -> Result<Layout> {
        self.cx.masters.call(creds, GetLayout { inode: self.cx.inode, from, count }).await
    }

    /// Asks the masters for size, content and truncate counter.
    pub(crate) async fn reload(&self) -> Result<()> {
        let layout = self.layout(&self.cx.creds, ChunkIndex(0), 0).await?;
        self.state.lock().await.refresh(&layout);
        Ok(())
    }

    /// Writes at a position, or at the end (`None`). Returns when the client has the bytes.
    pub(crate) async fn write(&self, at: Option<u64>, data: Bytes) -> Result<usize> {
        if at.is_none() && !self.state.lock().await.is_dirty() {
            self.reload().await?;
        }
        let mut s = self.state.lock().await;
        Self::check(&mut s)?;
        let at = at.unwrap_or(s.size);
        let end = at.checked_add(data.len() as u64).filter(|e| *e <= FILE_BYTES_MAX).ok_or(Errno::EFBIG)?;
        if data.is_empty() {
            return Ok(0);
        }
        s.epoch += 1;
        if s.is_inline() && end <= INLINE_BYTES_MAX as u64 && s.size <= INLINE_BYTES_MAX as u64 {
            let size = end.max(s.size) as usize;
            let content = s.inline.get_or_insert_default();
            content.resize(size, 0);
            content[at as usize..end as usize].copy_from_slice(&data);
            s.size = size as u64;
            s.inline_dirty = true;
            return Ok(data.len());
        }
        let len = data.len();
        let done = self.write_chunks(&mut s, at, data).await;
        if let Err(e) = done {
            s.failed = None;
            return Err(e);
        }
        s.size = s.size.max(end);
        s.written_to = s.written_to.max(Some(end));
        Ok(len)
    }

    async fn write_chunks(&self, s: &mut State, at: u64, data: Bytes) -> Result<()> {
        if let Some(inline) = s.inline.take() {
            // What was inside the inode goes to chunk 0 first; one commit then drops it there.
            s.inline_dirty = false;
            s.drop_inline = true;
            self.buffered(s, 0, inline.into()).await?;
        }
        s.has_chunks = true;
        self.buffered(s, at, data).await
    }

    /// Collects small writes that follow each other; sends whole frames as they come.
    async fn buffered(&self, s: &mut State, mut at: u64, mut data: Bytes) -> Result<()> {
        while !data.is_empty() {
            if !s.buffer.bytes.is_empty() && s.buffer.end() != at {
                self.send_buffer(s).await?;
            }
            let room = (frame_end(at) - at).min(data.len() as u64) as usize;
            let part = data.split_to(room);
            let whole = at + room as u64 == frame_end(at);
            if s.buffer.bytes.is_empty() && whole {
                self.send(s, at, part).await?;
            } else {
                if s.buffer.bytes.is_empty() {
                    s.buffer.at = at;
                }
                s.buffer.bytes.extend_from_slice(&part);
                if whole {
                    self.send_buffer(s).await?;
                }
            }
            at += room as u64;
        }
        Ok(())
    }

    async fn send_buffer(&self, s: &mut State) -> Result<()> {
        if s.buffer.bytes.is_empty() {
            return Ok(());
        }
        let (at, bytes) = (s.buffer.at, s.buffer.bytes.clone().freeze());
        self.send(s, at, bytes).await?;
        s.buffer.bytes.clear();
        Ok(())
    }

    async fn send(&self, s: &mut State, at: u64, data: Bytes) -> Result<()> {
        let (index, within) = chunk_of(at);
        self.make_room(s, index, data.len()).await?;
        if !s.writers.contains_key(&index) {
            let w = match ChunkWriter::open(self.cx.clone(), index, s.truncates).await {
                Err(Error::Meta(MetaError::LayoutStale)) => {
                    // Somebody cut the file since: go on from its new counter.
                    s.truncates = self.layout(&self.cx.creds, ChunkIndex(0), 0).await?.truncates;
                    ChunkWriter::open(self.cx.clone(), index, s.truncates).await?
                }
                other => other?,
            };
            s.writers.insert(index, w);
        }
        s.places.remove(&index);
        let State { writers, uncommitted, .. } = s;
        match writers.get_mut(&index) {
            Some(w) => {
                uncommitted.insert(index, w.place().place.chunk);
                w.send(Offset(within), data).await
            }
            None => Err(Error::Closed),
        }
    }

    /// Keeps what is held in memory within bounds: chunks that were left behind are synced.
    async fn make_room(&self, s: &mut State, index: ChunkIndex, bytes: usize) -> Result<()> {
        let held: usize = s.writers.values().map(ChunkWriter::held_bytes).sum();
        if held + bytes <= HELD_BYTES_MAX {
            return Ok(());
        }
        let mut others: Vec<_> = s.writers.keys().copied().filter(|i| *i != index).collect();
        if others.is_empty() {
            others.push(index);
        }
        for i in others {
            if let Some(w) = s.writers.get_mut(&i) {
                w.sync().await?;
                if i != index {
                    s.writers.remove(&i);
                }
            }
        }
        Ok(())
    }

    /// Everything written so far is in memory at every replica, and the masters know the size:
    /// what `close` promises. An earlier failure is told once.
    pub(crate) async fn flush(&self) -> Result<()> {
        let mut s = self.state.lock().await;
        Self::check(&mut s)?;
        self.flush_locked(&mut s, false).await
    }

    /// The same, on every replica's disk: what `fsync` promises.
    pub(crate) async fn sync(&self) -> Result<()> {
        let mut s = self.state.lock().await;
        Self::check(&mut s)?;
        self.flush_locked(&mut s, true).await?;
        self.sync_left(&mut s).await
    }

    /// Syncs what handles that are closed now wrote through this client. A loss is told once.
    async fn sync_left(&self, s: &mut State) -> Result<()> {
        for (index, left) in self.cx.pool.unsynced(self.cx.inode) {
            s.places.remove(&index);
            let done = sync_chunk_left(&self.cx, index, &left).await;
            if !done.as_ref().is_err_and(Error::is_retryable) {
                self.cx.pool.synced(self.cx.inode, index);
            }
            done?;
        }
        Ok(())
    }

    async fn flush_locked(&self, s: &mut State, to_disk: bool) -> Result<()> {
        if s.inline_dirty {
            return self.flush_inline(s).await;
        }
        self.send_buffer(s).await?;
        for w in s.writers.values_mut() {
            if to_disk { w.sync().await? } else { w.drain().await? }
        }
        if s.uncommitted.is_empty() && s.written_to.is_none() {
            return Ok(());
        }
        let inode = self.cx.inode;
        let commit = |s: &State| CommitWrite {
            inode,
            truncates: s.truncates,
            size: s.written_to.unwrap_or(0),
            chunks: s.uncommitted.iter().map(|(i, c)| (*i, *c)).collect(),
            drop_inline: s.drop_inline,
        };
        let (masters, creds) = (&self.cx.masters, &self.cx.creds);
        let op = commit(s);
        match masters.call(creds, op).await {
            Err(Error::Meta(MetaError::LayoutStale)) => {
                self.catch_up(s).await?;
                for w in s.writers.values_mut() {
                    if to_disk { w.sync().await? } else { w.drain().await? }
                }
                let op = commit(s);
                masters.call(creds, op).await?;
            }
            other => {
                other?;
            }
        }
        s.drop_inline = false;
        s.written_to = None;
        s.uncommitted.clear();
        Ok(())
    }

    /// Somebody cut the file since the writes began: what is still held goes to the chunks that are
    /// there now. What was on disk already and was cut away counts as written before the cut.
    async fn catch_up(&self, s: &mut State) -> Result<()> {
        s.places.clear();
        s.truncates = self.layout(&self.cx.creds, ChunkIndex(0), 0).await?.truncates;
        let State { writers, uncommitted, .. } = s;
        for index in uncommitted.keys().copied().collect::<Vec<_>>() {
            let layout = self.layout(&self.cx.creds, index, 1).await?;
            let there = layout.chunks.iter().find(|p| p.index == index).map(|p| p.chunk.id);
            if there == uncommitted.get(&index).map(|c| c.id) {
                continue;
            }
            match writers.get_mut(&index) {
                Some(w) if !w.is_synced() => {
                    w.relocate(self.cx.masters.deadline()).await?;
                    uncommitted.insert(index, w.place().place.chunk);
                }
                _ => {
                    writers.remove(&index);
                    uncommitted.remove(&index);
                }
            }
        }
        Ok(())
    }

    async fn flush_inline(&self, s: &mut State) -> Result<()> {
        let data = Bytes::from(s.inline.clone().unwrap_or_default());
        let op = WriteInline { inode: self.cx.inode, truncates: s.truncates, data: data.clone() };
        match self.cx.masters.call(&self.cx.creds, op).await {
            Err(Error::Meta(MetaError::LayoutStale)) => {
                // Another client cut it, or made it large: what was written here goes the long way.
                let now = self.layout(&self.cx.creds, ChunkIndex(0), 0).await?;
                s.truncates = now.truncates;
                s.inline = None;
                s.inline_dirty = false;
                s.has_chunks = true;
                s.drop_inline = now.inline.is_some();
                s.written_to = s.written_to.max(Some(data.len() as u64));
                self.buffered(s, 0, data).await?;
                Box::pin(self.flush_locked(s, false)).await
            }
            other => {
                other?;
                s.inline_dirty = false;
                Ok(())
            }
        }
    }

    /// Reads up to `len` bytes; fewer at the end of the file only.
    pub(crate) async fn read(&self, at: u64, len: u64) -> Result<Bytes> {
        let mut reloaded = false;
        for attempt in 0..READ_TRIES {
            let (len, place, within) = {
                let mut s = self.state.lock().await;
                Self::check(&mut s)?;
                if at.saturating_add(len) > s.size && !s.is_dirty() && !reloaded {
                    drop(s);
                    self.reload().await?;
                    reloaded = true;
                    s = self.state.lock().await;
                }
                let len = len.min(s.size.saturating_sub(at));
                if len == 0 {
                    return Ok(Bytes::new());
                }
                if s.is_inline() || s.inline.is_some() {
                    return Ok(from_inline(s.inline.as_deref().unwrap_or_default(), at, len));
                }
                self.settle_dirty(&mut s, at, len).await?;
                let (index, within) = chunk_of(at);
                let len = len.min(CHUNK_BYTES - within);
                (len, self.place(&mut s, index, attempt > 0).await?, within)
            };
            let Some(place) = place else { return Ok(Bytes::from(vec![0; len as usize])) };
            match read_chunk(&self.cx.masters, &self.cx.pool, self.cx.inode, &place, within, len).await {
                Ok(data) => return Ok(data),
                Err(Error::Chunk { chunk, last: ChunkError::NotFound(_), .. }) if place.place.fresh => {
                    tracing::debug!(%chunk, "allocated and never written: zeros");
                    return Ok(Bytes::from(vec![0; len as usize]));
                }
                Err(e) if attempt + 1 < READ_TRIES && e.is_retryable() => {
                    tracing::debug!(error = %e, "read again with a new layout");
                    tokio::time::sleep(std::time::Duration::from_millis(20 << attempt)).await;
                    self.state.lock().await.places.clear();
                }
                Err(e) => return Err(e),
            }
        }
        Err(Errno::EIO.into())
    }

    /// Own writes that a read would pass over are sent and acknowledged first.
    async fn settle_dirty(&self, s: &mut State, at: u64, len: u64) -> Result<()> {
        if !s.buffer.bytes.is_empty() && s.buffer.at < at + len && at < s.buffer.end() {
            self.send_buffer(s).await?;
        }
        if let Some(w) = s.writers.get_mut(&chunk_of(at).0) {
            w.drain().await?;
        }
        Ok(())
    }

    /// Where a chunk is. The writer's place is asked first only: a bump since leaves it behind.
    async fn place(&self, s: &mut State, index: ChunkIndex, again: bool) -> Result<Option<Place>> {
        if let Some(w) = s.writers.get(&index).filter(|_| !again) {
            return Ok(Some(w.place().clone()));
        }
        if let Some(p) = s.places.get(&index) {
            return Ok(Some(p.clone()));
        }
        let layout = self.layout(&self.cx.creds, index, LAYOUT_CHUNKS_MAX).await?;
        for place in layout.chunks {
            let capability = layout.capability.clone();
            s.places.insert(place.index, Place { place, capability });
        }
        Ok(s.places.get(&index).cloned())
    }

    /// Before the size is set: what is dirty is flushed, places and writers are let go.
    pub(crate) async fn before_truncate(&self) -> Result<()> {
        let mut s = self.state.lock().await;
        self.flush_locked(&mut s, true).await?;
        s.writers.clear();
        s.places.clear();
        s.epoch += 1;
        Ok(())
    }

    /// Unsynced bytes whose loss nobody would hear of when the last handle goes.
    pub(crate) async fn is_dirty(&self) -> bool {
        self.state.lock().await.is_dirty()
    }
}

/// Syncs a chunk that a writer left unsynced, when it still is the file's.
async fn sync_chunk_left(cx: &Context, index: ChunkIndex, left: &Unsynced) -> Result<()> {
    let op = GetLayout { inode: cx.inode, from: index, count: 1 };
    let layout = match cx.masters.call(&cx.creds, op).await {
        // Removed since: there is nothing to be synced.
        Err(e) if e.errno() == Errno::ESTALE => return Ok(()),
        other => other?,
    };
    if !layout.chunks.iter().any(|p| p.index == index && p.chunk.id == left.chunk) {
        return Ok(());
    }
    ChunkWriter::open(cx.clone(), index, layout.truncates).await?.sync_left(left).await
}

/// Syncs in the background what closed files left unsynced, so that little of it piles up. What
/// was lost stays remembered for the fsync that asks. Ends when it is dropped.
pub(crate) async fn write_back(masters: Arc<Masters>, pool: Arc<Pool>) {
    loop {
        tokio::time::sleep(WRITE_BACK).await;
        for (inode, index, left) in pool.all_unsynced() {
            let cx =
                Context { masters: masters.clone(), pool: pool.clone(), inode, creds: Credentials::root() };
            match sync_chunk_left(&cx, index, &left).await {
                Ok(()) => pool.synced_as(inode, index, &left),
                Err(e) => tracing::warn!(%inode, error = %e, "a closed file's data could not be synced"),
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for (index, w) in &self.state.get_mut().writers {
            if let Some(left) = w.unsynced() {
                self.cx.pool.leave_unsynced(self.cx.inode, *index, left);
            }
        }
    }
}

/// Inline content may be shorter than the file: the rest is a hole.
fn from_inline(content: &[u8], at: u64, len: u64) -> Bytes {
    let from = (at as usize).min(content.len());
    let to = ((at + len) as usize).min(content.len());
    let mut bytes = BytesMut::from(&content[from..to]);
    bytes.resize(len as usize, 0);
    bytes.freeze()
}
