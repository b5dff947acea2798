//! The inode-level filesystem that a mount and the path API stand on.

use crate::{
    Synced,
    ahead::{Ahead, CacheCounts},
    error::{Error, Result},
    masters::Masters,
    node::{Known, Node},
    opens::{Held, Opens},
    pool::Pool,
    writer::Context,
};
use bytes::Bytes;
use mooseng_core::{
    attr::{Access, Attr, FileKind, SetAttr, SetTime},
    context::Credentials,
    error::{Errno, MetaError},
    ids::{ChunkIndex, InodeId},
    meta::*,
    name::Name,
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenFlags {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Every write goes to the end.
    pub append: bool,
    /// Cut to nothing.
    pub truncate: bool,
    /// Make it when it is not there (path API and `create`).
    pub create: bool,
    /// Fail when it is there.
    pub exclusive: bool,
}

impl OpenFlags {
    fn access(self) -> Access {
        let read = if self.read { Access::READ } else { Access(0) };
        let write = if self.write || self.append || self.truncate { Access::WRITE } else { Access(0) };
        read.and(write)
    }
}

/// An open file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileHandle(pub u64);

struct Handle {
    node: Arc<Node>,
    flags: OpenFlags,
    ahead: Ahead,
    /// Losses of the file that this handle was told of.
    told: AtomicU64,
    open: Held,
    creds: Credentials,
    /// When the file was last asked about for this handle, and where the reads since then end.
    stream: Mutex<Option<(Instant, u64)>>,
}

impl Handle {
    /// Adds to what a flush said the data that was given up since this handle was told.
    fn tell<T>(&self, done: Result<T>) -> Result<T> {
        let (losses, last) = self.node.shared.losses.last();
        let told = self.told.swap(losses, Ordering::Relaxed);
        match (done, last) {
            (Ok(_), Some(e)) if losses > told => Err(Error::Earlier(Arc::new(e))),
            (done, _) => done,
        }
    }

    async fn write(&self, at: Option<u64>, data: Bytes) -> Result<usize> {
        if !(self.flags.write || self.flags.append) {
            return Err(Errno::EBADF.into());
        }
        if !self.creds.is_root() {
            *self.node.writer.lock() = Some(self.creds.clone());
        }
        self.node.write(at, data).await
    }
}

struct Inner {
    masters: Arc<Masters>,
    pool: Arc<Pool>,
    read_ahead: u64,
    opens: Opens,
    nodes: Mutex<BTreeMap<InodeId, Weak<Node>>>,
    handles: Mutex<BTreeMap<FileHandle, Arc<Handle>>>,
    next: AtomicU64,
}

/// How long the answer that a file did not change is good for a stream of reads.
const STREAM_TRUST: Duration = Duration::from_millis(20);

/// Closed files that are remembered before they are looked for.
const NODES_SPARE: usize = 256;

/// Files by inode. Cheap to clone. Dropping a future leaves a mutation's outcome unknown and
/// everything else as it was.
#[derive(Clone)]
pub struct Vfs(Arc<Inner>);

/// The size, when nothing else is set that a truncate does not set by itself.
fn only_size(set: &SetAttr) -> Option<u64> {
    let SetAttr { mode: None, uid: None, gid: None, size, atime: None, mtime: None | Some(SetTime::Now) } =
        *set
    else {
        return None;
    };
    size
}

impl std::fmt::Debug for Vfs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vfs").finish_non_exhaustive()
    }
}

impl Vfs {
    pub(crate) fn new(masters: Arc<Masters>, pool: Arc<Pool>, read_ahead: u64) -> Self {
        let (nodes, handles) = (Mutex::default(), Mutex::default());
        let opens = Opens::new(masters.clone());
        let next = AtomicU64::new(1);
        Self(Arc::new(Inner { masters, pool, read_ahead, opens, nodes, handles, next }))
    }

    async fn ask<O: MetaOp + Clone>(&self, creds: &Credentials, op: O) -> Result<O::Reply> {
        self.0.masters.call(creds, op).await
    }

    fn handle(&self, fh: FileHandle) -> Result<Arc<Handle>> {
        self.0.handles.lock().get(&fh).cloned().ok_or_else(|| Errno::EBADF.into())
    }

    /// Whether a handle of a file is open for writing.
    fn may_write(&self, fh: FileHandle, inode: InodeId) -> bool {
        self.handle(fh).is_ok_and(|h| (h.flags.write || h.flags.append) && h.node.cx.inode == inode)
    }

    fn node_of(&self, inode: InodeId) -> Option<Arc<Node>> {
        self.0.nodes.lock().get(&inode).and_then(Weak::upgrade)
    }

    /// The entry of a name.
    pub async fn lookup(&self, creds: &Credentials, parent: InodeId, name: &Name) -> Result<Attr> {
        let attr = self.ask(creds, Lookup { parent, name: name.clone() }).await?;
        Ok(self.overlaid(attr).await)
    }

    /// Attributes; own writes that the masters do not know yet are counted.
    pub async fn getattr(&self, creds: &Credentials, inode: InodeId) -> Result<Attr> {
        let attr = self.ask(creds, GetAttr { inode }).await?;
        Ok(self.overlaid(attr).await)
    }

    /// Never waits for writers; another client's change is looked at.
    async fn overlaid(&self, mut attr: Attr) -> Attr {
        if let Some(node) = self.node_of(attr.inode)
            && node.overlay(&mut attr)
            && let Err(e) = node.reload().await
        {
            tracing::debug!(error = %e, "a changed file could not be looked at again");
        }
        attr
    }

    /// Changes attributes. A new size takes effect after what was written before it.
    pub async fn setattr(
        &self,
        creds: &Credentials,
        inode: InodeId,
        set: SetAttr,
        fh: Option<FileHandle>,
    ) -> Result<Attr> {
        let node = self.node_of(inode);
        if let Some(node) = node.as_ref().filter(|_| set.size.is_some()) {
            node.before_truncate().await?;
        } else if let Some(node) = node.as_ref().filter(|_| set.mtime.is_some()) {
            // Times that are set must not be overwritten by a commit that comes later.
            node.flush().await?;
        }
        let attr = match only_size(&set).filter(|_| fh.is_some_and(|fh| self.may_write(fh, inode))) {
            Some(size) => self.ask(creds, Truncate { inode, size }).await?,
            None => self.ask(creds, SetAttrs { inode, set: set.clone() }).await?,
        };
        match node {
            Some(node) if set.size.is_some() => node.reload().await?,
            Some(node) => node.note_change(attr.change),
            None => {}
        }
        Ok(self.overlaid(attr).await)
    }

    /// Whether the caller has these rights.
    pub async fn access(&self, creds: &Credentials, inode: InodeId, access: Access) -> Result<()> {
        self.ask(creds, CheckAccess { inode, access }).await
    }

    /// Target of a symbolic link.
    pub async fn readlink(&self, creds: &Credentials, inode: InodeId) -> Result<Bytes> {
        self.ask(creds, ReadLink { inode }).await
    }

    /// Makes a directory.
    pub async fn mkdir(&self, creds: &Credentials, parent: InodeId, name: &Name, mode: u32) -> Result<Attr> {
        self.ask(creds, MkDir { parent, name: name.clone(), mode, id: None }).await
    }

    /// Makes a file, pipe, socket or device node.
    pub async fn mknod(
        &self,
        creds: &Credentials,
        parent: InodeId,
        name: &Name,
        kind: FileKind,
        mode: u32,
        rdev: u32,
    ) -> Result<Attr> {
        self.ask(creds, MkNod { parent, name: name.clone(), mode, kind, rdev, id: None }).await
    }

    /// Makes a symbolic link.
    pub async fn symlink(
        &self,
        creds: &Credentials,
        parent: InodeId,
        name: &Name,
        target: Bytes,
    ) -> Result<Attr> {
        self.ask(creds, SymLink { parent, name: name.clone(), target, id: None }).await
    }

    /// Adds a link.
    pub async fn link(
        &self,
        creds: &Credentials,
        inode: InodeId,
        parent: InodeId,
        name: &Name,
    ) -> Result<Attr> {
        let attr = self.ask(creds, Link { inode, parent, name: name.clone() }).await?;
        if let Some(node) = self.node_of(inode) {
            node.note_change(attr.change);
        }
        Ok(self.overlaid(attr).await)
    }

    /// Removes a name that is not a directory's.
    pub async fn unlink(&self, creds: &Credentials, parent: InodeId, name: &Name) -> Result<()> {
        self.ask(creds, Unlink { parent, name: name.clone() }).await.map(drop)
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, creds: &Credentials, parent: InodeId, name: &Name) -> Result<()> {
        self.ask(creds, RmDir { parent, name: name.clone() }).await.map(drop)
    }

    /// Renames.
    pub async fn rename(
        &self,
        creds: &Credentials,
        from: (InodeId, &Name),
        to: (InodeId, &Name),
        mode: RenameMode,
    ) -> Result<()> {
        let op =
            Rename { parent: from.0, name: from.1.clone(), new_parent: to.0, new_name: to.1.clone(), mode };
        self.ask(creds, op).await.map(drop)
    }

    /// Makes (or opens) a file and opens it.
    pub async fn create(
        &self,
        creds: &Credentials,
        parent: InodeId,
        name: &Name,
        mode: u32,
        flags: OpenFlags,
    ) -> Result<(Attr, FileHandle)> {
        let op = Create {
            parent,
            name: name.clone(),
            mode,
            exclusive: flags.exclusive,
            open: flags.access(),
            truncate: flags.truncate,
            id: None,
        };
        if flags.truncate
            && let Ok(found) = self.lookup(creds, parent, name).await
            && let Some(node) = self.node_of(found.inode)
        {
            node.before_truncate().await?;
        }
        let (c, open) = self.0.opens.create(creds, op).await?;
        let (truncates, inline) = (c.truncates, c.inline.clone());
        let known = Known { attr: c.attr.clone(), truncates, inline, has_chunks: c.has_chunks };
        let fh = self.add_handle(creds, flags, known, open);
        Ok((self.overlaid(c.attr).await, fh))
    }

    /// Opens a file.
    pub async fn open(
        &self,
        creds: &Credentials,
        inode: InodeId,
        flags: OpenFlags,
    ) -> Result<(Attr, FileHandle)> {
        let (mut opened, open) = self.0.opens.open(creds, inode, flags.access()).await?;
        if flags.truncate && opened.layout.attr.kind == FileKind::File {
            let set = SetAttr { size: Some(0), ..SetAttr::default() };
            self.setattr(creds, inode, set, None).await?;
            let op = GetLayout { inode, from: ChunkIndex(0), count: 0 };
            opened.layout = self.ask(&Credentials::root(), op).await?;
        }
        let known = Known::of_layout(&opened.layout);
        let fh = self.add_handle(creds, flags, known, open);
        Ok((self.overlaid(opened.layout.attr).await, fh))
    }

    fn add_handle(&self, creds: &Credentials, flags: OpenFlags, known: Known, open: Held) -> FileHandle {
        let inode = known.attr.inode;
        let node = {
            let mut nodes = self.0.nodes.lock();
            if nodes.len() > 2 * self.0.handles.lock().len() + NODES_SPARE {
                nodes.retain(|_, n| n.strong_count() > 0);
            }
            match nodes.get(&inode).and_then(Weak::upgrade) {
                Some(node) => node,
                None => {
                    let (masters, pool) = (self.0.masters.clone(), self.0.pool.clone());
                    let node = Node::new(Context { masters, pool, inode, creds: creds.clone() });
                    nodes.insert(inode, Arc::downgrade(&node));
                    node
                }
            }
        };
        node.refresh(known);
        let told = AtomicU64::new(node.shared.losses.last().0);
        let ahead = Ahead::new(node.clone(), self.0.read_ahead);
        let fh = FileHandle(self.0.next.fetch_add(1, Ordering::Relaxed));
        let (creds, stream) = (creds.clone(), Mutex::default());
        let handle = Handle { node, flags, ahead, told, open, creds, stream };
        self.0.handles.lock().insert(fh, Arc::new(handle));
        fh
    }

    /// Looks whether somebody else changed the file since it was read last, and lets go of what is
    /// out of date then. `true` when it was: what was read meanwhile may be old. Nothing is asked
    /// while own writes are under way.
    pub async fn refresh(&self, fh: FileHandle) -> Result<bool> {
        let h = self.handle(fh)?;
        if h.node.is_dirty() {
            return Ok(false);
        }
        let mut attr = self.ask(&h.node.cx.creds, GetAttr { inode: h.node.cx.inode }).await?;
        let changed = h.node.overlay(&mut attr);
        if changed {
            h.node.reload().await?;
        }
        Ok(changed)
    }

    /// Reads as [`Vfs::read`] does, and sees what other clients had finished when it was called: whether
    /// the file changed is asked while the read runs, and what was read by an old picture of the file
    /// is read again. A read that goes on where the last one ended is not asked for again within
    /// 20 ms, so that a stream does not wait for the masters with every piece.
    pub async fn read_current(&self, fh: FileHandle, at: u64, len: u64) -> Result<Bytes> {
        let h = self.handle(fh)?;
        let begin = Instant::now();
        let goes_on = |(asked, end): (Instant, u64)| end == at && at > 0 && begin < asked + STREAM_TRUST;
        let asked = h.stream.lock().filter(|s| goes_on(*s)).map(|(asked, _)| asked);
        let data = match asked {
            Some(_) => self.read(fh, at, len).await?,
            None => self.read_and_ask(fh, &h.node, at, len).await?,
        };
        let end = at + data.len() as u64;
        *h.stream.lock() = Some((asked.unwrap_or(begin), end));
        Ok(data)
    }

    async fn read_and_ask(&self, fh: FileHandle, node: &Node, at: u64, len: u64) -> Result<Bytes> {
        let before = node.epoch();
        let (changed, data) = futures::future::join(self.refresh(fh), self.read(fh, at, len)).await;
        // A read past the end looks at the file anew by itself; what it had until then may be old.
        if changed? || node.epoch() != before { self.read(fh, at, len).await } else { data }
    }

    /// Reads up to `len` bytes at a position; fewer only at the end of the file.
    pub async fn read(&self, fh: FileHandle, at: u64, len: u64) -> Result<Bytes> {
        let h = self.handle(fh)?;
        if !h.flags.read {
            return Err(Errno::EBADF.into());
        }
        h.ahead.read(at, len).await
    }

    /// How often reads found what they asked for read ahead, since the client began.
    pub fn cache_counts(&self) -> CacheCounts {
        self.0.pool.cache.now()
    }

    /// Writes at a position (at the end, when opened to append). Returns when the client has it.
    pub async fn write(&self, fh: FileHandle, at: u64, data: Bytes) -> Result<usize> {
        let h = self.handle(fh)?;
        h.write((!h.flags.append).then_some(at), data).await
    }

    /// Writes at the end, however the file was opened. Returns when the client has it.
    pub async fn append(&self, fh: FileHandle, data: Bytes) -> Result<usize> {
        self.handle(fh)?.write(None, data).await
    }

    /// What `close` promises: in memory at every replica, size known to the masters. Tries what
    /// failed before again; data that was given up is told once to each handle.
    pub async fn flush(&self, fh: FileHandle) -> Result<()> {
        let h = self.handle(fh)?;
        h.tell(h.node.flush().await)
    }

    /// What `fsync` promises: on every replica's disk, size on a quorum of masters' disks.
    pub async fn fsync(&self, fh: FileHandle) -> Result<Synced> {
        let h = self.handle(fh)?;
        h.tell(h.node.sync().await.map(|disks| Synced { disks }))
    }

    /// Ends a handle. What is still dirty is flushed; a failure of that is logged and returned, and
    /// with the file's last handle the data is given up.
    pub async fn release(&self, fh: FileHandle) -> Result<()> {
        let flush = self.handle(fh)?.node.is_dirty();
        self.end(fh, flush).await
    }

    /// Flushes and ends a handle.
    pub(crate) async fn close(&self, fh: FileHandle) -> Result<()> {
        self.end(fh, true).await
    }

    async fn end(&self, fh: FileHandle, flush: bool) -> Result<()> {
        let Some(h) = self.0.handles.lock().remove(&fh) else { return Err(Errno::EBADF.into()) };
        let flushed = h.tell(if flush { h.node.flush().await } else { Ok(()) });
        if let Err(e) = &flushed {
            tracing::error!(inode = %h.node.cx.inode, error = %e, "written data was lost at the close");
        }
        if self.0.pool.is_full()
            && let Err(e) = h.node.sync().await
        {
            tracing::error!(inode = %h.node.cx.inode, error = %e, "a file could not be synced at its close");
        }
        // A read under way keeps the handle; the release follows it.
        match Arc::try_unwrap(h) {
            Ok(h) => {
                let open = h.open;
                drop((h.ahead, h.node));
                self.0.opens.release(open).await;
                flushed
            }
            Err(_) => flushed,
        }
    }

    /// Inode of a handle.
    pub fn inode_of(&self, fh: FileHandle) -> Result<InodeId> {
        Ok(self.handle(fh)?.node.cx.inode)
    }

    /// One page of a directory.
    pub async fn readdir(
        &self,
        creds: &Credentials,
        inode: InodeId,
        after: DirCookie,
        max_entries: u32,
        with_attrs: bool,
    ) -> Result<DirPage> {
        self.ask(creds, ReadDir { inode, after, max_entries, with_attrs }).await
    }

    /// Space and inodes.
    pub async fn statfs(&self, creds: &Credentials) -> Result<FsStat> {
        self.ask(creds, StatFs {}).await
    }

    /// Sets an extended attribute.
    pub async fn setxattr(
        &self,
        creds: &Credentials,
        inode: InodeId,
        name: Bytes,
        value: Bytes,
        mode: XattrMode,
    ) -> Result<()> {
        self.ask(creds, SetXattr { inode, name, value, mode }).await
    }

    /// Value of an extended attribute.
    pub async fn getxattr(&self, creds: &Credentials, inode: InodeId, name: Bytes) -> Result<Bytes> {
        self.ask(creds, GetXattr { inode, name }).await
    }

    /// Names of the extended attributes.
    pub async fn listxattr(&self, creds: &Credentials, inode: InodeId) -> Result<Vec<Bytes>> {
        self.ask(creds, ListXattrs { inode }).await
    }

    /// Removes an extended attribute.
    pub async fn removexattr(&self, creds: &Credentials, inode: InodeId, name: Bytes) -> Result<()> {
        self.ask(creds, RemoveXattr { inode, name }).await
    }

    pub(crate) fn masters(&self) -> &Masters {
        &self.0.masters
    }

    /// Any other request of the protocol: totals, classes, status, administration.
    pub async fn request<O: MetaOp + Clone>(&self, creds: &Credentials, op: O) -> Result<O::Reply> {
        self.request_within(creds, op, self.0.masters.deadline()).await
    }

    /// The same with a time limit of its own, in place of the client's deadline.
    pub async fn request_within<O: MetaOp + Clone>(
        &self,
        creds: &Credentials,
        op: O,
        within: Duration,
    ) -> Result<O::Reply> {
        if matches!(O::KIND, OpKind::Server) {
            return Err(MetaError::Invalid("only chunkservers ask this".into()).into());
        }
        self.0.masters.call_within(creds, op, within).await
    }

    /// Flushes every open file and ends the session.
    pub(crate) async fn shutdown(&self, within: Duration) -> Result<()> {
        let handles: Vec<_> = self.0.handles.lock().values().cloned().collect();
        let mut first = Ok(());
        for h in handles {
            if let Err(e) = h.tell(h.node.flush().await) {
                tracing::error!(inode = %h.node.cx.inode, error = %e, "written data was lost at shutdown");
                first = first.and(Err(e));
            }
        }
        self.0.handles.lock().clear();
        let closed: std::result::Result<(), Error> = self.0.masters.close(within).await;
        first.and(closed)
    }
}
