//! The durable log: entries by index in preallocated segment files, group-committed on one lane.
//!
//! ```text
//!   append ─> memory (readable at once) ─> queue ─> lane: one batch, one sync ─> all who wait
//! ```
//! Each flush is a numbered batch that is only written after the one before is durable, which is
//! what lets [`super::recover`] tell a torn tail from damage. An error of the disk is final: every
//! later call fails with it, and nothing more is written.

use super::recover::{Place, Recovered, Recovery, Tail};
use super::segment::{CarriedState, Kind, LogPos, Record, TornTail};
use super::vote::Votes;
use super::writer::{
    Cursor, LOG_DIR, Segment, VOTE_FILE, Writer, Written, open_slots, read_whole, segment_file, segment_id,
};
use bytes::Bytes;
use mooseng_core::seam::{Disk, DiskFile, Lane, on_lane};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::{io, ops::Range, sync::Arc};

/// Sizes of the log.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Bytes of a segment file. 16 MiB: small enough to free space early, large enough that
    /// making one is rare.
    pub segment_bytes: u64,
    /// Bytes of recent entries kept in memory; older ones are read from disk.
    pub cache_bytes: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment_bytes: 16 << 20, cache_bytes: 32 << 20 }
    }
}

/// Called once with the outcome of a write, on the lane.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk failed.
    #[error("the Raft log cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It lost what it had promised to keep.
    #[error(transparent)]
    Damage(#[from] super::recover::Damage),
    /// The vote was lost: the node could vote twice in one term.
    #[error(
        "the vote of this Raft node cannot be read, although its log has entries. Without it the node could \
         vote twice. Remove it from the cluster, empty its storage directory and add it again"
    )]
    VoteLost,
}

enum Op {
    Records { records: Vec<Record>, serials: Vec<u64>, done: Done },
    Purge { pos: LogPos, done: Done },
    Vote { vote: Bytes, done: Done },
}

#[derive(Debug)]
struct Slot {
    serial: u64,
    term: u64,
    kind: Kind,
    len: u32,
    place: Option<Written>,
    data: Option<Bytes>,
}

struct State {
    first: u64,
    slots: VecDeque<Slot>,
    /// Entries before this index have no data in memory.
    cached_from: u64,
    cached_bytes: usize,
    carried: CarriedState,
    /// The furthest end since the log was opened, and how much of it was durable at some time.
    furthest: Option<LogPos>,
    durable: Option<LogPos>,
    vote: Option<Bytes>,
    files: BTreeMap<u64, Arc<dyn DiskFile>>,
    next_serial: u64,
    queue: Vec<Op>,
    flushing: bool,
    failed: Option<String>,
}

struct Inner {
    state: Mutex<State>,
    writer: Mutex<Writer>,
    lane: Arc<dyn Lane>,
    read_lane: Arc<dyn Lane>,
    options: LogOptions,
}

/// The durable log of one node. Cheap to clone.
#[derive(Clone)]
pub struct DurableLog(Arc<Inner>);

impl std::fmt::Debug for DurableLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DurableLog").field("last", &self.last()).finish_non_exhaustive()
    }
}

/// An entry that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place.
    pub pos: LogPos,
    /// What it is.
    pub kind: Kind,
    /// Its data.
    pub data: Bytes,
}

fn stopped() -> io::Error {
    io::Error::other("the log's lane was stopped")
}

impl DurableLog {
    /// Opens the log below `raft/` on `disk`, recovering what a crash left. `lane` is the log's
    /// own for writes, `read_lane` for reads.
    pub async fn open(
        disk: Arc<dyn Disk>,
        lane: Arc<dyn Lane>,
        read_lane: Arc<dyn Lane>,
        options: LogOptions,
        term_of_vote: fn(&[u8]) -> u64,
    ) -> Result<Self, OpenError> {
        let opened = on_lane(&lane, move || open_files(&disk, &options, term_of_vote))
            .await
            .ok_or_else(|| OpenError::Io(stopped()))??;
        let (state, writer) = opened;
        Ok(Self(Arc::new(Inner {
            state: Mutex::new(state),
            writer: Mutex::new(writer),
            lane,
            read_lane,
            options,
        })))
    }

    /// The last purged place.
    pub fn purged(&self) -> Option<LogPos> {
        self.0.state.lock().carried.purged
    }

    /// The last entry; the last purged place when there is none.
    pub fn last(&self) -> Option<LogPos> {
        self.0.state.lock().last()
    }

    /// The furthest end since the log was opened: entries that a leader has cut off since were there.
    pub fn furthest(&self) -> Option<LogPos> {
        self.0.state.lock().furthest
    }

    /// The furthest entry that was durable since the log was opened.
    pub fn durable(&self) -> Option<LogPos> {
        self.0.state.lock().durable
    }

    /// The newest vote.
    pub fn vote(&self) -> Option<Bytes> {
        self.0.state.lock().vote.clone()
    }

    /// The torn tail that is not made up for, see [`TornTail`].
    pub fn torn(&self) -> Option<TornTail> {
        self.0.state.lock().carried.torn
    }

    /// A log that was never written to is [`TornTail::UNPROVEN`] from its first record on.
    pub fn distrust_if_new(&self) {
        let mut state = self.0.state.lock();
        if state.files.is_empty() && state.slots.is_empty() {
            state.carried.torn = Some(TornTail::UNPROVEN);
        }
    }

    /// Adds entries, which are readable on return; `done` hears when they are durable.
    pub fn append(&self, records: Vec<Record>, done: Done) {
        let mut state = self.0.state.lock();
        let mut serials = Vec::with_capacity(records.len());
        for record in &records {
            serials.push(state.push(record));
        }
        self.submit(state, Op::Records { records, serials, done });
    }

    /// Voids the entries from `from` on; `done` hears when that is durable.
    pub fn truncate_from(&self, from: u64, done: Done) {
        let mut state = self.0.state.lock();
        state.truncate_from(from);
        let record =
            Record { kind: Kind::Truncate, pos: LogPos { term: 0, index: from }, data: Bytes::new() };
        self.submit(state, Op::Records { records: vec![record], serials: vec![0], done });
    }

    /// Forgets the entries up to and with `pos`, which is in the durable state machine.
    pub fn purge(&self, pos: LogPos, done: Done) {
        let mut state = self.0.state.lock();
        state.purge(pos);
        self.submit(state, Op::Purge { pos, done });
    }

    /// Stores the vote; `done` hears when it is durable. What was appended before is durable then.
    pub fn save_vote(&self, vote: Bytes, done: Done) {
        let mut state = self.0.state.lock();
        state.vote = Some(vote.clone());
        self.submit(state, Op::Vote { vote, done });
    }

    /// Ends a torn state: a leader has made up for what was lost. Not when it is another one by now.
    pub fn heal(&self, torn: TornTail, done: Done) {
        let state = self.0.state.lock();
        if state.carried.torn == Some(torn) {
            self.set_torn(state, None, done);
        } else {
            drop(state);
            done(Ok(()));
        }
    }

    /// Something that nobody knows is lost: [`TornTail::UNPROVEN`], at once; `done` hears when that is durable.
    pub fn distrust(&self, done: Done) {
        self.set_torn(self.0.state.lock(), Some(TornTail::UNPROVEN), done);
    }

    /// [`Self::distrust`]: nobody waits for it.
    pub fn distrust_later(&self) {
        self.distrust(Box::new(|outcome| {
            if let Err(e) = outcome {
                tracing::error!(error = %e, "that this master was restored could not be stored");
            }
        }));
    }

    fn set_torn(&self, mut state: parking_lot::MutexGuard<'_, State>, torn: Option<TornTail>, done: Done) {
        state.carried.torn = torn;
        let data = postcard::to_allocvec(&torn).expect("two numbers and their tags are encodable");
        let record = Record { kind: Kind::Torn, pos: LogPos { term: 0, index: 0 }, data: data.into() };
        self.submit(state, Op::Records { records: vec![record], serials: vec![0], done });
    }

    /// [`Self::heal`], from within a `done`: nobody waits for it.
    pub fn heal_later(&self, torn: TornTail) {
        self.heal(
            torn,
            Box::new(|outcome| {
                if let Err(e) = outcome {
                    tracing::error!(error = %e, "the end of the torn state could not be stored");
                }
            }),
        );
    }

    fn submit(&self, mut state: parking_lot::MutexGuard<'_, State>, op: Op) {
        state.queue.push(op);
        if state.flushing {
            return;
        }
        state.flushing = true;
        drop(state);
        let inner = Arc::clone(&self.0);
        // At most one job of ours is queued, so this does not wait for room.
        self.0.lane.run(Box::new(move || inner.flush()));
    }

    /// The term of the entry at `index`, purged or present.
    #[cfg(test)]
    pub fn term_at(&self, index: u64) -> Option<u64> {
        let state = self.0.state.lock();
        state.slot(index).map(|s| s.term).or(state
            .carried
            .purged
            .filter(|p| p.index == index)
            .map(|p| p.term))
    }

    /// Reads the entries of `range` that there are, in order, without a gap, up to about
    /// `max_bytes` of data and at least one.
    pub async fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<LogEntry>> {
        let (mut out, missing) = self.0.state.lock().collect(range, max_bytes)?;
        if missing.is_empty() {
            return Ok(out);
        }
        let read = on_lane(&self.0.read_lane, move || {
            missing
                .into_iter()
                .map(|(slot, file, place)| {
                    let index = place.1;
                    Writer::read(&*file, &place.0, index).map(|data| (slot, data))
                })
                .collect::<io::Result<Vec<_>>>()
        })
        .await
        .ok_or_else(stopped)??;
        for (slot, data) in read {
            out[slot].data = data;
        }
        Ok(out)
    }

    /// Waits for `call`'s outcome.
    pub async fn wait(call: impl FnOnce(Done)) -> io::Result<()> {
        let (tx, rx) = futures::channel::oneshot::channel();
        call(Box::new(move |outcome| {
            let _ = tx.send(outcome);
        }));
        rx.await.map_err(|_| stopped())?
    }
}

type Missing = Vec<(usize, Arc<dyn DiskFile>, (Place, u64))>;

impl State {
    fn last(&self) -> Option<LogPos> {
        let index = self.first + (self.slots.len() as u64).saturating_sub(1);
        self.slots.back().map(|s| LogPos { term: s.term, index }).or(self.carried.purged)
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    fn push(&mut self, record: &Record) -> u64 {
        if self.slots.is_empty() {
            self.first = record.pos.index;
            self.cached_from = record.pos.index;
        }
        debug_assert_eq!(record.pos.index, self.first + self.slots.len() as u64, "the log has no holes");
        self.next_serial += 1;
        self.furthest = self.furthest.max(Some(record.pos));
        self.cached_bytes += record.data.len();
        self.slots.push_back(Slot {
            serial: self.next_serial,
            term: record.pos.term,
            kind: record.kind,
            len: record.data.len() as u32,
            place: None,
            data: Some(record.data.clone()),
        });
        self.next_serial
    }

    fn truncate_from(&mut self, from: u64) {
        while !self.slots.is_empty() && self.first + self.slots.len() as u64 > from {
            let gone = self.slots.pop_back().expect("not empty");
            self.cached_bytes -= gone.data.map_or(0, |d| d.len());
        }
        self.cached_from = self.cached_from.min(self.first + self.slots.len() as u64);
    }

    fn purge(&mut self, pos: LogPos) {
        self.carried.purged = self.carried.purged.max(Some(pos));
        self.furthest = self.furthest.max(Some(pos));
        while !self.slots.is_empty() && self.first <= pos.index {
            let gone = self.slots.pop_front().expect("not empty");
            self.cached_bytes -= gone.data.map_or(0, |d| d.len());
            self.first += 1;
        }
        self.cached_from = self.cached_from.max(self.first);
    }

    /// Lets go of the oldest data beyond `max` bytes, as far as it is on disk.
    fn evict(&mut self, max: usize) {
        while self.cached_bytes > max {
            let at = (self.cached_from - self.first) as usize;
            let Some(slot) = self.slots.get_mut(at).filter(|s| s.place.is_some()) else { return };
            self.cached_bytes -= slot.data.take().map_or(0, |d| d.len());
            self.cached_from += 1;
        }
    }

    fn collect(&self, range: Range<u64>, max_bytes: usize) -> io::Result<(Vec<LogEntry>, Missing)> {
        if let Some(cause) = &self.failed {
            return Err(io::Error::other(cause.clone()));
        }
        let (mut out, mut missing, mut bytes) = (Vec::new(), Vec::new(), 0usize);
        for index in range.start.max(self.first)..range.end.min(self.first + self.slots.len() as u64) {
            let Some(slot) = self.slot(index) else { break };
            bytes += slot.len as usize;
            if bytes > max_bytes && !out.is_empty() {
                break;
            }
            if slot.data.is_none() {
                let Some(written) = slot.place else { break };
                let Written { segment, at } = written;
                let file = self.files.get(&segment).cloned().ok_or_else(|| {
                    io::Error::new(io::ErrorKind::NotFound, format!("segment {segment:016x} is gone"))
                })?;
                let place = Place { term: slot.term, kind: slot.kind, segment, at, len: slot.len };
                missing.push((out.len(), file, (place, index)));
            }
            out.push(LogEntry {
                pos: LogPos { term: slot.term, index },
                kind: slot.kind,
                data: slot.data.clone().unwrap_or_default(),
            });
        }
        Ok((out, missing))
    }
}

impl Inner {
    /// Writes what is queued, until nothing is. Runs on the lane.
    fn flush(&self) {
        // Jobs of one lane never overlap, so the lock is free; it makes that visible.
        let mut writer = self.writer.lock();
        loop {
            let mut state = self.state.lock();
            if state.queue.is_empty() {
                state.flushing = false;
                return;
            }
            let ops = std::mem::take(&mut state.queue);
            let failed = state.failed.clone();
            drop(state);
            if let Some(cause) = failed {
                fail_all(ops, &cause);
                continue;
            }
            self.write(&mut writer, ops);
        }
    }

    /// Writes `ops` in order, neighbours that fit together as one batch.
    fn write(&self, writer: &mut Writer, ops: Vec<Op>) {
        let mut ops = ops.into_iter().peekable();
        while let Some(op) = ops.next() {
            let mut dones = Vec::new();
            let outcome = match op {
                Op::Vote { vote, done } => {
                    dones.push(done);
                    writer.vote(&vote)
                }
                Op::Purge { pos, done } => {
                    dones.push(done);
                    self.write_purge(writer, pos)
                }
                Op::Records { mut records, mut serials, done } => {
                    dones.push(done);
                    while let Some(Op::Records { records: more, serials: theirs, done }) =
                        ops.next_if(|op| matches!(op, Op::Records { .. }))
                    {
                        records.extend(more);
                        serials.extend(theirs);
                        dones.push(done);
                    }
                    self.write_batch(writer, &records, &serials)
                }
            };
            if let Err(e) = &outcome {
                self.state.lock().failed = Some(format!("the Raft log failed: {e}"));
            }
            for done in dones {
                done(outcome.as_ref().copied().map_err(clone_error));
            }
            if let Err(e) = outcome {
                fail_all(ops.collect(), &format!("the Raft log failed: {e}"));
                return;
            }
        }
    }

    fn write_batch(&self, writer: &mut Writer, records: &[Record], serials: &[u64]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let carried = self.state.lock().carried;
        let places = writer.batch(records, carried)?;
        let mut state = self.state.lock();
        for ((record, serial), place) in records.iter().zip(serials).zip(places) {
            state
                .files
                .entry(place.segment)
                .or_insert_with(|| Arc::clone(&writer.segments[&place.segment].file));
            if !record.kind.is_entry() {
                continue;
            }
            state.durable = state.durable.max(Some(record.pos));
            let Some(at) = record.pos.index.checked_sub(state.first) else { continue };
            if let Some(slot) = state.slots.get_mut(at as usize).filter(|s| s.serial == *serial) {
                slot.place = Some(place);
            }
        }
        state.evict(self.options.cache_bytes);
        Ok(())
    }

    fn write_purge(&self, writer: &mut Writer, pos: LogPos) -> io::Result<()> {
        let record = Record { kind: Kind::Purge, pos, data: Bytes::new() };
        self.write_batch(writer, &[record], &[0])?;
        writer.remove_purged(pos)?;
        let mut state = self.state.lock();
        state.durable = state.durable.max(Some(pos));
        state.files.retain(|id, _| writer.segments.contains_key(id));
        Ok(())
    }
}

fn clone_error(e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), e.to_string())
}

fn fail_all(ops: Vec<Op>, cause: &str) {
    for op in ops {
        let (Op::Records { done, .. } | Op::Purge { done, .. } | Op::Vote { done, .. }) = op;
        done(Err(io::Error::other(cause.to_owned())));
    }
}

fn open_files(
    disk: &Arc<dyn Disk>,
    options: &LogOptions,
    term_of_vote: fn(&[u8]) -> u64,
) -> Result<(State, Writer), OpenError> {
    let mut ids: Vec<u64> = disk.list(LOG_DIR)?.iter().filter_map(|name| segment_id(name)).collect();
    ids.sort_unstable();
    let mut recovery = Recovery::default();
    let mut files = BTreeMap::new();
    for &id in &ids {
        let file = disk.open(&segment_file(id))?;
        recovery.segment(id, &read_whole(&*file)?)?;
        files.insert(id, file);
    }
    let mut recovered = recovery.finish()?;
    let (vote_file, votes) = open_slots(disk, VOTE_FILE)?;
    let (vote_sequence, vote) = match votes {
        Votes::Newest { sequence, vote } => (sequence, Some(vote)),
        Votes::Empty if recovered.last().is_none_or(|p| p.term == 0) => (0, None),
        Votes::Empty | Votes::Damaged => return Err(OpenError::VoteLost),
    };
    let cut = recovered.note_cut(vote.as_deref().map_or(0, term_of_vote));
    let mut writer = Writer {
        disk: Arc::clone(disk),
        segments: recovered
            .segments
            .iter()
            .map(|s| (s.id, Segment { file: Arc::clone(&files[&s.id]), last_index: s.last_index }))
            .collect(),
        cursor: match recovered.tail {
            Tail::GoOn { segment, at, bytes } => Some(Cursor { segment, at, bytes }),
            Tail::Empty | Tail::Cut { .. } => None,
        },
        last_segment: ids.last().copied().unwrap_or(0),
        next_batch: recovered.next_batch,
        segment_bytes: options.segment_bytes,
        vote_file,
        vote_sequence,
    };
    if cut {
        // A new segment remembers the cut, so that the next start still knows of it.
        writer.begin_segment(recovered.state)?;
    }
    Ok((state_of(recovered, files, vote), writer))
}

fn state_of(recovered: Recovered, files: BTreeMap<u64, Arc<dyn DiskFile>>, vote: Option<Bytes>) -> State {
    let slots: VecDeque<Slot> = recovered
        .places
        .iter()
        .map(|p| Slot {
            serial: 0,
            term: p.term,
            kind: p.kind,
            len: p.len,
            place: Some(Written { segment: p.segment, at: p.at }),
            data: None,
        })
        .collect();
    State {
        furthest: recovered.last(),
        durable: recovered.last(),
        cached_from: recovered.first + slots.len() as u64,
        first: recovered.first,
        slots,
        cached_bytes: 0,
        carried: recovered.state,
        vote,
        files,
        next_serial: 0,
        queue: Vec::new(),
        flushing: false,
        failed: None,
    }
}
