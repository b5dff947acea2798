//! The kernel's requests, one callback each: words are translated, the work is the client's.

use crate::{
    convert::{self, inode, name},
    observe::RequestKind as Kind,
    shared::Shared,
};
use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use mooseng_client::{Error, Vfs, vfs};
use mooseng_core::{
    attr::{Access, Attr, SetAttr},
    context::Credentials,
    error::Errno,
    limits::{FRAME_BYTES_MAX, NAME_BYTES_MAX},
};
use nix::fcntl::OFlag;
use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// How long the kernel may believe names and attributes: not at all, until leases say otherwise.
const LIFETIME: Duration = Duration::ZERO;
/// File capabilities: a write would have to take them away, and the masters do not.
const CAPABILITIES: &[u8] = b"security.capability";
/// Background requests (read-ahead, write-back of mapped pages) that the kernel sends at once.
const BACKGROUND_MAX: u16 = 64;

/// The filesystem as fuser sees it.
#[derive(Debug)]
pub(crate) struct Adapter {
    shared: Arc<Shared>,
    direct_io: bool,
}

fn generation(a: &Attr) -> Generation {
    Generation(a.generation.get())
}

fn entry(reply: ReplyEntry, a: Attr) {
    reply.entry(&LIFETIME, &convert::attr(&a), generation(&a));
}

fn done(reply: ReplyEmpty, (): ()) {
    reply.ok();
}

fn xattr(reply: ReplyXattr, size: u32, value: &[u8]) {
    match (size, u32::try_from(value.len())) {
        (0, Ok(len)) => reply.size(len),
        (_, Ok(len)) if len <= size => reply.data(value),
        _ => reply.error(fuser::Errno::ERANGE),
    }
}

impl Adapter {
    pub(crate) fn new(shared: Arc<Shared>, direct_io: bool) -> Self {
        Self { shared, direct_io }
    }

    fn who(&self, req: &Request) -> (Vfs, Credentials) {
        (self.shared.vfs.clone(), self.shared.groups.of(req))
    }

    fn handle(fh: FileHandle) -> vfs::FileHandle {
        vfs::FileHandle(fh.0)
    }

    /// Reads past the page cache see what another mount wrote, and nothing is kept from one open to
    /// the next in any case. A handle that cannot write has nothing to flush.
    fn open_flags(&self, writes: bool) -> FopenFlags {
        let direct = if self.direct_io { FopenFlags::FOPEN_DIRECT_IO } else { FopenFlags::empty() };
        if writes { direct } else { direct | FopenFlags::FOPEN_NOFLUSH }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // AUTO_INVAL_DATA: pages in the kernel's cache (mapped files; all reads without direct I/O)
        // go when size or modification time is seen to have changed.
        // CACHE_SYMLINKS: a symbolic link never changes, and its number is never used again.
        // HANDLE_KILLPRIV_V2: who writes, cuts or gives a file away takes its set-user-id with it.
        // The masters see to that for owner, size and content; `privileged` for the first write,
        // whose content they hear of later. File capabilities cannot be stored, so none is left.
        let wanted = [
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_CACHE_SYMLINKS,
        ];
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!(?flag, "the kernel does not know this");
            }
        }
        let can_map = config.add_capabilities(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP).is_ok();
        self.direct_io &= can_map;
        if let Err(nearest) = config.set_max_write(FRAME_BYTES_MAX as u32) {
            tracing::debug!(nearest, "writes have another size");
        }
        if let Err(nearest) = config.set_max_background(BACKGROUND_MAX) {
            tracing::debug!(nearest, "fewer background requests");
        }
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEntry) {
        let ((vfs, creds), child) = (self.who(req), name(child));
        let work = async move { vfs.lookup(&creds, inode(parent), &child?).await };
        self.shared.server.serve(Kind::Lookup, reply, work, entry);
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let (vfs, creds) = self.who(req);
        let work = async move { vfs.getattr(&creds, inode(ino)).await };
        self.shared.server.serve(Kind::GetAttr, reply, work, |r, a| r.attr(&LIFETIME, &convert::attr(&a)));
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (vfs, creds) = self.who(req);
        let (atime, mtime) = (atime.map(convert::set_time), mtime.map(convert::set_time));
        let set = SetAttr { mode: mode.map(|m| m & 0o7777), uid, gid, size, atime, mtime };
        let shared = self.shared.clone();
        let work = async move {
            if set == SetAttr::default() {
                return vfs.getattr(&creds, inode(ino)).await;
            }
            if let Some(fh) = fh.filter(|_| size.is_some() && !creds.is_root()) {
                shared.drop_privileges(Self::handle(fh)).await?;
            }
            vfs.setattr(&creds, inode(ino), set, fh.map(Self::handle)).await
        };
        self.shared.server.serve(Kind::SetAttr, reply, work, |r, a| r.attr(&LIFETIME, &convert::attr(&a)));
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        let (vfs, creds) = self.who(req);
        let work = async move { vfs.readlink(&creds, inode(ino)).await };
        self.shared.server.serve(Kind::ReadLink, reply, work, |r, target| r.data(&target));
    }

    // The kernel has taken the umask away from every mode already (DONT_MASK is not asked for).

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        child: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let ((vfs, creds), child) = (self.who(req), name(child));
        let work = async move {
            let kind = convert::kind_of_mode(mode)?;
            vfs.mknod(&creds, inode(parent), &child?, kind, mode & 0o7777, rdev).await
        };
        self.shared.server.serve(Kind::MkNod, reply, work, entry);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        child: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let ((vfs, creds), child) = (self.who(req), name(child));
        let work = async move { vfs.mkdir(&creds, inode(parent), &child?, mode & 0o7777).await };
        self.shared.server.serve(Kind::MkDir, reply, work, entry);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        let ((vfs, creds), child) = (self.who(req), name(child));
        let work = async move { vfs.unlink(&creds, inode(parent), &child?).await };
        self.shared.server.serve(Kind::Unlink, reply, work, done);
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        let ((vfs, creds), child) = (self.who(req), name(child));
        let work = async move { vfs.rmdir(&creds, inode(parent), &child?).await };
        self.shared.server.serve(Kind::RmDir, reply, work, done);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, child: &OsStr, target: &Path, reply: ReplyEntry) {
        let ((vfs, creds), child) = (self.who(req), name(child));
        let target = Bytes::copy_from_slice(target.as_os_str().as_bytes());
        let work = async move { vfs.symlink(&creds, inode(parent), &child?, target).await };
        self.shared.server.serve(Kind::SymLink, reply, work, entry);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        from: &OsStr,
        new_parent: INodeNo,
        to: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let ((vfs, creds), from, to) = (self.who(req), name(from), name(to));
        let work = async move {
            let mode = convert::rename_mode(flags)?;
            vfs.rename(&creds, (inode(parent), &from?), (inode(new_parent), &to?), mode).await
        };
        self.shared.server.serve(Kind::Rename, reply, work, done);
    }

    fn link(&self, req: &Request, ino: INodeNo, parent: INodeNo, child: &OsStr, reply: ReplyEntry) {
        let ((vfs, creds), child) = (self.who(req), name(child));
        let work = async move { vfs.link(&creds, inode(ino), inode(parent), &child?).await };
        self.shared.server.serve(Kind::Link, reply, work, entry);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (vfs, creds) = self.who(req);
        let (shared, how) = (self.shared.clone(), convert::opening(flags.0));
        let told = self.open_flags(how.flags.write || how.flags.truncate);
        let work = async move {
            let opener = if how.exec {
                // Who may execute a file may have it read for that, if not for other ends.
                vfs.access(&creds, inode(ino), Access::EXEC).await?;
                Credentials::root()
            } else {
                creds
            };
            let (attr, fh) = vfs.open(&opener, inode(ino), how.flags).await?;
            shared.opened(fh, &attr);
            Ok(fh)
        };
        self.shared.server.serve(Kind::Open, reply, work, move |r, fh| r.opened(FileHandle(fh.0), told));
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        child: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let ((vfs, creds), child) = (self.who(req), name(child));
        let (shared, flags) = (self.shared.clone(), convert::opening(flags).flags);
        let told = self.open_flags(flags.write || flags.truncate);
        let work = async move {
            let made = vfs.create(&creds, inode(parent), &child?, mode & 0o7777, flags).await?;
            shared.opened(made.1, &made.0);
            Ok(made)
        };
        self.shared.server.serve(Kind::Create, reply, work, move |r, (a, fh)| {
            r.created(&LIFETIME, &convert::attr(&a), generation(&a), FileHandle(fh.0), told);
        });
    }

    fn read(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        at: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (vfs, fh) = (self.shared.vfs.clone(), Self::handle(fh));
        let work = async move { vfs.read_current(fh, at, size.into()).await };
        let observer = self.shared.server.observer().clone();
        self.shared.server.serve(Kind::Read, reply, work, move |r, data| {
            observer.read(data.len());
            r.data(&data);
        });
    }

    /// The kernel sends the writes of one inode one after the other (it holds the inode's lock, and
    /// PARALLEL_DIRECT_WRITES is not set), except for the pieces of one asynchronous direct write,
    /// which do not overlap: the order in which they arrive is the order in which they count.
    fn write(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        at: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (shared, vfs, fh) = (self.shared.clone(), self.shared.vfs.clone(), Self::handle(fh));
        let flags = OFlag::from_bits_retain(flags.0);
        // Mapped pages go where they belong, through whatever handle.
        let append = flags.contains(OFlag::O_APPEND) && !write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let synced = flags.contains(OFlag::O_DSYNC);
        let unprivileged = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let data = Bytes::copy_from_slice(data);
        let (bytes, observer) = (data.len(), self.shared.server.observer().clone());
        let work = async move {
            if unprivileged {
                shared.drop_privileges(fh).await?;
            }
            let written = if append {
                // The next append, from whichever mount, is to find this one.
                let written = vfs.append(fh, data).await?;
                vfs.flush(fh).await?;
                written
            } else {
                vfs.write(fh, at, data).await?
            };
            if synced {
                vfs.fsync(fh).await?;
            }
            u32::try_from(written).map_err(|_| Error::from(Errno::EINVAL))
        };
        self.shared.server.serve_bytes(Kind::Write, reply, bytes, work, move |r, n| {
            observer.written(n as usize);
            r.written(n);
        });
    }

    fn flush(&self, _: &Request, _ino: INodeNo, fh: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        let (vfs, fh) = (self.shared.vfs.clone(), Self::handle(fh));
        self.shared.server.serve(Kind::Flush, reply, async move { vfs.flush(fh).await }, done);
    }

    fn fsync(&self, _: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let (vfs, fh) = (self.shared.vfs.clone(), Self::handle(fh));
        self.shared.server.serve(Kind::Fsync, reply, async move { vfs.fsync(fh).await.map(drop) }, done);
    }

    fn release(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let (vfs, fh) = (self.shared.vfs.clone(), Self::handle(fh));
        self.shared.closed(fh);
        self.shared.server.serve(Kind::Release, reply, async move { vfs.release(fh).await }, done);
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let ((vfs, creds), shared) = (self.who(req), self.shared.clone());
        let work = async move {
            vfs.access(&creds, inode(ino), Access::READ).await?;
            Ok(shared.open_dir(inode(ino)))
        };
        self.shared
            .server
            .serve(Kind::OpenDir, reply, work, |r, fh| r.opened(FileHandle(fh), FopenFlags::empty()));
    }

    fn readdir(&self, _: &Request, _ino: INodeNo, fh: FileHandle, from: u64, reply: ReplyDirectory) {
        let (vfs, dir) = (self.shared.vfs.clone(), self.shared.dir(fh.0));
        let work = async move { dir.ok_or(Errno::EBADF)?.list(&vfs, from).await };
        self.shared.server.serve(Kind::ReadDir, reply, work, |r, listing| listing.tell(r));
    }

    fn releasedir(&self, _: &Request, _ino: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.shared.close_dir(fh.0);
        reply.ok();
    }

    /// Names are on a quorum of masters' disks when the call that made them returns.
    fn fsyncdir(&self, _: &Request, _ino: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let (vfs, creds) = self.who(req);
        let work = async move { vfs.statfs(&creds).await };
        self.shared.server.serve(Kind::StatFs, reply, work, |r, s| {
            let s = convert::space(&s);
            let block = convert::FS_BLOCK_BYTES;
            r.statfs(s.blocks, s.free, s.free, s.files, s.free_files, block, NAME_BYTES_MAX as u32, block);
        });
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        key: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (vfs, creds) = self.who(req);
        let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value));
        let work =
            async move { vfs.setxattr(&creds, inode(ino), key, value, convert::xattr_mode(flags)?).await };
        self.shared.server.serve(Kind::SetXattr, reply, work, done);
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, key: &OsStr, size: u32, reply: ReplyXattr) {
        let (vfs, creds) = self.who(req);
        let key = Bytes::copy_from_slice(key.as_bytes());
        let work = async move {
            if key == CAPABILITIES {
                return Err(Errno::ENODATA.into());
            }
            vfs.getxattr(&creds, inode(ino), key).await
        };
        self.shared.server.serve(Kind::GetXattr, reply, work, move |r, value| xattr(r, size, &value));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let (vfs, creds) = self.who(req);
        let work = async move { vfs.listxattr(&creds, inode(ino)).await };
        self.shared.server.serve(Kind::ListXattr, reply, work, move |r, names| {
            let mut list = Vec::new();
            for name in names {
                list.extend_from_slice(&name);
                list.push(0);
            }
            xattr(r, size, &list);
        });
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, key: &OsStr, reply: ReplyEmpty) {
        let (vfs, creds) = self.who(req);
        let key = Bytes::copy_from_slice(key.as_bytes());
        let work = async move { vfs.removexattr(&creds, inode(ino), key).await };
        self.shared.server.serve(Kind::RemoveXattr, reply, work, done);
    }

    fn access(&self, req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let (vfs, creds) = self.who(req);
        let access = Access((mask.bits() & 7) as u8);
        let work = async move { vfs.access(&creds, inode(ino), access).await };
        self.shared.server.serve(Kind::Access, reply, work, done);
    }

    // The kernel remembers ENOSYS and does without: holes are told as data, a preallocation as not
    // supported (no space is set aside, so to say otherwise would be untrue).

    fn lseek(
        &self,
        _: &Request,
        _ino: INodeNo,
        _: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: fuser::ReplyLseek,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        _: &Request,
        _ino: INodeNo,
        _: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }
}
