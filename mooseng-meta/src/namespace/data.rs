//! Content: inline data, chunks, size commits, truncate, and the end of an inode. Pure.

use super::*;
use mooseng_core::{
    attr::Attr,
    ids::{ChunkId, ChunkVersion, ServerId, TruncateCounter},
    limits::{BLOCK_BYTES, CHUNK_BYTES, FILE_BYTES_MAX, INLINE_BYTES_MAX, LAYOUT_CHUNKS_MAX},
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
    if rec.truncates == theirs { Ok(()) } else { Err(MetaError::LayoutStale.into()) }
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

pub(super) fn write_inline(op: &mut Op<'_>, r: &WriteInline) -> Res<Attr> {
    let mut rec = file(op, r.inode)?;
    same_truncates(&rec, r.truncates)?;
    let whole = rec.inline.is_some() || rec.size == 0;
    if r.data.len() > INLINE_BYTES_MAX || rec.chunks > 0 || !whole || (r.data.len() as u64) < rec.size {
        return Err(MetaError::LayoutStale.into());
    }
    grow(op, &mut rec, r.data.len() as u64);
    rec.inline = (!r.data.is_empty()).then(|| r.data.clone());
    content_changed(op, &mut rec);
    op.save_inode(r.inode, &rec)?;
    Ok(rec.attr(r.inode))
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
    let wanted: Vec<_> = (r.from.get()..last).map(ChunkIndex).collect();
    let mut missing = Vec::new();
    for index in &wanted {
        if chunk_at(op.tx, r.inode, *index)?.is_none() {
            missing.push(*index);
        }
    }
    let chains: Vec<_> =
        op.decisions.chains.iter().skip(op.chains_used).take(missing.len()).cloned().collect();
    if chains.len() < missing.len() || chains.iter().any(Vec::is_empty) {
        return Err(MetaError::NoServers { wanted: u32::from(rec.class.copies), found: 0 }.into());
    }
    op.chains_used += missing.len();
    for (index, members) in missing.iter().zip(chains) {
        let id = ChunkId(take_number(op.tx, meta_key::NEXT_CHUNK, 1, 1)?);
        let chunk = ChunkRec {
            version: ChunkVersion::FIRST,
            members,
            wanted: rec.class.copies,
            inode: r.inode,
            index: *index,
            committed: false,
            since: ChunkVersion::FIRST,
            pending: None,
            cut_to: None,
        };
        save(op.tx, Table::Chunk, &key(id.get()), &chunk)?;
        op.tx.put(Table::Map, &map_key(r.inode, *index), &key(id.get()))?;
        rec.chunks += 1;
    }
    if !missing.is_empty() {
        add_number(op.tx, meta_key::CHUNKS, missing.len() as i64)?;
        op.save_inode(r.inode, &rec)?;
    }
    // Places and the capability are attached by whoever leads when it answers: never saved.
    Ok(Layout {
        attr: rec.attr(r.inode),
        truncates: rec.truncates,
        inline: None,
        chunks: vec![],
        capability: None,
    })
}

pub(super) fn commit_write(op: &mut Op<'_>, r: &CommitWrite) -> Res<Attr> {
    let mut rec = file(op, r.inode)?;
    same_truncates(&rec, r.truncates)?;
    if r.size > FILE_BYTES_MAX {
        return Err(Errno::EFBIG.into());
    }
    // Inline bytes are dropped only by the commit of the chunk that has taken them over.
    let takes_over = r.drop_inline && r.chunks.iter().any(|(i, _)| *i == ChunkIndex(0));
    if rec.inline.is_some() && !takes_over {
        return Err(MetaError::LayoutStale.into());
    }
    let mut fresh = Vec::new();
    for (index, named) in &r.chunks {
        match chunk_at(op.tx, r.inode, *index)? {
            // A bump since the write is no reason to refuse: what was acknowledged is in every survivor.
            Some((c, chunk)) if c.id == named.id && named.version <= c.version => {
                if !chunk.committed {
                    // A set that was made anew has nothing of what was written to the one before.
                    let anew = chunk.pending.as_ref().is_some_and(|b| b.survivors.is_empty());
                    if anew || named.version < chunk.since {
                        return Err(MetaError::LayoutStale.into());
                    }
                    fresh.push((c.id, chunk));
                }
            }
            _ => return Err(MetaError::LayoutStale.into()),
        }
    }
    for (id, mut chunk) in fresh {
        chunk.committed = true;
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
        drop_chunks_from(op, id, rec, ChunkIndex(size.div_ceil(CHUNK_BYTES)))?;
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
