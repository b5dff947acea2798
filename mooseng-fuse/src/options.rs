//! How a filesystem is mounted.

use crate::observe::{Nobody, Observer};
use std::{sync::Arc, time::Duration};

/// How a filesystem is mounted. Everything has a default; change what differs.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Nothing can be changed through the mount.
    pub read_only: bool,
    /// Other users than the one who mounts may use it. Who is not root needs `user_allow_other` in
    /// `/etc/fuse.conf` for this.
    pub allow_other: bool,
    /// Programs cannot be run from the mount.
    pub no_exec: bool,
    /// What stands first in `/proc/mounts` and in `df`. A line of fstab is known to be mounted by this and its mount
    /// point: it must be what the line has there.
    pub fs_name: String,
    /// The filesystem's type is shown as `fuse.` and this.
    pub subtype: String,
    /// Reads and writes go past the kernel's page cache. Where the kernel cannot map such files
    /// (before Linux 6.6), and when this is off, pages go through its cache and attributes are
    /// asked for at each read.
    pub direct_io: bool,
    /// What the kernel may read ahead of a mapped file, in KiB. Raising it is tried and left when
    /// this process may not.
    pub read_ahead_kib: u32,
    /// Longest time until a request is answered, with `ETIMEDOUT` then: processes cannot be killed
    /// while they wait. Longer than a call of the client (30 s), since some requests are several.
    pub request_deadline: Duration,
    /// Who hears what the mount does; nobody unless said.
    pub observer: Arc<dyn Observer>,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            allow_other: false,
            no_exec: false,
            fs_name: "mooseng".into(),
            subtype: "mooseng".into(),
            direct_io: true,
            read_ahead_kib: 1024,
            request_deadline: Duration::from_secs(90),
            observer: Arc::new(Nobody),
        }
    }
}
