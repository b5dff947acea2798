//! A disk around a disk that measures what is done in it.

use crate::{
    catalog,
    metrics::{Metrics, Point},
};
use mooseng_core::seam::{Disk, DiskFile};
use opentelemetry::{
    KeyValue,
    metrics::{BoundHistogram, Histogram},
};
use parking_lot::Mutex;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

/// What is done; `change` is of names, lengths and space.
const OPS: [&str; 4] = ["read", "write", "sync", "change"];
const READ: usize = 0;
const WRITE: usize = 1;
const SYNC: usize = 2;
const CHANGE: usize = 3;

/// Measures disks of one process.
#[derive(Debug)]
pub struct DiskMeter {
    duration: Histogram<f64>,
    disks: Arc<Mutex<Vec<Arc<Counts>>>>,
}

#[derive(Debug)]
struct Counts {
    disk: String,
    durations: [BoundHistogram<f64>; OPS.len()],
    errors: [AtomicU64; OPS.len()],
}

impl DiskMeter {
    /// Registers what it measures.
    pub fn new(metrics: &Metrics) -> Self {
        let disks: Arc<Mutex<Vec<Arc<Counts>>>> = Arc::default();
        let all = disks.clone();
        metrics
            .counter(&catalog::DISK_IO_ERRORS, move || all.lock().iter().flat_map(|c| c.points()).collect());
        Self { duration: metrics.durations(&catalog::DISK_IO_DURATION), disks }
    }

    /// The same disk, measured, under the name it has for people.
    pub fn disk(&self, inner: Arc<dyn Disk>) -> Arc<dyn Disk> {
        let disk = inner.describe();
        let bind = |op| self.duration.bind(&[KeyValue::new("disk", disk.clone()), KeyValue::new("op", op)]);
        let counts = Arc::new(Counts { durations: OPS.map(bind), errors: Default::default(), disk });
        self.disks.lock().push(counts.clone());
        Arc::new(Measured { inner, counts })
    }
}

impl Counts {
    fn points(&self) -> impl Iterator<Item = Point> {
        OPS.iter().zip(&self.errors).map(|(op, n)| {
            let labels = vec![KeyValue::new("disk", self.disk.clone()), KeyValue::new("op", *op)];
            (n.load(Relaxed) as f64, labels)
        })
    }

    fn measured<T>(&self, op: usize, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let begin = Instant::now();
        let done = work();
        self.durations[op].record(begin.elapsed().as_secs_f64());
        if done.as_ref().is_err_and(is_failure) {
            self.errors[op].fetch_add(1, Relaxed);
        }
        done
    }
}

/// Whether it is more than the answer to a question: what is not there, the end of a file, and that there is no room.
fn is_failure(e: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, NotFound, StorageFull, UnexpectedEof};
    !matches!(e.kind(), AlreadyExists | NotFound | StorageFull | UnexpectedEof)
}

#[derive(Debug)]
struct Measured {
    inner: Arc<dyn Disk>,
    counts: Arc<Counts>,
}

impl Measured {
    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(MeasuredFile { inner: file, counts: self.counts.clone() })
    }
}

impl Disk for Measured {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.counts.measured(CHANGE, || self.inner.open(name)).map(|f| self.file(f))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.counts.measured(CHANGE, || self.inner.create(name)).map(|f| self.file(f))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.counts.measured(CHANGE, || self.inner.remove(name))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.counts.measured(CHANGE, || self.inner.rename(from, to))
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.counts.measured(READ, || self.inner.list(dir))
    }
    fn list_dirs(&self, dir: &str) -> io::Result<Vec<String>> {
        self.counts.measured(READ, || self.inner.list_dirs(dir))
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.counts.measured(SYNC, || self.inner.sync_dir(dir))
    }
    fn space(&self) -> io::Result<(u64, u64)> {
        self.inner.space()
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[derive(Debug)]
struct MeasuredFile {
    inner: Arc<dyn DiskFile>,
    counts: Arc<Counts>,
}

impl DiskFile for MeasuredFile {
    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        self.counts.measured(READ, || self.inner.read_at(at, buf))
    }
    fn write_at(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.counts.measured(WRITE, || self.inner.write_at(at, data))
    }
    fn sync(&self) -> io::Result<()> {
        self.counts.measured(SYNC, || self.inner.sync())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.counts.measured(CHANGE, || self.inner.set_len(len))
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.counts.measured(CHANGE, || self.inner.allocate(len))
    }
    fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        self.counts.measured(CHANGE, || self.inner.punch(at, len))
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::node;

    /// A file that can be written and not synced, and is empty.
    #[derive(Debug)]
    struct Broken;

    impl DiskFile for Broken {
        fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
        fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
            Ok(())
        }
        fn sync(&self) -> io::Result<()> {
            Err(io::Error::other("the disk is broken"))
        }
        fn set_len(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn allocate(&self, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn punch(&self, _: u64, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn len(&self) -> io::Result<u64> {
            Ok(0)
        }
    }

    #[derive(Debug)]
    struct Disks(&'static str);

    impl Disk for Disks {
        fn open(&self, _: &str) -> io::Result<Arc<dyn DiskFile>> {
            Ok(Arc::new(Broken))
        }
        fn create(&self, _: &str) -> io::Result<Arc<dyn DiskFile>> {
            Err(io::ErrorKind::ReadOnlyFilesystem.into())
        }
        fn remove(&self, _: &str) -> io::Result<()> {
            Err(io::ErrorKind::NotFound.into())
        }
        fn rename(&self, _: &str, _: &str) -> io::Result<()> {
            Ok(())
        }
        fn list(&self, _: &str) -> io::Result<Vec<String>> {
            Ok(vec![])
        }
        fn list_dirs(&self, _: &str) -> io::Result<Vec<String>> {
            Ok(vec![])
        }
        fn sync_dir(&self, _: &str) -> io::Result<()> {
            Ok(())
        }
        fn space(&self) -> io::Result<(u64, u64)> {
            Ok((2, 1))
        }
        fn describe(&self) -> String {
            self.0.into()
        }
    }

    #[test]
    fn each_disk_is_measured_and_questions_are_no_failures() {
        let metrics = Metrics::new(&node()).unwrap();
        let meter = DiskMeter::new(&metrics);
        let (a, _b) = (meter.disk(Arc::new(Disks("/a"))), meter.disk(Arc::new(Disks("/b"))));
        let file = a.open("x").unwrap();
        assert!(file.read_at(0, &mut [0]).is_err() && file.sync().is_err() && file.sync().is_err());
        file.write_at(0, b"x").unwrap();
        assert!(a.create("y").is_err() && a.remove("z").is_err() && file.allocate(1).is_err());
        assert_eq!((a.space().unwrap(), a.describe()), ((2, 1), "/a".into()));
        let text = metrics.text().unwrap();
        for line in [
            "mooseng_disk_io_errors_total{disk=\"/a\",op=\"sync\"} 2",
            "mooseng_disk_io_errors_total{disk=\"/a\",op=\"read\"} 0",
            "mooseng_disk_io_errors_total{disk=\"/a\",op=\"change\"} 1",
            "mooseng_disk_io_errors_total{disk=\"/b\",op=\"sync\"} 0",
            "mooseng_disk_io_duration_seconds_count{disk=\"/a\",op=\"write\"} 1",
            "mooseng_disk_io_duration_seconds_count{disk=\"/a\",op=\"change\"} 4",
            "mooseng_disk_io_duration_seconds_count{disk=\"/b\",op=\"read\"} 0",
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
    }
}
