//! One process per directory.

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use std::{
    fs::{self, File},
    io,
    path::Path,
};

/// Name of the file that is locked.
const LOCK_FILE: &str = "lock";

/// An exclusive lock on a directory, held until it is dropped or the process ends.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Locks `dir`, which is made when it is missing. Does not wait.
    ///
    /// Errors: `ResourceBusy` with the directory in its text when another process has it.
    pub fn take(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(dir.join(LOCK_FILE))?;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => {
                    return Err(io::Error::new(
                        io::ErrorKind::ResourceBusy,
                        format!("data directory {} is in use by another process", dir.display()),
                    ));
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_locked_once_and_free_after_the_drop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let lock = DirLock::take(&path).unwrap();
        let e = DirLock::take(&path).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::ResourceBusy);
        assert_eq!(e.to_string(), format!("data directory {} is in use by another process", path.display()));
        drop(lock);
        DirLock::take(&path).unwrap();
    }
}
