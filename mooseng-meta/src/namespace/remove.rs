//! unlink and rmdir. Pure.

use super::*;
use mooseng_core::name::Name;

impl Op<'_> {
    /// Who has an inode open that is about to lose its last link, as the leader decided. Another
    /// inode took the name since: the caller tries again. What this same entry made nobody has open.
    fn holders_of(&self, id: InodeId, rec: &InodeRec) -> Res<Vec<SessionId>> {
        match self.decisions.holders.iter().find(|(i, _)| *i == id) {
            Some((_, holders)) => {
                // A session that ended since can release nothing any more.
                let mut alive = Vec::with_capacity(holders.len());
                for session in holders {
                    if self.tx.get(Table::Session, &key(session.get()))?.is_some() {
                        alive.push(*session);
                    }
                }
                Ok(alive)
            }
            None if rec.crtime == self.now => Ok(vec![]),
            None => Err(MetaError::Busy("the name changed meanwhile".into()).into()),
        }
    }

    /// Refuses what [`Op::drop_link`] would refuse, before anything is written.
    pub(super) fn may_drop_link(&self, id: InodeId, rec: &InodeRec) -> Res<()> {
        let last = rec.kind == FileKind::Dir || rec.nlink <= 1;
        if last { self.holders_of(id, rec).map(drop) } else { Ok(()) }
    }

    /// Takes a name out of a directory. The caller saves the directory.
    pub(super) fn drop_entry(
        &mut self,
        dir_id: InodeId,
        dir: &mut InodeRec,
        name: &Name,
        e: EntryRec,
    ) -> Res<()> {
        self.tx.delete(Table::Entry, &named(dir_id, name.as_bytes()))?;
        self.tx.delete(Table::Order, &order_key(dir_id, e.cookie))?;
        self.touch_dir(dir, -1, -i32::from(e.kind == FileKind::Dir));
        Ok(())
    }

    /// Takes one link from an inode whose name in `dir` is gone; with the last one it becomes an
    /// orphan or goes.
    pub(super) fn drop_link(&mut self, id: InodeId, mut rec: InodeRec, dir: InodeId) -> Res<Removed> {
        let last = rec.kind == FileKind::Dir || rec.nlink <= 1;
        let holders = if last { self.holders_of(id, &rec)? } else { vec![] };
        rec.nlink = if last { 0 } else { rec.nlink - 1 };
        rec.ctime = self.now;
        rec.change += 1;
        if last {
            // It counts where its first link was, however many it had since.
            let home = rec.parent;
            if rec.kind == FileKind::Dir {
                // What this batch has not folded yet belongs to those above it.
                self.totals.pass_on(id, home);
            }
            self.totals.add(home, -1, -i64::from(rec.kind == FileKind::Dir), -(rec.counted_bytes() as i64));
        }
        if !last {
            self.link_gone(id, &mut rec, dir)?;
        }
        self.save_inode(id, &rec)?;
        if last {
            if holders.is_empty() {
                data::purge(self, id, &rec)?;
            } else {
                save(self.tx, Table::Orphan, &key(id.get()), &OrphanRec { holders })?;
            }
        }
        Ok(Removed { inode: id, links_left: rec.nlink })
    }
}

pub(super) fn unlink(op: &mut Op<'_>, r: &Unlink) -> Res<Removed> {
    let dir = directory(op.tx, r.parent)?;
    may(op.creds, &dir, Access::EXEC)?;
    let e = entry(op.tx, r.parent, r.name.as_bytes())?.ok_or(Errno::ENOENT)?;
    let mut dir = op.writable_dir(r.parent)?;
    let rec = inode(op.tx, e.inode)?;
    perm::sticky(op.creds, &dir, &rec)?;
    if rec.kind == FileKind::Dir {
        return Err(Errno::EISDIR.into());
    }
    op.may_drop_link(e.inode, &rec)?;
    op.drop_entry(r.parent, &mut dir, &r.name, e)?;
    op.save_inode(r.parent, &dir)?;
    op.drop_link(e.inode, rec, r.parent)
}

pub(super) fn rmdir(op: &mut Op<'_>, r: &RmDir) -> Res<Removed> {
    let dir = directory(op.tx, r.parent)?;
    may(op.creds, &dir, Access::EXEC)?;
    let e = entry(op.tx, r.parent, r.name.as_bytes())?.ok_or(Errno::ENOENT)?;
    let mut dir = op.writable_dir(r.parent)?;
    let rec = inode(op.tx, e.inode)?;
    perm::sticky(op.creds, &dir, &rec)?;
    if rec.kind != FileKind::Dir {
        return Err(Errno::ENOTDIR.into());
    }
    if rec.size > 0 {
        return Err(Errno::ENOTEMPTY.into());
    }
    op.may_drop_link(e.inode, &rec)?;
    op.drop_entry(r.parent, &mut dir, &r.name, e)?;
    op.save_inode(r.parent, &dir)?;
    op.drop_link(e.inode, rec, r.parent)
}
