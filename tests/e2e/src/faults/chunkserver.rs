//! kill -9 of chunkservers while files are written.

use super::{Amount, LONG, Stage, can_mount, shared};
use crate::{
    cluster::{PATIENCE, Plan, wait_for},
    load::{Content, Done, Load},
    report::{Report, distribution, secs},
    surface::Surface,
};
use anyhow::{Context as _, Result, anyhow, ensure};
use mooseng_core::ids::ServerId;
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Aims.
const STALL: Duration = Duration::from_secs(2);
const REPAIR_BEGINS: Duration = Duration::from_secs(30);
/// Bytes of one write of the long file.
const PIECE: usize = 1 << 20;
/// Files that are written before, and not again.
const COLD: u64 = 24;
/// Pieces until the long file is synced.
const SYNC_EACH: u64 = 4;
/// Of the long file's writer between its writes: 20 MiB/s at most.
const PACE: Duration = Duration::from_millis(50);

/// Kills one chunkserver after another while long and small files are written, and waits for repair.
pub fn chunkserver(amount: Amount, report: &mut Report) -> Result<()> {
    let kills = amount.of(1, 3, 9);
    let stage = &mut Stage::start(Plan::new(3, 3))?;
    for n in 0..COLD {
        stage.sdk().put(&cold(n), &Content { seed: n, len: 200_000 }.bytes(), true)?;
    }
    let (mut writers, mut loads, mut mount) = (vec![], vec![], None);
    start_load(shared(stage.sdk()), "sdk", &mut writers, &mut loads)?;
    if can_mount(report) {
        let m = stage.mount("mount-a")?;
        start_load(shared(m.surface()), "mount", &mut writers, &mut loads)?;
        mount = Some(m);
    }
    let (mut stalls, mut begins, mut ends) = (vec![], vec![], vec![]);
    for n in 0..kills {
        wait_for("the writers go on", PATIENCE, || writers.iter().all(|w| w.pieces() > 20).then_some(()))?;
        let killed = n % 3;
        let hit = cold_below_goal(stage, killed)?;
        let at = Instant::now();
        stage.cluster.chunkservers[killed].kill9()?;
        let goes_on = || {
            let synced = writers.iter().all(|w| w.synced_since(at));
            (synced && loads.iter().all(|l| l.served_since(at))).then_some(())
        };
        if let Err(e) = wait_for("everybody writes and syncs again", PATIENCE, goes_on) {
            report.fail(format!("{e:#}"));
        }
        let done = |below: usize| {
            let left = || cold_below_goal(stage, killed).is_ok_and(|left| left <= below);
            wait_for("cold chunks are repaired", LONG, || left().then(|| at.elapsed()))
        };
        // The first copy that repair made, and the last, of chunks that nobody writes.
        begins.push(done(hit.saturating_sub(1))?);
        ends.push(done(0)?);
        let waited = writers.iter().map(|w| w.longest_since(at));
        stalls.push(waited.chain(loads.iter().map(|l| l.longest_since(at).0)).max().unwrap_or_default());
        stage.cluster.chunkservers[killed].start()?;
        stage.cluster.chunkservers[killed].wait_ready()?;
        // The next kill shall not meet what this one left undecided.
        stage.healed()?;
        let last = |times: &[Duration]| times.last().copied().map(secs).unwrap_or_default();
        report.say(format!(
            "chunkserver {} was killed: longest stall {}; of {hit} cold chunks on it the first was repaired after {}, all after {}",
            killed + 1,
            last(&stalls),
            last(&begins),
            last(&ends)
        ));
    }
    for writer in writers {
        let (errors, wrong, bytes) = writer.finish(&stage.sdk())?;
        report.say(format!("a long file of {} MiB, {} errors", bytes >> 20, errors.len()));
        report.fail_all("error", errors);
        report.fail_all("long file", wrong);
    }
    for load in loads {
        let done = load.finish()?;
        report.fail_all("error", done.errors());
        report.fail_all("small files", done.check(&stage.sdk() as &dyn Surface)?);
        say_totals(report, &done);
    }
    for (what, times) in [
        ("longest stall of a writer", &stalls),
        ("first cold chunk repaired after", &begins),
        ("all cold chunks repaired after", &ends),
    ] {
        report.say(format!("{what}: {}", distribution(times).0));
    }
    report.aim("longest stall of a writer", distribution(&stalls).2, STALL);
    report.aim("repair begins", distribution(&begins).2, REPAIR_BEGINS);
    stage.heal(report);
    drop(mount);
    Ok(())
}

fn say_totals(report: &Report, done: &Done) {
    let (names, bytes) = done.totals();
    let errors = done.errors().len();
    report.say(format!(
        "{} small operations acknowledged, {errors} errors; {names} files of {} MiB looked for",
        done.acknowledged,
        bytes >> 20
    ));
}

fn start_load(
    surface: Arc<dyn Surface>,
    by: &str,
    writers: &mut Vec<Writer>,
    loads: &mut Vec<Load>,
) -> Result<()> {
    loads.push(Load::start(&surface, &format!("/small-by-{by}"), 2, Duration::from_millis(60))?);
    writers.push(Writer::start(surface, &format!("/long-by-{by}")));
    Ok(())
}

fn cold(n: u64) -> String {
    format!("/cold-{n}")
}

/// Cold files whose chunk has a place on that server, or less than its copies on living ones.
fn cold_below_goal(stage: &Stage, server: usize) -> Result<usize> {
    let (fs, id, mut below) = (stage.client.filesystem(), ServerId(server as u64 + 1), 0);
    for n in 0..COLD {
        for chunk in stage.wait(fs.chunks(&cold(n)))? {
            let on = chunk.replicas.iter().filter(|r| r.place.server != id && r.alive).count();
            below += usize::from(on < usize::from(chunk.wanted));
        }
    }
    Ok(below)
}

/// Who writes one long file and syncs it from time to time.
struct Writer {
    shared: Arc<Progress>,
    path: String,
    thread: JoinHandle<Vec<String>>,
}

#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    /// Pieces that were taken, and that were synced.
    taken: AtomicU64,
    synced: AtomicU64,
    last_sync_began: Mutex<Option<Instant>>,
    waits: Mutex<Vec<(Instant, Instant)>>,
}

fn piece(n: u64) -> Vec<u8> {
    Content { seed: 77 + n, len: PIECE }.bytes()
}

impl Writer {
    fn start(surface: Arc<dyn Surface>, path: &str) -> Self {
        let shared = Arc::new(Progress::default());
        let (to, at) = (shared.clone(), path.to_owned());
        let thread = std::thread::spawn(move || match to.write(&*surface, &at) {
            Ok(()) => vec![],
            Err(e) => vec![format!("{at}: {e:#}")],
        });
        Self { shared, path: path.into(), thread }
    }

    fn pieces(&self) -> u64 {
        self.shared.taken.load(Ordering::Relaxed)
    }

    fn synced_since(&self, at: Instant) -> bool {
        self.shared.last_sync_began.lock().is_some_and(|b| b > at)
    }

    fn longest_since(&self, at: Instant) -> Duration {
        let waits = self.shared.waits.lock();
        waits.iter().filter(|w| w.1 >= at).map(|w| w.1 - w.0.max(at)).max().unwrap_or_default()
    }

    /// Errors, what is wrong with the file, and its length.
    fn finish(self, surface: &dyn Surface) -> Result<(Vec<String>, Vec<String>, u64)> {
        self.shared.stop.store(true, Ordering::SeqCst);
        let errors = self.thread.join().map_err(|_| anyhow!("a writer panicked"))?;
        let synced = self.shared.synced.load(Ordering::SeqCst);
        let got = surface.read(&self.path)?.with_context(|| format!("{} is lost", self.path))?;
        let mut wrong = Vec::new();
        if got.len() < synced as usize * PIECE {
            wrong.push(format!("{} has {} bytes, {synced} MiB were synced", self.path, got.len()));
        }
        for (n, part) in (0..synced).zip(got.chunks(PIECE)) {
            if part != piece(n) {
                wrong.push(format!("{} is wrong in MiB {n}", self.path));
            }
        }
        Ok((errors, wrong, got.len() as u64))
    }
}

impl Progress {
    fn timed<T>(&self, call: impl FnOnce() -> Result<T>) -> Result<Instant> {
        let begin = Instant::now();
        call()?;
        self.waits.lock().push((begin, Instant::now()));
        Ok(begin)
    }

    fn write(&self, surface: &dyn Surface, path: &str) -> Result<()> {
        let file = surface.create(path)?;
        let mut n = 0;
        while !self.stop.load(Ordering::SeqCst) || n % SYNC_EACH != 0 {
            let data = piece(n);
            self.timed(|| file.write_at(n * PIECE as u64, &data))?;
            n += 1;
            self.taken.store(n, Ordering::Relaxed);
            if n.is_multiple_of(SYNC_EACH) {
                let began = self.timed(|| file.sync())?;
                self.synced.store(n, Ordering::SeqCst);
                *self.last_sync_began.lock() = Some(began);
            }
            std::thread::sleep(PACE);
        }
        ensure!(self.synced.load(Ordering::SeqCst) == n, "not everything was synced");
        file.close()
    }
}
