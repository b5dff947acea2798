//! Recursive totals: each operation adds a delta to one directory; the deltas of a batch are folded
//! into the ancestors once, so that no operation walks to the root.

use super::{Res, inode};
use crate::store::*;
use mooseng_core::{attr::FileKind, ids::InodeId, meta::Totals};
use std::{collections::BTreeMap, io};

/// (inodes, directories, bytes).
type Delta = (i64, i64, i64);

/// Deltas by directory.
#[derive(Debug, Default)]
pub struct TotalsDelta(BTreeMap<InodeId, Delta>);

fn add(to: &mut Delta, d: Delta) {
    *to = (to.0 + d.0, to.1 + d.1, to.2 + d.2);
}

impl TotalsDelta {
    /// Adds to what is below a directory.
    pub fn add(&mut self, dir: InodeId, inodes: i64, dirs: i64, bytes: i64) {
        add(self.0.entry(dir).or_default(), (inodes, dirs, bytes));
    }

    /// Gives the deltas of a directory that goes to the one above it.
    pub fn pass_on(&mut self, dir: InodeId, to: InodeId) {
        if let Some(delta) = self.0.remove(&dir) {
            add(self.0.entry(to).or_default(), delta);
        }
    }

    /// Writes the deltas into their directories and all above them, each once.
    pub fn fold(self, tx: &mut dyn Tx) -> io::Result<()> {
        let mut sums: BTreeMap<InodeId, Delta> = BTreeMap::new();
        for (dir, delta) in self.0 {
            let mut at = dir;
            loop {
                let Some(rec) = load::<InodeRec>(tx, Table::Inode, &key(at.get()))? else { break };
                add(sums.entry(at).or_default(), delta);
                if at == InodeId::ROOT || rec.parent == at {
                    break;
                }
                at = rec.parent;
            }
        }
        for (dir, (inodes, dirs, bytes)) in sums {
            let t = stored(tx, dir)?;
            let t = Totals {
                inodes: t.inodes.saturating_add_signed(inodes),
                dirs: t.dirs.saturating_add_signed(dirs),
                bytes: t.bytes.saturating_add_signed(bytes),
            };
            save(tx, Table::Totals, &key(dir.get()), &t)?;
        }
        Ok(())
    }
}

fn stored(view: &(impl View + ?Sized), dir: InodeId) -> io::Result<Totals> {
    Ok(load(view, Table::Totals, &key(dir.get()))?.unwrap_or_default())
}

/// Totals of an inode: of a directory what is below and itself, of anything else itself.
pub(super) fn of(view: &(impl View + ?Sized), id: InodeId) -> Res<Totals> {
    let rec = inode(view, id)?;
    if rec.kind != FileKind::Dir {
        return Ok(Totals { inodes: 1, dirs: 0, bytes: rec.counted_bytes() });
    }
    let below = stored(view, id)?;
    Ok(Totals { inodes: below.inodes + 1, dirs: below.dirs + 1, bytes: below.bytes })
}

/// Moves what a renamed inode counts from one directory to another. Deltas of the same batch that
/// are not folded yet follow the new parent by themselves.
pub(super) fn moved(
    op: &mut super::Op<'_>,
    id: InodeId,
    rec: &InodeRec,
    from: InodeId,
    to: InodeId,
) -> Res<()> {
    if from == to {
        return Ok(());
    }
    let (inodes, dirs, bytes) = match rec.kind {
        FileKind::Dir => {
            let t = stored(op.tx, id)?;
            (t.inodes as i64 + 1, t.dirs as i64 + 1, t.bytes as i64)
        }
        _ => (1, 0, rec.counted_bytes() as i64),
    };
    op.totals.add(from, -inodes, -dirs, -bytes);
    op.totals.add(to, inodes, dirs, bytes);
    Ok(())
}
