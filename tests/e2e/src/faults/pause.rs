//! SIGSTOP of the leading master, of a chunkserver and of a client that writes, and their going on.

use super::{Amount, Stage, can_mount, shared};
use crate::{
    cluster::{PATIENCE, Plan, wait_for},
    load::{Content, Load},
    report::{Report, secs},
    surface::{Mounted, Sdk, Surface, connect_to},
};
use anyhow::{Context as _, Result, anyhow};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long a master and a chunkserver stand still.
const SERVER_STANDS: Duration = Duration::from_secs(30);
/// How long a client does: twice a session's lifetime.
const CLIENT_STANDS: Duration = Duration::from_secs(60);

/// Stops processes and lets them go on.
pub fn pause(amount: Amount, report: &mut Report) -> Result<()> {
    let stage = &mut Stage::start(Plan::new(3, 3))?;
    let sdk = shared(stage.sdk());
    let load = Load::start(&sdk, "/load", 3, Duration::from_millis(15))?;
    leader_stands(stage, report, &load)?;
    chunkserver_stands(stage, report, &load, amount.of(0, 0, 2))?;
    let done = load.finish()?;
    report.fail_all("error", done.errors());
    report.fail_all("looked for", done.check(&*sdk)?);
    if can_mount(report) {
        client_stands(stage, report)?;
    }
    stage.heal(report);
    Ok(())
}

fn sleep_until(at: Instant) {
    std::thread::sleep(at.saturating_duration_since(Instant::now()));
}

/// A file that is replaced again and again, and readers that must never see an older one than was
/// acknowledged before they asked.
struct Versions {
    stop: AtomicBool,
    acknowledged: AtomicU64,
}

const VERSION: &str = "/version";

impl Versions {
    fn write(&self, surface: &dyn Surface) -> Result<()> {
        while !self.stop.load(Ordering::SeqCst) {
            let next = self.acknowledged.load(Ordering::SeqCst) + 1;
            surface.put("/version.new", next.to_string().as_bytes(), false)?;
            surface.rename("/version.new", VERSION)?;
            self.acknowledged.store(next, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Reads until the end: how often, and what was stale or failed.
    fn read(&self, surface: &dyn Surface) -> (u64, Vec<String>) {
        let (mut reads, mut wrong) = (0, vec![]);
        while !self.stop.load(Ordering::SeqCst) {
            let before = self.acknowledged.load(Ordering::SeqCst);
            match surface.read(VERSION) {
                Ok(Some(text)) => {
                    let got: u64 = String::from_utf8_lossy(&text).parse().unwrap_or_default();
                    if got < before {
                        wrong.push(format!(
                            "a read that began after version {before} was acknowledged saw {got}"
                        ));
                    }
                }
                Ok(None) => wrong.push("the file was not there".into()),
                Err(e) => wrong.push(format!("a read failed: {e:#}")),
            }
            reads += 1;
            std::thread::sleep(Duration::from_millis(5));
        }
        (reads, wrong)
    }
}

fn leader_stands(stage: &mut Stage, report: &mut Report, load: &Load) -> Result<()> {
    let old = stage.cluster.leader()?;
    let only = vec![stage.cluster.master_addrs[old].clone()];
    let stuck = stage.wait(connect_to(&stage.cluster, only, "stuck", SERVER_STANDS * 4))?;
    let rt = stage.rt.handle().clone();
    let versions = Arc::new(Versions { stop: AtomicBool::new(false), acknowledged: AtomicU64::new(0) });
    stage.sdk().put(VERSION, b"0", false)?;
    let (v, s) = (versions.clone(), stage.sdk());
    let writer = std::thread::spawn(move || v.write(&s));
    let surfaces =
        [("the old leader's client", Sdk::new(stuck.filesystem(), rt)), ("another client", stage.sdk())];
    let readers = surfaces.map(|(who, surface)| {
        let v = versions.clone();
        (who, std::thread::spawn(move || v.read(&surface)))
    });
    wait_for("versions are written", PATIENCE, || {
        (versions.acknowledged.load(Ordering::SeqCst) > 20).then_some(())
    })?;
    let at = Instant::now();
    stage.cluster.masters[old].pause()?;
    wait_for("another master leads", PATIENCE, || stage.cluster.leads(Some(old)))?;
    wait_for("load is served", PATIENCE, || load.served_since(at).then_some(()))?;
    report.say(format!(
        "the leader stands still: the longest wait of a caller was {}",
        secs(load.longest_since(at).0)
    ));
    sleep_until(at + SERVER_STANDS);
    let before = versions.acknowledged.load(Ordering::SeqCst);
    let on = Instant::now();
    stage.cluster.masters[old].resume()?;
    sleep_until(on + Duration::from_secs(10));
    report.say(format!(
        "it went on after {}: the longest wait in the next 10 s was {}",
        secs(on - at),
        secs(load.longest_since(on).0)
    ));
    let after = versions.acknowledged.load(Ordering::SeqCst);
    versions.stop.store(true, Ordering::SeqCst);
    writer.join().map_err(|_| anyhow!("a writer panicked"))??;
    for (who, reader) in readers {
        let (reads, wrong) = reader.join().map_err(|_| anyhow!("a reader panicked"))?;
        report.say(format!("{who}: {reads} reads, {} stale or failed", wrong.len()));
        report.fail_all(who, wrong);
    }
    report.say(format!("{before} versions were acknowledged before it went on, {} after", after - before));
    stage.masters_follow()
}

fn chunkserver_stands(stage: &mut Stage, report: &mut Report, load: &Load, which: usize) -> Result<()> {
    let at = Instant::now();
    stage.cluster.chunkservers[which].pause()?;
    wait_for("load is served", PATIENCE, || load.served_since(at).then_some(()))?;
    report.say(format!(
        "a chunkserver stands still: the longest wait of a caller was {}",
        secs(load.longest_since(at).0)
    ));
    sleep_until(at + SERVER_STANDS);
    let on = Instant::now();
    stage.cluster.chunkservers[which].resume()?;
    wait_for("load is served", PATIENCE, || load.served_since(on).then_some(()))?;
    sleep_until(on + Duration::from_secs(5));
    report
        .say(format!("it went on: the longest wait in the next 5 s was {}", secs(load.longest_since(on).0)));
    Ok(())
}

/// The case in which the session was fenced before the other wrote.
const FENCED: &str = "written by another after 45 s";
/// Bytes and pieces of a file that two clients write.
const PIECE: usize = 256 << 10;
const PIECES: usize = 64;

fn mine(n: u64) -> Vec<u8> {
    Content { seed: (1 << 32) + n, len: PIECE }.bytes()
}

fn others(n: usize) -> Vec<u8> {
    Content { seed: (1 << 48) + n as u64, len: PIECE }.bytes()
}

/// A program that overwrites a file round and round until it is told to stop.
struct Program {
    halt: Arc<AtomicBool>,
    /// Writes begun; the last one may still be under way.
    begun: Arc<AtomicU64>,
    path: String,
    thread: JoinHandle<(Vec<String>, Duration)>,
}

impl Program {
    fn start(mount: &Mounted, path: &str) -> Result<Self> {
        let file = mount.open(path)?;
        let (halt, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop, count) = (halt.clone(), begun.clone());
        let thread = std::thread::spawn(move || {
            let (mut n, mut told, mut longest) = (0, vec![], Duration::ZERO);
            while !stop.load(Ordering::SeqCst) {
                count.store(n + 1, Ordering::SeqCst);
                let at = (n as usize % PIECES * PIECE) as u64;
                let begin = Instant::now();
                if let Err(e) = file.write_at(at, &mine(n)) {
                    told.push(format!("write: {e:#}"));
                }
                longest = longest.max(begin.elapsed());
                n += 1;
            }
            for (what, result) in [("fsync", file.sync()), ("close", file.close())] {
                if let Err(e) = result {
                    told.push(format!("{what}: {e:#}"));
                }
            }
            (told, longest)
        });
        Ok(Self { halt, begun, path: path.into(), thread })
    }

    /// What it was told, and what in the file should not be there.
    fn judge(self, report: &mut Report, when: &str, surface: &dyn Surface) -> Result<()> {
        let (told, longest) = self.thread.join().map_err(|_| anyhow!("the program panicked"))?;
        let begun = self.begun.load(Ordering::SeqCst);
        let got = surface.read(&self.path)?.with_context(|| format!("{} is lost", self.path))?;
        let (mut stale, mut mixed) = (vec![], vec![]);
        for (n, part) in got.chunks(PIECE).enumerate() {
            // Only the write that was under way when it stood still may come after the other's.
            let last = begun - 1;
            let under_way = last as usize % PIECES == n;
            if part == others(n) || (under_way && part == mine(last)) {
                continue;
            }
            let old =
                (0..begun).rev().filter(|k| *k as usize % PIECES == n).take(3).find(|k| part == mine(*k));
            match old {
                Some(k) => stale
                    .push(format!("piece {n} shows write {k} of {begun}, which was over before the pause")),
                None if under_way => {}
                None => mixed.push(format!("piece {n} is a mixture")),
            }
        }
        let told = if told.is_empty() { "no error".into() } else { told.join("; ") };
        report.say(format!(
            "{when}: the stopped client's program had {begun} writes, waited {} at the longest and heard: {told}",
            secs(longest)
        ));
        report.say(format!("{when}: {} stale and {} mixed of {PIECES} pieces", stale.len(), mixed.len()));
        if when == FENCED {
            report.fail_all(&format!("{when}: stale data was accepted"), stale);
        }
        report.fail_all(&format!("{when}: neither client's data"), mixed);
        if got.len() != PIECE * PIECES {
            report.fail(format!("{when}: the file has {} bytes", got.len()));
        }
        Ok(())
    }
}

/// A mount's process stands still with data under way, and another client writes the same bytes:
/// once while the session lives, once after it was fenced.
fn client_stands(stage: &mut Stage, report: &mut Report) -> Result<()> {
    let sdk = stage.sdk();
    let mount = stage.mount("mount-a")?;
    let whole: Vec<u8> = (0..PIECES).flat_map(others).collect();
    let cases =
        [("written by another after 5 s", "/early", 5), ("written by another after 45 s", "/late", 45)];
    let mut programs = Vec::new();
    for (when, path, after) in cases {
        sdk.put(path, &vec![0; whole.len()], true)?;
        programs.push((when, Program::start(&mount.surface(), path)?, after));
    }
    wait_for("the programs write", PATIENCE, || {
        programs.iter().all(|(_, p, _)| p.begun.load(Ordering::SeqCst) > 3 * PIECES as u64).then_some(())
    })?;
    let at = Instant::now();
    mount.daemon.pause()?;
    for (_, program, _) in &programs {
        program.halt.store(true, Ordering::SeqCst);
    }
    for (when, program, after) in &programs {
        sleep_until(at + Duration::from_secs(*after));
        let begin = Instant::now();
        let file = sdk.open(&program.path)?;
        file.write_at(0, &whole)?;
        file.sync()?;
        file.close()?;
        let got = sdk.read(&program.path)?;
        report.say(format!("{when}: the other's writing and fsync took {}", secs(begin.elapsed())));
        if got.as_deref() != Some(&whole) {
            report.fail(format!(
                "{when}: the other does not read what it wrote and synced, while the first stands still"
            ));
        }
    }
    sleep_until(at + CLIENT_STANDS);
    let sessions = stage.wait(stage.client.sessions())?.len();
    mount.daemon.resume()?;
    report.say(format!(
        "the client went on after {}; {sessions} sessions lived until then",
        secs(at.elapsed())
    ));
    for (when, program, _) in programs {
        program.judge(report, when, &sdk)?;
    }
    // The mount serves on: a new file through it is whole.
    mount.surface().put("/after", &mine(1), true)?;
    if sdk.read("/after")?.as_deref() != Some(&mine(1)) {
        report.fail("what the mount wrote after it went on is not there");
    }
    Ok(())
}
