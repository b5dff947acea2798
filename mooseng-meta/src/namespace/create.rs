//! create, mkdir, mknod, symlink, link. Pure.

use super::*;
use bytes::Bytes;
use mooseng_core::{
    attr::Attr,
    ids::TruncateCounter,
    limits::{LINKS_MAX, SYMLINK_BYTES_MAX},
    name::Name,
};

/// What is to be made.
struct New {
    kind: FileKind,
    mode: u32,
    rdev: u32,
    target: Option<Bytes>,
    id: Option<InodeId>,
}

impl Op<'_> {
    /// An id for a new inode: the caller's, when it is from a range granted to its session.
    fn new_inode_id(&mut self, wanted: Option<InodeId>) -> Res<InodeId> {
        let Some(id) = wanted else {
            return Ok(InodeId(take_number(self.tx, meta_key::NEXT_INODE, 2, 1)?));
        };
        if self.granted(id)?.is_some() {
            Ok(id)
        } else {
            Err(MetaError::Invalid(format!("id {id} is not free to this session")).into())
        }
    }

    /// The range of the session that an inode id is in.
    fn granted(&self, id: InodeId) -> Res<Option<IdRange>> {
        let (from, to) = range_of(self.session.get());
        let mut granted = None;
        scan_recs(self.tx, Table::Range, &from, &to, |_, r: IdRange| {
            let within = (r.first..r.first + u64::from(r.count)).contains(&id.get());
            granted = (r.kind == IdKind::Inode && within).then_some(r);
            granted.is_none()
        })?;
        Ok(granted)
    }

    /// Takes an id out of its range, so that it is never used again, also when its inode is gone.
    fn use_up(&mut self, id: InodeId) -> Res<()> {
        let Some(r) = self.granted(id)? else { return Ok(()) };
        self.tx.delete(Table::Range, &key2(self.session.get(), r.first))?;
        let (before, after) = (id.get() - r.first, r.first + u64::from(r.count) - id.get() - 1);
        for (first, count) in [(r.first, before), (id.get() + 1, after)] {
            if count > 0 {
                let part = IdRange { first, count: count as u32, ..r };
                save(self.tx, Table::Range, &key2(self.session.get(), first), &part)?;
            }
        }
        Ok(())
    }

    /// Puts a name into a directory. The caller saves the directory.
    pub(super) fn add_entry(
        &mut self,
        dir_id: InodeId,
        dir: &mut InodeRec,
        name: &Name,
        inode: InodeId,
        kind: FileKind,
    ) -> Res<()> {
        dir.next_cookie.0 += 1;
        let rec = EntryRec { inode, kind, cookie: dir.next_cookie };
        save(self.tx, Table::Entry, &named(dir_id, name.as_bytes()), &rec)?;
        self.tx.put(Table::Order, &order_key(dir_id, rec.cookie), name.as_bytes())?;
        self.touch_dir(dir, 1, i32::from(kind == FileKind::Dir));
        Ok(())
    }

    fn make(&mut self, parent: InodeId, mut dir: InodeRec, name: &Name, new: New) -> Res<Attr> {
        if new.kind == FileKind::Dir && dir.nlink >= LINKS_MAX {
            return Err(Errno::EMLINK.into());
        }
        let id = self.new_inode_id(new.id)?;
        if new.id.is_some() {
            self.use_up(id)?;
        }
        // A set-group-id directory hands its group down, and to directories the bit as well.
        let inherits = dir.mode & 0o2000 != 0;
        let gid = if inherits { dir.gid } else { self.creds.gid };
        let mut mode = new.mode & 0o7777;
        if new.kind == FileKind::Dir {
            mode = (mode & 0o1777) | if inherits { 0o2000 } else { 0 };
        } else if mode & 0o2010 == 0o2010 && !self.creds.is_root() && !self.creds.in_group(gid) {
            mode &= !0o2000;
        }
        let rec = InodeRec {
            kind: new.kind,
            mode,
            uid: self.creds.uid,
            gid,
            nlink: if new.kind == FileKind::Dir { 2 } else { 1 },
            size: new.target.as_ref().map_or(0, |t| t.len() as u64),
            rdev: new.rdev,
            atime: self.now,
            mtime: self.now,
            ctime: self.now,
            crtime: self.now,
            change: 1,
            parent,
            class: dir.class,
            truncates: TruncateCounter(0),
            chunks: 0,
            next_cookie: DirCookie(0),
            inline: new.target,
        };
        self.add_entry(parent, &mut dir, name, id, new.kind)?;
        self.save_inode(parent, &dir)?;
        self.save_inode(id, &rec)?;
        add_number(self.tx, meta_key::INODES, 1)?;
        self.totals.add(parent, 1, i64::from(new.kind == FileKind::Dir), rec.counted_bytes() as i64);
        Ok(rec.attr(id))
    }

    fn make_new(&mut self, parent: InodeId, name: &Name, new: New) -> Res<Attr> {
        // The name is looked for before the right to make it is asked, as Linux does.
        let dir = directory(self.tx, parent)?;
        may(self.creds, &dir, Access::EXEC)?;
        if entry(self.tx, parent, name.as_bytes())?.is_some() {
            return Err(Errno::EEXIST.into());
        }
        let dir = self.writable_dir(parent)?;
        self.make(parent, dir, name, new)
    }
}

pub(super) fn create(op: &mut Op<'_>, r: &Create) -> Res<Created> {
    let dir = directory(op.tx, r.parent)?;
    may(op.creds, &dir, Access::EXEC)?;
    let Some(found) = entry(op.tx, r.parent, r.name.as_bytes())? else {
        let dir = op.writable_dir(r.parent)?;
        let new = New { kind: FileKind::File, mode: r.mode, rdev: 0, target: None, id: r.id };
        let attr = op.make(r.parent, dir, &r.name, new)?;
        return Ok(Created {
            attr,
            created: true,
            truncates: TruncateCounter(0),
            inline: None,
            has_chunks: false,
        });
    };
    if r.exclusive {
        return Err(Errno::EEXIST.into());
    }
    let mut rec = inode(op.tx, found.inode)?;
    match rec.kind {
        FileKind::Dir => return Err(Errno::EISDIR.into()),
        FileKind::Symlink => return Err(Errno::ELOOP.into()),
        _ => {}
    }
    perm::may_open(op.creds, &rec, r.open)?;
    if r.truncate && rec.kind == FileKind::File {
        perm::may(op.creds, &rec, Access::WRITE)?;
        data::truncate(op, found.inode, &mut rec, 0)?;
        op.save_inode(found.inode, &rec)?;
    }
    // Content is attached by whoever leads when it answers: never saved.
    Ok(Created {
        attr: rec.attr(found.inode),
        created: false,
        truncates: rec.truncates,
        inline: None,
        has_chunks: rec.chunks > 0,
    })
}

pub(super) fn mkdir(op: &mut Op<'_>, r: &MkDir) -> Res<Attr> {
    op.make_new(r.parent, &r.name, New { kind: FileKind::Dir, mode: r.mode, rdev: 0, target: None, id: r.id })
}

pub(super) fn mknod(op: &mut Op<'_>, r: &MkNod) -> Res<Attr> {
    let device = matches!(r.kind, FileKind::CharDev | FileKind::BlockDev);
    if matches!(r.kind, FileKind::Dir | FileKind::Symlink) {
        return Err(Errno::EINVAL.into());
    }
    if device && !op.creds.is_root() {
        return Err(Errno::EPERM.into());
    }
    let rdev = if device { r.rdev } else { 0 };
    op.make_new(r.parent, &r.name, New { kind: r.kind, mode: r.mode, rdev, target: None, id: r.id })
}

pub(super) fn symlink(op: &mut Op<'_>, r: &SymLink) -> Res<Attr> {
    match r.target.len() {
        0 => return Err(Errno::ENOENT.into()),
        n if n > SYMLINK_BYTES_MAX => return Err(Errno::ENAMETOOLONG.into()),
        _ if r.target.contains(&0) => return Err(Errno::EINVAL.into()),
        _ => {}
    }
    let target = Some(r.target.clone());
    op.make_new(r.parent, &r.name, New { kind: FileKind::Symlink, mode: 0o777, rdev: 0, target, id: r.id })
}

pub(super) fn link(op: &mut Op<'_>, r: &Link) -> Res<Attr> {
    let mut rec = inode(op.tx, r.inode)?;
    let dir = directory(op.tx, r.parent)?;
    may(op.creds, &dir, Access::EXEC)?;
    if entry(op.tx, r.parent, r.name.as_bytes())?.is_some() {
        return Err(Errno::EEXIST.into());
    }
    let mut dir = op.writable_dir(r.parent)?;
    if rec.kind == FileKind::Dir {
        return Err(Errno::EPERM.into());
    }
    if rec.nlink == 0 {
        return Err(Errno::ENOENT.into());
    }
    if rec.nlink >= LINKS_MAX {
        return Err(Errno::EMLINK.into());
    }
    op.add_entry(r.parent, &mut dir, &r.name, r.inode, rec.kind)?;
    op.save_inode(r.parent, &dir)?;
    op.link_added(r.inode, &rec, r.parent)?;
    rec.nlink += 1;
    rec.ctime = op.now;
    rec.change += 1;
    op.save_inode(r.inode, &rec)?;
    Ok(rec.attr(r.inode))
}
