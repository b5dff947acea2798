//! What the kernel has open, and who asks.

use crate::{creds::Groups, dir::Dir, serve::Server};
use mooseng_client::{Result, Vfs, vfs};
use mooseng_core::{
    attr::{Attr, FileKind, SetAttr},
    context::Credentials,
    ids::InodeId,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Bits of a mode.
const SET_USER_ID: u32 = 0o4000;
const PRIVILEGES: u32 = 0o6000;

/// What the callbacks and the mount share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub vfs: Vfs,
    pub server: Server,
    pub groups: Groups,
    /// Handles that the kernel has: given back at the end, if it did not come to that.
    files: Mutex<BTreeSet<vfs::FileHandle>>,
    /// Of them those whose file was set-user-id or set-group-id when it was opened.
    privileged: Mutex<BTreeSet<vfs::FileHandle>>,
    dirs: Mutex<BTreeMap<u64, Arc<Dir>>>,
    next_dir: AtomicU64,
}

impl Shared {
    pub(crate) fn new(vfs: Vfs, server: Server) -> Self {
        let (groups, files, privileged, dirs) = Default::default();
        Self { vfs, server, groups, files, privileged, dirs, next_dir: AtomicU64::new(1) }
    }

    pub(crate) fn opened(&self, fh: vfs::FileHandle, attr: &Attr) {
        self.files.lock().insert(fh);
        if attr.kind == FileKind::File && attr.mode & PRIVILEGES != 0 {
            self.privileged.lock().insert(fh);
        }
    }

    pub(crate) fn closed(&self, fh: vfs::FileHandle) {
        self.files.lock().remove(&fh);
        self.privileged.lock().remove(&fh);
    }

    pub(crate) fn open_dir(&self, inode: InodeId) -> u64 {
        let fh = self.next_dir.fetch_add(1, Ordering::Relaxed);
        self.dirs.lock().insert(fh, Arc::new(Dir::new(inode)));
        fh
    }

    pub(crate) fn dir(&self, fh: u64) -> Option<Arc<Dir>> {
        self.dirs.lock().get(&fh).cloned()
    }

    pub(crate) fn close_dir(&self, fh: u64) {
        self.dirs.lock().remove(&fh);
    }

    /// Before the first write of one who may not keep them: set-user-id goes, and set-group-id
    /// where the group may execute.
    pub(crate) async fn drop_privileges(&self, fh: vfs::FileHandle) -> Result<()> {
        if !self.privileged.lock().remove(&fh) {
            return Ok(());
        }
        let (root, inode) = (Credentials::root(), self.vfs.inode_of(fh)?);
        let mode = self.vfs.getattr(&root, inode).await?.mode;
        let gone = if mode & 0o010 != 0 { PRIVILEGES } else { SET_USER_ID };
        if mode & gone != 0 {
            let set = SetAttr { mode: Some(mode & !gone), ..SetAttr::default() };
            self.vfs.setattr(&root, inode, set, None).await?;
        }
        Ok(())
    }

    /// Ends what the kernel left open: an unmount drops the releases it has not sent.
    pub(crate) async fn release_left(&self) {
        let left = std::mem::take(&mut *self.files.lock());
        for fh in left {
            if let Err(e) = self.vfs.release(fh).await {
                tracing::warn!(error = %e, "a file could not be closed after the unmount");
            }
        }
    }
}
