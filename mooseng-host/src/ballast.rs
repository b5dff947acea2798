//! Space of a disk that is kept for when there is none left.

use mooseng_core::seam::{Disk, DiskFile};
use parking_lot::Mutex;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// The file that holds the space.
const NAME: &str = "ballast";
/// So many times the ballast must be free before it is taken.
const ROOM: u64 = 4;

/// A disk that holds space in a file and lets go of it when something finds no room: that goes on then, and whoever
/// watches [`Disk::space`] has time to stop taking what needs room. The space is held again, at a look at it, when there is
/// four times as much.
///
/// Whoever writes need not know of it. What a filesystem refuses only when it flushes is refused here too.
#[derive(Debug)]
pub struct BallastDisk(Arc<Ballast>);

#[derive(Debug)]
struct Ballast {
    disk: Arc<dyn Disk>,
    bytes: u64,
    held: Mutex<bool>,
    /// How often it was let go of.
    dropped: AtomicU64,
}

#[derive(Debug)]
struct BallastFile {
    file: Arc<dyn DiskFile>,
    ballast: Arc<Ballast>,
}

impl BallastDisk {
    /// Holds `bytes` of `disk`, or does so as soon as there is room.
    ///
    /// Errors: those of looking at the disk, and of removing a ballast of another size.
    pub fn new(disk: Arc<dyn Disk>, bytes: u64) -> io::Result<Self> {
        let is_there = match disk.open(NAME) {
            Ok(file) => file.len()? == bytes || disk.remove(NAME).map(|()| false)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(e),
        };
        let ballast = Ballast { disk, bytes, held: Mutex::new(is_there), dropped: AtomicU64::new(0) };
        ballast.hold()?;
        Ok(Self(Arc::new(ballast)))
    }
}

impl Ballast {
    /// Takes the space when there is room.
    fn hold(&self) -> io::Result<()> {
        let mut held = self.held.lock();
        if *held || self.bytes == 0 || self.disk.space()?.1 < self.bytes.saturating_mul(ROOM) {
            return Ok(());
        }
        let take = || self.disk.create(NAME)?.allocate(self.bytes);
        match take() {
            Ok(()) => *held = true,
            Err(e) => {
                tracing::warn!(disk = self.disk.describe(), error = %e, "no space can be held for when the disk is full");
                let _ = self.disk.remove(NAME);
            }
        }
        Ok(())
    }

    fn drop_it(&self) -> bool {
        let mut held = self.held.lock();
        if !*held {
            return false;
        }
        *held = false;
        let dropped = self.disk.remove(NAME);
        let disk = self.disk.describe();
        match &dropped {
            Ok(()) => tracing::error!(
                disk,
                bytes = self.bytes,
                "the disk is full: the space that was held for this is used now; make room"
            ),
            Err(e) => {
                tracing::error!(disk, error = %e, "the disk is full, and the space that was held for this cannot be had")
            }
        }
        self.dropped.fetch_add(1, Relaxed);
        dropped.is_ok()
    }

    /// Does `op`, again when it finds no room and there is ballast.
    fn with_room<T>(&self, op: impl Fn() -> io::Result<T>) -> io::Result<T> {
        let before = self.dropped.load(Relaxed);
        match op() {
            Err(e) if is_full(&e) && (self.drop_it() || self.dropped.load(Relaxed) != before) => op(),
            done => done,
        }
    }

    fn file(self: &Arc<Self>, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(BallastFile { file, ballast: self.clone() })
    }
}

fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Disk for BallastDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.0.disk.open(name).map(|file| self.0.file(file))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.0.with_room(|| self.0.disk.create(name)).map(|file| self.0.file(file))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.disk.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.with_room(|| self.0.disk.rename(from, to))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut all = self.0.disk.list(dir)?;
        if dir.is_empty() {
            all.retain(|name| name != NAME);
        }
        Ok(all)
    }

    fn list_dirs(&self, dir: &str) -> io::Result<Vec<String>> {
        self.0.disk.list_dirs(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.0.disk.sync_dir(dir)
    }

    fn space(&self) -> io::Result<(u64, u64)> {
        self.0.hold()?;
        self.0.disk.space()
    }

    fn describe(&self) -> String {
        self.0.disk.describe()
    }
}

impl DiskFile for BallastFile {
    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_at(at, buf)
    }

    fn write_at(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.ballast.with_room(|| self.file.write_at(at, data))
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.ballast.with_room(|| self.file.set_len(len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.ballast.with_room(|| self.file.allocate(len))
    }

    fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        self.ballast.with_room(|| self.file.punch(at, len))
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemDisk, disk_suite};

    const MIB: u64 = 1 << 20;

    #[test]
    fn it_is_a_disk() {
        disk_suite(&BallastDisk::new(Arc::new(MemDisk::new("ballast")), MIB).unwrap());
    }

    #[test]
    fn what_finds_no_room_gets_the_ballast_and_what_is_freed_is_held_again() {
        let below = Arc::new(MemDisk::with_capacity("small", 64 * MIB));
        let disk = BallastDisk::new(below.clone(), 8 * MIB).unwrap();
        assert_eq!(disk.space().unwrap().1, 56 * MIB);
        let other = below.create("another program's").unwrap();
        other.allocate(56 * MIB).unwrap();
        let file = disk.create("log").unwrap();
        for n in 0..8 {
            file.write_at(n * MIB, &[1; MIB as usize]).unwrap();
        }
        assert_eq!(file.write_at(8 * MIB, &[1]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.space().unwrap().1, 0, "nothing is held while nothing is there");
        below.remove("another program's").unwrap();
        drop(other);
        assert_eq!(disk.space().unwrap().1, 48 * MIB, "it is held again");
        // It is one, and stays, also for the next process; one of another size is not this one's.
        for (bytes, free) in [(8, 48), (4, 52), (0, 56)] {
            let again = BallastDisk::new(below.clone(), bytes * MIB).unwrap();
            assert_eq!(again.space().unwrap().1, free * MIB);
            assert_eq!(again.list("").unwrap(), ["log"]);
        }
    }
}
