//! The seams: time, randomness, files, threads. Production implementations are in `mooseng-host`,
//! simulated ones in the tests; nothing else reads a clock, draws a number, opens a file or starts
//! a thread.

use crate::{attr::Timestamp, trace};
use std::{fmt, io, sync::Arc, time::Duration};

/// Time as one node sees it.
pub trait Clock: Send + Sync + 'static + fmt::Debug {
    /// Time since an arbitrary start that only moves forward, also through suspend.
    fn now(&self) -> Duration;
    /// Wall-clock time; may jump.
    fn wall(&self) -> Timestamp;
}

/// Randomness.
pub trait Rng: Send + Sync + 'static + fmt::Debug {
    /// 64 fresh bits.
    fn next_u64(&self) -> u64;
}

/// A directory tree on one device: what a master's or chunkserver's storage directory offers.
///
/// Names are relative, use `/`, and stay inside. Everything is synchronous and may block: call it
/// from a [`Lane`] or an own thread. Nothing is durable before `sync` (for contents) and
/// `sync_dir` (for names).
pub trait Disk: Send + Sync + 'static + fmt::Debug {
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Creates a file that must not exist, with its directories.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Renames a file, replacing what is there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Names of the files in a directory (not of directories), in no order; empty if there is none.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Names of the directories in a directory; empty if there is none.
    fn list_dirs(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Bytes of the device: (total, free for us).
    fn space(&self) -> io::Result<(u64, u64)>;
    /// A name for people (a path).
    fn describe(&self) -> String;
}

/// One open file. Positional, shared, synchronous.
pub trait DiskFile: Send + Sync + 'static + fmt::Debug {
    /// Reads exactly `buf.len()` bytes at `at`; `UnexpectedEof` past the end.
    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Writes all of `data` at `at`, growing the file.
    fn write_at(&self, at: u64, data: &[u8]) -> io::Result<()>;
    /// Makes contents and length durable (fdatasync). After an error the contents are unknown.
    fn sync(&self) -> io::Result<()>;
    /// Cuts or grows the file; growth is a hole.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves and zeroes space so that later writes inside it allocate nothing.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Frees the blocks of a range, which then reads as zeros.
    fn punch(&self, at: u64, len: u64) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A job for a [`Lane`].
pub type Job = Box<dyn FnOnce() + Send + 'static>;

/// Runs blocking jobs in order: a named thread with a bounded queue in production, a task with a
/// virtual delay in the simulator.
pub trait Lane: Send + Sync + 'static + fmt::Debug {
    /// Puts a job at the end of the queue; waits while the queue is full. A lane that was stopped
    /// drops the job.
    fn run(&self, job: Job);
}

/// Makes lanes.
pub trait Lanes: Send + Sync + 'static + fmt::Debug {
    /// A lane with a name for people.
    fn lane(&self, name: &str) -> Arc<dyn Lane>;
}

/// What a node is given: one value that carries the seams.
#[derive(Clone, Debug)]
pub struct Seams {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub rng: Arc<dyn Rng>,
    /// Threads.
    pub lanes: Arc<dyn Lanes>,
}

/// Runs `job` on `lane` and returns its result; `None` when the lane was stopped first.
///
/// Dropping the future lets the job run to its end unheard.
pub async fn on_lane<T: Send + 'static>(
    lane: &Arc<dyn Lane>,
    job: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    // The wait in the lane's queue, and the work.
    trace::step("disk", async {
        let (tx, rx) = futures::channel::oneshot::channel();
        let here = trace::here();
        lane.run(Box::new(move || {
            let _ = tx.send(trace::timed(here, "disk at work", job));
        }));
        rx.await.ok()
    })
    .await
}
