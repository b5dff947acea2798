//! What was written to one chunk of a file and is not on disk yet. Filled without waiting by whoever
//! writes, emptied by the chunk's writer task ([`crate::writer`]).
//!
//! Every write has a sequence number of its queue. They are acknowledged (in memory at every
//! replica), then synced (on every replica's disk) in order; what is synced is let go. What could
//! not be written stays, and is tried again when somebody writes, flushes or syncs.

use crate::{
    budget::Share,
    error::{Error, Result},
    pool::Unsynced,
    reader::Place,
    writer::{Context, Shared, Writer},
};
use bytes::Bytes;
use futures::FutureExt as _;
use mooseng_core::{
    chunk::Acknowledged,
    error::{Errno, MetaError},
    ids::{ChunkId, ChunkIndex, ChunkRef, Offset, TruncateCounter, WriteNumber},
    limits::CHUNK_BYTES,
    trace::{self, Here},
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeSet, VecDeque},
    future::Future,
    panic::AssertUnwindSafe,
    sync::Arc,
};
use tokio::sync::{Notify, watch};

/// The number before a queue's first write. The one below it is left for the file's inline data,
/// which goes before all writes.
const BEFORE: u64 = 1;

/// One write that is held.
pub(crate) struct Held {
    pub seq: u64,
    pub at: Offset,
    pub data: Bytes,
    /// Its number at the chunk that takes it.
    pub number: Option<WriteNumber>,
    _share: Share,
}

/// How far a queue is.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    pub acked: u64,
    pub synced: u64,
    /// Efforts that ended without success.
    pub failures: u64,
    /// The last one's error.
    pub failed: Option<Error>,
    /// Its chunk's place is being learnt again, or takes over the file's inline data.
    pub moving: bool,
    /// On how many disks the last sync had it.
    pub disks: Option<u32>,
}

impl Default for Status {
    fn default() -> Self {
        Self { acked: BEFORE, synced: BEFORE, failures: 0, failed: None, moving: false, disks: None }
    }
}

impl Status {
    fn reached(&self, upto: u64, to_disk: bool) -> bool {
        !self.moving && if to_disk { self.synced >= upto } else { self.acked >= upto }
    }
}

/// What is to be done next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Todo {
    Nothing,
    /// Learn the chunk's place again: the file was cut.
    Relocate,
    /// Sync what is acknowledged.
    Sync,
    /// Have the masters drop the inline data that the chunk has on disk now.
    DropInline,
    /// Send, or wait for acknowledgements.
    Send,
}

pub(crate) struct Inner {
    /// In order; the first is the first that is not synced.
    pub held: VecDeque<Held>,
    /// The last number given to a write.
    pub last: u64,
    /// The last number a commit has told the masters of.
    pub committed: u64,
    want_sync: u64,
    /// The place, in a trace, of who asked for that last.
    asker: Here,
    parked: bool,
    pub relocate: bool,
    /// The write that is the file's inline data, until the masters have dropped that. Nothing else is
    /// sent before: another client may have to begin anew with another chunk.
    pub base: Option<u64>,
    pub place: Option<Place>,
    /// Whether the masters know that something was written to the chunk there. Before, they may make a set
    /// of it anew when they hear nobody of the old one: what is synced is held until then.
    pub told: bool,
    /// How often the file had been cut when the place was learnt.
    pub truncates: Option<TruncateCounter>,
    /// Who acknowledged what is not synced, at the present version.
    pub members: BTreeSet<Acknowledged>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            held: VecDeque::new(),
            last: BEFORE,
            committed: BEFORE,
            want_sync: 0,
            asker: Here::NOWHERE,
            parked: false,
            relocate: false,
            base: None,
            place: None,
            told: false,
            truncates: None,
            members: BTreeSet::new(),
        }
    }
}

impl Inner {
    /// Who acknowledged writes up to one that are not synced.
    pub(crate) fn unsynced(&self, upto: u64) -> Option<Unsynced> {
        let chunk = self.place.as_ref()?.place.chunk.id;
        let first = self.held.front()?.seq;
        (first <= upto).then(|| Unsynced { chunk, members: self.members.clone() })
    }

    /// Takes out what is not needed any more.
    fn let_go(&mut self, upto: u64) -> Vec<Held> {
        let gone = self.held.partition_point(|h| h.seq <= upto);
        self.held.drain(..gone).collect()
    }
}

/// The queue of one chunk.
pub(crate) struct Queue {
    pub index: ChunkIndex,
    /// Orders queues of a client by age.
    pub age: u64,
    pub inner: Mutex<Inner>,
    pub status: watch::Sender<Status>,
    pub work: Notify,
}

/// A queue with the task that empties it; the task ends when it is dropped.
pub(crate) struct Writing {
    pub queue: Arc<Queue>,
    task: tokio::task::JoinHandle<()>,
    end: Error,
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.task.abort();
        // Whoever still waits hears of it.
        self.queue.failed(self.end.clone(), false);
    }
}

impl Writing {
    pub(crate) fn start(cx: Context, shared: Arc<Shared>, index: ChunkIndex) -> Self {
        let queue = Arc::new(Queue::new(index, cx.pool.next_age()));
        let (writes, losses) = (queue.clone(), shared.clone());
        let work = move || Writer::new(cx.clone(), shared.clone(), writes.clone()).run();
        let told = queue.clone();
        let died = move || {
            losses.losses.note(Error::Died);
            told.failed(Error::Died, false);
        };
        let task = tokio::spawn(trace::carry(again_after_panics(work, died)));
        Self { queue, task, end: Error::Closed }
    }

    /// Gives up what is held; whoever waits hears why.
    pub(crate) fn lose(mut self, why: &Error) {
        self.end = why.clone();
    }
}

/// Runs work that ends by a panic only, each time anew. What it left half done is not gone on with: `died`
/// tells who waits for it.
async fn again_after_panics<F: Future<Output = ()>>(work: impl Fn() -> F, died: impl Fn()) {
    loop {
        if AssertUnwindSafe(work()).catch_unwind().await.is_err() {
            tracing::error!("the task that writes a chunk panicked: what it held is lost");
            died();
        }
    }
}

impl Queue {
    fn new(index: ChunkIndex, age: u64) -> Self {
        let status = watch::Sender::new(Status::default());
        Self { index, age, inner: Mutex::default(), status, work: Notify::new() }
    }

    /// Adds a write behind all others.
    pub(crate) fn push(&self, at: Offset, data: Bytes, share: Share) {
        let mut q = self.inner.lock();
        q.last += 1;
        let seq = q.last;
        q.held.push_back(Held { seq, at, data, number: None, _share: share });
        q.parked = false;
        drop(q);
        self.work.notify_one();
    }

    pub(crate) fn last(&self) -> u64 {
        self.inner.lock().last
    }

    /// Where the chunk is written, once that is known.
    pub(crate) fn place(&self) -> Option<Place> {
        self.inner.lock().place.clone()
    }

    /// The same, when the chunk has all of the file's content.
    pub(crate) fn readable_place(&self) -> Option<Place> {
        let q = self.inner.lock();
        if q.base.is_some() || q.relocate { None } else { q.place.clone() }
    }

    /// Whether something was written and acknowledged.
    pub(crate) fn is_written(&self) -> bool {
        self.status.borrow().acked > BEFORE
    }

    /// The place, in a trace, of who waits for a sync, else of the writer's task.
    pub(crate) fn asker(&self) -> Here {
        let asker = self.inner.lock().asker;
        if asker.is_known() { asker } else { trace::here() }
    }

    pub(crate) fn chunk(&self) -> Option<ChunkRef> {
        self.inner.lock().place.as_ref().map(|p| p.place.chunk)
    }

    /// Whether nothing is held.
    pub(crate) fn is_synced(&self) -> bool {
        self.inner.lock().held.is_empty()
    }

    /// Whether an effort failed and nobody asked for another.
    pub(crate) fn is_parked(&self) -> bool {
        self.inner.lock().parked
    }

    /// Whether the masters know of everything written.
    pub(crate) fn is_committed(&self) -> bool {
        let q = self.inner.lock();
        q.committed >= q.last
    }

    /// Where in the file what is held and the masters do not know of ends.
    pub(crate) fn uncommitted_end(&self) -> Option<u64> {
        let q = self.inner.lock();
        let news = q.held.iter().filter(|h| h.seq > q.committed && Some(h.seq) != q.base);
        let end = news.map(|h| h.at.get() + h.data.len() as u64).max()?;
        Some(self.index.get() * CHUNK_BYTES + end)
    }

    /// The newest unacknowledged write that touches a range: its bytes when it covers all of it,
    /// otherwise up to where to wait.
    pub(crate) fn unacked(&self, at: u64, len: u64) -> Option<std::result::Result<Bytes, u64>> {
        let acked = self.status.borrow().acked;
        let q = self.inner.lock();
        let touches = |h: &&Held| h.at.get() < at + len && at < h.at.get() + h.data.len() as u64;
        let held = q.held.iter().rev().take_while(|h| h.seq > acked).find(touches)?;
        let begin = held.at.get();
        if begin <= at && at + len <= begin + held.data.len() as u64 {
            let from = (at - begin) as usize;
            return Some(Ok(held.data.slice(from..from + len as usize)));
        }
        Some(Err(held.seq))
    }

    /// Waits until all writes up to one are in memory at every replica, or on disk. What failed
    /// before is tried again; an effort that fails meanwhile is the error.
    pub(crate) async fn wait(&self, upto: u64, to_disk: bool) -> Result<()> {
        let mut status = self.status.subscribe();
        let before = {
            let s = status.borrow();
            if s.reached(upto, to_disk) {
                return Ok(());
            }
            s.failures
        };
        {
            let mut q = self.inner.lock();
            if to_disk {
                q.want_sync = q.want_sync.max(upto);
                q.asker = trace::here();
            }
            q.parked = false;
        }
        self.work.notify_one();
        let done = |s: &Status| s.failures != before || s.reached(upto, to_disk);
        let waited = trace::step("the chunk's writer", status.wait_for(done)).await;
        let s = waited.map_err(|_| Error::Closed)?.clone();
        match s.failed {
            Some(e) if s.failures != before => Err(e),
            _ => Ok(()),
        }
    }

    /// The file was cut below it: what is held goes to the chunk that is there now.
    pub(crate) fn relocate(&self) {
        self.inner.lock().relocate = true;
        self.status.send_modify(|s| (s.moving, s.acked) = (true, s.synced));
        self.work.notify_one();
    }

    /// What the file has inline is to be in the chunk before anything else is.
    pub(crate) fn put_base(&self, data: Bytes, share: Share) {
        let mut q = self.inner.lock();
        if q.base.is_some() {
            return;
        }
        let seq = q.held.front().map_or(q.last, |h| h.seq - 1);
        q.held.push_front(Held { seq, at: Offset(0), data, number: None, _share: share });
        q.base = Some(seq);
        q.committed = q.committed.min(seq - 1);
        drop(q);
        self.status.send_modify(|s| (s.moving, s.acked, s.synced) = (true, seq - 1, seq - 1));
    }

    /// The masters have dropped the inline data, or (not `done`) the chunk is not to have it.
    pub(crate) fn end_base(&self, done: bool) {
        let mut q = self.inner.lock();
        let Some(base) = q.base.take() else { return };
        let gone = q.held.pop_front_if(|h| h.seq == base);
        if done {
            q.committed = q.committed.max(base);
        }
        let moving = q.relocate;
        drop(q);
        drop(gone);
        self.status.send_modify(|s| {
            (s.moving, s.acked, s.synced) = (moving, s.acked.max(base), s.synced.max(base));
        });
    }

    /// Forgets all acknowledgements of what is held: it is sent again.
    pub(crate) fn rewind(&self) {
        self.status.send_modify(|s| s.acked = s.synced);
    }

    pub(crate) fn todo(&self) -> Todo {
        let (acked, synced) = {
            let s = self.status.borrow();
            (s.acked, s.synced)
        };
        let q = self.inner.lock();
        if q.parked {
            return Todo::Nothing;
        }
        if q.relocate {
            return Todo::Relocate;
        }
        if let Some(base) = q.base {
            let next = if acked >= base { Todo::Sync } else { Todo::Send };
            return if synced >= base { Todo::DropInline } else { next };
        }
        if q.want_sync > synced && acked >= q.want_sync {
            return Todo::Sync;
        }
        if q.last > acked { Todo::Send } else { Todo::Nothing }
    }

    /// Everything up to a write is on so many disks: it is let go, when the masters know of the chunk.
    pub(crate) fn synced(&self, upto: u64, disks: Option<u32>) {
        self.status.send_modify(|s| (s.synced, s.disks) = (s.synced.max(upto), disks.or(s.disks)));
        let mut q = self.inner.lock();
        let gone = if q.told { q.let_go(upto) } else { vec![] };
        q.members.clear();
        drop(q);
        drop(gone);
    }

    /// The masters know that the chunk has data: it does not vanish any more.
    pub(crate) fn told(&self, chunk: ChunkId) {
        {
            let mut q = self.inner.lock();
            if q.place.as_ref().is_none_or(|p| p.place.chunk.id != chunk) {
                return;
            }
            q.told = true;
        }
        // Whoever syncs from now on lets go of it by himself.
        let synced = self.status.borrow().synced;
        let gone = self.inner.lock().let_go(synced);
        drop(gone);
    }

    /// What was written up to here was cut away, or is to be taken for that.
    pub(crate) fn cut_away(&self, upto: u64) {
        let gone = self.inner.lock().let_go(upto);
        drop(gone);
        self.status.send_modify(|s| s.synced = s.synced.max(upto));
    }

    /// A place that the masters were not told of is another now: also what was on disk there is sent again.
    pub(crate) fn forget_synced(&self) {
        let first = self.inner.lock().held.front().map(|h| h.seq - 1);
        if let Some(first) = first {
            self.status.send_modify(|s| (s.acked, s.synced) = (s.acked.min(first), s.synced.min(first)));
        }
    }

    /// An effort failed. What is held is kept, or given up as lost.
    pub(crate) fn failed(&self, e: Error, keep: bool) {
        let mut q = self.inner.lock();
        q.parked = keep;
        q.relocate = false;
        let last = q.last;
        let gone = if keep { VecDeque::new() } else { std::mem::take(&mut q.held) };
        if !keep {
            q.committed = last;
            q.place = None;
            q.base = None;
            q.members.clear();
        }
        let moving = q.base.is_some();
        drop(q);
        drop(gone);
        self.status.send_modify(|s| {
            s.moving = moving;
            if !keep {
                (s.acked, s.synced) = (last, last);
            }
            s.failures += 1;
            s.failed = Some(e);
        });
    }

    /// What would be lost with this client's memory: who acknowledged writes that are not synced.
    pub(crate) fn unsynced(&self) -> Option<Unsynced> {
        self.inner.lock().unsynced(u64::MAX)
    }
}

/// Whether data that met this error may still be written later.
pub(crate) fn can_be_kept(e: &Error) -> bool {
    match e {
        // The file is gone, or the data can never fit.
        Error::Meta(MetaError::Posix(e)) => *e == Errno::ENOSPC,
        Error::Invalid(_) | Error::Overtaken { .. } | Error::Died => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    /// One that panics while somebody waits, and works the second time.
    #[tokio::test(start_paused = true)]
    async fn a_writer_that_panics_fails_who_waits_and_another_goes_on() {
        let queue = Arc::new(Queue::new(ChunkIndex(0), 0));
        let (writes, told, runs) = (queue.clone(), queue.clone(), Arc::new(AtomicUsize::new(0)));
        let work = move || {
            let (queue, run) = (writes.clone(), runs.fetch_add(1, SeqCst));
            async move {
                loop {
                    queue.work.notified().await;
                    assert!(run > 0, "as the test wants");
                    queue.synced(queue.last(), None);
                }
            }
        };
        let died = move || told.failed(Error::Died, false);
        let task = tokio::spawn(again_after_panics(work, died));
        for n in 0..2 {
            let seq = {
                let mut q = queue.inner.lock();
                q.last += 1;
                q.last
            };
            let waited =
                tokio::time::timeout(std::time::Duration::from_secs(60), queue.wait(seq, true)).await;
            match (n, waited.expect("it hangs")) {
                (0, Err(Error::Died)) => {}
                (1, Ok(())) => {}
                other => panic!("{other:?}"),
            }
        }
        task.abort();
    }
}
