//! Who wants to hear what a mount does, as those who count it.

use mooseng_core::error::Errno;
use std::{fmt, time::Duration};

macro_rules! requests {
    ($($name:ident = $text:literal,)+) => {
        /// A kind of request of the kernel.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[allow(missing_docs, reason = "each is the kernel's own name")]
        pub enum RequestKind { $($name),+ }

        impl RequestKind {
            /// All of them; `kind as usize` is the place here.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Its name, as fuse(4) has it, in small letters.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }
    };
}

requests! {
    Lookup = "lookup",
    GetAttr = "getattr",
    SetAttr = "setattr",
    ReadLink = "readlink",
    MkNod = "mknod",
    MkDir = "mkdir",
    Unlink = "unlink",
    RmDir = "rmdir",
    SymLink = "symlink",
    Rename = "rename",
    Link = "link",
    Open = "open",
    Create = "create",
    Read = "read",
    Write = "write",
    Flush = "flush",
    Fsync = "fsync",
    Release = "release",
    OpenDir = "opendir",
    ReadDir = "readdir",
    StatFs = "statfs",
    SetXattr = "setxattr",
    GetXattr = "getxattr",
    ListXattr = "listxattr",
    RemoveXattr = "removexattr",
    Access = "access",
}

/// Hears what a mount does. Called on the threads that serve it: it must not wait.
pub trait Observer: fmt::Debug + Send + Sync + 'static {
    /// A request was answered, `took` after it had come; with `error`, when it failed.
    fn answered(&self, kind: RequestKind, took: Duration, error: Option<Errno>);
    /// A program was given so many bytes of a file.
    fn read(&self, bytes: usize);
    /// So many bytes were taken from a program.
    fn written(&self, bytes: usize);
}

/// Hears nothing.
#[derive(Debug)]
pub(crate) struct Nobody;

impl Observer for Nobody {
    fn answered(&self, _: RequestKind, _: Duration, _: Option<Errno>) {}
    fn read(&self, _: usize) {}
    fn written(&self, _: usize) {}
}
