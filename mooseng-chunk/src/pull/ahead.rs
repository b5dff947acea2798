//! A copy of an open version, before the bump that makes a member of it.

use super::*;

/// A copy that is made ahead goes so often over what was changed meanwhile.
const AHEAD_ROUNDS: usize = 2;

/// Copies what an open version has, ahead of the bump that makes this server a member of the next. What is here then
/// is of no version, as after a pull that was broken off: nobody is served from it, and it counts as nothing.
/// It goes to the disk all the same, so that the bump has little to do. A change of what is copied meanwhile is
/// found by comparing once more, and by the bump.
pub(crate) async fn pull_ahead(
    shared: &Arc<Shared>,
    chunk: ChunkRef,
    from: Vec<Replica>,
    term: Term,
) -> Result<ChunkStat, ChunkError> {
    // A replica of this version, or of one being made of it, is a member's: it stays.
    if let Ok(there) = shared.slot(chunk.id) {
        is_older(&there, chunk)?;
    }
    let slot = shared.place_of_copy(chunk)?;
    let stop = slot.begin_ahead();
    let copy = async {
        let (table, sources) = table_of(shared, chunk, &from, Truth::Any).await?;
        let guard = opened(shared, &slot, term).await?;
        is_older(&slot, chunk)?;
        slot.known.lock().state = ReplicaState::Suspect;
        let (guard, own, damaged) = own_table(shared, &slot, guard).await?;
        let mut guard = begin(shared, &slot, guard).await?;
        let (mut own, mut table) = (own, table);
        let mut work = differences(&own, &damaged, &table);
        for _ in 0..AHEAD_ROUNDS {
            let there = (chunk, &sources, table.length);
            guard = copy_ahead(shared, &slot, guard, there, &mut own, work).await?;
            // Who does not answer any more has another version: the bump has begun.
            let Ok((now, _)) = table_of(shared, chunk, &from, Truth::Any).await else { break };
            table = now;
            work = differences(&own, &BTreeSet::new(), &table);
            if work.iter().map(|(run, _)| run.end - run.start).sum::<u64>() <= STEP {
                break;
            }
        }
        let flush = |inside: &mut Inside, _: &DataDisk| {
            inside.file.as_ref().ok_or_else(stopped).and_then(|f| f.flush())
        };
        let (guard, flushed) = slot.with(true, guard, flush).await.map_err(|e| shared.disk_error(e))?;
        if let Err(e) = flushed {
            // What the kernel has of it may never reach the disk, and would verify all the same.
            slot.disk.failed(&e);
            if shared.slot(chunk.id).is_ok_and(|there| Arc::ptr_eq(&there, &slot)) {
                shared.remove_file(&slot, guard).await?;
            } else {
                drop(guard);
                shared.stop_filling(chunk.id).await;
            }
            return Err(FileError::Io(e).of(chunk.id, shared.server));
        }
        drop(guard);
        shared.stat(chunk.id)
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(ChunkError::Busy("something else is asked of the chunk".into())),
        done = copy => done,
    }
}

fn is_older(slot: &Slot, chunk: ChunkRef) -> Result<(), ChunkError> {
    let here = slot.known.lock().version;
    if here < chunk.version {
        return Ok(());
    }
    Err(ChunkError::Stale { chunk: chunk.id, here, asked: chunk.version })
}

/// Copies runs as they are at a source now, and notes in `own` what came. What no source has is left out.
async fn copy_ahead(
    shared: &Shared,
    slot: &Slot,
    mut guard: Guard,
    (chunk, sources, length): (ChunkRef, &Sources, u64),
    own: &mut ChecksumTable,
    work: Vec<(Range<u64>, bool)>,
) -> Result<Guard, ChunkError> {
    let blocks = length.div_ceil(BLOCK_BYTES) as usize;
    let anything = ChecksumTable { length, blocks: vec![Some(UNKNOWN); blocks] };
    own.blocks.resize(own.blocks.len().max(blocks), None);
    let mut coming = pin!(coming(shared, chunk, sources, &anything, work));
    while let Some(parts) = coming.next().await {
        for part in parts? {
            let Part::Blocks(blocks, frames) = part else { continue };
            own.blocks[blocks.start as usize..blocks.end as usize].fill(None);
            for f in &frames {
                let first = (f.head.at.get() / BLOCK_BYTES) as usize;
                for (now, crc) in own.blocks.iter_mut().skip(first).zip(&f.head.crcs) {
                    *now = Some(*crc);
                }
            }
            guard = put(shared, slot, guard, blocks, frames).await?;
        }
    }
    Ok(guard)
}
