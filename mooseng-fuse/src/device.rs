//! The kernel's end of a mount: mounts, and gives what requests are read from. Blocking: not for the
//! runtime's threads.
//!
//! fuser can mount by itself, and then unmounts *by path* when its session ends: after a lazy unmount
//! that takes away whoever was mounted there since. What is mounted here is let go by the kernel alone.

use crate::{options::MountOptions, point};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    unistd::{getegid, geteuid},
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::{
    fs::{self, File},
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{fs::MetadataExt as _, net::UnixStream},
    },
    path::Path,
    process::{Command, Stdio},
};

/// Mounts at `point`: by itself where that is permitted, else by fusermount3.
pub(crate) fn mounted(point: &Path, options: &MountOptions) -> io::Result<OwnedFd> {
    if geteuid().is_root() {
        match by_syscall(point, options) {
            // Root of a container without CAP_SYS_ADMIN.
            Err(e) if e.raw_os_error() == Some(Errno::EPERM as i32) => {}
            other => return other,
        }
    }
    by_helper(point, options)
}

fn by_syscall(point: &Path, options: &MountOptions) -> io::Result<OwnedFd> {
    let device = File::options().read(true).write(true).open(point::DEVICE)?;
    let mut data = format!(
        "fd={},rootmode={:o},user_id={},group_id={},subtype={}",
        device.as_raw_fd(),
        fs::metadata(point)?.mode(),
        geteuid(),
        getegid(),
        options.subtype
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    flags.set(MsFlags::MS_RDONLY, options.read_only);
    flags.set(MsFlags::MS_NOEXEC, options.no_exec);
    mount(Some(options.fs_name.as_str()), point, Some("fuse"), flags, Some(data.as_str()))?;
    Ok(device.into())
}

/// fusermount3 opens the device and sends it through the socket that it is told of.
fn by_helper(point: &Path, options: &MountOptions) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    let child = Command::new(point::HELPER)
        .args(["-o", &helper_options(options), "--"])
        .arg(point)
        .env("_FUSE_COMMFD", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let device = received(&ours);
    let out = child.wait_with_output()?;
    match device {
        Ok(Some(device)) => Ok(device),
        _ if !out.status.success() => {
            Err(io::Error::other(String::from_utf8_lossy(&out.stderr).trim().to_owned()))
        }
        Ok(None) => Err(io::Error::other(format!("{} sent no device", point::HELPER))),
        Err(e) => Err(e),
    }
}

fn helper_options(options: &MountOptions) -> String {
    // What separates options is escaped in their values.
    let value = |s: &str| s.replace('\\', "\\\\").replace(',', "\\,");
    format!(
        "fsname={},subtype={},{}{}{}",
        value(&options.fs_name),
        value(&options.subtype),
        if options.read_only { "ro" } else { "rw" },
        if options.no_exec { ",noexec" } else { "" },
        if options.allow_other { ",allow_other" } else { "" }
    )
}

fn received(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    Ok(control.drain().find_map(|m| match m {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_way_to_other_options() {
        let options = MountOptions { fs_name: "a,suid\\".into(), ..MountOptions::default() };
        assert_eq!(helper_options(&options), "fsname=a\\,suid\\\\,subtype=mooseng,rw");
        let options = MountOptions { read_only: true, no_exec: true, ..MountOptions::default() };
        assert_eq!(helper_options(&options), "fsname=mooseng,subtype=mooseng,ro,noexec");
    }
}
