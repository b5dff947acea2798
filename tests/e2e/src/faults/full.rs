//! Disks that fill up and are emptied: of chunks, and of masters.

use super::{Amount, DEADLINE, Stage, can_mount};
use crate::{
    cluster::{Plan, wait_for},
    load::Content,
    report::{Report, secs},
    surface::{Mounted, Sdk, Surface, connect},
};
use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Disks of the chunkservers, and what they keep free.
const DISK_MIB: u64 = 160;
const RESERVE_MIB: &str = "16";
/// Disks of the masters.
const MASTER_MIB: u64 = 192;
/// Bytes of a file that fills chunkservers, and of one that fills masters.
const LARGE: usize = 4 << 20;
const SMALL: usize = 7_000;
/// Aim: from the beginning of the call that finds no space to its error.
const TOLD: Duration = Duration::from_secs(5);
/// Longest wait for space that was freed.
const FREED: Duration = Duration::from_secs(90);
/// Files until a disk must be full.
const FILES_MAX: u64 = 20_000;

struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path, mib: u64) -> Result<Self> {
        fs::create_dir_all(at)?;
        let size = format!("size={mib}m");
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
            .with_context(|| format!("a tmpfs of {mib} MiB at {}", at.display()))?;
        Ok(Self(at.into()))
    }

    /// Something else than MooseNG has it.
    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Takes all that is free.
    fn fill(&self) -> Result<()> {
        let mut file = fs::File::options().create(true).append(true).open(self.filler())?;
        let (large, small) = (vec![1; 1 << 20], [1; 4096]);
        while file.write_all(&large).is_ok() {}
        while file.write_all(&small).is_ok() {}
        Ok(())
    }

    fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Fills data disks and metadata disks, and empties them.
pub fn full(amount: Amount, report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let at = |name: String| dir.path().join("cluster").join(name);
    if let Err(e) = Tmpfs::mount(&dir.path().join("try"), 1) {
        report.skip(format!("no tmpfs can be mounted here: {e:#}"));
        return Ok(());
    }
    let mut disks = Vec::new();
    for server in 1..=3 {
        for disk in 1..=2 {
            disks.push(Tmpfs::mount(&at(format!("chunkserver-{server}/disk{disk}")), DISK_MIB)?);
        }
    }
    let masters =
        (1..=3).map(|m| Tmpfs::mount(&at(format!("master-{m}")), MASTER_MIB)).collect::<Result<Vec<_>>>()?;
    let stage = Stage::start_in(dir, Plan::new(3, 3).with("MOOSENG_RESERVE_MB", RESERVE_MIB))?;
    let mut full = Full { stage, files: BTreeMap::new(), next: 0 };
    full.data_disks(report)?;
    full.one_servers_disks(report, &disks)?;
    full.masters_disks(report, &masters, amount)?;
    full.stage.heal(report);
    Ok(())
}

/// The error number that a program would see.
fn errno(e: &anyhow::Error) -> i32 {
    let sdk = e.downcast_ref::<mooseng_client::Error>().map(|e| e.errno().raw());
    let os = || e.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
    let nix = || e.downcast_ref::<nix::errno::Errno>().map(|e| *e as i32);
    sdk.or_else(os).or_else(nix).unwrap_or_default()
}

/// After how long a call failed.
#[derive(Debug)]
struct Took(Duration);

impl std::fmt::Display for Took {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "after {}", secs(self.0))
    }
}

struct Failed {
    path: String,
    error: anyhow::Error,
    took: Duration,
}

struct Full {
    stage: Stage,
    /// What was acknowledged.
    files: BTreeMap<String, Content>,
    next: u64,
}

impl Full {
    /// A file with fsync; when it fails, after how long.
    fn put(&mut self, surface: &dyn Surface, len: usize) -> Result<(), Failed> {
        let path = format!("/f{}", self.next);
        let content = Content { seed: 5_000 + self.next, len };
        self.next += 1;
        let begin = Instant::now();
        let written = surface.create(&path).and_then(|file| {
            match file.write_at(0, &content.bytes()).and_then(|()| file.sync()) {
                Ok(()) => file.close(),
                // The close of what cannot be written tries again, and is no part of the answer.
                Err(e) => Err(e.context(Took(begin.elapsed()))),
            }
        });
        match written {
            Ok(()) => {
                self.files.insert(path, content);
                Ok(())
            }
            Err(error) => {
                let took = error.downcast_ref::<Took>().map_or_else(|| begin.elapsed(), |t| t.0);
                Err(Failed { path, error, took })
            }
        }
    }

    /// Writes until there is no space; how long the last call took and what it said.
    fn until_full(&mut self, surface: &dyn Surface, len: usize) -> Option<Failed> {
        for _ in 0..FILES_MAX {
            if let Err(failed) = self.put(surface, len) {
                // What is left of it is not promised, and takes room.
                surface.remove(&failed.path).ok();
                return Some(failed);
            }
        }
        None
    }

    fn told(report: &mut Report, who: &str, ended: Option<Failed>) {
        let Some(Failed { took, error: e, .. }) = ended else {
            report.fail(format!("{who}: {FILES_MAX} files went in, and the disks never were full"));
            return;
        };
        report.say(format!("{who}: after {} the error was: {e:#}", secs(took)));
        if errno(&e) != nix::errno::Errno::ENOSPC as i32 {
            report.fail(format!(
                "{who}: the error is not ENOSPC but {}",
                nix::errno::Errno::from_raw(errno(&e))
            ));
        }
        report.aim(&format!("{who}: ENOSPC"), took, TOLD);
    }

    fn check(&self, report: &mut Report, when: &str) {
        let sdk = self.stage.sdk();
        let mut wrong = Vec::new();
        for (path, content) in &self.files {
            match sdk.read(path) {
                Ok(Some(data)) if data == content.bytes() => {}
                Ok(Some(data)) => {
                    wrong.push(format!("{path} has other content, {} bytes of {}", data.len(), content.len))
                }
                Ok(None) => wrong.push(format!("{path} is lost")),
                Err(e) => wrong.push(format!("{path}: {e:#}")),
            }
        }
        report.say(format!(
            "{when}: {} acknowledged files looked for, {} wrong",
            self.files.len(),
            wrong.len()
        ));
        report.fail_all(when, wrong);
    }

    /// Removes every other file.
    fn remove_half(&mut self, report: &mut Report, when: &str) {
        let sdk = self.stage.sdk();
        let half: Vec<_> = self.files.keys().step_by(2).cloned().collect();
        let begin = Instant::now();
        let mut failed = Vec::new();
        for path in &half {
            match sdk.remove(path) {
                Ok(()) => drop(self.files.remove(path)),
                Err(e) => {
                    // It may be gone or not.
                    self.files.remove(path);
                    failed.push(format!("{e:#}"));
                }
            }
            if failed.len() > 2 {
                break;
            }
        }
        report.say(format!(
            "{when}: {} files were removed in {}, {} errors",
            half.len(),
            secs(begin.elapsed()),
            failed.len()
        ));
        report.fail_all(&format!("{when}: rm"), failed);
    }

    fn again(&mut self, report: &mut Report, when: &str, surface: &dyn Surface, len: usize) {
        let begin = Instant::now();
        match wait_for("a write succeeds", FREED, || self.put(surface, len).ok()) {
            Ok(_) => report.say(format!("{when}: the first write succeeded {} after", secs(begin.elapsed()))),
            Err(e) => report.fail(format!("{when}: {e:#}")),
        }
    }

    fn data_disks(&mut self, report: &mut Report) -> Result<()> {
        let sdk = self.stage.sdk();
        let ended = self.until_full(&sdk, LARGE);
        Self::told(report, "data disks, the SDK", ended);
        if can_mount(report) {
            let mount = self.stage.mount("mount-a")?;
            let ended = self.until_full(&mount.surface(), LARGE);
            Self::told(report, "data disks, a mount", ended);
            self.small_go_on(report, &mount.surface());
        }
        self.check(report, "data disks full");
        self.remove_half(report, "data disks full");
        self.again(report, "data disks: after rm", &sdk, LARGE);
        self.check(report, "data disks after rm");
        Ok(())
    }

    /// What needs no chunks needs no space of chunkservers.
    fn small_go_on(&mut self, report: &mut Report, surface: &Mounted) {
        if let Err(Failed { path, error: e, .. }) = self.put(surface, 100) {
            report.fail(format!(
                "a file of 100 bytes ({path}) cannot be written while the data disks are full: {e:#}"
            ));
        }
    }

    /// Something foreign fills one server's disks: the others take the writes.
    fn one_servers_disks(&mut self, report: &mut Report, disks: &[Tmpfs]) -> Result<()> {
        self.remove_half(report, "before one server is full");
        self.again(report, "room for one server less", &self.stage.sdk(), LARGE);
        disks.iter().take(2).try_for_each(Tmpfs::fill)?;
        let sdk = self.stage.sdk();
        let (begin, mut longest, mut errors) = (Instant::now(), Duration::ZERO, Vec::new());
        for _ in 0..10 {
            let one = Instant::now();
            if let Err(Failed { error: e, .. }) = self.put(&sdk, LARGE) {
                errors.push(format!("{e:#}"));
            }
            longest = longest.max(one.elapsed());
        }
        report.say(format!(
            "one server's disks full: 10 files in {}, the longest took {}, {} errors",
            secs(begin.elapsed()),
            secs(longest),
            errors.len()
        ));
        report.fail_all("one server's disks full", errors);
        self.check(report, "one server's disks full");
        disks.iter().take(2).try_for_each(Tmpfs::empty)
    }

    fn masters_disks(&mut self, report: &mut Report, disks: &[Tmpfs], amount: Amount) -> Result<()> {
        let client = self.stage.wait(connect(&self.stage.cluster, "fills", DEADLINE / 2))?;
        let sdk = Sdk::new(client.filesystem(), self.stage.rt.handle().clone());
        let leader = self.stage.cluster.leader()?;
        let follower = (leader + 1) % 3;
        disks[follower].fill()?;
        // More than what is left in the log's prepared segments.
        let (begin, mut errors) = (Instant::now(), Vec::new());
        for _ in 0..amount.of(3_000, 3_000, 6_000) {
            if let Err(Failed { error: e, .. }) = self.put(&sdk, SMALL) {
                errors.push(format!("{e:#}"));
            }
            if errors.len() > 3 {
                break;
            }
        }
        report.say(format!(
            "a follower's disk full: small files for {}, {} errors",
            secs(begin.elapsed()),
            errors.len()
        ));
        report.fail_all("a follower's disk full", errors);
        self.tell_masters(report)?;
        disks[leader].fill()?;
        let ended = self.until_full(&sdk, SMALL);
        Self::told(report, "two masters' disks", ended);
        self.tell_masters(report)?;
        self.remove_half(report, "two masters' disks full");
        disks[leader].empty()?;
        disks[follower].empty()?;
        let begin = Instant::now();
        self.start_ended(report)?;
        self.again(report, "masters' disks emptied", &sdk, SMALL);
        report.say(format!("masters serve {} after their disks were emptied", secs(begin.elapsed())));
        self.check(report, "masters' disks emptied");
        self.stage.masters_follow()
    }

    fn tell_masters(&mut self, report: &Report) -> Result<()> {
        for m in &mut self.stage.cluster.masters {
            let state = match m.ended()? {
                Some(status) => format!("ended ({status}); its log ends: {}", m.log_end(1)),
                None if m.pid().is_none() => "has ended".into(),
                None => m
                    .http("/readyz")
                    .map_or("runs, answers nothing".into(), |(s, _)| format!("runs, readiness {s}")),
            };
            report.say(format!("{} {state}", m.name));
        }
        Ok(())
    }

    /// Starts what ended by itself, or what says that it failed.
    fn start_ended(&mut self, report: &Report) -> Result<()> {
        for m in &mut self.stage.cluster.masters {
            let failed =
                m.pid().is_some() && m.ended()?.is_none() && m.http("/livez").is_ok_and(|(s, _)| s != 200);
            if failed {
                report.say(format!("{} says that it failed, and is started again", m.name));
                m.kill9()?;
            }
            if m.pid().is_none() {
                report.say(format!("{} is started again", m.name));
                m.start()?;
            }
        }
        self.stage.cluster.masters.iter_mut().try_for_each(crate::cluster::Daemon::wait_ready)
    }
}
