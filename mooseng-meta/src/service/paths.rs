//! Paths of inodes, found by looking through directories: entries are kept by name, so that each directory is gone
//! through once for all inodes of a page, and no further than a page may.

use super::internal;
use crate::store::*;
use mooseng_core::{error::MetaError, ids::*};
use std::collections::{BTreeMap, BTreeSet};

/// Directories above a file that a path may have.
const DEPTH_MAX: usize = 1024;
/// Entries that are looked through before others have their turn.
const TURN: usize = 4096;
/// Bytes of all paths of a page, which go into one reply.
const BYTES_MAX: usize = 1 << 20;

/// Finds paths of inodes.
pub(super) struct Paths<'a> {
    view: &'a RedbView,
    wanted: BTreeSet<InodeId>,
    /// Entries that may still be looked through.
    entries: usize,
    /// Names that were met, with their directories.
    names: BTreeMap<InodeId, (InodeId, Vec<u8>)>,
    /// Where the look through a directory goes on.
    at: BTreeMap<InodeId, Vec<u8>>,
    /// Paths that were told.
    told: BTreeMap<InodeId, Vec<u8>>,
    /// Bytes of paths that may still be told.
    bytes: usize,
}

impl<'a> Paths<'a> {
    /// Of inodes whose paths will be asked for, within so many entries of directories in all.
    pub fn new(view: &'a RedbView, wanted: impl IntoIterator<Item = InodeId>, entries: usize) -> Self {
        let wanted = wanted.into_iter().collect();
        let (names, at, told) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { view, wanted, entries, names, at, told, bytes: BYTES_MAX }
    }

    /// One path of an inode; `None` when it has no name, as after a removal while it is open, when more entries
    /// would have to be looked through than are left, or when it is longer than the page has room for.
    pub async fn of(&mut self, inode: InodeId) -> Result<Option<Vec<u8>>, MetaError> {
        let path = match self.told.get(&inode) {
            Some(path) => Some(path.clone()),
            None => self.find(inode).await?,
        };
        let Some(path) = path.filter(|path| path.len() <= self.bytes) else { return Ok(None) };
        self.bytes -= path.len();
        self.told.entry(inode).or_insert_with(|| path.clone());
        Ok(Some(path))
    }

    async fn find(&mut self, inode: InodeId) -> Result<Option<Vec<u8>>, MetaError> {
        // A deep one costs a thousand small reads, also where all names are known.
        tokio::task::yield_now().await;
        let (mut at, mut names) = (inode, Vec::new());
        while at != InodeId::ROOT {
            let rec: Option<InodeRec> = load(self.view, Table::Inode, &key(at.get())).map_err(internal)?;
            let Some(rec) = rec.filter(|_| names.len() < DEPTH_MAX) else { return Ok(None) };
            let Some(name) = self.name(rec.parent, at).await? else { return Ok(None) };
            names.push(name);
            at = rec.parent;
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        Ok(Some(path))
    }

    /// A name of an inode in a directory.
    async fn name(&mut self, dir: InodeId, inode: InodeId) -> Result<Option<Vec<u8>>, MetaError> {
        let (first, end) = range_of(dir.get());
        let begun = self.at.get(&dir).cloned().unwrap_or_else(|| first.to_vec());
        // What is before was looked through for others.
        for (mut from, to) in [(begun.clone(), end.to_vec()), (first.to_vec(), begun)] {
            loop {
                if let Some((_, name)) = self.names.get(&inode).filter(|(in_dir, _)| *in_dir == dir) {
                    return Ok(Some(name.clone()));
                }
                if from >= to || self.entries == 0 {
                    break;
                }
                from = self.look(dir, inode, &from, &to)?;
                let furthest = self.at.entry(dir).or_default();
                if *furthest < from {
                    furthest.clone_from(&from);
                }
                tokio::task::yield_now().await;
            }
        }
        Ok(None)
    }

    /// Looks through the next entries of a directory, until one is the inode's; where to go on.
    fn look(&mut self, dir: InodeId, inode: InodeId, from: &[u8], to: &[u8]) -> Result<Vec<u8>, MetaError> {
        let (mut next, mut seen, most) = (to.to_vec(), 0, TURN.min(self.entries));
        scan_recs(self.view, Table::Entry, from, to, |k, e: EntryRec| {
            seen += 1;
            if e.inode == inode || self.wanted.contains(&e.inode) {
                self.names.insert(e.inode, (dir, k.get(8..).unwrap_or_default().to_vec()));
            }
            let goes_on = e.inode != inode && seen < most;
            if !goes_on {
                next = [k, &[0]].concat();
            }
            goes_on
        })
        .map_err(internal)?;
        self.entries -= seen;
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_core::{attr::FileKind, meta::StorageClass};
    use mooseng_host::MemDisk;
    use std::sync::Arc;

    fn inode(kind: FileKind, parent: u64) -> InodeRec {
        let t = Default::default();
        InodeRec {
            kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
            nlink: 1,
            size: 0,
            rdev: 0,
            atime: t,
            mtime: t,
            ctime: t,
            crtime: t,
            change: 0,
            parent: InodeId(parent),
            class: StorageClass { copies: 2 },
            truncates: TruncateCounter(0),
            chunks: 0,
            next_cookie: Default::default(),
            inline: Default::default(),
        }
    }

    /// `/dir` with the files `f010` to `f109`, whose inodes are their numbers.
    fn tree() -> RedbStore {
        let store = RedbStore::open(Arc::new(MemDisk::new("paths")), 1 << 20).unwrap();
        let root = InodeId::ROOT.get();
        let made = store.write(|tx| {
            let mut make = |id: u64, kind, dir: u64, name: &str| {
                save(tx, Table::Inode, &key(id), &inode(kind, dir))?;
                let entry = EntryRec { inode: InodeId(id), kind, cookie: Default::default() };
                save(tx, Table::Entry, &named(InodeId(dir), name.as_bytes()), &entry)
            };
            make(200, FileKind::Dir, root, "dir")?;
            (10..110).try_for_each(|n| make(n, FileKind::File, 200, &format!("f{n:03}")))
        });
        made.unwrap();
        store
    }

    #[tokio::test]
    async fn directories_are_gone_through_once_for_all() {
        let store = tree();
        let view = store.view().unwrap();
        // The entry of the directory, and each of its files once, whatever the order.
        let files: Vec<_> = (10..110).rev().map(InodeId).collect();
        let mut paths = Paths::new(&view, files.clone(), 101);
        for file in &files {
            let wanted = format!("/dir/f{:03}", file.get()).into_bytes();
            assert_eq!(paths.of(*file).await.unwrap(), Some(wanted), "{file:?}");
            paths.of(*file).await.unwrap();
        }
        assert_eq!(paths.entries, 0, "a file that is asked for again costs nothing");

        // One that was passed by, not being wanted, is found all the same, as long as there are entries to look at.
        let mut paths = Paths::new(&view, [InodeId(50)], 300);
        paths.of(InodeId(50)).await.unwrap().unwrap();
        assert_eq!(paths.of(InodeId(20)).await.unwrap(), Some(b"/dir/f020".to_vec()));
        assert_eq!(Paths::new(&view, [], 40).of(InodeId(109)).await.unwrap(), None);
        assert_eq!(Paths::new(&view, [], 40).of(InodeId(9999)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_paths_of_a_page_fit_into_a_reply() {
        let store = tree();
        let view = store.view().unwrap();
        let mut paths = Paths::new(&view, [InodeId(50)], 1000);
        let len = b"/dir/f050".len();
        paths.bytes = 2 * len;
        for told in [true, true, false] {
            assert_eq!(paths.of(InodeId(50)).await.unwrap().is_some(), told, "each time it is told counts");
        }
        paths.bytes = len - 1;
        assert_eq!(paths.of(InodeId(51)).await.unwrap(), None);
        paths.bytes = len;
        assert_eq!(paths.of(InodeId(51)).await.unwrap(), Some(b"/dir/f051".to_vec()));
    }
}
