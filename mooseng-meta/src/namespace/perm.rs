//! POSIX permission checks. Pure.

use super::Res;
use crate::store::InodeRec;
use mooseng_core::{
    attr::{Access, FileKind},
    context::Credentials,
    error::Errno,
};

/// Whether the caller has all of `access` to an inode: EACCES when not. The superuser may all,
/// except execute a file that nobody may execute.
pub fn may(creds: &Credentials, rec: &InodeRec, access: Access) -> Res<()> {
    let granted = if creds.is_root() {
        let exec = rec.kind == FileKind::Dir || rec.mode & 0o111 != 0;
        if exec { 7 } else { 6 }
    } else if creds.uid == rec.uid {
        rec.mode >> 6
    } else if creds.in_group(rec.gid) {
        rec.mode >> 3
    } else {
        rec.mode
    };
    if granted as u8 & access.0 == access.0 { Ok(()) } else { Err(Errno::EACCES.into()) }
}

/// Whether the caller may open a file for `access`.
pub fn may_open(creds: &Credentials, rec: &InodeRec, access: Access) -> Res<()> {
    if rec.kind == FileKind::Dir && access.has(Access::WRITE) {
        return Err(Errno::EISDIR.into());
    }
    may(creds, rec, access)
}

/// EPERM unless the caller owns the inode.
pub(super) fn must_own(creds: &Credentials, rec: &InodeRec) -> Res<()> {
    if creds.is_root() || creds.uid == rec.uid { Ok(()) } else { Err(Errno::EPERM.into()) }
}

/// In a sticky directory only the owners of the entry and of the directory may remove or rename it.
pub(super) fn sticky(creds: &Credentials, dir: &InodeRec, victim: &InodeRec) -> Res<()> {
    let free = dir.mode & 0o1000 == 0 || creds.is_root() || creds.uid == dir.uid || creds.uid == victim.uid;
    if free { Ok(()) } else { Err(Errno::EPERM.into()) }
}
