//! Rates over the last minutes, from counts that only rise. Pure: the caller tells the time.

use mooseng_core::{
    attr::Timestamp,
    ids::{Incarnation, ServerId},
    meta::{Latencies, OpCount, OpCounts, ServerLoad},
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// How far back samples go.
pub(crate) const KEPT: Duration = Duration::from_secs(600);
/// Samples that are kept at most, however often they come.
const SAMPLES_MAX: usize = 600;
/// What is told as the rate of now is that of so long a time.
pub(crate) const LATELY: Duration = Duration::from_secs(60);
/// A chunkserver that has told nothing for so long, in nanoseconds, serves nothing.
const STALE_NANOS: i64 = 20_000_000_000;

/// What happened between two looks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// When the second was.
    pub at: Duration,
    /// Microseconds between them, by the leader's clock; 0 when another leader was met.
    pub micros: u64,
    /// Calls by operation.
    pub ops: Vec<OpCount>,
    /// Bytes a second that chunkservers served.
    pub read_per_s: f64,
    /// Bytes a second that were written to their disks.
    pub written_per_s: f64,
}

impl Sample {
    /// Calls a second.
    pub fn calls_per_s(&self) -> f64 {
        per_s(self.ops.iter().map(|o| o.calls).sum(), self.micros)
    }

    /// The time in microseconds that `q` of all calls stayed below.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let mut all = Latencies::default();
        self.ops.iter().for_each(|o| all.add(&o.latencies));
        all.quantile(q)
    }
}

/// Calls of one operation lately.
#[derive(Clone, Debug)]
pub(crate) struct OpRate {
    pub op: String,
    pub per_s: f64,
    pub calls: u64,
    pub failed: u64,
    pub p50_us: u64,
    pub p99_us: u64,
}

/// What one chunkserver serves now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct LoadRate {
    pub read_per_s: f64,
    pub written_per_s: f64,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    incarnation: Incarnation,
    told: Timestamp,
    bytes: (u64, u64),
    rate: LoadRate,
}

/// The last minutes.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    samples: VecDeque<Arc<Sample>>,
    ops: Option<OpCounts>,
    told: BTreeMap<ServerId, Told>,
    newest: Timestamp,
}

fn per_s(n: u64, micros: u64) -> f64 {
    if micros == 0 { 0.0 } else { n as f64 * 1e6 / micros as f64 }
}

/// What was called between two counts of one leader; `None` of two leaders.
fn between(before: &OpCounts, after: &OpCounts) -> Option<(u64, Vec<OpCount>)> {
    let micros = after.micros.checked_sub(before.micros).filter(|_| before.term == after.term)?;
    let more = |o: &OpCount| {
        let none =
            OpCount { op: String::new(), calls: 0, failed: 0, micros: 0, latencies: Latencies::default() };
        let was = before.ops.iter().find(|b| b.op == o.op).unwrap_or(&none);
        OpCount {
            op: o.op.clone(),
            calls: o.calls.saturating_sub(was.calls),
            failed: o.failed.saturating_sub(was.failed),
            micros: o.micros.saturating_sub(was.micros),
            latencies: o.latencies.since(&was.latencies),
        }
    };
    Some((micros, after.ops.iter().map(more).filter(|o| o.calls > 0).collect()))
}

impl History {
    /// A look at `at`.
    pub fn add(&mut self, at: Duration, ops: OpCounts, loads: &[ServerLoad]) {
        loads.iter().for_each(|l| self.hear(l));
        let (read_per_s, written_per_s) =
            self.rates().fold((0.0, 0.0), |(r, w), (_, l)| (r + l.read_per_s, w + l.written_per_s));
        let first = self.ops.is_none();
        let since = self.ops.as_ref().and_then(|before| between(before, &ops));
        self.ops = Some(ops);
        // One look tells no rate.
        if first {
            return;
        }
        let (micros, ops) = since.unwrap_or_default();
        self.samples.push_back(Arc::new(Sample { at, micros, ops, read_per_s, written_per_s }));
        while self.samples.len() > SAMPLES_MAX
            || self.samples.front().is_some_and(|s| at.saturating_sub(s.at) > KEPT)
        {
            self.samples.pop_front();
        }
    }

    fn hear(&mut self, l: &ServerLoad) {
        self.newest = self.newest.max(l.told);
        let bytes = (l.served.read_bytes, l.served.written_bytes);
        let rate = match self.told.get(&l.server) {
            Some(t) if t.told == l.told => return,
            Some(t) if t.incarnation == l.incarnation && t.told < l.told => {
                let micros = ((l.told.0 - t.told.0) / 1000) as u64;
                LoadRate {
                    read_per_s: per_s(bytes.0.saturating_sub(t.bytes.0), micros),
                    written_per_s: per_s(bytes.1.saturating_sub(t.bytes.1), micros),
                }
            }
            _ => LoadRate::default(),
        };
        self.told.insert(l.server, Told { incarnation: l.incarnation, told: l.told, bytes, rate });
    }

    /// What each chunkserver serves now. One that is silent while others tell serves nothing.
    pub fn rates(&self) -> impl Iterator<Item = (ServerId, LoadRate)> + '_ {
        let is_stale = |t: &Told| self.newest.0.saturating_sub(t.told.0) > STALE_NANOS;
        self.told.iter().map(move |(s, t)| (*s, if is_stale(t) { LoadRate::default() } else { t.rate }))
    }

    /// What one chunkserver serves now.
    pub fn rate_of(&self, server: ServerId) -> LoadRate {
        self.rates().find(|(s, _)| *s == server).map(|(_, rate)| rate).unwrap_or_default()
    }

    /// All samples, the oldest first.
    pub fn samples(&self) -> impl DoubleEndedIterator<Item = &Sample> + Clone {
        self.samples.iter().map(|s| &**s)
    }

    /// Operations of the last minute, the most frequent first.
    pub fn lately(&self) -> Vec<OpRate> {
        let now = self.samples.back().map_or(Duration::ZERO, |s| s.at);
        let (mut micros, mut sums) = (0, BTreeMap::<&str, (u64, u64, Latencies)>::new());
        for s in self.samples.iter().filter(|s| now.saturating_sub(s.at) < LATELY) {
            micros += s.micros;
            for o in &s.ops {
                let sum = sums.entry(&o.op).or_default();
                (sum.0, sum.1) = (sum.0 + o.calls, sum.1 + o.failed);
                sum.2.add(&o.latencies);
            }
        }
        let rate = |(op, (calls, failed, latencies)): (&str, (u64, u64, Latencies))| OpRate {
            op: op.to_owned(),
            per_s: per_s(calls, micros),
            calls,
            failed,
            p50_us: latencies.quantile(0.5).unwrap_or(0),
            p99_us: latencies.quantile(0.99).unwrap_or(0),
        };
        let mut all: Vec<_> = sums.into_iter().map(rate).collect();
        all.sort_by(|a, b| b.calls.cmp(&a.calls).then_with(|| a.op.cmp(&b.op)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_core::{ids::Term, meta::Served};

    fn counts(term: u64, secs: u64, calls: u64) -> OpCounts {
        let latencies = Latencies(vec![(Latencies::bucket(1000), calls)]);
        let op = OpCount { op: "GetAttr".into(), calls, failed: calls / 10, micros: calls * 1000, latencies };
        OpCounts { term: Term(term), micros: secs * 1_000_000, ops: vec![op] }
    }

    fn load(start: u64, told: i64, read: u64) -> ServerLoad {
        ServerLoad {
            server: ServerId(1),
            incarnation: Incarnation(start),
            told: Timestamp::new(told, 0),
            served: Served { read_bytes: read, written_bytes: 2 * read, ..Served::default() },
        }
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn operations_have_rates_between_two_looks_at_one_leader() {
        let mut h = History::default();
        h.add(secs(0), counts(1, 100, 1000), &[]);
        assert!(h.lately().is_empty() && h.samples().count() == 0, "one look tells no rate");
        h.add(secs(2), counts(1, 102, 1020), &[]);
        h.add(secs(4), counts(1, 104, 1080), &[]);
        let rates = h.lately();
        let [r] = &rates[..] else { panic!("{rates:?}") };
        assert_eq!((r.op.as_str(), r.per_s, r.calls, r.failed), ("GetAttr", 20.0, 80, 8));
        assert!((750..1250).contains(&r.p50_us) && (750..1250).contains(&r.p99_us), "{r:?}");
        // Another leader counts from 0: what it did before is not of this time.
        h.add(secs(6), counts(2, 3600, 500_000), &[]);
        assert_eq!(h.lately()[0].per_s, 20.0);
        assert_eq!(h.samples().next_back().unwrap().calls_per_s(), 0.0);
        h.add(secs(8), counts(2, 3602, 500_100), &[]);
        assert_eq!(h.samples().next_back().unwrap().calls_per_s(), 50.0);
        assert!(h.samples().next_back().unwrap().quantile(0.5).is_some());
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let mut h = History::default();
        for n in 0..2000 {
            h.add(secs(n), counts(1, n, n), &[]);
        }
        assert_eq!(h.samples().count(), SAMPLES_MAX);
        h.add(secs(2000) + KEPT, counts(1, 9000, 2000), &[]);
        assert_eq!(h.samples().count(), 1);
    }

    #[test]
    fn chunkservers_have_rates_between_two_tellings_of_one_start() {
        let (mut h, ops) = (History::default(), || counts(1, 1, 1));
        h.add(secs(0), ops(), &[load(7, 100, 1000)]);
        h.add(secs(2), ops(), &[load(7, 100, 1000)]);
        assert_eq!(h.rate_of(ServerId(1)), LoadRate::default());
        h.add(secs(4), ops(), &[load(7, 105, 6000)]);
        let rate = LoadRate { read_per_s: 1000.0, written_per_s: 2000.0 };
        assert_eq!(h.rate_of(ServerId(1)), rate);
        h.add(secs(6), ops(), &[load(7, 105, 6000)]);
        assert_eq!(h.rate_of(ServerId(1)), rate, "it has told nothing new");
        assert_eq!(h.samples().next_back().unwrap().read_per_s, 1000.0);
        h.add(secs(8), ops(), &[load(8, 106, 50)]);
        assert_eq!(h.rate_of(ServerId(1)), LoadRate::default(), "it has started anew");
        h.add(secs(10), ops(), &[load(8, 107, 1050)]);
        let other = ServerLoad { server: ServerId(2), ..load(1, 200, 0) };
        assert_eq!(h.rate_of(ServerId(1)).read_per_s, 1000.0);
        h.add(secs(12), ops(), &[load(8, 107, 1050), other]);
        assert_eq!(h.rate_of(ServerId(1)), LoadRate::default(), "it is silent");
    }
}
