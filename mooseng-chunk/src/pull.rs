//! Making a replica equal to another: compare checksum tables, copy what differs, make it durable.
//! Serves repair, equalising after a bump, suspects and damage alike.

use crate::{
    chunk_file::FileError,
    disk::DataDisk,
    slot::{Inside, Known, Slot, stopped},
    store::Shared,
};
use futures::StreamExt as _;
use mooseng_core::{
    chunk::*,
    context::CallContext,
    error::ChunkError,
    ids::*,
    limits::{BLOCK_BYTES, FRAME_BYTES_MAX},
    meta::{Replica, ReplicaState},
    rpc::RemoteChunks,
};
use parking_lot::Mutex;
use std::{ops::Range, sync::Arc, time::Duration};

/// Longest wait for one answer of a source.
const ANSWER: Duration = Duration::from_secs(10);
/// Blocks asked for at once.
const STEP: u64 = FRAME_BYTES_MAX as u64 / BLOCK_BYTES;

/// Makes the replica here equal to the first of `from` that can be read; blocks that are damaged
/// there come from the next.
pub(crate) async fn pull(
    shared: &Arc<Shared>,
    chunk: ChunkRef,
    from: Vec<Replica>,
) -> Result<ChunkStat, ChunkError> {
    let slot = place(shared, chunk)?;
    let here = slot.known.lock().version;
    if here > chunk.version {
        return Err(ChunkError::Stale { chunk: chunk.id, here, asked: chunk.version });
    }
    // Not served while it is being made: it is neither the old nor the new.
    slot.known.lock().state = ReplicaState::Suspect;
    let (table, sources) = table_of(shared, chunk, from).await?;
    let mut guard = slot
        .open(Some(vec![]))
        .await
        .map_err(|e| shared.disk_error(e))?
        .ok_or(ChunkError::NotFound(chunk.id))?;
    let id = chunk.id;
    let mark = move |_: &mut Inside, disk: &DataDisk| disk.mark(id);
    let (g, marked) = slot.with(true, guard, mark).await.map_err(|e| shared.disk_error(e))?;
    marked.map_err(|e| shared.disk_error(e))?;
    slot.known.lock().dirty = true;
    let own = move |inside: &mut Inside, _: &DataDisk| {
        let file = inside.file.as_mut().ok_or_else(stopped)?;
        file.dirty = true;
        let mut damaged = Vec::new();
        let own = file.table(&mut damaged)?;
        Ok::<_, std::io::Error>((own, damaged))
    };
    let (g, own) = slot.with(false, g, own).await.map_err(|e| shared.disk_error(e))?;
    guard = g;
    let (own, damaged) = own.map_err(|e| shared.disk_error(e))?;
    for (blocks, hole) in differences(&own, &damaged, &table) {
        let frames = if hole { vec![] } else { fetch(shared, chunk, &sources, &blocks).await? };
        let write = move |inside: &mut Inside, _: &DataDisk| -> Result<(), FileError> {
            let file = inside.file.as_mut().ok_or_else(stopped)?;
            if frames.is_empty() {
                return Ok(file.make_hole(blocks)?);
            }
            for block in blocks {
                file.forget(block);
            }
            for f in frames {
                file.write(f.head.at.get(), &f.data, &f.head.crcs)?;
            }
            Ok(())
        };
        let (g, done) = slot.with(false, guard, write).await.map_err(|e| shared.disk_error(e))?;
        guard = g;
        done.map_err(|e| e.of(id, shared.server))?;
    }
    let (version, length) = (chunk.version, table.length);
    let finish = move |inside: &mut Inside, disk: &DataDisk| -> Result<(), FileError> {
        let file = inside.file.as_mut().ok_or_else(stopped)?;
        file.set_length(length)?;
        file.set_version(version, vec![], None)?;
        inside.numbers.clear();
        Ok(disk.unmark(id)?)
    };
    let (guard, done) = slot.with(true, guard, finish).await.map_err(|e| shared.disk_error(e))?;
    done.map_err(|e| e.of(id, shared.server))?;
    *slot.known.lock() = Known { version, length, state: ReplicaState::Good, dirty: false };
    shared.damaged.lock().retain(|c| c.id != id);
    drop(guard);
    shared.stat(id)
}

/// The replica here, or room for one.
fn place(shared: &Shared, chunk: ChunkRef) -> Result<Arc<Slot>, ChunkError> {
    if let Some(slot) = shared.slots.lock().get(&chunk.id) {
        return Ok(slot.clone());
    }
    let usable = shared.disks.iter().filter(|d| d.set_aside().is_none()).map(|d| (d.space().1, d));
    let (free, disk) = usable.max_by_key(|(free, _)| *free).ok_or(ChunkError::NoSpace(shared.server))?;
    if free < FRAME_BYTES_MAX as u64 {
        return Err(ChunkError::NoSpace(shared.server));
    }
    let known = Known { version: ChunkVersion(0), length: 0, state: ReplicaState::Suspect, dirty: false };
    let slot =
        Slot { id: chunk.id, disk: disk.clone(), known: Mutex::new(known), inside: Default::default() };
    Ok(shared.slots.lock().entry(chunk.id).or_insert(Arc::new(slot)).clone())
}

type Sources = Vec<RemoteChunks>;

async fn table_of(
    shared: &Shared,
    chunk: ChunkRef,
    from: Vec<Replica>,
) -> Result<(ChecksumTable, Sources), ChunkError> {
    let (mut table, mut sources) = (None, Vec::new());
    let mut last = ChunkError::NotFound(chunk.id);
    for replica in from {
        let c = match shared.peers.get(&replica.addr, shared.chain_patience).await {
            Ok(c) => RemoteChunks::new(c),
            Err(e) => {
                last = e.into();
                continue;
            }
        };
        if table.is_none() {
            match c.control(&CallContext::internal(ANSWER), Control::Table { chunk }).await {
                Ok(ControlReply::Table(t)) => table = Some(t),
                Ok(_) => continue,
                Err(e) => {
                    last = e;
                    continue;
                }
            }
        }
        sources.push(c);
    }
    table.map(|t| (t, sources)).ok_or(last)
}

/// Runs of blocks to be copied, or to be made holes, in steps of at most 1 MiB.
fn differences(own: &ChecksumTable, damaged: &[u64], theirs: &ChecksumTable) -> Vec<(Range<u64>, bool)> {
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

async fn fetch(
    shared: &Shared,
    chunk: ChunkRef,
    sources: &Sources,
    blocks: &Range<u64>,
) -> Result<Vec<Frame>, ChunkError> {
    let (at, len) = (Offset(blocks.start * BLOCK_BYTES), (blocks.end - blocks.start) * BLOCK_BYTES);
    let mut last = ChunkError::NotFound(chunk.id);
    for source in sources {
        let read = async {
            let req = ReadRequest { chunk, at, len, capability: None };
            let mut frames = source.read(&CallContext::internal(ANSWER), req).await?;
            let mut got = Vec::new();
            while let Some(frame) = frames.next().await {
                let frame = frame?;
                if frame.head.hole == 0 {
                    shared.verify(chunk.id, &frame)?;
                    got.push(frame);
                }
            }
            Ok(got)
        };
        match read.await {
            Ok(frames) => return Ok(frames),
            Err(e) => last = e,
        }
    }
    Err(last)
}
