//! Where the names of an inode with several links are: (inode, directory) → how many. An inode
//! counts in the totals of one of these directories; when it has no name there any more it moves to
//! another. Inodes with one link have no rows: their record names the directory. Pure.

use super::*;

impl Op<'_> {
    fn names_in(&self, id: InodeId, dir: InodeId) -> Res<u64> {
        Ok(self.tx.get(Table::Link, &key2(id.get(), dir.get()))?.map_or(0, |v| number(&v)))
    }

    fn set_names_in(&mut self, id: InodeId, dir: InodeId, n: u64) -> Res<()> {
        let k = key2(id.get(), dir.get());
        if n == 0 {
            self.tx.delete(Table::Link, &k)?;
        } else {
            self.tx.put(Table::Link, &k, &key(n))?;
        }
        Ok(())
    }

    /// A name was added in `dir`. The record still has the links from before.
    pub(super) fn link_added(&mut self, id: InodeId, rec: &InodeRec, dir: InodeId) -> Res<()> {
        if rec.nlink == 1 {
            self.set_names_in(id, rec.parent, 1)?;
        }
        let n = self.names_in(id, dir)?;
        self.set_names_in(id, dir, n + 1)
    }

    /// A name in `dir` is gone; the record has at least one link left. The caller saves it.
    pub(super) fn link_gone(&mut self, id: InodeId, rec: &mut InodeRec, dir: InodeId) -> Res<()> {
        let n = self.names_in(id, dir)?;
        self.set_names_in(id, dir, n.saturating_sub(1))?;
        let (from, to) = range_of(id.get());
        let mut dirs = Vec::new();
        self.tx.scan(Table::Link, &from, &to, &mut |k, _| {
            dirs.push(InodeId(second(k)));
            true
        })?;
        if !dirs.contains(&rec.parent)
            && let Some(home) = dirs.first()
        {
            totals::moved(self, id, rec, rec.parent, *home)?;
            rec.parent = *home;
        }
        if rec.nlink == 1 {
            for dir in dirs {
                self.set_names_in(id, dir, 0)?;
            }
        }
        Ok(())
    }

    /// A name went from one directory to another. The caller saves the record.
    pub(super) fn link_moved(
        &mut self,
        id: InodeId,
        rec: &mut InodeRec,
        from: InodeId,
        to: InodeId,
    ) -> Res<()> {
        if rec.kind != FileKind::Dir && rec.nlink > 1 {
            let n = self.names_in(id, to)?;
            self.set_names_in(id, to, n + 1)?;
            return self.link_gone(id, rec, from);
        }
        totals::moved(self, id, rec, from, to)?;
        rec.parent = to;
        Ok(())
    }
}
