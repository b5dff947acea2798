//! Content: inline data, chunks, size commits, truncate, and the end of an inode. Pure.

use super::*;
use bytes::Bytes;
use mooseng_core::{
    attr::Attr,
    ids::{ChunkId, ChunkVersion, Offset, ServerId, TruncateCounter},
    limits::{
        BLOCK_BYTES, CHUNK_BYTES, FILE_BYTES_MAX, INLINE_BYTES_MAX, INLINE_MOVE_SECS, INLINE_PARTS_MAX,
        LAYOUT_CHUNKS_MAX,
    },
    planted::{self, Bug},
};

fn file(op: &Op<'_>, id: InodeId) -> Res<InodeRec> {
    let rec = inode(op.tx, id)?;
    match rec.kind {
        FileKind::File => Ok(rec),
        FileKind::Dir => Err(Errno::EISDIR.into()),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// A write by handle was permitted at open; the session holds the file. What is checked here is
/// that the writer's picture of the file is not older than a truncate.
fn same_truncates(rec: &InodeRec, theirs: TruncateCounter) -> Res<()> {
    if rec.truncates == theirs || planted::is(Bug::CommitAfterTruncate) {
        Ok(())
    } else {
        Err(MetaError::LayoutStale.into())
    }
}

fn grow(op: &mut Op<'_>, rec: &mut InodeRec, size: u64) {
    let delta = size as i64 - rec.size as i64;
    rec.size = size;
    if delta != 0 && rec.nlink > 0 {
        op.totals.add(rec.parent, 0, 0, delta);
    }
}

fn content_changed(op: &Op<'_>, rec: &mut InodeRec) {
    rec.mtime = op.now;
    rec.ctime = op.now;
    rec.change += 1;
    if !op.creds.is_root() {
        set::clear_privileges(rec);
    }
}

/// The end of parts that are in order and apart from each other.
fn end_of_parts(parts: &[(Offset, Bytes)]) -> Res<u64> {
    if parts.is_empty() || parts.len() > INLINE_PARTS_MAX {
        return Err(
            MetaError::Invalid(format!("1 to {INLINE_PARTS_MAX} parts can be written at once")).into()
        );
    }
    let mut end = None;
    for (at, data) in parts {
        if data.is_empty() || end.is_some_and(|e| at.get() <= e) {
            return Err(MetaError::Invalid("parts are not empty, in order, and apart".into()).into());
        }
        end = Some(at.get().saturating_add(data.len() as u64));
    }
    Ok(end.unwrap_or(0))
}

pub(super) fn write_inline(op: &mut Op<'_>, r: &WriteInline) -> Res<Attr> {
    let mut rec = file(op, r.inode)?;
    let size = end_of_parts(&r.parts)?.max(rec.size);
    same_truncates(&rec, r.truncates)?;
    if rec.chunks > 0 || size > INLINE_BYTES_MAX as u64 {
        return Err(MetaError::LayoutStale.into());
    }
    let mut content = rec.inline.take().map_or_else(Vec::new, Vec::from);
    content.resize(size as usize, 0);
    for (at, data) in &r.parts {
        content[at.get() as usize..][..data.len()].copy_from_slice(data);
    }
    grow(op, &mut rec, size);
    rec.inline = Some(content.into());
    content_changed(op, &mut rec);
    op.save_inode(r.inode, &rec)?;
    Ok(rec.attr(r.inode))
}

/// Whether a chunk is to be replaced by one of this session's, for moving inline data to. Nothing else
/// was written to it: that is committed first. Its session has a while to itself.
fn is_to_be_replaced(op: &Op<'_>, rec: &InodeRec, chunk: &ChunkRec) -> Res<bool> {
    let Some((_, since)) = chunk.mover.filter(|(s, _)| rec.inline.is_some() && *s != op.session) else {
        return Ok(false);
    };
    if op.now.secs() - since.secs() < INLINE_MOVE_SECS as i64 {
        return Err(MetaError::Busy("another client moves the content to a chunk".into()).into());
    }
    Ok(true)
}

fn new_chunk(
    op: &mut Op<'_>,
    id: InodeId,
    rec: &InodeRec,
    index: ChunkIndex,
    members: Vec<ServerId>,
) -> Res<()> {
    let chunk_id = ChunkId(take_number(op.tx, meta_key::NEXT_CHUNK, 1, 1)?);
    let moves = rec.inline.is_some() && index == ChunkIndex(0);
    let chunk = ChunkRec {
        version: ChunkVersion::FIRST,
        members,
        wanted: rec.class.copies,
        inode: id,
        index,
        committed: false,
        since: ChunkVersion::FIRST,
        pending: None,
        cut_to: None,
        mover: moves.then_some((op.session, op.now)),
    };
    save(op.tx, Table::Chunk, &key(chunk_id.get()), &chunk)?;
    op.tx.put(Table::Map, &map_key(id, index), &key(chunk_id.get()))?;
    Ok(())
}

pub(super) fn allocate(op: &mut Op<'_>, r: &Allocate) -> Res<Layout> {
    let mut rec = file(op, r.inode)?;
    same_truncates(&rec, r.truncates)?;
    let last = r.from.get().saturating_add(u64::from(r.count));
    if r.count == 0 || r.count > LAYOUT_CHUNKS_MAX {
        return Err(
            MetaError::Invalid(format!("1 to {LAYOUT_CHUNKS_MAX} chunks can be allocated at once")).into()
        );
    }
    if last > FILE_BYTES_MAX / CHUNK_BYTES {
        return Err(Errno::EFBIG.into());
    }
    let (mut missing, mut replaced) = (Vec::new(), false);
    for index in (r.from.get()..last).map(ChunkIndex) {
        let replace = match chunk_at(op.tx, r.inode, index)? {
            Some((_, chunk)) if !is_to_be_replaced(op, &rec, &chunk)? => continue,
            there => there.is_some(),
        };
        replaced |= replace;
        missing.push(index);
    }
    let chains: Vec<_> =
        op.decisions.chains.iter().skip(op.chains_used).take(missing.len()).cloned().collect();
    if chains.len() < missing.len() || chains.iter().any(Vec::is_empty) {
        return Err(MetaError::NoServers { wanted: u32::from(rec.class.copies), found: 0 }.into());
    }
    if replaced {
        drop_chunk_at(op, r.inode, &mut rec, ChunkIndex(0))?;
    }
    op.chains_used += missing.len();
    for (index, members) in missing.iter().zip(chains) {
        new_chunk(op, r.inode, &rec, *index, members)?;
        rec.chunks += 1;
    }
    if !missing.is_empty() {
        add_number(op.tx, meta_key::CHUNKS, missing.len() as i64)?;
        op.save_inode(r.inode, &rec)?;
    }
    // Places, content and the capability are attached by whoever leads when it answers: never saved.
    Ok(Layout {
        attr: rec.attr(r.inode),
        truncates: rec.truncates,
        inline: None,
        chunks: vec![],
        capability: None,
    })
}

/// The record of a chunk that a commit names, when the commit may be carried out.
fn committable(op: &Op<'_>, id: InodeId, index: ChunkIndex, named: ChunkRef) -> Res<ChunkRec> {
    match chunk_at(op.tx, id, index)? {
        Some((c, chunk)) if c.id == named.id && named.version <= c.version => {
            // A bump since the write is no reason to refuse: what was acknowledged is in every survivor. Not so
            // before the first commit: a place that lost what was written, or never had it, passes for one
            // that was never written to, and a set may have been made anew.
            let sure = match chunk.committed {
                true => named.version >= chunk.since,
                false => named.version == c.version && chunk.pending.is_none(),
            };
            if sure { Ok(chunk) } else { Err(MetaError::LayoutStale.into()) }
        }
        _ => Err(MetaError::LayoutStale.into()),
    }
}

pub(super) fn commit_write(op: &mut Op<'_>, r: &CommitWrite) -> Res<Attr> {
    let mut rec = file(op, r.inode)?;
    same_truncates(&rec, r.truncates)?;
    if r.size > FILE_BYTES_MAX {
        return Err(Errno::EFBIG.into());
    }
    let mut fresh = Vec::new();
    let mut moved = false;
    for (index, named) in &r.chunks {
        let chunk = committable(op, r.inode, *index, *named)?;
        // Inline bytes are dropped only by the commit of the chunk that has taken them over.
        moved |= *index == ChunkIndex(0) && chunk.mover.is_some_and(|(s, _)| s == op.session);
        if !chunk.committed {
            fresh.push((named.id, chunk));
        }
    }
    if rec.inline.is_some() && !(r.drop_inline && moved) {
        return Err(MetaError::LayoutStale.into());
    }
    for (id, mut chunk) in fresh {
        (chunk.committed, chunk.since, chunk.mover) = (true, chunk.version, None);
        save(op.tx, Table::Chunk, &key(id.get()), &chunk)?;
    }
    if r.drop_inline {
        rec.inline = None;
    }
    let size = rec.size.max(r.size);
    grow(op, &mut rec, size);
    content_changed(op, &mut rec);
    op.save_inode(r.inode, &rec)?;
    Ok(rec.attr(r.inode))
}

/// A truncate through a handle: the service has seen that the session may write.
pub(super) fn truncate_open(op: &mut Op<'_>, r: &Truncate) -> Res<Attr> {
    let mut rec = file(op, r.inode)?;
    if r.size > FILE_BYTES_MAX {
        return Err(Errno::EFBIG.into());
    }
    truncate(op, r.inode, &mut rec, r.size)?;
    op.save_inode(r.inode, &rec)?;
    Ok(rec.attr(r.inode))
}

/// Sets the size. Shrinking drops whole chunks and asks for a cut of the one that stays in part;
/// growing makes a hole. The caller saves the record.
pub(super) fn truncate(op: &mut Op<'_>, id: InodeId, rec: &mut InodeRec, size: u64) -> Res<()> {
    if size == rec.size {
        // A writer that died before it could tell a size left chunks behind the end: with them its
        // bytes would show again once the file grows.
        let chunks = rec.chunks;
        drop_chunks_from(op, id, rec, ChunkIndex(size.div_ceil(CHUNK_BYTES)))?;
        if rec.chunks < chunks {
            rec.truncates = rec.truncates.next();
        }
        content_changed(op, rec);
        return Ok(());
    }
    let was_inline = rec.inline.is_some();
    if let Some(data) = rec.inline.take() {
        // Inline content keeps its bytes: shorter is cut, longer stays inline while it fits. Past
        // that the rest is a hole: the writer moves the bytes to a chunk with its first write.
        let keep = data.len().min(size as usize);
        let mut bytes = data[..keep].to_vec();
        if size <= INLINE_BYTES_MAX as u64 {
            bytes.resize(size as usize, 0);
        }
        rec.inline = (!bytes.is_empty()).then(|| bytes.into());
    } else if size > rec.size && rec.chunks == 0 && rec.size == 0 && size <= INLINE_BYTES_MAX as u64 {
        rec.inline = Some(vec![0; size as usize].into());
    }
    if size < rec.size {
        rec.truncates = rec.truncates.next();
        // Beside inline data, chunks are being written for the first time by somebody who has to begin
        // anew now: a copy of the content before the cut must not come to light.
        let from = if was_inline { 0 } else { size.div_ceil(CHUNK_BYTES) };
        drop_chunks_from(op, id, rec, ChunkIndex(from))?;
        let rest = size % CHUNK_BYTES;
        if rest > 0
            && let Some((c, mut chunk)) = chunk_at(op.tx, id, ChunkIndex(size / CHUNK_BYTES))?
        {
            chunk.cut_to = Some(chunk.cut_to.map_or(rest, |cut| cut.min(rest)));
            save(op.tx, Table::Chunk, &key(c.id.get()), &chunk)?;
            op.tx.put(Table::Busy, &key(c.id.get()), &[])?;
        }
    }
    grow(op, rec, size);
    content_changed(op, rec);
    Ok(())
}

/// Moves chunks from an index on to the deletion table.
fn drop_chunks_from(op: &mut Op<'_>, id: InodeId, rec: &mut InodeRec, from: ChunkIndex) -> Res<()> {
    let mut gone = Vec::new();
    let (_, to) = range_of(id.get());
    op.tx.scan(Table::Map, &map_key(id, from), &to, &mut |k, v| {
        gone.push((ChunkIndex(second(k)), ChunkId(number(v))));
        true
    })?;
    for (index, chunk_id) in &gone {
        op.tx.delete(Table::Map, &map_key(id, *index))?;
        drop_chunk(op.tx, *chunk_id)?;
    }
    rec.chunks = rec.chunks.saturating_sub(gone.len() as u64);
    Ok(())
}

fn drop_chunk_at(op: &mut Op<'_>, id: InodeId, rec: &mut InodeRec, index: ChunkIndex) -> Res<()> {
    if let Some((c, _)) = chunk_at(op.tx, id, index)? {
        op.tx.delete(Table::Map, &map_key(id, index))?;
        drop_chunk(op.tx, c.id)?;
        rec.chunks = rec.chunks.saturating_sub(1);
    }
    Ok(())
}

fn drop_chunk(tx: &mut dyn Tx, id: ChunkId) -> Res<()> {
    let k = key(id.get());
    let Some(chunk) = chunk(tx, id)? else { return Ok(()) };
    let mut holders: Vec<ServerId> = chunk.members;
    let mut version = chunk.version;
    if let Some(bump) = chunk.pending {
        holders.extend(bump.survivors.into_iter().chain(bump.joining));
        version = bump.version;
    }
    holders.sort_unstable();
    holders.dedup();
    tx.delete(Table::Chunk, &k)?;
    tx.delete(Table::Busy, &k)?;
    add_number(tx, meta_key::CHUNKS, -1)?;
    save(tx, Table::Deleting, &k, &DeletingRec { version, holders })?;
    Ok(())
}

/// Ends an inode that has no links and no holders.
pub fn purge(op: &mut Op<'_>, id: InodeId, rec: &InodeRec) -> Res<()> {
    let mut rec = rec.clone();
    drop_chunks_from(op, id, &mut rec, ChunkIndex(0))?;
    for name in set::list_xattrs(op.tx, id)? {
        op.tx.delete(Table::Xattr, &named(id, &name))?;
    }
    op.tx.delete(Table::Inode, &key(id.get()))?;
    op.tx.delete(Table::Totals, &key(id.get()))?;
    op.tx.delete(Table::Orphan, &key(id.get()))?;
    add_number(op.tx, meta_key::INODES, -1)?;
    Ok(())
}

const _: () = assert!(CHUNK_BYTES.is_multiple_of(BLOCK_BYTES));
