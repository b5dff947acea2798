//! Load whose every acknowledged result is written down, and later looked for.
//!
//! Each worker has a directory of its own and does what programs do: makes files of all sizes, some
//! with fsync, renames and removes them, and appends synced records to a file that stays open. What
//! was acknowledged must be there; what ended in an error, or was under way at a kill, may or may not.

use crate::surface::{Open, Surface};
use anyhow::{Context as _, Result, anyhow};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Bytes of a record of the file that stays open.
const RECORD: usize = 512;
/// Lengths of files: inline, on both sides of its limit, in parts of a block, in several frames.
const LENGTHS: [usize; 8] = [180, 4_096, 12_000, 70_000, 900, 8_192, 300_000, 1_500_000];

/// Bytes that a number stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Content {
    /// The number.
    pub seed: u64,
    /// How many.
    pub len: usize,
}

impl Content {
    /// The bytes.
    pub fn bytes(self) -> Vec<u8> {
        let mut state = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut out = Vec::with_capacity(self.len + 8);
        while out.len() < self.len {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            out.extend_from_slice(&state.to_le_bytes());
        }
        out.truncate(self.len);
        out
    }
}

/// What a name must show.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Expect {
    /// This.
    Exactly(Content),
    /// Nothing or this: its removal or renaming ended unknown.
    Perhaps(Content),
    /// Anything: it was being written.
    Anything,
    /// That many records, perhaps one more.
    Records { seed: u64, count: u64 },
}

/// One operation as its caller saw it.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// When it began.
    pub begin: Instant,
    /// When it was answered.
    pub end: Instant,
    /// What it was.
    pub what: &'static str,
}

/// What one worker did.
#[derive(Default)]
struct Ledger {
    dir: String,
    names: BTreeMap<String, Expect>,
    /// Renames that ended unknown: the content is at one of the two.
    either: Vec<(String, String)>,
    errors: Vec<String>,
}

struct Shared {
    stop: AtomicBool,
    /// Everything is being killed: errors are no news, and end a worker.
    killed: AtomicBool,
    waits: Mutex<Vec<Wait>>,
    done: Vec<Mutex<Option<Instant>>>,
    acknowledged: AtomicU64,
}

/// Running load.
pub struct Load {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<Ledger>>,
}

/// What a load left behind.
pub struct Done {
    ledgers: Vec<Ledger>,
    /// Operations in the order of their ends.
    pub waits: Vec<Wait>,
    /// Operations that were acknowledged.
    pub acknowledged: u64,
}

impl Load {
    /// Starts `workers` below `dir`, each with a pause of `pace` between its operations.
    pub fn start(surface: &Arc<dyn Surface>, dir: &str, workers: usize, pace: Duration) -> Result<Self> {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            waits: Mutex::new(vec![]),
            done: (0..workers).map(|_| Mutex::new(None)).collect(),
            acknowledged: AtomicU64::new(0),
        });
        let mut handles = Vec::new();
        for w in 0..workers {
            let dir = format!("{dir}/w{w}");
            surface.make_dir(&dir)?;
            let ledger = Ledger { dir, ..Ledger::default() };
            let worker = Worker { n: w, surface: surface.clone(), shared: shared.clone(), ledger, pace };
            handles.push(std::thread::spawn(move || worker.run()));
        }
        Ok(Self { shared, workers: handles })
    }

    /// Operations acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Whether each worker has had an answer to something it began after `at`.
    pub fn served_since(&self, at: Instant) -> bool {
        self.shared.done.iter().all(|begun| begun.lock().is_some_and(|b| b > at))
    }

    /// The longest that a caller waited after `at`, of operations that have ended, and for what.
    pub fn longest_since(&self, at: Instant) -> (Duration, &'static str) {
        let waits = self.shared.waits.lock();
        // They are noted in about the order of their ends.
        let late = waits.iter().rev().take_while(|w| w.end + Duration::from_secs(5) >= at);
        let waited = late.filter(|w| w.end >= at).map(|w| (w.end - w.begin.max(at), w.what));
        waited.max().unwrap_or_default()
    }

    /// From now on errors are no news: everything is being killed.
    pub fn all_dies(&self) {
        self.shared.killed.store(true, Ordering::SeqCst);
    }

    /// Ends it; each worker finishes what it does.
    pub fn finish(self) -> Result<Done> {
        self.shared.stop.store(true, Ordering::SeqCst);
        let join = |w: JoinHandle<Ledger>| w.join().map_err(|_| anyhow!("a worker panicked"));
        let ledgers = self.workers.into_iter().map(join).collect::<Result<Vec<_>>>()?;
        let waits = std::mem::take(&mut *self.shared.waits.lock());
        Ok(Done { ledgers, waits, acknowledged: self.shared.acknowledged.load(Ordering::SeqCst) })
    }
}

struct Worker {
    n: usize,
    surface: Arc<dyn Surface>,
    shared: Arc<Shared>,
    ledger: Ledger,
    pace: Duration,
}

impl Worker {
    fn over(&self) -> bool {
        self.shared.stop.load(Ordering::SeqCst) || self.shared.killed.load(Ordering::SeqCst)
    }

    fn run(mut self) -> Ledger {
        let log = format!("{}/log", self.ledger.dir);
        let seed = (self.n as u64 + 1) << 40;
        self.ledger.names.insert("log".into(), Expect::Anything);
        let surface = self.surface.clone();
        let Some(file) = self.timed("create", || surface.create(&log)) else { return self.ledger };
        self.ledger.names.insert("log".into(), Expect::Records { seed, count: 0 });
        let mut k = 0;
        let mut records = 0;
        while !self.over() {
            self.step(k, seed);
            if records >= 0 && k % 2 == 0 {
                records = self.append(&*file, seed, records);
            }
            k += 1;
            std::thread::sleep(self.pace);
        }
        if let Err(e) = file.close() {
            self.fail("close of the log", &e);
        }
        self.ledger
    }

    /// Notes an error, but those of a client whose cluster is being killed.
    fn fail(&mut self, what: &str, e: &anyhow::Error) {
        if !self.shared.killed.load(Ordering::SeqCst) {
            self.ledger.errors.push(format!("{what}: {e:#}"));
        }
    }

    fn timed<T>(&mut self, what: &'static str, call: impl FnOnce() -> Result<T>) -> Option<T> {
        let begin = Instant::now();
        let result = call();
        let end = Instant::now();
        self.shared.waits.lock().push(Wait { begin, end, what });
        match result {
            Ok(done) => {
                *self.shared.done[self.n].lock() = Some(begin);
                self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                Some(done)
            }
            Err(e) => {
                self.fail(what, &e);
                None
            }
        }
    }

    fn step(&mut self, k: u64, seed: u64) {
        let surface = self.surface.clone();
        let dir = self.ledger.dir.clone();
        let at = |name: &str| format!("{dir}/{name}");
        let name = format!("f{k}");
        let content = Content { seed: seed + k + 1, len: LENGTHS[k as usize % LENGTHS.len()] };
        self.ledger.names.insert(name.clone(), Expect::Anything);
        let sync = k.is_multiple_of(3);
        let what = if sync { "put with fsync" } else { "put" };
        if self.timed(what, || surface.put(&at(&name), &content.bytes(), sync)).is_some() {
            self.ledger.names.insert(name, Expect::Exactly(content));
        }
        if k % 5 == 4 && !self.over() {
            self.rename(&format!("f{}", k - 2), &format!("r{}", k - 2));
        }
        if k % 7 == 6 && !self.over() {
            let old = format!("f{}", k - 3);
            if let Some(Expect::Exactly(content)) = self.ledger.names.get(&old).cloned() {
                self.ledger.names.insert(old.clone(), Expect::Perhaps(content));
                if self.timed("remove", || surface.remove(&at(&old))).is_some() {
                    self.ledger.names.remove(&old);
                }
            }
        }
    }

    fn rename(&mut self, old: &str, new: &str) {
        let Some(Expect::Exactly(content)) = self.ledger.names.get(old).cloned() else { return };
        let (surface, dir) = (self.surface.clone(), self.ledger.dir.clone());
        self.ledger.names.insert(old.into(), Expect::Perhaps(content));
        self.ledger.names.insert(new.into(), Expect::Perhaps(content));
        let call = || surface.rename(&format!("{dir}/{old}"), &format!("{dir}/{new}"));
        if self.timed("rename", call).is_some() {
            self.ledger.names.remove(old);
            self.ledger.names.insert(new.into(), Expect::Exactly(content));
        } else {
            self.ledger.either.push((old.into(), new.into()));
        }
    }

    /// Appends a record and syncs it; answers the records that are there, or -1 when nobody knows.
    fn append(&mut self, file: &dyn Open, seed: u64, count: i64) -> i64 {
        let record = Content { seed: seed ^ count as u64, len: RECORD }.bytes();
        let call = || file.write_at(count as u64 * RECORD as u64, &record).and_then(|()| file.sync());
        if self.timed("append with fsync", call).is_none() {
            return -1;
        }
        self.ledger.names.insert("log".into(), Expect::Records { seed, count: count as u64 + 1 });
        count + 1
    }
}

impl Done {
    /// Errors that callers saw.
    pub fn errors(&self) -> Vec<String> {
        self.ledgers.iter().flat_map(|l| l.errors.iter().map(|e| format!("{}: {e}", l.dir))).collect()
    }

    /// Names that are looked for, and bytes of those whose content is known.
    pub fn totals(&self) -> (u64, u64) {
        let all = self.ledgers.iter().flat_map(|l| l.names.values());
        all.fold((0, 0), |(n, bytes), e| match e {
            Expect::Exactly(c) => (n + 1, bytes + c.len as u64),
            Expect::Records { count, .. } => (n + 1, bytes + count * RECORD as u64),
            Expect::Perhaps(_) | Expect::Anything => (n, bytes),
        })
    }

    /// Looks for all that was acknowledged: what is lost, wrong or should not be there.
    pub fn check(&self, surface: &dyn Surface) -> Result<Vec<String>> {
        std::thread::scope(|scope| {
            let each: Vec<_> = self.ledgers.iter().map(|l| scope.spawn(move || l.check(surface))).collect();
            let mut wrong = Vec::new();
            for looked in each {
                wrong.extend(looked.join().map_err(|_| anyhow!("a look panicked"))??);
            }
            Ok(wrong)
        })
    }
}

impl Ledger {
    fn check(&self, surface: &dyn Surface) -> Result<Vec<String>> {
        let (dir, mut wrong) = (&self.dir, Vec::new());
        let there = surface.names(dir).with_context(|| format!("after the faults: {dir}"))?;
        let extra = there.iter().filter(|n| !self.names.contains_key(*n));
        wrong.extend(extra.map(|n| format!("{dir}/{n} should not be there")));
        for (name, expect) in &self.names {
            let at = format!("{dir}/{name}");
            let listed = there.contains(name);
            let got = match surface.read(&at) {
                Ok(got) => got,
                Err(e) => {
                    wrong.push(format!("{at} cannot be read: {e:#}"));
                    continue;
                }
            };
            if got.is_some() != listed {
                wrong.push(format!("{at}: listed is {listed}, found is {}", got.is_some()));
            }
            if let Err(what) = expect.judge(got.as_deref()) {
                wrong.push(format!("{at} {what}"));
            }
        }
        for (a, b) in &self.either {
            if there.contains(a) == there.contains(b) {
                wrong.push(format!(
                    "of {dir}/{a} and {b}, which a rename of unknown end named, not one is there"
                ));
            }
        }
        Ok(wrong)
    }
}

impl Expect {
    fn judge(&self, got: Option<&[u8]>) -> Result<(), String> {
        let same = |c: &Content, got: &[u8]| match (got == c.bytes(), got.len()) {
            (true, _) => Ok(()),
            (false, len) => Err(format!("has other content, {len} bytes of {}", c.len)),
        };
        match (self, got) {
            (Self::Anything, _) | (Self::Perhaps(_), None) => Ok(()),
            (Self::Exactly(c) | Self::Perhaps(c), Some(got)) => same(c, got),
            (Self::Exactly(c), None) => Err(format!("is lost ({} bytes)", c.len)),
            (Self::Records { count: 0, .. }, None) => Err("is lost".into()),
            (Self::Records { count, .. }, None) => Err(format!("is lost with its {count} synced records")),
            (Self::Records { seed, count }, Some(got)) => {
                if got.len() < *count as usize * RECORD || got.len() > (*count as usize + 1) * RECORD {
                    return Err(format!("has {} bytes of {count} synced records", got.len()));
                }
                let mut records = (0..*count).zip(got.chunks(RECORD));
                let bad = records.find(|(n, r)| *r != Content { seed: seed ^ n, len: RECORD }.bytes());
                bad.map_or(Ok(()), |(n, _)| Err(format!("has a wrong record {n} of {count}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_seen() {
        let c = Content { seed: 3, len: 100 };
        let mut other = c.bytes();
        other[99] ^= 1;
        assert!(Expect::Exactly(c).judge(Some(&c.bytes())).is_ok());
        assert!(Expect::Exactly(c).judge(Some(&other)).is_err());
        assert!(Expect::Exactly(c).judge(Some(&c.bytes()[..99])).is_err());
        assert!(Expect::Exactly(c).judge(None).is_err());
        assert!(Expect::Perhaps(c).judge(None).is_ok() && Expect::Perhaps(c).judge(Some(&other)).is_err());
        let record = |n: u64| Content { seed: 8 ^ n, len: RECORD }.bytes();
        let log = [record(0), record(1), record(2)].concat();
        let two = Expect::Records { seed: 8, count: 2 };
        assert!(two.judge(Some(&log)).is_ok() && two.judge(Some(&log[..RECORD * 2])).is_ok());
        assert!(two.judge(Some(&log[..RECORD])).is_err());
        assert!(two.judge(Some(&[record(1), record(0)].concat())).is_err());
    }
}
