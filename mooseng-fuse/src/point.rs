//! The directory that is mounted on, and the machine around it. Blocking: not for the runtime's
//! threads.

use crate::error::MountError;
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sys::stat::{major, minor},
    unistd::geteuid,
};
use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

pub(crate) const DEVICE: &str = "/dev/fuse";
pub(crate) const HELPER: &str = "fusermount3";

/// The mount point's full path, when it can be mounted on. What a dead mount left there is cleared.
pub(crate) fn prepare(point: &Path) -> Result<PathBuf, MountError> {
    if !Path::new(DEVICE).exists() {
        return Err(MountError::NoDevice);
    }
    if is_dead(point) {
        clear_stale(point)?;
    }
    fit(point)
}

/// Whether a mount is there that nobody serves any more.
fn is_dead(point: &Path) -> bool {
    fs::metadata(point).is_err_and(|e| e.raw_os_error() == Some(Errno::ENOTCONN as i32))
}

/// After a session: its mount is taken away if it is still there. Another's, that came since, is not.
pub(crate) fn clear_dead(point: &Path) {
    if is_dead(point)
        && let Err(e) = clear_stale(point)
    {
        tracing::warn!(error = %e, "a dead mount stays");
    }
}

fn fit(point: &Path) -> Result<PathBuf, MountError> {
    let wrong = |cause: &str| MountError::Point { point: point.into(), cause: cause.into() };
    let found = fs::metadata(point).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => wrong("there is no such directory; make it first"),
        _ => wrong(&e.to_string()),
    })?;
    if !found.is_dir() {
        return Err(wrong("it is not a directory; choose one"));
    }
    let mut entries = fs::read_dir(point).map_err(|e| wrong(&e.to_string()))?;
    if entries.next().is_some() {
        return Err(wrong(
            "the directory is not empty, and what is in it would be hidden; choose an empty one",
        ));
    }
    point.canonicalize().map_err(|e| wrong(&e.to_string()))
}

/// Takes a mount away whose process is gone: whatever is asked of it answers ENOTCONN.
fn clear_stale(point: &Path) -> Result<(), MountError> {
    tracing::info!(point = %point.display(), "a mount without its process is cleared");
    detach(point).map_err(|cause| MountError::Stale { point: point.into(), cause })
}

/// What fuser answered, with its cure.
pub(crate) fn refused(point: &Path, cause: io::Error) -> MountError {
    match cause.kind() {
        io::ErrorKind::NotFound => MountError::NoHelper,
        _ if cause.to_string().contains("user_allow_other") => MountError::AllowOther,
        _ => MountError::Refused { point: point.into(), cause },
    }
}

/// Unmounts when nothing is open there, and fails with EBUSY otherwise.
pub(crate) fn unmount(point: &Path) -> Result<(), MountError> {
    take_away(point, MntFlags::UMOUNT_NOFOLLOW, "-u").map_err(|cause| match cause.kind() {
        io::ErrorKind::ResourceBusy => MountError::Busy { point: point.into() },
        _ => MountError::Unmount { point: point.into(), cause },
    })
}

/// Takes the mount out of the tree now; it ends when the last file in it is closed.
pub(crate) fn detach(point: &Path) -> io::Result<()> {
    take_away(point, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH, "-uz")
}

fn take_away(point: &Path, flags: MntFlags, helper_flags: &str) -> io::Result<()> {
    match umount2(point, flags) {
        Ok(()) => Ok(()),
        // Only root may by itself; fusermount3 may for who has mounted.
        Err(Errno::EPERM) if !geteuid().is_root() => by_helper(point, helper_flags),
        Err(e) => Err(e.into()),
    }
}

fn by_helper(point: &Path, flags: &str) -> io::Result<()> {
    let out = Command::new(HELPER).arg(flags).arg("--").arg(point).output()?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    let busy = said.contains("busy");
    Err(io::Error::new(if busy { io::ErrorKind::ResourceBusy } else { io::ErrorKind::Other }, said))
}

/// Whether the mounted filesystem answers: asks for its root's attributes.
pub(crate) fn answers(point: &Path) -> io::Result<()> {
    fs::metadata(point).map(drop)
}

/// Lets the kernel read further ahead of mapped files: best effort, for it takes root.
pub(crate) fn set_read_ahead(point: &Path, kib: u32) {
    let set = fs::metadata(point).and_then(|m| {
        let device = format!("{}:{}", major(m.dev()), minor(m.dev()));
        fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), kib.to_string())
    });
    if let Err(e) = set {
        tracing::debug!(error = %e, "the kernel's read-ahead stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfit_mount_points_are_refused_with_what_to_do() {
        let dir = std::env::temp_dir().join(format!("mooseng-point-{}", std::process::id()));
        let said = |p: &Path| fit(p).unwrap_err().to_string();
        assert!(said(&dir).contains("no such directory"), "{}", said(&dir));
        fs::create_dir(&dir).unwrap();
        assert_eq!(fit(&dir).unwrap(), dir.canonicalize().unwrap());
        let file = dir.join("file");
        fs::write(&file, "x").unwrap();
        assert!(said(&dir).contains("not empty"), "{}", said(&dir));
        assert!(said(&file).contains("not a directory"), "{}", said(&file));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_fuser_says_gets_its_cure() {
        let p = Path::new("/mnt");
        assert!(matches!(refused(p, io::ErrorKind::NotFound.into()), MountError::NoHelper));
        let said =
            "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf";
        assert!(matches!(refused(p, io::Error::other(said)), MountError::AllowOther));
        assert!(matches!(refused(p, io::Error::other("else")), MountError::Refused { .. }));
    }
}
