//! Between the kernel's words and MooseNG's. Pure.

use fuser::{FileAttr, FileType, INodeNo, OpenAccMode, RenameFlags, TimeOrNow};
use mooseng_client::{Error, vfs};
use mooseng_core::{
    attr::{Attr, FileKind, SetTime, Timestamp},
    error::Errno,
    ids::InodeId,
    meta::{FsStat, RenameMode, XattrMode},
    name::Name,
};
use nix::fcntl::OFlag;
use nix::sys::stat::SFlag;
use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// What `stat` tells as the best size of a read: `cp` and `cat` read that much at once.
const IO_BYTES: u32 = 256 << 10;
/// Unit of `st_blocks`.
const STAT_BLOCK_BYTES: u64 = 512;
/// Unit in which `statfs` counts.
pub(crate) const FS_BLOCK_BYTES: u32 = 4096;
/// Linux' mark of an open for execve (`__FMODE_EXEC`), which it passes on with the flags.
const OPENED_FOR_EXEC: i32 = 0x20;

pub(crate) fn inode(ino: INodeNo) -> InodeId {
    InodeId(ino.0)
}

pub(crate) fn errno(e: &Error) -> fuser::Errno {
    fuser::Errno::from_i32(e.errno().raw())
}

pub(crate) fn name(name: &OsStr) -> Result<Name, Error> {
    Name::new(name.as_bytes()).map_err(|e| Error::Meta(e.into()))
}

pub(crate) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Dir => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDev => FileType::CharDevice,
        FileKind::BlockDev => FileType::BlockDevice,
    }
}

/// What mknod makes, by the type bits of its mode; none means a regular file.
pub(crate) fn kind_of_mode(mode: u32) -> Result<FileKind, Error> {
    match SFlag::from_bits_truncate(mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => Ok(FileKind::File),
        SFlag::S_IFIFO => Ok(FileKind::Fifo),
        SFlag::S_IFSOCK => Ok(FileKind::Socket),
        SFlag::S_IFCHR => Ok(FileKind::CharDev),
        SFlag::S_IFBLK => Ok(FileKind::BlockDev),
        none if none.is_empty() => Ok(FileKind::File),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn time(t: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(t.0.unsigned_abs());
    let there = if t.0 >= 0 { UNIX_EPOCH.checked_add(nanos) } else { UNIX_EPOCH.checked_sub(nanos) };
    there.unwrap_or(UNIX_EPOCH)
}

pub(crate) fn timestamp(t: SystemTime) -> Timestamp {
    let nanos = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    Timestamp(match t.duration_since(UNIX_EPOCH) {
        Ok(after) => nanos(after),
        Err(before) => -nanos(before.duration()),
    })
}

pub(crate) fn set_time(t: TimeOrNow) -> SetTime {
    match t {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(t) => SetTime::At(timestamp(t)),
    }
}

pub(crate) fn attr(a: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(a.inode.get()),
        size: a.size,
        blocks: a.allocated.div_ceil(STAT_BLOCK_BYTES),
        atime: time(a.atime),
        mtime: time(a.mtime),
        ctime: time(a.ctime),
        crtime: time(a.crtime),
        kind: file_type(a.kind),
        perm: (a.mode & 0o7777) as u16,
        nlink: a.nlink,
        uid: a.uid,
        gid: a.gid,
        rdev: a.rdev,
        blksize: IO_BYTES,
        flags: 0,
    }
}

pub(crate) fn rename_mode(flags: RenameFlags) -> Result<RenameMode, Error> {
    match flags {
        f if f.is_empty() => Ok(RenameMode::Replace),
        RenameFlags::RENAME_NOREPLACE => Ok(RenameMode::NoReplace),
        RenameFlags::RENAME_EXCHANGE => Ok(RenameMode::Exchange),
        _ => Err(Errno::EINVAL.into()),
    }
}

pub(crate) fn xattr_mode(flags: i32) -> Result<XattrMode, Error> {
    // XATTR_CREATE and XATTR_REPLACE of <sys/xattr.h>.
    match flags {
        0 => Ok(XattrMode::Set),
        1 => Ok(XattrMode::Create),
        2 => Ok(XattrMode::Replace),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Opening {
    pub flags: vfs::OpenFlags,
    pub exec: bool,
}

/// O_APPEND is left out: it can change while the file is open, so each write tells it.
pub(crate) fn opening(raw: i32) -> Opening {
    let f = OFlag::from_bits_retain(raw);
    let (read, write) = match fuser::OpenFlags(raw).acc_mode() {
        OpenAccMode::O_RDONLY => (true, false),
        OpenAccMode::O_WRONLY => (false, true),
        OpenAccMode::O_RDWR => (true, true),
    };
    let flags = vfs::OpenFlags {
        read,
        write,
        append: false,
        truncate: f.contains(OFlag::O_TRUNC),
        create: f.contains(OFlag::O_CREAT),
        exclusive: f.contains(OFlag::O_EXCL),
    };
    Opening { flags, exec: raw & OPENED_FOR_EXEC != 0 }
}

/// Numbers of `statfs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Space {
    pub blocks: u64,
    pub free: u64,
    pub files: u64,
    pub free_files: u64,
}

/// Space counts raw bytes of the disks: a file takes as many as it has copies. Inodes have no limit
/// of their own; one per free block is told as free.
pub(crate) fn space(s: &FsStat) -> Space {
    let block = u64::from(FS_BLOCK_BYTES);
    let free = s.free_bytes / block;
    Space { blocks: s.total_bytes / block, free, files: s.inodes.saturating_add(free), free_files: free }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_there_and_back_on_both_sides_of_1970() {
        for nanos in [0, 1, -1, 1_700_000_000_123_456_789, -86_400_000_000_001, i64::MAX, i64::MIN + 1] {
            assert_eq!(timestamp(time(Timestamp(nanos))), Timestamp(nanos));
        }
    }

    #[test]
    fn opens_are_read_from_their_flags() {
        let flags = |f: OFlag| opening(f.bits());
        let o = flags(OFlag::O_RDWR | OFlag::O_TRUNC | OFlag::O_APPEND).flags;
        assert!(o.read && o.write && o.truncate && !o.append && !o.create);
        let o = flags(OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL).flags;
        assert!(!o.read && o.write && o.create && o.exclusive);
        assert!(flags(OFlag::O_RDONLY).flags.read && !flags(OFlag::O_RDONLY).exec);
        assert!(opening(OPENED_FOR_EXEC).exec);
    }

    #[test]
    fn renames_with_unknown_flags_are_refused() {
        assert_eq!(rename_mode(RenameFlags::empty()).unwrap(), RenameMode::Replace);
        assert_eq!(rename_mode(RenameFlags::RENAME_NOREPLACE).unwrap(), RenameMode::NoReplace);
        assert_eq!(rename_mode(RenameFlags::RENAME_EXCHANGE).unwrap(), RenameMode::Exchange);
        let both = RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE;
        for flags in [both, RenameFlags::RENAME_WHITEOUT, RenameFlags::from_bits_retain(1 << 20)] {
            assert_eq!(rename_mode(flags).unwrap_err().errno(), Errno::EINVAL);
        }
    }

    #[test]
    fn mknod_takes_its_kind_from_the_mode() {
        assert_eq!(kind_of_mode(0o644).unwrap(), FileKind::File);
        assert_eq!(kind_of_mode(0o100_644).unwrap(), FileKind::File);
        assert_eq!(kind_of_mode(0o010_644).unwrap(), FileKind::Fifo);
        assert_eq!(kind_of_mode(0o140_644).unwrap(), FileKind::Socket);
        assert_eq!(kind_of_mode(0o020_644).unwrap(), FileKind::CharDev);
        assert_eq!(kind_of_mode(0o060_644).unwrap(), FileKind::BlockDev);
        assert_eq!(kind_of_mode(0o040_755).unwrap_err().errno(), Errno::EINVAL);
    }
}
