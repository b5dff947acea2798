//! setattr, extended attributes, storage class. Pure.

use super::*;
use mooseng_core::{
    attr::{Attr, SetTime},
    limits::{COPIES_MAX, FILE_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX, XATTRS_MAX},
};

pub(super) fn set_attrs(op: &mut Op<'_>, r: &SetAttrs) -> Res<Attr> {
    let mut rec = inode(op.tx, r.inode)?;
    let (set, creds) = (&r.set, op.creds);
    let times_now = [set.atime, set.mtime].iter().flatten().all(|t| *t == SetTime::Now);
    if set.mode.is_some() {
        perm::must_own(creds, &rec)?;
    }
    if set.uid.is_some_and(|u| u != rec.uid) && !creds.is_root() {
        return Err(Errno::EPERM.into());
    }
    if let Some(gid) = set.gid.filter(|g| *g != rec.gid) {
        perm::must_own(creds, &rec)?;
        if !creds.is_root() && !creds.in_group(gid) {
            return Err(Errno::EPERM.into());
        }
    }
    if (set.uid.is_some() || set.gid.is_some()) && !creds.is_root() && creds.uid != rec.uid {
        return Err(Errno::EPERM.into());
    }
    if (set.atime.is_some() || set.mtime.is_some()) && perm::must_own(creds, &rec).is_err() {
        if !times_now {
            return Err(Errno::EPERM.into());
        }
        perm::may(creds, &rec, Access::WRITE)?;
    }
    if let Some(size) = set.size {
        match rec.kind {
            FileKind::File => {}
            FileKind::Dir => return Err(Errno::EISDIR.into()),
            _ => return Err(Errno::EINVAL.into()),
        }
        perm::may(creds, &rec, Access::WRITE)?;
        if size > FILE_BYTES_MAX {
            return Err(Errno::EFBIG.into());
        }
        data::truncate(op, r.inode, &mut rec, size)?;
    }
    if let Some(mode) = set.mode {
        rec.mode = mode & 0o7777;
        if !creds.is_root() && !creds.in_group(rec.gid) {
            rec.mode &= !0o2000;
        }
    }
    if set.uid.is_some() || set.gid.is_some() {
        rec.uid = set.uid.unwrap_or(rec.uid);
        rec.gid = set.gid.unwrap_or(rec.gid);
        clear_privileges(&mut rec);
    }
    let time = |t: SetTime| if let SetTime::At(t) = t { t } else { op.now };
    rec.atime = set.atime.map_or(rec.atime, time);
    rec.mtime = set.mtime.map_or(rec.mtime, time);
    rec.ctime = op.now;
    rec.change += 1;
    op.save_inode(r.inode, &rec)?;
    Ok(rec.attr(r.inode))
}

/// A change of owner or content takes set-user-id away, and set-group-id where the group may
/// execute.
pub(super) fn clear_privileges(rec: &mut InodeRec) {
    if rec.kind == FileKind::File {
        rec.mode &= !0o4000;
        if rec.mode & 0o010 != 0 {
            rec.mode &= !0o2000;
        }
    }
}

/// `user.` attributes are of files and directories and follow the permission bits, in a sticky directory
/// only its owner sets them; `trusted.` ones are the superuser's, to others as if they were not there;
/// `security.` ones are the superuser's to set.
fn may_xattr(creds: &Credentials, rec: &InodeRec, name: &[u8], access: Access) -> Res<()> {
    if matches!(name, b"" | b"user." | b"trusted." | b"security.") || name.contains(&0) {
        return Err(Errno::EINVAL.into());
    }
    if name.len() > XATTR_NAME_BYTES_MAX {
        return Err(Errno::ERANGE.into());
    }
    let hidden = if access == Access::READ { Errno::ENODATA } else { Errno::EPERM };
    if name.starts_with(b"user.") {
        if !matches!(rec.kind, FileKind::File | FileKind::Dir) {
            return Err(hidden.into());
        }
        if rec.kind == FileKind::Dir && rec.mode & 0o1000 != 0 && access == Access::WRITE {
            perm::must_own(creds, rec)?;
        }
        return may(creds, rec, access);
    }
    if name.starts_with(b"trusted.") {
        return if creds.is_root() { Ok(()) } else { Err(hidden.into()) };
    }
    if name.starts_with(b"security.") {
        return if creds.is_root() || access == Access::READ { Ok(()) } else { Err(Errno::EPERM.into()) };
    }
    Err(Errno::EOPNOTSUPP.into())
}

pub(super) fn get_xattr(
    view: &(impl View + ?Sized),
    creds: &Credentials,
    id: InodeId,
    name: &[u8],
) -> Res<Vec<u8>> {
    let rec = inode(view, id)?;
    may_xattr(creds, &rec, name, Access::READ)?;
    Ok(view.get(Table::Xattr, &named(id, name))?.ok_or(Errno::ENODATA)?)
}

pub(super) fn list_xattrs(view: &(impl View + ?Sized), id: InodeId) -> Res<Vec<bytes::Bytes>> {
    inode(view, id)?;
    let (from, to) = range_of(id.get());
    let mut names = Vec::new();
    view.scan(Table::Xattr, &from, &to, &mut |k, _| {
        names.push(bytes::Bytes::copy_from_slice(&k[8..]));
        true
    })?;
    Ok(names)
}

pub(super) fn set_xattr(op: &mut Op<'_>, r: &SetXattr) -> Res<()> {
    let mut rec = inode(op.tx, r.inode)?;
    may_xattr(op.creds, &rec, &r.name, Access::WRITE)?;
    if r.value.len() > XATTR_VALUE_BYTES_MAX {
        return Err(Errno::E2BIG.into());
    }
    let k = named(r.inode, &r.name);
    let there = op.tx.get(Table::Xattr, &k)?.is_some();
    match (r.mode, there) {
        (XattrMode::Create, true) => return Err(Errno::EEXIST.into()),
        (XattrMode::Replace, false) => return Err(Errno::ENODATA.into()),
        _ => {}
    }
    if !there && list_xattrs(op.tx, r.inode)?.len() >= XATTRS_MAX {
        return Err(Errno::ENOSPC.into());
    }
    op.tx.put(Table::Xattr, &k, &r.value)?;
    rec.ctime = op.now;
    rec.change += 1;
    op.save_inode(r.inode, &rec)
}

pub(super) fn remove_xattr(op: &mut Op<'_>, r: &RemoveXattr) -> Res<()> {
    let mut rec = inode(op.tx, r.inode)?;
    may_xattr(op.creds, &rec, &r.name, Access::WRITE)?;
    let k = named(r.inode, &r.name);
    if op.tx.get(Table::Xattr, &k)?.is_none() {
        return Err(Errno::ENODATA.into());
    }
    op.tx.delete(Table::Xattr, &k)?;
    rec.ctime = op.now;
    rec.change += 1;
    op.save_inode(r.inode, &rec)
}

pub(super) fn set_class(op: &mut Op<'_>, r: &SetClass) -> Res<()> {
    let mut rec = inode(op.tx, r.inode)?;
    perm::must_own(op.creds, &rec)?;
    if !(1..=COPIES_MAX).contains(&r.class.copies) {
        return Err(MetaError::Invalid(format!("a class has 1 to {COPIES_MAX} copies")).into());
    }
    rec.class = r.class;
    rec.ctime = op.now;
    rec.change += 1;
    op.save_inode(r.inode, &rec)
}
