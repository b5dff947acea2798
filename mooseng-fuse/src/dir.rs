//! Open directories: pages of entries from the masters, handed to the kernel piece by piece.
//!
//! The position that the kernel, `telldir` and `seekdir` know is the masters' cookie plus two: 0 is
//! the beginning, 1 is behind ".", 2 behind "..". Cookies stay valid while entries come and go, so
//! every position does.

use fuser::{FileType, INodeNo, ReplyDirectory};
use mooseng_client::{Result, Vfs};
use mooseng_core::{
    context::Credentials,
    ids::InodeId,
    meta::{DirCookie, DirPage},
};
use parking_lot::Mutex;
use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, sync::Arc};

/// Entries asked for at once: what one `getdents` of the C library holds, about.
const PAGE_ENTRIES: u32 = 1024;
/// Positions before the first entry's.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// An open directory.
#[derive(Debug)]
pub(crate) struct Dir {
    inode: InodeId,
    page: Mutex<Option<Arc<Page>>>,
}

#[derive(Debug)]
struct Page {
    after: DirCookie,
    entries: DirPage,
}

impl Page {
    /// Whether what follows a cookie is in here (or that nothing does).
    fn covers(&self, after: DirCookie) -> bool {
        let last = self.entries.entries.last().map_or(self.after, |e| e.cookie);
        self.after <= after && (after < last || self.entries.eof)
    }
}

/// What is to be told from a position on.
pub(crate) struct Listing {
    dir: InodeId,
    from: u64,
    page: Arc<Page>,
}

impl Dir {
    pub(crate) fn new(inode: InodeId) -> Self {
        Self { inode, page: Mutex::new(None) }
    }

    /// Entries from a position on. At the beginning they are always asked for anew, as `rewinddir`
    /// wants it. The right to read was judged when the directory was opened.
    pub(crate) async fn list(&self, vfs: &Vfs, from: u64) -> Result<Listing> {
        let after = DirCookie(from.saturating_sub(DOT_DOT));
        let known = self.page.lock().clone().filter(|p| from > 0 && p.covers(after));
        let page = match known {
            Some(page) => page,
            None => {
                let entries =
                    vfs.readdir(&Credentials::root(), self.inode, after, PAGE_ENTRIES, false).await?;
                let page = Arc::new(Page { after, entries });
                *self.page.lock() = Some(page.clone());
                page
            }
        };
        Ok(Listing { dir: self.inode, from, page })
    }
}

impl Listing {
    /// Fills a reply as far as it goes.
    pub(crate) fn tell(&self, mut reply: ReplyDirectory) {
        let (this, parent) = (INodeNo(self.dir.get()), INodeNo(self.page.entries.parent.get()));
        let full = (self.from < DOT && reply.add(this, DOT, FileType::Directory, "."))
            || (self.from < DOT_DOT && reply.add(parent, DOT_DOT, FileType::Directory, ".."));
        let after = DirCookie(self.from.saturating_sub(DOT_DOT));
        let entries = &self.page.entries.entries;
        let first = entries.partition_point(|e| e.cookie <= after);
        for e in entries[first..].iter().take_while(|_| !full) {
            let (ino, name) = (INodeNo(e.inode.get()), OsStr::from_bytes(e.name.as_bytes()));
            if reply.add(ino, e.cookie.0 + DOT_DOT, crate::convert::file_type(e.kind), name) {
                break;
            }
        }
        reply.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_core::{attr::FileKind, meta::DirEntry, name::Name};

    fn page(after: u64, cookies: &[u64], eof: bool) -> Page {
        let entry = |c: &u64| DirEntry {
            name: Name::new(format!("f{c}")).unwrap(),
            inode: InodeId(100 + c),
            kind: FileKind::File,
            cookie: DirCookie(*c),
            attr: None,
        };
        let entries = DirPage { entries: cookies.iter().map(entry).collect(), eof, parent: InodeId(1) };
        Page { after: DirCookie(after), entries }
    }

    #[test]
    fn a_page_answers_for_the_positions_it_covers_only() {
        let p = page(5, &[7, 9], false);
        for (after, covered) in [(4, false), (5, true), (7, true), (8, true), (9, false), (10, false)] {
            assert_eq!(p.covers(DirCookie(after)), covered, "after {after}");
        }
        let last = page(5, &[7, 9], true);
        assert!(last.covers(DirCookie(9)), "the end is known");
        assert!(page(0, &[], true).covers(DirCookie(0)), "an empty directory is known to be");
        assert!(!page(0, &[], false).covers(DirCookie(0)));
    }
}
