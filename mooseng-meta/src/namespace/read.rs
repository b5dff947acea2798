//! Reads of the namespace over a view. Layouts come without places and capability: the service
//! attaches them.

use super::*;
use bytes::Bytes;
use mooseng_core::{
    attr::Attr,
    ids::ChunkId,
    limits::{DIR_PAGE_BYTES_MAX, DIR_PAGE_ENTRIES_MAX, LAYOUT_CHUNKS_MAX},
    name::Name,
};

/// Answers a read. Requests of other kinds, and those that need the leader's memory, are refused.
pub fn read(view: &(impl View + ?Sized), creds: &Credentials, req: &MetaRequest) -> Res<MetaReply> {
    Ok(match req {
        MetaRequest::Lookup(r) => MetaReply::Lookup(lookup(view, creds, r)?),
        MetaRequest::GetAttr(r) => MetaReply::GetAttr(inode(view, r.inode)?.attr(r.inode)),
        MetaRequest::CheckAccess(r) => MetaReply::CheckAccess(may(creds, &inode(view, r.inode)?, r.access)?),
        MetaRequest::ReadDir(r) => MetaReply::ReadDir(read_dir(view, creds, r)?),
        MetaRequest::ReadLink(r) => MetaReply::ReadLink(read_link(view, r.inode)?),
        MetaRequest::GetXattr(r) => {
            MetaReply::GetXattr(set::get_xattr(view, creds, r.inode, &r.name)?.into())
        }
        MetaRequest::ListXattrs(r) => {
            let mut names = set::list_xattrs(view, r.inode)?;
            names.retain(|n| creds.is_root() || !n.starts_with(b"trusted."));
            MetaReply::ListXattrs(names)
        }
        MetaRequest::GetTotals(r) => {
            let rec = inode(view, r.inode)?;
            if rec.kind == FileKind::Dir {
                may(creds, &rec, Access::READ)?;
            }
            MetaReply::GetTotals(totals::of(view, r.inode)?)
        }
        MetaRequest::Open(r) => {
            let rec = inode(view, r.inode)?;
            perm::may_open(creds, &rec, r.access)?;
            MetaReply::Open(Opened { layout: bare_layout(&rec, r.inode) })
        }
        MetaRequest::GetLayout(r) => {
            let rec = inode(view, r.inode)?;
            if rec.kind != FileKind::File {
                return Err(Errno::EINVAL.into());
            }
            MetaReply::GetLayout(bare_layout(&rec, r.inode))
        }
        other => return Err(MetaError::Invalid(format!("{} is not a read", other.name())).into()),
    })
}

fn lookup(view: &(impl View + ?Sized), creds: &Credentials, r: &Lookup) -> Res<Attr> {
    let dir = directory(view, r.parent)?;
    may(creds, &dir, Access::EXEC)?;
    let e = entry(view, r.parent, r.name.as_bytes())?.ok_or(Errno::ENOENT)?;
    Ok(inode(view, e.inode)?.attr(e.inode))
}

fn read_link(view: &(impl View + ?Sized), id: InodeId) -> Res<Bytes> {
    let rec = inode(view, id)?;
    match rec.inline {
        Some(target) if rec.kind == FileKind::Symlink => Ok(target),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn read_dir(view: &(impl View + ?Sized), creds: &Credentials, r: &ReadDir) -> Res<DirPage> {
    let dir = directory(view, r.inode)?;
    may(creds, &dir, Access::READ)?;
    // Names are the directory's content; what they name wants search permission.
    let with_attrs = r.with_attrs && may(creds, &dir, Access::EXEC).is_ok();
    let max = r.max_entries.clamp(1, DIR_PAGE_ENTRIES_MAX) as usize;
    let from = order_key(r.inode, DirCookie(r.after.0.saturating_add(1)));
    let (_, to) = range_of(r.inode.get());
    let (mut names, mut bytes, mut eof) = (Vec::new(), 0, true);
    view.scan(Table::Order, &from, &to, &mut |k, name| {
        if names.len() >= max || bytes >= DIR_PAGE_BYTES_MAX {
            eof = false;
            return false;
        }
        bytes += name.len() + 100;
        names.push((DirCookie(second(k)), Bytes::copy_from_slice(name)));
        true
    })?;
    let mut entries = Vec::with_capacity(names.len());
    for (cookie, name) in names {
        let gone = || io::Error::other(format!("entry {name:?} of {} has no record", r.inode));
        let e = entry(view, r.inode, &name)?.ok_or_else(gone)?;
        let attr = if with_attrs { Some(inode(view, e.inode)?.attr(e.inode)) } else { None };
        let name = Name::try_from(name).map_err(MetaError::Name)?;
        entries.push(DirEntry { name, inode: e.inode, kind: e.kind, cookie, attr });
    }
    Ok(DirPage { entries, eof, parent: dir.parent })
}

fn bare_layout(rec: &InodeRec, id: InodeId) -> Layout {
    let inline = if rec.kind == FileKind::File { rec.inline.clone() } else { None };
    Layout { attr: rec.attr(id), truncates: rec.truncates, inline, chunks: vec![], capability: None }
}

/// The chunks of a file in a range, at most 64.
pub fn layout_chunks(
    view: &(impl View + ?Sized),
    file: InodeId,
    from: ChunkIndex,
    count: u32,
) -> Res<Vec<(ChunkIndex, ChunkRef, ChunkRec)>> {
    let count = u64::from(count.min(LAYOUT_CHUNKS_MAX));
    let end = map_key(file, ChunkIndex(from.get().saturating_add(count)));
    let mut ids = Vec::new();
    view.scan(Table::Map, &map_key(file, from), &end, &mut |k, v| {
        ids.push((ChunkIndex(second(k)), ChunkId(number(v))));
        true
    })?;
    let mut chunks = Vec::with_capacity(ids.len());
    for (index, id) in ids {
        let gone = || io::Error::other(format!("chunk {id} of {file} has no record"));
        let rec = chunk(view, id)?.ok_or_else(gone)?;
        chunks.push((index, ChunkRef { id, version: rec.version }, rec));
    }
    Ok(chunks)
}

/// Space and inodes, given the disks' sums.
pub fn fs_stat(view: &(impl View + ?Sized), total_bytes: u64, free_bytes: u64) -> Res<FsStat> {
    let all = totals::of(view, InodeId::ROOT)?;
    let inodes = get_number(view, meta_key::INODES)?;
    Ok(FsStat { total_bytes, free_bytes, inodes, used_bytes: all.bytes })
}
