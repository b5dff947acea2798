//! One bit flipped in a file of a node: never wrong data; repaired, or the node refuses loudly.

mod starts;

use super::{
    Amount, Stage,
    flip::{Draw, Flip, copy, find},
    shared,
};
use crate::{
    cluster::{Daemon, Plan, wait_for},
    load::Content,
    report::Report,
    surface::{Sdk, Surface, connect},
};
use anyhow::{Context as _, Result, ensure};
use mooseng_core::{ids::MasterId, meta::TransferLeadership};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Files with chunks and files whose content is in the masters' state.
const CHUNKED: u64 = 140;
const INLINE: u64 = 60;
/// Longest that a node is given to be ready or to end after a flip.
const STARTS: Duration = Duration::from_secs(15);
/// Blocks and places of a chunk file, format 1.
const HEADER: u64 = 4096;
const TABLE: u64 = 8192;
const DATA: u64 = 327_680;

/// What came of the flips of one kind.
#[derive(Default)]
struct Tally {
    places: u64,
    right: u64,
    repaired: u64,
    refused: u64,
    wrong: u64,
}

struct Flips<'a> {
    stage: &'a mut Stage,
    report: &'a mut Report,
    draw: Draw,
    files: BTreeMap<String, Content>,
    tallies: BTreeMap<&'static str, Tally>,
    little: bool,
}

/// How a node took a flip.
enum Start {
    Ready,
    Ended,
    Hangs,
}

/// How what was read differs from what was written.
fn difference(got: &[u8], expected: &[u8]) -> String {
    let other = |n: &usize| got.get(*n) != expected.get(*n);
    let all: Vec<_> = (0..got.len().max(expected.len())).filter(other).collect();
    let zeros = all.iter().filter(|n| got.get(**n) == Some(&0)).count();
    format!(
        "{} of {}, {} from {} on differ, {zeros} of these are zeros",
        got.len(),
        expected.len(),
        all.len(),
        all.first().copied().unwrap_or_default()
    )
}

fn start(node: &mut Daemon) -> Result<Start> {
    node.start()?;
    let begin = Instant::now();
    while begin.elapsed() < STARTS {
        if node.ended()?.is_some() {
            return Ok(Start::Ended);
        }
        if node.http("/readyz").is_ok_and(|(status, _)| status == 200) {
            return Ok(Start::Ready);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(Start::Hangs)
}

/// Flips bits in every kind of file.
pub fn bitflips(amount: Amount, report: &mut Report) -> Result<()> {
    let stage = &mut Stage::start(Plan::new(3, 3))?;
    let mut flips = Flips {
        stage,
        report,
        draw: Draw(0x5eed_cafe),
        files: BTreeMap::new(),
        tallies: BTreeMap::new(),
        little: amount != Amount::Full,
    };
    flips.fill()?;
    flips.masters()?;
    flips.chunks()?;
    flips.starts()?;
    let Flips { tallies, .. } = flips;
    report.say(format!(
        "{:<34} {:>6} {:>12} {:>9} {:>8} {:>6}",
        "one bit flipped in", "places", "served right", "repaired", "refused", "wrong"
    ));
    for (kind, t) in &tallies {
        let repaired = if t.repaired > 0 { t.repaired.to_string() } else { "-".into() };
        let (p, s, f, w) = (t.places, t.right, t.refused, t.wrong);
        report.say(format!("{kind:<34} {p:>6} {s:>12} {repaired:>9} {f:>8} {w:>6}"));
    }
    report.say(format!("{} places in all", tallies.values().map(|t| t.places).sum::<u64>()));
    Ok(())
}

impl Flips<'_> {
    fn fill(&mut self) -> Result<()> {
        let sdk = self.stage.sdk();
        sdk.make_dir("/d")?;
        for n in 0..CHUNKED + INLINE {
            let len = if n < CHUNKED {
                60_000 + (n as usize * 9_973) % 500_000
            } else {
                600 + (n as usize * 311) % 7_000
            };
            let content = Content { seed: 9_000 + n, len };
            let path = format!("/d/{}{n}", if n < CHUNKED { "chunked" } else { "inline" });
            sdk.put(&path, &content.bytes(), true)?;
            self.files.insert(path, content);
        }
        Ok(())
    }

    /// Reads everything by a client that knows nothing yet: what is wrong, and what cannot be read.
    fn look(&self, deadline: Duration) -> Result<(Vec<String>, Vec<String>)> {
        let client = self.stage.wait(connect(&self.stage.cluster, "looks", deadline))?;
        let sdk = shared(Sdk::new(client.filesystem(), self.stage.rt.handle().clone()));
        let all: Vec<_> = self.files.iter().collect();
        let (mut wrong, mut failed) = (vec![], vec![]);
        let looked = std::thread::scope(|scope| {
            let parts = all.chunks(all.len().div_ceil(6)).map(|part| {
                let sdk = sdk.clone();
                scope.spawn(move || part.iter().map(|(p, c)| (*p, *c, sdk.read(p))).collect::<Vec<_>>())
            });
            let parts: Vec<_> = parts.collect();
            parts.into_iter().filter_map(|p| p.join().ok()).flatten().collect::<Vec<_>>()
        });
        ensure!(looked.len() == all.len(), "a look panicked");
        for (path, content, got) in looked {
            match got {
                Ok(Some(data)) if data == content.bytes() => {}
                Ok(Some(data)) => {
                    wrong.push(format!("{path} reads other bytes: {}", difference(&data, &content.bytes())))
                }
                Ok(None) => wrong.push(format!("{path} is not there")),
                Err(e) => failed.push(format!("{path}: {e:#}")),
            }
        }
        match sdk.names("/d") {
            Ok(names) => {
                let mut expected: Vec<_> =
                    self.files.keys().map(|p| p.trim_start_matches("/d/").to_owned()).collect();
                let mut names = names;
                expected.sort();
                names.sort();
                if names != expected {
                    wrong.push(format!(
                        "the directory lists {} names that differ from the {} made",
                        names.len(),
                        expected.len()
                    ));
                }
            }
            Err(e) => failed.push(format!("/d: {e:#}")),
        }
        self.stage.wait(client.shutdown(Duration::from_secs(5))).ok();
        Ok((wrong, failed))
    }

    fn tally(&mut self, kind: &'static str) -> &mut Tally {
        self.tallies.entry(kind).or_default()
    }

    /// All is read, and counted for a kind; whether it was right.
    fn judge(&mut self, kind: &'static str, place: &str) -> Result<bool> {
        let (wrong, failed) = self.look(Duration::from_secs(20))?;
        let good = wrong.is_empty() && failed.is_empty();
        if !good {
            self.tally(kind).wrong += 1;
            self.report.fail_all(&format!("{kind}, {place}"), wrong);
            self.report.fail_all(&format!("{kind}, {place}, the cluster does not serve"), failed);
        }
        Ok(good)
    }

    fn masters(&mut self) -> Result<()> {
        let part = if self.little { 5 } else { 1 };
        let kinds: [(&'static str, u64); 7] = [
            ("master: Raft log segment", 24),
            ("master: vote", 8),
            ("master: starts", 8),
            ("master: state.redb, any place", 16),
            ("master: state.redb, a file's content", 8),
            ("master: state.redb, a name", 4),
            ("master: snapshot", 8),
        ];
        let mut n = 0;
        for (kind, places) in kinds {
            for _ in 0..places.div_ceil(part) {
                if !self.master(kind, n % 3, n % 2 == 0)? {
                    self.report.say(format!("{kind}: no such place on this node now"));
                    break;
                }
                n += 1;
            }
        }
        for (kind, within) in [("master: certificate, key, identity", ""), ("master: the authority", "ca")] {
            for _ in 0..6u64.div_ceil(part) {
                self.identity(kind, true, n % 3, within)?;
                n += 1;
            }
        }
        Ok(())
    }

    /// A place of that kind in a master's directory.
    fn master_place(&mut self, kind: &str, dir: &Path) -> Result<Option<(PathBuf, u64)>> {
        let state = dir.join("state.redb");
        let found = match kind {
            "master: Raft log segment" => {
                let mut logs: Vec<_> =
                    fs::read_dir(dir.join("raft/log"))?.filter_map(|e| Some(e.ok()?.path())).collect();
                logs.sort();
                let log = logs.get(self.draw.below(logs.len() as u64) as usize).cloned();
                log.and_then(|l| Some((l.clone(), self.used(&fs::read(&l).ok()?)?)))
            }
            "master: vote" => self.in_file(&dir.join("raft/vote")),
            "master: starts" => self.in_file(&dir.join("raft/starts")),
            "master: snapshot" => self.in_file(&dir.join("raft/snapshot")),
            "master: state.redb, any place" => self.in_file(&state),
            "master: state.redb, a name" => {
                let n = CHUNKED + self.draw.below(INLINE);
                find(&fs::read(&state)?, format!("inline{n}").as_bytes()).map(|at| (state, at + 7))
            }
            _ => {
                let n = CHUNKED + self.draw.below(INLINE);
                let content = self.files.get(&format!("/d/inline{n}")).copied().context("a file is known")?;
                find(&fs::read(&state)?, &content.bytes()[..64])
                    .map(|at| (state, at + self.draw.below(content.len as u64)))
            }
        };
        Ok(found)
    }

    fn in_file(&mut self, path: &Path) -> Option<(PathBuf, u64)> {
        let at = self.used(&fs::read(path).ok()?)?;
        Some((path.into(), at))
    }

    /// A place that is in use: with something else than zeros around it.
    fn used(&mut self, bytes: &[u8]) -> Option<u64> {
        (0..10_000).map(|_| self.draw.below(bytes.len() as u64)).find(|at| {
            let around = (*at as usize).saturating_sub(8)..bytes.len().min(*at as usize + 8);
            bytes.get(around).is_some_and(|part| part.iter().filter(|b| **b != 0).count() >= 4)
        })
    }

    /// Flips a bit of a stopped master; `false` where there is no such place.
    fn master(&mut self, kind: &'static str, which: usize, cleanly: bool) -> Result<bool> {
        self.stage.masters_follow()?;
        let id = which + 1;
        let node = &mut self.stage.cluster.masters[which];
        if cleanly {
            node.stop()?
        } else {
            node.kill9()?
        }
        let dir = self.stage.cluster.data(&format!("master-{id}"));
        let Some((path, at)) = self.master_place(kind, &dir)? else {
            self.stage.cluster.masters[which].start()?;
            self.stage.cluster.masters[which].wait_ready()?;
            return Ok(false);
        };
        let saved = tempfile::tempdir()?;
        copy(&dir, &saved.path().join("data"))?;
        let bit = self.draw.below(8) as u8;
        let flip = Flip::make(&path, at, bit)?;
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let stopped = if cleanly { "a clean stop" } else { "kill -9" };
        let place = format!("master {id}, {name} at {at} bit {bit} after {stopped}");
        self.tally(kind).places += 1;
        let how = start(&mut self.stage.cluster.masters[which])?;
        let mut good = self.judge(kind, &format!("{place}, while others may lead"))?;
        match how {
            Start::Ready => {
                good &= self.leads_rightly(kind, which, &place)?;
                self.tally(kind).right += u64::from(good);
                self.tally(kind).repaired += u64::from(flip.is_mended() != Some(false));
                self.stage.cluster.masters[which].stop().ok();
                // The state does not mend by itself. What the log cut off must stay cut off.
                if kind.contains("redb") {
                    flip.undo()?;
                }
                self.restart(which, &place, saved.path())?;
            }
            Start::Ended | Start::Hangs => {
                if matches!(how, Start::Hangs) {
                    self.report.say(format!(
                        "{place}: not ready and not ended; its log ends: {}",
                        self.stage.cluster.masters[which].log_end(2)
                    ));
                    self.stage.cluster.masters[which].kill9()?;
                }
                self.tally(kind).refused += 1;
                flip.undo()?;
                self.restart(which, &place, saved.path())?;
            }
        }
        Ok(true)
    }

    /// Starts a master again, with what was saved of it when it does not start otherwise.
    fn restart(&mut self, which: usize, place: &str, saved: &Path) -> Result<()> {
        let dir = self.stage.cluster.data(&format!("master-{}", which + 1));
        let node = &mut self.stage.cluster.masters[which];
        node.start()?;
        if node.wait_ready().is_ok() {
            return Ok(());
        }
        self.report.fail(format!("{place}: it does not start again: {}", node.log_end(1)));
        if node.ended()?.is_none() && node.pid().is_some() {
            node.kill9()?;
        }
        fs::remove_dir_all(&dir)?;
        copy(&saved.join("data"), &dir)?;
        node.start()?;
        node.wait_ready()
    }

    /// The master with the flip is made to lead, and everything is read from it.
    fn leads_rightly(&mut self, kind: &'static str, which: usize, place: &str) -> Result<bool> {
        let to = MasterId(which as u64 + 1);
        let until = Instant::now() + Duration::from_secs(20);
        while self.stage.cluster.leads(None) != Some(which) {
            if self.stage.cluster.masters[which].ended()?.is_some() {
                self.tally(kind).refused += 1;
                return Ok(true);
            }
            if Instant::now() > until {
                // It may not lead before it has caught up, or not at all: it is not served from then.
                return Ok(true);
            }
            self.stage.wait(self.stage.client.request(TransferLeadership { to })).ok();
            std::thread::sleep(Duration::from_millis(200));
        }
        self.judge(kind, &format!("{place}, led by it"))
    }

    fn chunk_files(&self, server: usize) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut dirs: Vec<_> = (1..=2)
            .map(|d| {
                self.stage
                    .cluster
                    .data(&format!("chunkserver-{}", server + 1))
                    .join(format!("disk{d}/chunks"))
            })
            .collect();
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    dirs.push(path);
                } else if entry.metadata().is_ok_and(|m| m.len() > DATA) {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }

    fn chunk_place(&mut self, kind: &str, path: &Path) -> Result<u64> {
        let bytes = fs::read(path)?;
        let within = |from: u64, to: u64| bytes.get(from as usize..to as usize).unwrap_or_default();
        Ok(match kind {
            "chunk: header slot A" => self.used(within(0, HEADER)).unwrap_or(40),
            "chunk: header slot B" => HEADER + self.used(within(HEADER, TABLE)).unwrap_or(40),
            "chunk: checksum table" => TABLE + self.used(within(TABLE, TABLE + 4096)).unwrap_or(90),
            _ => DATA + self.draw.below((bytes.len() as u64).saturating_sub(DATA)),
        })
    }

    /// Flips bits of a chunkserver's chunk files: some while it is stopped, some of data while it serves.
    fn chunks(&mut self) -> Result<()> {
        let each = if self.little { 2 } else { 7 };
        let kinds = ["chunk: header slot A", "chunk: header slot B", "chunk: checksum table", "chunk: data"];
        let mut touched = std::collections::BTreeSet::new();
        for server in 0..3 {
            let cleanly = server != 1;
            let node = &mut self.stage.cluster.chunkservers[server];
            if cleanly {
                node.stop()?
            } else {
                node.kill9()?
            }
            // Of each chunk one replica is touched in all: what nobody read is damaged still.
            let untouched = |p: &PathBuf| !touched.contains(p.file_name().unwrap_or_default());
            let files: Vec<_> =
                self.chunk_files(server).into_iter().filter(untouched).take(each * 4 + 8).collect();
            touched.extend(files.iter().filter_map(|p| Some(p.file_name()?.to_owned())));
            let mut files = files.into_iter();
            let mut flips = Vec::new();
            for kind in kinds {
                for _ in 0..each {
                    let Some(path) = files.next() else { break };
                    let at = self.chunk_place(kind, &path)?;
                    flips.push((kind, Flip::make(&path, at, self.draw.below(8) as u8)?));
                }
            }
            self.chunks_flipped(server, flips, &mut files)?;
        }
        Ok(())
    }

    fn chunks_flipped(
        &mut self,
        server: usize,
        flips: Vec<(&'static str, Flip)>,
        rest: &mut dyn Iterator<Item = PathBuf>,
    ) -> Result<()> {
        let mut flips = flips;
        let place = format!("chunkserver {}", server + 1);
        if !matches!(start(&mut self.stage.cluster.chunkservers[server])?, Start::Ready) {
            let log = self.stage.cluster.chunkservers[server].log_end(3);
            self.report.fail(format!("{place} does not start with flipped bits in chunk files: {log}"));
            flips.iter().try_for_each(|(_, f)| f.undo())?;
            self.stage.cluster.chunkservers[server].start()?;
            self.stage.cluster.chunkservers[server].wait_ready()?;
        }
        for path in rest.take(if self.little { 2 } else { 8 }) {
            let at = self.chunk_place("data", &path)?;
            flips.push(("chunk: data, while it is served", Flip::make(&path, at, self.draw.below(8) as u8)?));
        }
        // Twice: what the first look damaged a client's trust in, the second reads elsewhere.
        let mut good = true;
        for _ in 0..2 {
            let (wrong, failed) = self.look(Duration::from_secs(30))?;
            good &= wrong.is_empty() && failed.is_empty();
            self.report.fail_all(&format!("{place}, bits flipped in chunk files"), wrong);
            self.report.fail_all(&format!("{place}, cannot be read"), failed);
        }
        let damages =
            self.stage.cluster.chunkservers[server].metric("mooseng_chunk_damages_total").unwrap_or_default();
        // What nobody read the scrub reads. The older slot of a table's page has nothing that is missed.
        self.stage.scrub()?;
        let is_open = |(kind, f): &&(&str, Flip)| !kind.contains("table") && f.is_mended() == Some(false);
        wait_for("repair of what was found", Duration::from_secs(20), || {
            flips.iter().find(is_open).is_none().then_some(())
        })
        .ok();
        self.stage.heal(self.report);
        for (kind, flip) in flips.iter().filter(is_open) {
            self.report.fail(format!("{place}, {kind}: {flip} is not mended after a scrub"));
        }
        self.report.say(format!("{place} met {damages} damages before the scrub"));
        for (kind, flip) in flips {
            let mended = flip.is_mended() != Some(false);
            let tally = self.tally(kind);
            tally.places += 1;
            tally.repaired += u64::from(mended);
            tally.right += u64::from(good);
            tally.wrong += u64::from(!good);
        }
        Ok(())
    }
}
