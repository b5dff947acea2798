//! What a client does all day: names and files of one group at a time, judged by the oracle.
//!
//! Two workers with sessions of their own change the groups in turn, so that what one closed or
//! synced is what the other must see. All share the root directory.
//!
//! Some files are written by both at the same time (`contend`). Some names are changed by other clients
//! all at the same time (`names`).

mod contend;
mod names;

pub use contend::Contended;
pub use names::{Namer, Names};

use crate::{
    cast::{Book, Group, SETTLES, Stage},
    look::look,
    oracle::{Ended, NameOp, WIDE_BASE},
    steps::{Hands, Step},
};
use anyhow::{Context as _, Result, anyhow};
use mooseng_client::{Client, File, Filesystem, OpenFlags};
use std::{
    future::Future,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::time::Instant;

/// Operations of one worker in a run.
const OPERATIONS: u64 = 45;
/// Longest pause between two operations.
const PAUSE_MS: u64 = 1200;
/// Names of files: also in directories that may not be there.
const FILES: [&str; 6] = ["a", "b", "c/x", "c/y", "d/x", "d/s/z"];
/// Names of directories.
const DIRS: [&str; 3] = ["c", "d", "d/s"];

/// One client with the processes that it has left to die as.
pub struct Worker {
    hands: Hands,
    lives: Vec<Client>,
    /// Rises with each life: the oracle's name for it.
    writer: u32,
    /// Bytes written so far, to write others next time.
    written: u64,
}

/// A violated promise with where it was seen.
fn broken(group: &Group, e: String) -> anyhow::Error {
    anyhow!("group {}: {e}", group.prefix)
}

impl Worker {
    /// A worker that lives as each of these clients in turn, the last first. `writer` is a number that
    /// no other worker uses, nor the next hundred.
    pub fn new(name: &str, lives: Vec<Client>, stage: Arc<Stage>, seed: u64, writer: u32) -> Self {
        Self { hands: Hands::new(name, stage, seed), lives, writer, written: 0 }
    }

    fn stage(&self) -> Arc<Stage> {
        self.hands.stage.clone()
    }

    fn fs(&self) -> Result<Filesystem> {
        self.lives.last().map(Client::filesystem).context("a worker has no life left")
    }

    /// Name of the present process on the network.
    fn process(&self) -> String {
        format!("{}-{}", self.hands.name, self.lives.len())
    }

    /// Works until the day is done.
    pub async fn work(mut self) -> Result<Self> {
        let stage = self.stage();
        for _ in 0..OPERATIONS {
            tokio::time::sleep(Duration::from_millis(self.hands.random() % PAUSE_MS)).await;
            if self.hands.random().is_multiple_of(5) {
                self.contend().await?;
                continue;
            }
            let group = &stage.groups[(self.hands.random() % stage.groups.len() as u64) as usize];
            let _turn = group.turn.lock().await;
            if self.lives.len() > 1 && self.hands.random().is_multiple_of(32) {
                self.die_during_one(group).await?;
            } else {
                self.one(group).await.with_context(|| format!("in group {}", group.prefix))?;
            }
        }
        Ok(self)
    }

    /// Looks at everything a last time.
    pub async fn look_at_all(&self) -> Result<()> {
        let stage = self.stage();
        for group in &stage.groups {
            let _turn = group.turn.lock().await;
            self.settle(group).await?;
            self.look(group).await?;
        }
        Ok(())
    }

    /// Removes files of which a power failure took data, as one restores them from elsewhere: what
    /// verifies nowhere stays unreadable until then.
    pub async fn remove_lossy(&self) -> Result<()> {
        let stage = self.stage();
        let fs = self.fs()?;
        for group in &stage.groups {
            let _turn = group.turn.lock().await;
            self.settle(group).await?;
            self.look(group).await?;
            let lossy = group.book.lock().worlds.lossy();
            for name in lossy {
                let op = NameOp::Unlink(name.clone());
                self.named(group, op, fs.remove_file(&group.path(&name))).await?;
            }
        }
        self.remove_contended().await
    }

    /// The process ends in the middle of an operation; a new one takes over.
    async fn die_during_one(&mut self, group: &Group) -> Result<()> {
        let patience = Duration::from_millis(self.hands.random() % 40);
        let one = self.one(group);
        if let Ok(done) = tokio::time::timeout(patience, one).await {
            done?;
        }
        let process = self.process();
        self.hands.note(format_args!("{process} dies"));
        let stage = self.stage();
        stage.weather.bury(&process);
        stage.network.cut(&process);
        self.lives.pop();
        for group in &stage.groups {
            group.book.lock().worlds.writer_died(self.writer);
        }
        self.writer += 1;
        let mut book = group.book.lock();
        if let Some(op) = book.pending.take() {
            book.worlds.named(&op, Ended::Unknown).map_err(|e| broken(group, e))?;
        }
        book.settles = Some(Instant::now() + SETTLES);
        Ok(())
    }

    /// Waits until what ended unknown has arrived or never will: nothing of it is on its way any
    /// more, and a change that is acknowledged afterwards is behind it in the masters' log.
    async fn settle(&self, group: &Group) -> Result<bool> {
        let Some(until) = group.book.lock().settles else { return Ok(true) };
        tokio::time::sleep_until(until).await;
        let fs = self.fs()?;
        let behind = self.hands.step("settle", fs.set_permissions("/", 0o755)).await?;
        let settled = matches!(behind, Step::Done(()));
        group.book.lock().settles = (!settled).then(|| Instant::now() + SETTLES);
        Ok(settled)
    }

    async fn look(&self, group: &Group) -> Result<()> {
        let (fs, stage) = (self.fs()?, self.stage());
        let failures = stage.power_failures.load(Relaxed);
        let Some(seen) = look(&self.hands, &fs, group).await? else { return Ok(()) };
        // What was seen before a power failure may be gone by the end of the look.
        if stage.power_failures.load(Relaxed) != failures {
            return Ok(());
        }
        group.book.lock().worlds.saw(&seen).map_err(|e| broken(group, e))
    }

    /// One operation of the group whose turn this worker has.
    async fn one(&mut self, group: &Group) -> Result<()> {
        if !self.settle(group).await? {
            return Ok(());
        }
        let r = self.hands.random();
        let known = group.book.lock().worlds.only().is_some();
        match r % 20 {
            _ if !known => self.look(group).await,
            0..7 => self.file(group, r >> 8).await,
            7..14 => self.name(group, r >> 8).await,
            _ => self.look(group).await,
        }
    }

    /// An operation on names: noted before it is asked for, so that a process which dies meanwhile
    /// leaves it unknown.
    async fn named<T>(
        &self,
        group: &Group,
        op: NameOp,
        work: impl Future<Output = mooseng_client::Result<T>>,
    ) -> Result<Step<T>> {
        let lossy = {
            let mut book = group.book.lock();
            book.pending = Some(op.clone());
            matches!(&op, NameOp::Create(path, _) if book.worlds.is_lossy(path))
        };
        let step = self.hands.step_on(&format!("{}{op:?}", group.prefix), lossy, work).await?;
        let mut book = group.book.lock();
        book.pending = None;
        self.unsettle(&mut book, &step);
        book.worlds.named(&op, step.ended()).map_err(|e| broken(group, e))?;
        Ok(step)
    }

    fn unsettle<T>(&self, book: &mut Book, step: &Step<T>) {
        if matches!(step, Step::Failed) {
            book.settles = Some(Instant::now() + SETTLES);
        }
    }

    async fn name(&self, group: &Group, r: u64) -> Result<()> {
        let fs = self.fs()?;
        let file = FILES[(r >> 8) as usize % FILES.len()];
        let dir = DIRS[(r >> 16) as usize % DIRS.len()];
        let other = FILES[(r >> 24) as usize % FILES.len()];
        let path = |name: &str| group.path(name);
        match r % 12 {
            0..4 => drop(self.named(group, NameOp::MkDir(dir.into()), fs.create_dir(&path(dir))).await?),
            4 => drop(self.named(group, NameOp::RmDir(dir.into()), fs.remove_dir(&path(dir))).await?),
            5..7 => {
                let op = NameOp::Unlink(file.into());
                self.named(group, op, fs.remove_file(&path(file))).await?;
            }
            7..9 => {
                let op = NameOp::Rename(file.into(), other.into());
                self.named(group, op, fs.rename(&path(file), &path(other))).await?;
            }
            9 => {
                let all: Vec<&str> = DIRS.iter().chain(&FILES).copied().collect();
                let to = all[(r >> 32) as usize % all.len()];
                let op = NameOp::Rename(dir.into(), to.into());
                self.named(group, op, fs.rename(&path(dir), &path(to))).await?;
            }
            _ => {
                let op = NameOp::Link(file.into(), other.into());
                self.named(group, op, fs.hard_link(&path(file), &path(other))).await?;
            }
        }
        Ok(())
    }

    /// A file is opened, changed a few times, closed.
    async fn file(&mut self, group: &Group, r: u64) -> Result<()> {
        let fs = self.fs()?;
        let name = FILES[(r >> 8) as usize % FILES.len()];
        let path = group.path(name);
        let (make, wide, append) = (r.is_multiple_of(2), (r >> 4).is_multiple_of(8), (r >> 4) % 8 == 1);
        let file = if make {
            let id = group.book.lock().worlds.next_file();
            let op = NameOp::Create(name.into(), id);
            match self.named(group, op, fs.create(&path)).await? {
                Step::Done(file) => file,
                _ => return Ok(()),
            }
        } else {
            let flags = OpenFlags { read: true, write: true, append, ..OpenFlags::default() };
            let step = self.hands.step(&format!("open {path}"), fs.open_with(&path, flags, 0)).await?;
            group.book.lock().worlds.opened(name, step.ended()).map_err(|e| broken(group, e))?;
            let Step::Done(file) = step else { return Ok(()) };
            file
        };
        if make && wide {
            group.book.lock().worlds.each(name, |f| f.base = WIDE_BASE);
        }
        let session =
            Session { worker: self.writer, hands: &self.hands, group, name, file, append: append && !make };
        session.run(&mut self.written, (r >> 32) % 3 + 1).await
    }
}

/// An open file of a worker.
struct Session<'a> {
    worker: u32,
    hands: &'a Hands,
    group: &'a Group,
    name: &'a str,
    file: File,
    append: bool,
}

/// Bytes of write number `n`, unlike those of any other.
fn bytes(n: u64, len: usize) -> Vec<u8> {
    let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(&x.to_le_bytes());
    }
    out.truncate(len);
    out
}

impl Session<'_> {
    async fn run(self, written: &mut u64, changes: u64) -> Result<()> {
        for _ in 0..changes {
            let r = self.hands.random();
            let done = match r % 12 {
                0..7 => self.write(written, r >> 8).await?,
                7 => self.resize(r >> 8).await?,
                8 => self.read(r >> 8).await?,
                9 => self.flush(false).await?,
                _ => self.flush(true).await?,
            };
            if !done {
                break;
            }
        }
        if self.hands.random() % 5 < 3 {
            self.flush(true).await?;
        }
        self.close().await
    }

    /// Its size from the base, the base, and whether the size is known.
    fn shape(&self) -> Result<(usize, u64, bool)> {
        let book = self.group.book.lock();
        let file = book.worlds.only().and_then(|w| w.file(self.name));
        let file = file.with_context(|| format!("{} is open and not known", self.name))?;
        Ok((file.len(), file.base, file.is_len_sure()))
    }

    /// A step on the open file.
    async fn step<T>(
        &self,
        what: &str,
        work: impl Future<Output = mooseng_client::Result<T>>,
    ) -> Result<Step<T>> {
        let lossy = self.group.book.lock().worlds.is_lossy(self.name);
        self.hands.step_on(what, lossy, work).await
    }

    /// What was not flushed may be there or not.
    fn failed(&self) {
        let mut book = self.group.book.lock();
        book.worlds.each(self.name, |f| f.failed(self.worker));
        book.settles = Some(Instant::now() + SETTLES);
    }

    async fn write(&self, written: &mut u64, r: u64) -> Result<bool> {
        let (len, base, sure) = self.shape()?;
        let (at, count) = if self.append {
            // An empty file that is to become a wide one has its end at 0.
            if !sure || (base > 0 && len == 0) {
                return Ok(false);
            }
            (len, 1 + (r >> 8) as usize % 9000)
        } else if base > 0 {
            // A few bytes each side of the border between two chunks.
            let at = 8192 - (r >> 8) as usize % 6000;
            (at, 1 + (r >> 24) as usize % 9000)
        } else {
            let at = match r % 3 {
                0 => 0,
                1 => (r >> 8) as usize % (len + 1),
                _ => (r >> 8) as usize % (len + 10_000),
            };
            let count = match (r >> 4) % 16 {
                0 => 3 << 20,
                1..5 => (r >> 24) as usize % 200_000,
                5..11 => (r >> 24) as usize % 5_000,
                _ => (r >> 24) as usize % 20_000,
            };
            (at, 1 + count)
        };
        *written += 1;
        let data = bytes((u64::from(self.worker) << 32) | *written, count);
        self.group.book.lock().worlds.each(self.name, |f| f.write(at, &data, self.worker));
        let what = format!("write {} bytes at {at} of {}{}", count, self.group.prefix, self.name);
        let step = self.step(&what, self.file.write_at(base + at as u64, data)).await?;
        if !matches!(step, Step::Done(())) {
            self.failed();
            return Ok(false);
        }
        Ok(true)
    }

    async fn resize(&self, r: u64) -> Result<bool> {
        let (len, base, _) = self.shape()?;
        // A wide file stays one: what lies before its base is not the oracle's.
        let to = (r as usize % (2 * len + 5000)).min(5 << 20).max(usize::from(base > 0));
        let op = NameOp::Resize(self.name.into(), to);
        self.group.book.lock().pending = Some(op.clone());
        let what = format!("{}{op:?}", self.group.prefix);
        let step = self.step(&what, self.file.set_len(base + to as u64)).await?;
        let mut book = self.group.book.lock();
        book.pending = None;
        // What was written before the cut was flushed before it, or the cut failed.
        match &step {
            Step::Done(()) => book.worlds.each(self.name, |f| f.flushed(self.worker)),
            _ => book.worlds.each(self.name, |f| f.failed(self.worker)),
        }
        if matches!(step, Step::Failed) {
            book.settles = Some(Instant::now() + SETTLES);
        }
        book.worlds.named(&op, step.ended()).map_err(|e| broken(self.group, e))?;
        Ok(matches!(step, Step::Done(())))
    }

    /// One sees one's own writes.
    async fn read(&self, r: u64) -> Result<bool> {
        let (len, base, sure) = self.shape()?;
        if len == 0 {
            return Ok(true);
        }
        let at = r as usize % len;
        let count = 1 + (r >> 32) as usize % 20_000.min(len - at);
        let what = format!("read {count} bytes at {at} of {}{}", self.group.prefix, self.name);
        let Step::Done(data) = self.step(&what, self.file.read_at(base + at as u64, count as u64)).await?
        else {
            return Ok(true);
        };
        anyhow::ensure!(!sure || data.len() == count, "{what}: only {} came", data.len());
        let book = self.group.book.lock();
        book.worlds.read(self.name, at, &data).map_err(|e| broken(self.group, e))?;
        Ok(true)
    }

    async fn flush(&self, to_disk: bool) -> Result<bool> {
        let word = if to_disk { "sync" } else { "flush" };
        let what = format!("{word} {}{}", self.group.prefix, self.name);
        let step = match to_disk {
            true => self.sync(&what).await?,
            false => self.step(&what, self.file.flush_all()).await?,
        };
        if !matches!(step, Step::Done(())) {
            self.failed();
            return Ok(false);
        }
        let worlds = &mut self.group.book.lock().worlds;
        match to_disk {
            true => worlds.synced(self.name, self.worker).map_err(|e| broken(self.group, e))?,
            false => worlds.each(self.name, |f| f.flushed(self.worker)),
        }
        Ok(true)
    }

    async fn sync(&self, what: &str) -> Result<Step<()>> {
        let may_refuse = {
            let worlds = &self.group.book.lock().worlds;
            worlds.is_lossy(self.name) || worlds.is_untold(self.name)
        };
        self.hands.step_on(what, may_refuse, async { self.file.sync_all().await.map(drop) }).await
    }

    async fn close(self) -> Result<()> {
        let what = format!("close {}{}", self.group.prefix, self.name);
        let lossy = self.group.book.lock().worlds.is_lossy(self.name);
        let step = self.hands.step_on(&what, lossy, self.file.close()).await?;
        let mut book = self.group.book.lock();
        match step {
            Step::Done(()) => book.worlds.each(self.name, |f| f.flushed(self.worker)),
            _ => {
                book.worlds.each(self.name, |f| f.failed(self.worker));
                book.settles = Some(Instant::now() + SETTLES);
            }
        }
        Ok(())
    }
}
