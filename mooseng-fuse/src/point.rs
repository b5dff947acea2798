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
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
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
    match look_at(point)? {
        Found::Free(point) => return Ok(point),
        Found::Mounted => {
            let cause = "a MooseNG is mounted there already; unmount it first, or choose another directory";
            return Err(MountError::Point { point: point.into(), cause: cause.into() });
        }
        Found::Dead => clear_stale(point)?,
    }
    fit(point)
}

/// What is at a place where somebody wants to mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// An empty directory, by its full path.
    Free(PathBuf),
    /// A MooseNG that is served.
    Mounted,
    /// A mount whose process is gone; a start at this place clears it.
    Dead,
}

/// Looks at a place as [`Mount::start`](crate::Mount::start) does before it mounts there, and changes nothing. A mount
/// that is served is asked for its root, and may take its time.
///
/// Errors: it cannot be mounted on; why, and what to do.
pub fn look_at(point: &Path) -> Result<Found, MountError> {
    if is_dead(point) {
        return Ok(Found::Dead);
    }
    let is_ours = || {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        // The mount itself is no link, its place may be given as one.
        let place = point.canonicalize().or_else(|_| full(point)).ok()?;
        Some(type_at(&mounts, &place)? == OURS)
    };
    if is_ours() == Some(true) {
        return Ok(Found::Mounted);
    }
    fit(point).map(Found::Free)
}

/// Whether a mount is there that nobody serves any more.
fn is_dead(point: &Path) -> bool {
    fs::metadata(point).is_err_and(|e| e.raw_os_error() == Some(Errno::ENOTCONN as i32))
}

/// After a mount's end: it is taken away if it is still there. Another's, that came since, is not.
pub fn clear_dead(point: &Path) {
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

/// Takes away a mount of whatever process, also one that is dead. `lazy`: also while something is open there; it ends
/// when that is closed. Blocks until the kernel has let go; the mount's process ends then by itself.
///
/// Errors: nothing is mounted there, or nothing of ours ([`MountOptions::subtype`](crate::MountOptions::subtype) is
/// `mooseng`); it is in use; the kernel or fusermount3 refused.
pub fn unmount_any(point: &Path, lazy: bool) -> Result<(), MountError> {
    let failed = |cause| MountError::Unmount { point: point.into(), cause };
    let point = full(point).map_err(failed)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(failed)?;
    match type_at(&mounts, &point) {
        None => Err(MountError::NotMounted { point }),
        Some(kind) if kind != OURS => Err(MountError::Other { point, kind: kind.into() }),
        Some(_) if lazy => detach(&point).map_err(|cause| MountError::Unmount { point, cause }),
        Some(_) => unmount(&point),
    }
}

/// As the kernel shows our mounts.
const OURS: &str = "fuse.mooseng";

/// A path without links, not asking what is mounted there: it may be dead.
fn full(point: &Path) -> io::Result<PathBuf> {
    let point = std::path::absolute(point)?;
    match (point.parent(), point.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => Ok(point),
    }
}

/// Type of what was mounted last at a path, out of `/proc/self/mountinfo`.
fn type_at<'a>(mounts: &'a str, point: &Path) -> Option<&'a str> {
    let of = |line: &'a str| {
        let (mount, fs) = line.split_once(" - ")?;
        let at = unescaped(mount.split(' ').nth(4)?);
        (Path::new(OsStr::from_bytes(&at)) == point).then(|| fs.split(' ').next()).flatten()
    };
    mounts.lines().filter_map(of).next_back()
}

/// The kernel writes spaces, tabs, newlines and backslashes as three octal digits.
fn unescaped(text: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 8).ok()).filter(|_| *first == b'\\') {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
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
        assert_eq!(look_at(&dir).unwrap(), Found::Free(dir.canonicalize().unwrap()));
        let file = dir.join("file");
        fs::write(&file, "x").unwrap();
        assert!(said(&dir).contains("not empty"), "{}", said(&dir));
        assert!(said(&file).contains("not a directory"), "{}", said(&file));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn mounts_are_found_by_their_path_and_only_ours_are_taken_away() {
        let mounts = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      30 22 0:50 / /mnt/a\\040b rw,nosuid shared:7 - fuse.mooseng mooseng rw,user_id=0\n\
                      31 22 0:51 / /mnt/c rw - fuse.mooseng mooseng rw\n\
                      32 31 0:52 / /mnt/c rw - tmpfs tmpfs rw\n";
        let at = |p: &str| type_at(mounts, Path::new(p));
        assert_eq!((at("/mnt/a b"), at("/mnt"), at("/")), (Some(OURS), None, Some("ext4")));
        assert_eq!(at("/mnt/c"), Some("tmpfs"), "what was mounted last is on top");
        assert!(matches!(unmount_any(Path::new("/proc"), false), Err(MountError::Other { .. })));
        let dir = std::env::temp_dir();
        assert!(matches!(unmount_any(&dir.join("no-mount"), false), Err(MountError::NotMounted { .. })));
        assert!(matches!(unmount_any(&dir.join("no/such/dir"), true), Err(MountError::Unmount { .. })));
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
