//! A directory of the machine as a [`Disk`].

use crate::name::{checked, checked_dir, parent};
use mooseng_core::seam::{Disk, DiskFile};
use rustix::{
    fs::{FallocateFlags, fallocate, statvfs},
    io::Errno,
};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Bytes written at once where the filesystem cannot reserve or punch.
const ZEROS_BYTES: usize = 64 << 10;

/// A directory of a local filesystem.
///
/// A directory that [`Disk::create`] or [`Disk::rename`] had to make is durable at once, so that
/// `sync_dir` of the file's own directory makes the whole name durable.
#[derive(Debug)]
pub struct OsDisk {
    root: PathBuf,
}

impl OsDisk {
    /// The disk in `root`, which is made when it is missing.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(|e| named(&e, &root))?;
        Ok(Self { root })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.root
    }

    fn dir_path(&self, dir: &str) -> io::Result<PathBuf> {
        Ok(match checked_dir(dir)? {
            "" => self.root.clone(),
            dir => self.root.join(dir),
        })
    }

    fn file_path(&self, name: &str) -> io::Result<PathBuf> {
        Ok(self.root.join(checked(name)?))
    }

    fn make_dirs(&self, dir: &str) -> io::Result<()> {
        let path = self.dir_path(dir)?;
        if dir.is_empty() || path.is_dir() {
            return Ok(());
        }
        self.make_dirs(parent(dir))?;
        match fs::create_dir(&path) {
            Ok(()) => self.sync_dir(parent(dir)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            Err(e) => Err(named(&e, &path)),
        }
    }

    fn names(&self, dir: &str, wanted: impl Fn(&fs::FileType) -> bool) -> io::Result<Vec<String>> {
        let path = self.dir_path(dir)?;
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(named(&e, &path)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if !wanted(&entry.file_type()?) {
                continue;
            }
            // Our own names are text; whatever else lies here is not ours.
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// The same kind of error, with the path in its text; the error number is kept where code may ask
/// for it (`NotFound`, `StorageFull` and the like are kinds).
fn named(e: &io::Error, path: &Path) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

impl Disk for OsDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.file_path(name)?;
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|e| named(&e, &path))?;
        Ok(Arc::new(OsFile { file }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.file_path(name)?;
        self.make_dirs(parent(name))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        let file = options.open(&path).map_err(|e| named(&e, &path))?;
        Ok(Arc::new(OsFile { file }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.file_path(name)?;
        fs::remove_file(&path).map_err(|e| named(&e, &path))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (source, target) = (self.file_path(from)?, self.file_path(to)?);
        self.make_dirs(parent(to))?;
        fs::rename(&source, target).map_err(|e| named(&e, &source))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.names(dir, fs::FileType::is_file)
    }

    fn list_dirs(&self, dir: &str) -> io::Result<Vec<String>> {
        self.names(dir, fs::FileType::is_dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let path = self.dir_path(dir)?;
        File::open(&path).and_then(|d| d.sync_all()).map_err(|e| named(&e, &path))
    }

    fn space(&self) -> io::Result<(u64, u64)> {
        let s = statvfs(&self.root)?;
        Ok((s.f_blocks.saturating_mul(s.f_frsize), s.f_bavail.saturating_mul(s.f_frsize)))
    }

    fn describe(&self) -> String {
        self.root.display().to_string()
    }
}

#[derive(Debug)]
struct OsFile {
    file: File,
}

impl OsFile {
    fn write_zeros(&self, mut at: u64, end: u64) -> io::Result<()> {
        let zeros = vec![0; ZEROS_BYTES];
        while at < end {
            let take = (end - at).min(ZEROS_BYTES as u64);
            self.file.write_all_at(&zeros[..take as usize], at)?;
            at += take;
        }
        Ok(())
    }
}

/// Whether a filesystem said that it cannot do this at all.
fn unsupported(e: Errno) -> bool {
    e == Errno::OPNOTSUPP || e == Errno::NOSYS
}

impl DiskFile for OsFile {
    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, at)
    }

    fn write_at(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        match fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            Err(e) if unsupported(e) => self.write_zeros(self.len()?, len),
            Err(e) => Err(e.into()),
        }
    }

    fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, mode, at, len) {
            Ok(()) => Ok(()),
            Err(e) if unsupported(e) => self.write_zeros(at, at.saturating_add(len).min(self.len()?)),
            Err(e) => Err(e.into()),
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn keeps_the_promises_of_a_disk() {
        let dir = tempfile::tempdir().unwrap();
        crate::disk_suite(&OsDisk::open(dir.path().join("made/by/open")).unwrap());
    }

    #[test]
    fn reserved_space_is_taken_and_punched_space_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(dir.path()).unwrap();
        let file = disk.create("f").unwrap();
        let blocks = || fs::metadata(dir.path().join("f")).unwrap().blocks() * 512;
        file.allocate(1 << 20).unwrap();
        assert!(blocks() >= 1 << 20);
        file.write_at(0, &vec![7; 1 << 20]).unwrap();
        file.sync().unwrap();
        file.punch(0, 1 << 20).unwrap();
        assert!(blocks() < 1 << 20);
    }

    #[test]
    fn errors_name_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(dir.path()).unwrap();
        assert!(disk.open("no/such").unwrap_err().to_string().contains("no/such"));
    }
}
