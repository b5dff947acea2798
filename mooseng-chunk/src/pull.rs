//! Making a replica equal to another: compare checksum tables, copy what differs, make it durable.
//! Serves repair, equalising after a bump, suspects and damage alike.

mod ahead;

pub(crate) use ahead::pull_ahead;

use crate::{
    chunk_file::{FileError, UNKNOWN},
    disk::DataDisk,
    shared::{Shared, clean},
    slot::{Equalised, Inside, Slot, stopped},
};
use futures::{Stream, StreamExt as _};
use mooseng_core::{
    chunk::*,
    context::CallContext,
    error::ChunkError,
    ids::*,
    limits::{BLOCK_BYTES, FRAME_BYTES_MAX},
    meta::{Replica, ReplicaState},
    rpc::RemoteChunks,
};
use std::{
    collections::{BTreeSet, VecDeque},
    ops::Range,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::sync::OwnedMutexGuard;

/// Longest wait for one answer of a source.
const ANSWER: Duration = Duration::from_secs(10);
/// Blocks asked for at once.
const STEP: u64 = FRAME_BYTES_MAX as u64 / BLOCK_BYTES;
/// Runs that are asked for while the first of them is written: somebody may wait for the copy.
const ASKED: usize = 4;

/// Makes the replica here equal to the first of `from`, and to no other: of the rest each may be on its way to
/// become equal to it. Blocks that are damaged there come from the next. A block that verifies nowhere does not keep
/// the others from having their copies: it is damaged here too, unless this replica has it.
///
/// A member of the open version changes nothing before all has come that it is to be: until then it may be what
/// another is made equal to.
pub(crate) async fn pull(
    shared: &Arc<Shared>,
    chunk: ChunkRef,
    from: Vec<Replica>,
    member_of: Option<ChunkVersion>,
    term: Term,
) -> Result<ChunkStat, ChunkError> {
    let slot = shared.place_of_copy(chunk)?;
    shared.stop_ahead(chunk.id);
    if !slot.known.lock().made {
        // Nothing is made here before there is something to copy.
        table_of(shared, chunk, &from, Truth::First).await?;
    }
    let guard = opened(shared, &slot, term).await?;
    let here = slot.known.lock().version;
    if here > chunk.version {
        return Err(ChunkError::Stale { chunk: chunk.id, here, asked: chunk.version });
    }
    let equalised = *slot.equalised.lock();
    if let Some(Equalised { version, lost }) =
        equalised.filter(|e| e.version == chunk.version && e.version == here)
    {
        // A repeat, which came late: it may have been written since.
        tracing::debug!(id = %chunk.id, %version, "a copy that is made is asked for again");
        shared.is_made(&slot, lost.is_none()).await?;
        if let Some((first, blocks)) = lost {
            shared.note(&slot, FileError::Damaged(first, blocks));
        }
        drop(guard);
        return shared.stat(chunk.id);
    }
    // It has all that was ever synced, holes included.
    let was_member = here > ChunkVersion(0) && member_of.is_some_and(|open| here >= open);
    let unserved = Unserved::begin(&slot);
    let (table, sources) = table_of(shared, chunk, &from, Truth::First).await?;
    // Nothing is written there while its version is not open.
    let numbers = numbers_of(chunk, &sources).await?;
    let (mut guard, own, damaged) = own_table(shared, &slot, guard).await?;
    let work = match slot.disbelieved.load(Ordering::Relaxed) {
        true => differences(&own, &(0..own.blocks.len() as u64).collect(), &table),
        false => differences(&own, &damaged, &table),
    };
    let bytes: u64 =
        work.iter().filter(|(_, hole)| !hole).map(|(b, _)| (b.end - b.start) * BLOCK_BYTES).sum();
    let differs = !work.is_empty() || own.length != table.length;
    let mut coming = pin!(coming(shared, chunk, &sources, &table, work));
    let mut gathered = VecDeque::new();
    let _room = if was_member {
        let room = shared.room_to_gather(bytes).await?;
        while let Some(parts) = coming.next().await {
            gathered.push_back(parts?);
        }
        Some(room)
    } else {
        None
    };
    let before = slot.numbers.lock().clone();
    unserved.stays();
    if differs || !was_member {
        *slot.own_since.lock() = chunk.version;
    }
    if differs {
        guard = begin(shared, &slot, guard).await?;
    }
    let (mut nowhere, mut kept) = (Vec::new(), false);
    loop {
        let parts = match gathered.pop_front() {
            Some(parts) => parts,
            None if was_member => break,
            None => match coming.next().await {
                Some(parts) => parts?,
                None => break,
            },
        };
        for part in parts {
            guard = match part {
                Part::Blocks(blocks, frames) => put(shared, &slot, guard, blocks, frames).await?,
                Part::Nowhere(block) if was_member && !damaged.contains(&block) => {
                    kept = true;
                    guard
                }
                Part::Nowhere(block) => {
                    nowhere.push(block);
                    let crc = table.blocks.get(block as usize).copied().flatten().unwrap_or(UNKNOWN);
                    lose(shared, &slot, guard, block, crc).await?
                }
            };
        }
    }
    // Where the source's block could not be had, what its numbers claim may not be here.
    let whole = !kept && nowhere.is_empty();
    let numbers = if whole { numbers } else { before.in_both(&numbers) };
    let guard = finish(shared, &slot, guard, chunk.version, table.length, numbers).await?;
    let lost = nowhere.first().map(|first| (*first, nowhere.len() as u64));
    *slot.equalised.lock() = Some(Equalised { version: chunk.version, lost });
    shared.counters.pulls.fetch_add(1, Ordering::Relaxed);
    shared.is_made(&slot, whole).await?;
    match lost {
        None => drop(shared.damaged.lock().remove(&chunk.id)),
        Some((first, blocks)) => drop(shared.note(&slot, FileError::Damaged(first, blocks))),
    }
    drop(guard);
    shared.stat(chunk.id)
}

/// A replica that is not served while it is made equal to another; nor when that fails once it has begun, for it is
/// neither the old nor the new then. Dropped before, it is as it was.
struct Unserved<'a> {
    slot: &'a Slot,
    before: Option<ReplicaState>,
}

impl<'a> Unserved<'a> {
    /// Under the order lock.
    fn begin(slot: &'a Slot) -> Self {
        let before = std::mem::replace(&mut slot.known.lock().state, ReplicaState::Suspect);
        Self { slot, before: Some(before) }
    }

    fn stays(mut self) {
        self.before = None;
    }
}

impl Drop for Unserved<'_> {
    fn drop(&mut self) {
        let mut known = self.slot.known.lock();
        if let Some(before) = self.before.filter(|_| known.state == ReplicaState::Suspect) {
            known.state = before;
        }
    }
}

/// Whose table counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Truth {
    /// That of the first source.
    First,
    /// That of the first source that answers.
    Any,
}

/// Runs in order, as they come from the sources: [`ASKED`] are on their way at a time.
fn coming<'a>(
    shared: &'a Shared,
    chunk: ChunkRef,
    sources: &'a Sources,
    table: &'a ChecksumTable,
    work: Vec<(Range<u64>, bool)>,
) -> impl Stream<Item = Result<Vec<Part>, ChunkError>> + 'a {
    let get = move |(blocks, hole): (Range<u64>, bool)| async move {
        let got = match hole {
            true => vec![],
            false => fetch(shared, chunk, sources, &blocks, table).await?,
        };
        Ok(parts(blocks, got))
    };
    futures::stream::iter(work).map(get).buffered(ASKED)
}

type Guard = OwnedMutexGuard<Inside>;

/// The chunk's order lock, with the file open or made, for a command of this term.
async fn opened(shared: &Shared, slot: &Slot, term: Term) -> Result<Guard, ChunkError> {
    let opened = slot.open(Some(vec![])).await.map_err(|e| {
        shared.give_up(slot);
        shared.disk_error(e)
    })?;
    let guard = opened.ok_or(ChunkError::NotFound(slot.id))?;
    shared.access.term_is_not_old(term)?;
    Ok(guard)
}

/// What is here, every block looked at.
async fn own_table(
    shared: &Shared,
    slot: &Slot,
    guard: Guard,
) -> Result<(Guard, ChecksumTable, BTreeSet<u64>), ChunkError> {
    let own =
        move |inside: &mut Inside, _: &DataDisk| inside.file.as_mut().ok_or_else(stopped)?.settled_table();
    let (guard, own) = slot.with(false, guard, own).await.map_err(|e| shared.disk_error(e))?;
    let (own, damaged) = own.map_err(|e| shared.note(slot, FileError::Io(e)))?;
    Ok((guard, own, damaged))
}

/// Before the first change: the dirty mark, and no version until the copy is whole.
async fn begin(shared: &Shared, slot: &Slot, guard: Guard) -> Result<Guard, ChunkError> {
    let guard = shared.mark_dirty(slot, guard).await?;
    let noted = slot.known.clone();
    let begin = move |inside: &mut Inside, _: &DataDisk| {
        inside.file.as_mut().ok_or_else(stopped)?.begin_copy()?;
        noted.lock().version = ChunkVersion(0);
        Ok(())
    };
    let (guard, done) = slot.with(true, guard, begin).await.map_err(|e| shared.disk_error(e))?;
    done.map_err(|e| shared.note(slot, FileError::Io(e)))?;
    Ok(guard)
}

/// What came of one block, or that no source has it whole.
enum Got {
    Frame(Frame),
    Nowhere(u64),
}

/// What is to be done with a part of a run.
enum Part {
    Blocks(Range<u64>, Vec<Frame>),
    Nowhere(u64),
}

/// Cuts a run where blocks are that no source has.
fn parts(run: Range<u64>, got: Vec<Got>) -> Vec<Part> {
    let (mut parts, mut from, mut frames) = (Vec::new(), run.start, Vec::new());
    for one in got {
        match one {
            Got::Frame(frame) => frames.push(frame),
            Got::Nowhere(block) => {
                if from < block {
                    parts.push(Part::Blocks(from..block, std::mem::take(&mut frames)));
                }
                parts.push(Part::Nowhere(block));
                from = block + 1;
            }
        }
    }
    if from < run.end {
        parts.push(Part::Blocks(from..run.end, frames));
    }
    parts
}

/// A block that verifies nowhere is damaged here too.
async fn lose(shared: &Shared, slot: &Slot, guard: Guard, block: u64, crc: u32) -> Result<Guard, ChunkError> {
    let lose = move |inside: &mut Inside, _: &DataDisk| {
        inside.file.as_mut().ok_or_else(stopped)?.lose(block, crc).map_err(FileError::Io)
    };
    let (guard, done) = slot.with(false, guard, lose).await.map_err(|e| shared.disk_error(e))?;
    done.map_err(|e| shared.note(slot, e))?;
    Ok(guard)
}

/// Writes what came of a run of blocks; nothing came of a hole.
async fn put(
    shared: &Shared,
    slot: &Slot,
    guard: Guard,
    blocks: Range<u64>,
    frames: Vec<Frame>,
) -> Result<Guard, ChunkError> {
    let write = move |inside: &mut Inside, disk: &DataDisk| -> Result<(), FileError> {
        let file = inside.file.as_mut().ok_or_else(stopped)?;
        if frames.iter().all(|f| f.head.hole == 0) && !frames.is_empty() {
            blocks.for_each(|block| file.forget(block));
        } else {
            file.make_hole(blocks)?;
        }
        for f in frames.into_iter().filter(|f| f.head.hole == 0) {
            file.write(None, f.head.at.get(), &f.data, &f.head.crcs, &disk.redo)?;
        }
        Ok(())
    };
    let (guard, done) = slot.with(false, guard, write).await.map_err(|e| shared.disk_error(e))?;
    done.map_err(|e| shared.note(slot, e))?;
    Ok(guard)
}

/// The copy is whole: length and version, durable, good.
async fn finish(
    shared: &Shared,
    slot: &Slot,
    guard: Guard,
    version: ChunkVersion,
    length: u64,
    numbers: Vec<(SessionId, WriteNumber)>,
) -> Result<Guard, ChunkError> {
    let (id, noted, known_numbers) = (slot.id, slot.known.clone(), slot.numbers.clone());
    let finish = move |inside: &mut Inside, disk: &DataDisk| -> Result<(), FileError> {
        let file = inside.file.as_mut().ok_or_else(stopped)?;
        file.set_length(length, &disk.redo)?;
        // What is here now is what the source applied, and nothing else.
        known_numbers.lock().replace(numbers);
        file.set_version(version, vec![], None, &disk.redo)?;
        {
            let mut known = noted.lock();
            (known.version, known.length, known.state) = (version, length, ReplicaState::Good);
        }
        clean(disk, id, &noted);
        Ok(())
    };
    let (guard, done) = slot.with(true, guard, finish).await.map_err(|e| shared.disk_error(e))?;
    done.map_err(|e| shared.poisoned(slot, e))?;
    slot.disbelieved.store(false, Ordering::Relaxed);
    Ok(guard)
}

type Sources = Vec<RemoteChunks>;

/// What the source of the table had applied.
async fn numbers_of(chunk: ChunkRef, sources: &Sources) -> Result<Vec<(SessionId, WriteNumber)>, ChunkError> {
    let source = sources.first().ok_or(ChunkError::NotFound(chunk.id))?;
    match source.control(&CallContext::internal(ANSWER), Control::Numbers { chunk, head: None }).await? {
        ControlReply::Numbers(numbers) => Ok(numbers),
        _ => Err(ChunkError::Invalid("a question for numbers was answered with something else".into())),
    }
}

/// The table that counts, and all that can be asked for blocks: first whose table it is.
async fn table_of(
    shared: &Shared,
    chunk: ChunkRef,
    from: &[Replica],
    truth: Truth,
) -> Result<(ChecksumTable, Sources), ChunkError> {
    let (mut table, mut sources) = (None, Vec::new());
    let mut last = ChunkError::NotFound(chunk.id);
    for replica in from {
        let asked = async {
            let c = RemoteChunks::new(shared.peers.get(&replica.addr, shared.chain_patience).await?);
            if table.is_some() {
                return Ok((None, c));
            }
            match c.control(&CallContext::internal(ANSWER), Control::Table { chunk }).await? {
                ControlReply::Table(t) => Ok((Some(t), c)),
                _ => {
                    Err(ChunkError::Invalid("a question for a table was answered with something else".into()))
                }
            }
        };
        match asked.await {
            Ok((told, c)) => {
                table = table.or(told);
                sources.push(c);
            }
            Err(e) if table.is_none() && truth == Truth::First => return Err(e),
            Err(e) => last = e,
        }
    }
    table.map(|t| (t, sources)).ok_or(last)
}

/// Runs of blocks to be copied, or to be made holes, in steps of at most 1 MiB.
fn differences(
    own: &ChecksumTable,
    damaged: &BTreeSet<u64>,
    theirs: &ChecksumTable,
) -> Vec<(Range<u64>, bool)> {
    let mut runs: Vec<(Range<u64>, bool)> = Vec::new();
    for (block, crc) in theirs.blocks.iter().enumerate() {
        let number = block as u64;
        let same = own.blocks.get(block).copied().flatten() == *crc && !damaged.contains(&number);
        if same {
            continue;
        }
        let hole = crc.is_none();
        match runs.last_mut() {
            Some((run, h)) if run.end == number && *h == hole && run.end - run.start < STEP => run.end += 1,
            _ => runs.push((number..number + 1, hole)),
        }
    }
    runs
}

/// The run from the first source that has all of it; failing that, each block from the first that has
/// it. Errors: a source that may have a block could not be asked.
async fn fetch(
    shared: &Shared,
    chunk: ChunkRef,
    sources: &Sources,
    blocks: &Range<u64>,
    table: &ChecksumTable,
) -> Result<Vec<Got>, ChunkError> {
    let mut failed = None;
    for source in sources {
        match fetch_from(shared, chunk, source, blocks.clone(), table).await {
            Ok(frames) => return Ok(frames.into_iter().map(Got::Frame).collect()),
            // An answer is final; silence is not.
            Err(e) if !matches!(failed, Some(ref f) if !lacks_it(f)) => failed = Some(e),
            Err(_) => {}
        }
    }
    let failed = failed.unwrap_or(ChunkError::NotFound(chunk.id));
    if blocks.end - blocks.start == 1 {
        return if lacks_it(&failed) { Ok(vec![Got::Nowhere(blocks.start)]) } else { Err(failed) };
    }
    let mut got = Vec::new();
    for block in blocks.clone() {
        got.extend(Box::pin(fetch(shared, chunk, sources, &(block..block + 1), table)).await?);
    }
    Ok(got)
}

/// Whether a source has answered that it has not what the table says.
fn lacks_it(e: &ChunkError) -> bool {
    matches!(
        e,
        ChunkError::Damaged { .. }
            | ChunkError::NotFound(_)
            | ChunkError::Suspect(_)
            | ChunkError::Stale { .. }
            | ChunkError::TooNew { .. }
            | ChunkError::BadFrame { .. }
    )
}

/// A run from one source: all of it, verified, and what the table says.
async fn fetch_from(
    shared: &Shared,
    chunk: ChunkRef,
    source: &RemoteChunks,
    blocks: Range<u64>,
    table: &ChecksumTable,
) -> Result<Vec<Frame>, ChunkError> {
    let bad = |what: &str| ChunkError::BadFrame { chunk: chunk.id, what: what.into() };
    let (at, len) = (Offset(blocks.start * BLOCK_BYTES), (blocks.end - blocks.start) * BLOCK_BYTES);
    let end = (at.get() + len).min(table.length);
    let silent = || ChunkError::Busy(format!("nothing came within {ANSWER:?}"));
    let cx = CallContext::internal(ANSWER);
    let read = async |chunk: ChunkRef| {
        let read = source.read(&cx, ReadRequest { chunk, at, len, capability: None });
        tokio::time::timeout(ANSWER, read).await.map_err(|_| silent())?
    };
    let mut has_a_say = true;
    let mut frames = match read(chunk).await {
        // One that is not good at this version has no say; its blocks are good where the table says the same.
        Err(ChunkError::TooNew { .. } | ChunkError::Suspect(_)) => {
            has_a_say = false;
            read(ChunkRef { version: ChunkVersion(0), ..chunk }).await?
        }
        other => other?,
    };
    let anything = |crc: Option<u32>| has_a_say && crc == Some(UNKNOWN);
    let (mut got, mut pos) = (Vec::new(), at.get());
    while let Some(frame) = tokio::time::timeout(ANSWER, frames.next()).await.map_err(|_| silent())? {
        let frame = frame?;
        if frame.head.at.get() != pos {
            return Err(bad("frames of a copy are out of order"));
        }
        if frame.head.hole > 0 {
            // Good only where the table does not know better.
            let holes = (pos / BLOCK_BYTES) as usize..(pos + frame.head.hole).div_ceil(BLOCK_BYTES) as usize;
            let known = table.blocks.get(holes).is_none_or(|b| b.iter().any(|b| !anything(*b)));
            if known {
                return Err(bad("it has a hole that the table does not have"));
            }
            pos += frame.head.hole;
            got.push(frame);
            continue;
        }
        shared.verify(chunk.id, &frame)?;
        for (crc, want) in frame.head.crcs.iter().zip(table.blocks.iter().skip((pos / BLOCK_BYTES) as usize))
        {
            if *want != Some(*crc) && !anything(*want) {
                return Err(bad("it is not what the table says"));
            }
        }
        pos += frame.data.len() as u64;
        got.push(frame);
    }
    if pos < end {
        return Err(bad("a copy ended early"));
    }
    Ok(got)
}
