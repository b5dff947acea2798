//! What `close`, `fsync` and truncate wait for.
//!
//! A flush tries everything that is held, also what failed before, and fails as long as that does
//! not succeed; later writes go on. Data that can never be written is given up, and told once to
//! each handle that was open ([`super::Losses`]).

use super::{session::Committing, *};
use crate::{
    pool::Unsynced,
    writer::{LEFT_AT_ONCE, sync_chunk_left},
};
use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, join, join_all},
    stream,
};
use mooseng_core::{
    error::{ChunkError, MetaError},
    meta::{CommitWrite, WriteInline},
};

/// Tries to commit against others who cut the file meanwhile.
const CATCH_UPS: u32 = 8;

/// What one flush covers.
struct Covered {
    /// Each queue with the last write that counts.
    queues: Vec<(Arc<Queue>, u64)>,
    written_to: Option<u64>,
    losses: u64,
}

impl Covered {
    /// Until all of it is in memory at every replica, or on disk.
    async fn wait(&self, to_disk: bool) -> Result<()> {
        let waits = self.queues.iter().map(|(queue, upto)| queue.wait(*upto, to_disk));
        join_all(waits).await.into_iter().collect()
    }

    /// On how many disks it is where it is on the fewest.
    fn disks(&self) -> Option<u32> {
        self.queues.iter().filter_map(|(queue, _)| queue.status.borrow().disks).min()
    }

    fn is_committed(&self) -> bool {
        self.queues.iter().all(|(queue, upto)| queue.inner.lock().committed >= *upto)
    }
}

impl Node {
    /// Everything written so far is in memory at every replica, and the masters know the size:
    /// what `close` promises.
    pub(crate) async fn flush(&self) -> Result<()> {
        let _one = self.flushing.lock().await;
        self.flush_now(false).await.map(drop)
    }

    /// The same, on every replica's disk: what `fsync` promises. On how many, where it is on the fewest.
    pub(crate) async fn sync(&self) -> Result<Option<u32>> {
        let _one = self.flushing.lock().await;
        let disks = self.flush_now(true).await?;
        let left = self.sync_left().await?;
        Ok(disks.into_iter().chain(left).min())
    }

    /// Before the size is set: what is dirty is flushed, places and queues are let go.
    pub(crate) async fn before_truncate(&self) -> Result<()> {
        let _one = self.flushing.lock().await;
        self.flush_now(true).await?;
        let mut s = self.state.lock();
        s.retire(false);
        s.forget_places();
        Ok(())
    }

    /// Writes out what is held here; losses of closed handles are left for the fsync that asks.
    pub(crate) async fn write_out(&self) -> Result<()> {
        let _one = self.flushing.lock().await;
        self.flush_now(true).await.map(drop)
    }

    /// Syncs what handles that are closed now wrote through this client, and what this one holds no more. Losses are
    /// told once; what is there in spite of them goes to the disks with the next sync, so that its success binds. Whoever
    /// asks, it is this client's own to be synced.
    fn sync_left(&self) -> BoxFuture<'_, Result<Option<u32>>> {
        self.sync_all_left().boxed()
    }

    async fn sync_all_left(&self) -> Result<Option<u32>> {
        let cx = &Context { creds: Credentials::root(), ..self.cx.clone() };
        let sync = |(index, left): (ChunkIndex, Unsynced)| async move {
            self.state.lock().places.remove(&index);
            let done = sync_chunk_left(cx, index, &left).await;
            // Otherwise it is not forgotten.
            if done.is_ok() {
                cx.pool.synced_as(cx.inode, index, &left);
            }
            (index, done)
        };
        let left = stream::iter(self.cx.pool.unsynced(self.cx.inode));
        let all: Vec<_> = left.map(sync).buffer_unordered(LEFT_AT_ONCE).collect().await;
        let (mut disks, mut failed) = (None, None);
        for (index, done) in all {
            match done {
                Ok(on) => disks = disks.into_iter().chain(on).min(),
                // Before a failure that may pass: who tries again is not told of it any more.
                Err(e @ Error::Chunk { last: ChunkError::Lost { .. }, .. }) => {
                    self.cx.pool.loss_was_told(self.cx.inode, index);
                    failed = Some(e);
                }
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        failed.map_or(Ok(disks), Err)
    }

    fn flush_now(&self, to_disk: bool) -> BoxFuture<'_, Result<Option<u32>>> {
        self.flush_all(to_disk).boxed()
    }

    async fn flush_all(&self, to_disk: bool) -> Result<Option<u32>> {
        for _ in 0..CATCH_UPS {
            self.flush_inline().await?;
            let covered = self.cover();
            // The masters hear of what every replica has in memory while it goes to the disks.
            let synced = async { if to_disk { covered.wait(true).await } else { Ok(()) } };
            let committed = async {
                covered.wait(false).await?;
                Ok(self.commit(&covered).await)
            };
            let (synced, committed) = join(synced, committed).await;
            let committed = match synced.and(committed) {
                Ok(committed) => committed,
                Err(e) => {
                    self.after_loss(covered.losses);
                    return Err(e);
                }
            };
            match committed {
                Ok(()) if covered.is_committed() => return Ok(covered.disks()),
                Ok(()) => {}
                Err(Error::Meta(MetaError::LayoutStale)) => self.catch_up().await?,
                Err(e) => {
                    if e.errno() == Errno::ESTALE {
                        self.lose(&e);
                    }
                    return Err(e);
                }
            }
        }
        Err(MetaError::LayoutStale.into())
    }

    /// What is written now. The rest of a buffer is queued.
    fn cover(&self) -> Covered {
        let mut s = self.state.lock();
        self.queue_buffer(&mut s);
        Covered {
            queues: s.queues.values().map(|w| (w.queue.clone(), w.queue.last())).collect(),
            written_to: s.written_to,
            losses: self.shared.losses.last().0,
        }
    }

    /// Tells the masters of what the replicas have.
    async fn commit(&self, covered: &Covered) -> Result<()> {
        let (mut chunks, truncates) = (BTreeMap::new(), *self.shared.truncates.lock());
        for (queue, upto) in &covered.queues {
            let (new, of) = {
                let q = queue.inner.lock();
                (q.committed < *upto, q.truncates)
            };
            // Another chunk's writer has heard of a cut that this one's has not.
            if new && of.is_some_and(|of| of != truncates) {
                return Err(MetaError::LayoutStale.into());
            }
            if let Some(chunk) = queue.chunk().filter(|_| new) {
                chunks.insert(queue.index, chunk);
            }
        }
        let (mut attr, committing) = (None, Committing::begin(self));
        if !chunks.is_empty() || covered.written_to.is_some() {
            let op = CommitWrite {
                inode: self.cx.inode,
                truncates,
                size: covered.written_to.unwrap_or(0),
                chunks: chunks.iter().map(|(i, c)| (*i, *c)).collect(),
                drop_inline: false,
            };
            attr = Some(self.cx.masters.call(&self.committer(), op).await?);
        }
        let mut s = self.state.lock();
        for (queue, upto) in &covered.queues {
            let mut q = queue.inner.lock();
            // One that moved to another chunk meanwhile is not what was named.
            let place = q.place.as_ref().map(|p| p.place.chunk.id);
            if chunks.get(&queue.index).is_none_or(|named| place == Some(named.id)) {
                q.committed = q.committed.max(*upto);
            }
            drop(q);
            if let Some(named) = chunks.get(&queue.index) {
                queue.told(named.id);
            }
        }
        if s.written_to == covered.written_to {
            s.written_to = None;
        }
        if let Some(attr) = attr {
            s.changed_here(attr.change);
        }
        s.retire(true);
        drop(s);
        drop(committing);
        Ok(())
    }

    /// Tells the masters that a chunk has data, without its end, so that what is on disk need not be held
    /// any more.
    pub(super) async fn tell_of(&self, queue: &Queue) -> bool {
        let Some(chunk) = queue.chunk() else { return false };
        let truncates = *self.shared.truncates.lock();
        let chunks = vec![(queue.index, chunk)];
        let op = CommitWrite { inode: self.cx.inode, truncates, size: 0, chunks, drop_inline: false };
        let committing = Committing::begin(self);
        match self.cx.masters.call(&self.committer(), op).await {
            Ok(attr) => {
                self.state.lock().changed_here(attr.change);
                drop(committing);
                queue.told(chunk.id);
                true
            }
            Err(Error::Meta(MetaError::LayoutStale)) => match self.flushing.try_lock() {
                Ok(_one) => self.catch_up().await.is_ok(),
                // It finds out by itself.
                Err(_) => false,
            },
            Err(_) => false,
        }
    }

    /// Somebody cut the file since the writes began: what the masters do not know of yet is written anew
    /// to the chunks that are there now, also when a chunk has it, for the cut may have taken it. What
    /// was on disk already and was cut away counts as written before the cut, and so does its size. Or the
    /// file has inline data that chunk 0 is to have.
    async fn catch_up(&self) -> Result<()> {
        let now = self.layout(&self.cx.creds, ChunkIndex(0), 0).await?;
        let was_cut = std::mem::replace(&mut *self.shared.truncates.lock(), now.truncates) != now.truncates;
        let covered = {
            let mut s = self.state.lock();
            if was_cut {
                s.count_from_cut(now.truncates);
            }
            s.forget_places();
            if now.inline.is_some() {
                self.queue_of(&mut s, ChunkIndex(0)).relocate();
            }
            let queues = s.queues.values().filter(|w| !w.queue.is_committed());
            queues.filter_map(|w| Some((w.queue.clone(), w.queue.chunk()?))).collect::<Vec<_>>()
        };
        for (queue, chunk) in covered {
            let index = queue.index;
            let layout = self.layout(&self.cx.creds, index, 1).await?;
            match layout.chunks.iter().find(|p| p.index == index).map(|p| p.chunk) {
                Some(there) if there == chunk && queue.inner.lock().truncates == Some(now.truncates) => {}
                Some(there) if there.id == chunk.id => queue.relocate(),
                _ => self.follow_cut(&queue),
            }
        }
        Ok(())
    }

    /// The chunk of a queue is the file's no more: what it holds goes to another one, and without anything held it ends.
    fn follow_cut(&self, queue: &Arc<Queue>) {
        // Who writes has the state, too: nothing comes between the look and the end.
        let mut s = self.state.lock();
        if !s.queues.get(&queue.index).is_some_and(|w| Arc::ptr_eq(&w.queue, queue)) {
            return;
        }
        if queue.is_synced() {
            let gone = s.queues.remove(&queue.index);
            drop(s);
            drop(gone);
        } else {
            queue.relocate();
        }
    }

    /// Writes the parts of a small file into its inode, on top of what is there.
    async fn flush_inline(&self) -> Result<()> {
        for _ in 0..CATCH_UPS {
            let parts = self.inline_parts();
            if parts.is_empty() {
                return Ok(());
            }
            let truncates = *self.shared.truncates.lock();
            let op = WriteInline { inode: self.cx.inode, truncates, parts };
            let session = self.cx.masters.session().await?;
            self.take_up(session).await?;
            let committing = Committing::begin(self);
            match self.cx.masters.call_under(&self.committer(), op, session).await {
                Ok(attr) => {
                    let mut s = self.state.lock();
                    s.changed_here(attr.change);
                    s.dirty = std::mem::take(&mut s.since_flush);
                    drop(s);
                    drop(committing);
                    return Ok(());
                }
                Err(Error::Meta(MetaError::SessionEnded | MetaError::Fenced { .. })) => {}
                Err(Error::Meta(MetaError::LayoutStale)) => {
                    let now = self.layout(&self.cx.creds, ChunkIndex(0), 0).await?.truncates;
                    if now == truncates {
                        return self.inline_to_chunks().await;
                    }
                    // Another client cut it.
                    *self.shared.truncates.lock() = now;
                }
                Err(e) => {
                    if e.errno() == Errno::ESTALE {
                        self.lose(&e);
                    }
                    return Err(e);
                }
            }
        }
        Err(MetaError::LayoutStale.into())
    }

    /// What the masters do not have of a small file. What is written from now on is noted apart.
    fn inline_parts(&self) -> Vec<(Offset, Bytes)> {
        let mut s = self.state.lock();
        s.since_flush = Ranges::default();
        let content = s.inline.as_deref().unwrap_or_default();
        let copied = |part: std::ops::Range<usize>| {
            (Offset(part.start as u64), Bytes::copy_from_slice(&content[part]))
        };
        s.dirty.iter().map(copied).collect()
    }

    /// Another client made it large: what was written here goes the long way.
    async fn inline_to_chunks(&self) -> Result<()> {
        let bytes = self.state.lock().dirty.iter().map(|part| part.len()).sum();
        let mut share = self.cx.pool.budget.take(bytes, self.cx.masters.deadline()).await?;
        let mut s = self.state.lock();
        if !s.dirty.is_empty() {
            self.parts_to_chunks(&mut s, &mut share);
        }
        Ok(())
    }

    /// Data was given up during a flush: when nothing else waits, the masters' size counts again.
    fn after_loss(&self, before: u64) {
        if self.shared.losses.last().0 == before {
            return;
        }
        let mut s = self.state.lock();
        if s.queues.values().all(|w| w.queue.is_committed()) && s.buffer.bytes.is_empty() {
            s.written_to = None;
            s.change = 0;
            s.forget_places();
        }
    }
}
