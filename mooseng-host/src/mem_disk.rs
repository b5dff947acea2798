//! A disk in memory: for tests, the simulator, and clusters that keep nothing.

use crate::name::{checked, checked_dir, parent};
use mooseng_core::seam::{Disk, DiskFile};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Unit of storage: holes and capacity are counted in it.
const PAGE_BYTES: u64 = 4096;
/// ENOSPC.
const NO_SPACE: i32 = 28;
/// Longest file: what offsets in an i64 allow, as on a real disk.
const LEN_MAX: u64 = i64::MAX as u64;

/// A disk in memory. Clones share the files, so that a restarted node finds them. Everything
/// written is there at once; losing what was not synced is the business of the simulator's disk.
#[derive(Clone)]
pub struct MemDisk {
    name: Arc<str>,
    names: Arc<Mutex<Names>>,
    space: Arc<Space>,
}

#[derive(Default)]
struct Names {
    files: BTreeMap<String, Arc<MemFile>>,
    dirs: BTreeSet<String>,
}

#[derive(Debug)]
struct Space {
    capacity: u64,
    used: AtomicU64,
}

impl Space {
    fn take(&self, bytes: u64) -> io::Result<()> {
        let enough = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.capacity);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enough) {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::from_raw_os_error(NO_SPACE)),
        }
    }
    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl fmt::Debug for MemDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemDisk({})", self.name)
    }
}

impl MemDisk {
    /// An empty disk that says it has 1 TiB.
    pub fn new(name: &str) -> Self {
        Self::with_capacity(name, 1 << 40)
    }

    /// An empty disk of `bytes`; writes past it end with ENOSPC and change nothing.
    pub fn with_capacity(name: &str, bytes: u64) -> Self {
        Self {
            name: name.into(),
            names: Arc::default(),
            space: Arc::new(Space { capacity: bytes, used: AtomicU64::new(0) }),
        }
    }

    fn children<'a>(dir: &str, names: impl Iterator<Item = &'a String>) -> Vec<String> {
        names
            .filter(|name| parent(name) == dir)
            .map(|name| name.rsplit('/').next().unwrap_or(name).to_owned())
            .collect()
    }
}

impl Names {
    fn make_dirs(&mut self, dir: &str) {
        let mut dir = dir;
        while !dir.is_empty() && self.dirs.insert(dir.to_owned()) {
            dir = parent(dir);
        }
    }
}

fn missing(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{name}: no such file"))
}

impl Disk for MemDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let names = self.names.lock();
        Ok(names.files.get(checked(name)?).ok_or_else(|| missing(name))?.clone())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut names = self.names.lock();
        if names.files.contains_key(checked(name)?) || names.dirs.contains(name) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{name}: exists")));
        }
        names.make_dirs(parent(name));
        let file = Arc::new(MemFile { data: Mutex::default(), space: self.space.clone() });
        names.files.insert(name.to_owned(), file.clone());
        Ok(file)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.names.lock().files.remove(checked(name)?).map(drop).ok_or_else(|| missing(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        checked(to)?;
        let mut names = self.names.lock();
        let file = names.files.remove(checked(from)?).ok_or_else(|| missing(from))?;
        names.make_dirs(parent(to));
        names.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let names = self.names.lock();
        Ok(Self::children(checked_dir(dir)?, names.files.keys()))
    }

    fn list_dirs(&self, dir: &str) -> io::Result<Vec<String>> {
        let names = self.names.lock();
        Ok(Self::children(checked_dir(dir)?, names.dirs.iter()))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        if checked_dir(dir)?.is_empty() || self.names.lock().dirs.contains(dir) {
            return Ok(());
        }
        Err(missing(dir))
    }

    fn space(&self) -> io::Result<(u64, u64)> {
        let used = self.space.used.load(Ordering::Relaxed);
        Ok((self.space.capacity, self.space.capacity - used))
    }

    fn describe(&self) -> String {
        format!("memory:{}", self.name)
    }
}

type Page = Box<[u8; PAGE_BYTES as usize]>;

#[derive(Default)]
struct Data {
    len: u64,
    /// Pages that take space; `None` is reserved and zero.
    pages: BTreeMap<u64, Option<Page>>,
}

struct MemFile {
    data: Mutex<Data>,
    space: Arc<Space>,
}

impl fmt::Debug for MemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemFile({} bytes)", self.data.lock().len)
    }
}

impl Drop for MemFile {
    fn drop(&mut self) {
        self.space.give_back(self.data.get_mut().pages.len() as u64 * PAGE_BYTES);
    }
}

/// Splits a range at page borders: (page, start within it, length).
fn pages_of(at: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = at + len;
    let mut pos = at;
    std::iter::from_fn(move || {
        if pos >= end {
            return None;
        }
        let within = pos % PAGE_BYTES;
        let take = (PAGE_BYTES - within).min(end - pos);
        let item = (pos / PAGE_BYTES, within as usize, take as usize);
        pos += take;
        Some(item)
    })
}

fn end_of(at: u64, len: u64) -> io::Result<u64> {
    at.checked_add(len).filter(|end| *end <= LEN_MAX).ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}

impl MemFile {
    /// Takes space for the pages of a range that have none, all or nothing.
    fn reserve(&self, data: &mut Data, at: u64, len: u64) -> io::Result<()> {
        let fresh: Vec<u64> =
            pages_of(at, len).map(|(page, ..)| page).filter(|page| !data.pages.contains_key(page)).collect();
        self.space.take(fresh.len() as u64 * PAGE_BYTES)?;
        data.pages.extend(fresh.into_iter().map(|page| (page, None)));
        Ok(())
    }

    /// Makes a range read as zeros and frees the pages that lie in it whole.
    fn clear(&self, data: &mut Data, at: u64, end: u64) {
        let present: Vec<u64> =
            data.pages.range(at / PAGE_BYTES..end.div_ceil(PAGE_BYTES)).map(|(page, _)| *page).collect();
        for page in present {
            let (start, stop) = (page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
            if at <= start && stop <= end {
                data.pages.remove(&page);
                self.space.give_back(PAGE_BYTES);
            } else if let Some(Some(bytes)) = data.pages.get_mut(&page) {
                bytes[(at.max(start) - start) as usize..(end.min(stop) - start) as usize].fill(0);
            }
        }
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        let data = self.data.lock();
        if end_of(at, buf.len() as u64)? > data.len && !buf.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = buf;
        for (page, within, take) in pages_of(at, rest.len() as u64) {
            let (part, after) = rest.split_at_mut(take);
            match data.pages.get(&page) {
                Some(Some(bytes)) => part.copy_from_slice(&bytes[within..within + take]),
                _ => part.fill(0),
            }
            rest = after;
        }
        Ok(())
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let end = end_of(at, bytes.len() as u64)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let mut data = self.data.lock();
        self.reserve(&mut data, at, bytes.len() as u64)?;
        let mut rest = bytes;
        for (page, within, take) in pages_of(at, bytes.len() as u64) {
            let slot = data.pages.entry(page).or_default();
            let target = slot.get_or_insert_with(|| Box::new([0; PAGE_BYTES as usize]));
            target[within..within + take].copy_from_slice(&rest[..take]);
            rest = &rest[take..];
        }
        data.len = data.len.max(end);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        end_of(0, len)?;
        let mut data = self.data.lock();
        if len < data.len {
            // To the end of the last page, so that what is cut off does not come back by growing.
            let end = data.pages.last_key_value().map_or(0, |(page, _)| (page + 1) * PAGE_BYTES);
            self.clear(&mut data, len, end.max(len));
        }
        data.len = len;
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        end_of(0, len)?;
        let mut data = self.data.lock();
        self.reserve(&mut data, 0, len)?;
        data.len = data.len.max(len);
        Ok(())
    }

    fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        let end = end_of(at, len)?;
        if len > 0 {
            self.clear(&mut self.data.lock(), at, end);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.data.lock().len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_promises_of_a_disk() {
        crate::disk_suite(&MemDisk::new("test"));
    }

    #[test]
    fn clones_share_their_files() {
        let disk = MemDisk::new("test");
        disk.create("a").unwrap().write_at(0, b"x").unwrap();
        assert_eq!(disk.clone().open("a").unwrap().len().unwrap(), 1);
    }

    #[test]
    fn capacity_ends_at_its_edge_and_comes_back() {
        let disk = MemDisk::with_capacity("test", 2 * PAGE_BYTES);
        let file = disk.create("a").unwrap();
        file.write_at(0, &[1; 2 * PAGE_BYTES as usize]).unwrap();
        assert_eq!(disk.space().unwrap(), (2 * PAGE_BYTES, 0));
        let e = file.write_at(PAGE_BYTES, &[2; PAGE_BYTES as usize + 1]).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(NO_SPACE));
        assert_eq!(e.kind(), io::ErrorKind::StorageFull);
        let mut byte = [0];
        file.read_at(PAGE_BYTES, &mut byte).unwrap();
        assert_eq!(byte, [1], "nothing of the refused write was applied");
        disk.remove("a").unwrap();
        assert_eq!(disk.space().unwrap().1, 0, "an open file keeps its space");
        drop(file);
        assert_eq!(disk.space().unwrap().1, 2 * PAGE_BYTES);
    }

    #[test]
    fn a_write_far_out_takes_one_page() {
        let disk = MemDisk::with_capacity("test", PAGE_BYTES);
        disk.create("a").unwrap().write_at(1 << 60, b"x").unwrap();
    }
}
