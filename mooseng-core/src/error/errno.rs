//! POSIX error numbers, their names and texts. Pure.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! errnos {
    ($($name:ident = $number:literal,)+) => {
        /// POSIX error numbers that MooseNG answers with (Linux values).
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
        #[repr(i32)]
        #[allow(missing_docs, reason = "each is its POSIX name")]
        pub enum Errno { $($name = $number),+ }

        impl Errno {
            /// Its POSIX name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }
        }
    };
}

// In the order of the wire: new ones come last.
errnos! {
    EPERM = 1,
    ENOENT = 2,
    EINTR = 4,
    EIO = 5,
    ENXIO = 6,
    E2BIG = 7,
    EBADF = 9,
    EAGAIN = 11,
    EACCES = 13,
    EBUSY = 16,
    EEXIST = 17,
    EXDEV = 18,
    ENOTDIR = 20,
    EISDIR = 21,
    EINVAL = 22,
    EFBIG = 27,
    ENOSPC = 28,
    EROFS = 30,
    EMLINK = 31,
    ERANGE = 34,
    ENAMETOOLONG = 36,
    ENOSYS = 38,
    ENOTEMPTY = 39,
    ELOOP = 40,
    ENODATA = 61,
    EPROTO = 71,
    EOPNOTSUPP = 95,
    ETIMEDOUT = 110,
    ESTALE = 116,
    EMFILE = 24,
}

impl Errno {
    /// The number the kernel knows.
    pub const fn raw(self) -> i32 {
        self as i32
    }
}

fn posix_text(e: Errno) -> &'static str {
    match e {
        Errno::EPERM => "operation not permitted",
        Errno::ENOENT => "no such file or directory",
        Errno::EINTR => "interrupted",
        Errno::EIO => "input/output error",
        Errno::ENXIO => "no such device or address",
        Errno::E2BIG => "argument too large",
        Errno::EBADF => "bad file handle",
        Errno::EAGAIN => "try again",
        Errno::EACCES => "permission denied",
        Errno::EBUSY => "in use",
        Errno::EEXIST => "file exists",
        Errno::EXDEV => "not on the same filesystem",
        Errno::ENOTDIR => "not a directory",
        Errno::EISDIR => "is a directory",
        Errno::EINVAL => "invalid argument",
        Errno::EFBIG => "file too large",
        Errno::ENOSPC => "no space left",
        Errno::EROFS => "read-only filesystem",
        Errno::EMLINK => "too many links",
        Errno::ERANGE => "result too large",
        Errno::ENAMETOOLONG => "name too long",
        Errno::ENOSYS => "not offered",
        Errno::ENOTEMPTY => "directory not empty",
        Errno::ELOOP => "too many symbolic links",
        Errno::ENODATA => "no such attribute",
        Errno::EPROTO => "protocol error",
        Errno::EOPNOTSUPP => "not supported",
        Errno::ETIMEDOUT => "timed out",
        Errno::ESTALE => "stale file handle",
        Errno::EMFILE => "too many at once",
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(posix_text(*self))
    }
}
