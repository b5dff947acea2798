//! A FUSE filesystem that does nothing: names and sizes in memory, writes are dropped, reads are
//! sevens, which is what metabench writes. What it reaches on a machine no mount there can pass: the
//! benchmark's second ceiling.

use anyhow::{Context as _, Result};
use clap::Parser;
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsStr, OsString},
    io,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

/// Mounts a filesystem that does nothing, until it is unmounted.
#[derive(Parser)]
struct Args {
    /// Where.
    dir: PathBuf,
    /// How long the kernel may believe names and attributes, in milliseconds.
    #[arg(long, default_value_t = 0)]
    lifetime_ms: u64,
    /// Reads and writes go through the kernel's page cache.
    #[arg(long)]
    buffered: bool,
}

struct Node {
    attr: FileAttr,
    entries: BTreeMap<OsString, u64>,
}

#[derive(Default)]
struct Tree {
    nodes: HashMap<u64, Node>,
    last: u64,
}

struct NullFs {
    lifetime: Duration,
    open: FopenFlags,
    tree: Mutex<Tree>,
    content: Vec<u8>,
}

fn attr(ino: u64, kind: FileType, perm: u16, req: (u32, u32)) -> FileAttr {
    let now = SystemTime::now();
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: now,
        kind,
        perm,
        nlink: 1,
        uid: req.0,
        gid: req.1,
        rdev: 0,
        blksize: 256 << 10,
        flags: 0,
    }
}

impl Tree {
    fn get(&mut self, ino: INodeNo) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&ino.0).ok_or(Errno::ENOENT)
    }

    fn child(&mut self, dir: INodeNo, name: &OsStr) -> Result<u64, Errno> {
        self.get(dir)?.entries.get(name).copied().ok_or(Errno::ENOENT)
    }

    fn make(&mut self, dir: INodeNo, name: &OsStr, a: FileAttr) -> Result<FileAttr, Errno> {
        self.last += 1;
        let ino = self.last;
        let a = FileAttr { ino: INodeNo(ino), ..a };
        self.get(dir)?.entries.insert(name.into(), ino);
        self.nodes.insert(ino, Node { attr: a, entries: BTreeMap::new() });
        Ok(a)
    }

    fn remove(&mut self, dir: INodeNo, name: &OsStr) -> Result<(), Errno> {
        let ino = self.child(dir, name)?;
        if self.nodes.get(&ino).is_some_and(|n| !n.entries.is_empty()) {
            return Err(Errno::ENOTEMPTY);
        }
        self.nodes.remove(&ino);
        self.get(dir)?.entries.remove(name);
        Ok(())
    }
}

impl NullFs {
    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, reply: ReplyEntry, made: Result<FileAttr, Errno>) {
        match made {
            Ok(a) => reply.entry(&self.lifetime, &a, Generation(0)),
            Err(e) => reply.error(e),
        }
    }

    fn done(reply: ReplyEmpty, done: Result<(), Errno>) {
        match done {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }
}

impl Filesystem for NullFs {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in [
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ] {
            config.add_capabilities(flag).ok();
        }
        config.set_max_write(1 << 20).ok();
        config.set_max_background(64).ok();
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut t = self.tree();
        let found = t.child(parent, name).and_then(|ino| t.get(INodeNo(ino)).map(|n| n.attr));
        self.entry(reply, found);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.tree().get(ino) {
            Ok(n) => reply.attr(&self.lifetime, &n.attr),
            Err(e) => reply.error(e),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.tree().get(ino) {
            Ok(n) => {
                n.attr.size = size.unwrap_or(n.attr.size);
                n.attr.perm = mode.map_or(n.attr.perm, |m| (m & 0o7777) as u16);
                reply.attr(&self.lifetime, &n.attr);
            }
            Err(e) => reply.error(e),
        }
    }

    fn mkdir(&self, r: &Request, dir: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let a = attr(0, FileType::Directory, (mode & 0o7777) as u16, (r.uid(), r.gid()));
        let made = self.tree().make(dir, name, a);
        self.entry(reply, made);
    }

    fn unlink(&self, _: &Request, dir: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.tree().remove(dir, name);
        Self::done(reply, done);
    }

    fn rmdir(&self, _: &Request, dir: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.tree().remove(dir, name);
        Self::done(reply, done);
    }

    fn rename(
        &self,
        _: &Request,
        dir: INodeNo,
        name: &OsStr,
        new_dir: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut t = self.tree();
        let done = t.child(dir, name).and_then(|ino| {
            t.get(dir)?.entries.remove(name);
            t.get(new_dir)?.entries.insert(new_name.into(), ino);
            Ok(())
        });
        Self::done(reply, done);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), self.open);
    }

    fn create(&self, r: &Request, dir: INodeNo, name: &OsStr, mode: u32, _: u32, _: i32, reply: ReplyCreate) {
        let a = attr(0, FileType::RegularFile, (mode & 0o7777) as u16, (r.uid(), r.gid()));
        match self.tree().make(dir, name, a) {
            Ok(a) => reply.created(&self.lifetime, &a, Generation(0), FileHandle(0), self.open),
            Err(e) => reply.error(e),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        at: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let len = self.tree().get(ino).map_or(0, |n| n.attr.size);
        let n = len.saturating_sub(at).min(size.into()).min(self.content.len() as u64);
        reply.data(&self.content[..n as usize]);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        at: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if let Ok(n) = self.tree().get(ino) {
            n.attr.size = n.attr.size.max(at + data.len() as u64);
        }
        reply.written(data.len() as u32);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, from: u64, mut reply: ReplyDirectory) {
        let mut t = self.tree();
        let names: Vec<_> = match t.get(ino) {
            Ok(n) => n.entries.iter().skip(from as usize).map(|(k, v)| (k.clone(), *v)).collect(),
            Err(e) => return reply.error(e),
        };
        for (i, (name, child)) in names.into_iter().enumerate() {
            let kind = t.get(INodeNo(child)).map_or(FileType::RegularFile, |n| n.attr.kind);
            if reply.add(INodeNo(child), from + i as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 30, 1 << 30, 1 << 30, 1 << 30, 1 << 30, 4096, 255, 4096);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let open = if args.buffered { FopenFlags::empty() } else { FopenFlags::FOPEN_DIRECT_IO };
    let mut tree = Tree { last: 1, ..Tree::default() };
    let root = attr(1, FileType::Directory, 0o755, (0, 0));
    tree.nodes.insert(1, Node { attr: root, entries: BTreeMap::new() });
    let lifetime = Duration::from_millis(args.lifetime_ms);
    let fs = NullFs { lifetime, open, tree: Mutex::new(tree), content: vec![7; 1 << 20] };
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("nullfs".into()), MountOption::Subtype("null".into())];
    fuser::mount(fs, &args.dir, &config).with_context(|| format!("mounting at {}", args.dir.display()))
}
