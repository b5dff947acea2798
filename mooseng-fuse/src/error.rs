//! Why a mount does not come up or go away: the cause and the cure.

use std::{io, path::PathBuf, time::Duration};

/// Why a mount does not come up or go away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// No `/dev/fuse`.
    #[error(
        "this machine has no /dev/fuse: load the module (modprobe fuse), or give the container the device (--device /dev/fuse --cap-add SYS_ADMIN)"
    )]
    NoDevice,
    /// No `fusermount3`, and mounting without it is not permitted.
    #[error(
        "mounting is left to fusermount3, and it is not installed: install the package fuse3, or mount as root with CAP_SYS_ADMIN"
    )]
    NoHelper,
    /// The mount point cannot be used.
    #[error("cannot mount at {}: {cause}", .point.display())]
    Point {
        /// Where.
        point: PathBuf,
        /// Why, and what to do.
        cause: String,
    },
    /// A dead mount lies on the mount point and could not be taken away.
    #[error(
        "a mount at {} lost its process and could not be cleared ({cause}): run `fusermount3 -uz {}` as its owner, or `umount -l` as root", .point.display(), .point.display()
    )]
    Stale {
        /// Where.
        point: PathBuf,
        /// What was answered.
        cause: io::Error,
    },
    /// The kernel or fusermount3 refused.
    #[error("mounting at {} failed: {cause}", .point.display())]
    Refused {
        /// Where.
        point: PathBuf,
        /// What was answered.
        cause: io::Error,
    },
    /// `allow_other` without the administrator's leave.
    #[error(
        "allow_other is root's unless /etc/fuse.conf has the line `user_allow_other`: add it, or leave the option out"
    )]
    AllowOther,
    /// Mounted, and then the cluster did not answer.
    #[error(
        "mounted at {}, but the filesystem did not answer ({cause}); it was unmounted again: see whether the masters can be reached", .point.display()
    )]
    NoAnswer {
        /// Where.
        point: PathBuf,
        /// What was answered.
        cause: io::Error,
    },
    /// Something is open below the mount point.
    #[error(
        "{} is in use: close what is open there (`fuser -vm {}` tells who has it), or drop the mount to detach it", .point.display(), .point.display()
    )]
    Busy {
        /// Where.
        point: PathBuf,
    },
    /// Nothing is mounted there.
    #[error("nothing is mounted at {}: `findmnt -t fuse.mooseng` lists the mounts of this machine", .point.display())]
    NotMounted {
        /// Where.
        point: PathBuf,
    },
    /// What is mounted there is no MooseNG.
    #[error("what is mounted at {} is {kind}, no MooseNG: it is left alone (umount takes it away)", .point.display())]
    Other {
        /// Where.
        point: PathBuf,
        /// Type of the filesystem.
        kind: String,
    },
    /// Unmounting failed otherwise.
    #[error("unmounting {} failed: {cause}", .point.display())]
    Unmount {
        /// Where.
        point: PathBuf,
        /// What was answered.
        cause: io::Error,
    },
    /// The mount ended by itself.
    #[error("the mount at {} ended: {cause}", .point.display())]
    Ended {
        /// Where.
        point: PathBuf,
        /// Why.
        cause: String,
    },
    /// Requests were still under way after the unmount.
    #[error("{requests} requests were not done within {within:?} after the unmount")]
    Outstanding {
        /// How many.
        requests: usize,
        /// How long was waited.
        within: Duration,
    },
}
