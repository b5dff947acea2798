//! Rates over the last minutes, from counts that only rise. Pure: the caller tells the time, by one clock of its own.

use mooseng_client::report::{ServedRate, ServedRates};
use mooseng_core::{
    ids::ServerId,
    meta::{Latencies, OP_KINDS, OP_NAMES, OpCount, OpCounts, OpKind, ServerLoad},
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

/// What happened between two pulses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// When the second was.
    pub at: Duration,
    /// `None` when nobody answered, or another leader.
    calls: Option<OpCounts>,
    /// What chunkservers served, and what was written to their disks; `None` when nobody answered.
    pub load: Option<ServedRate>,
}

/// Whether an operation is about files. The others are looks, as a dashboard's own, upkeep of sessions, and what
/// servers tell: they say nothing of what the cluster is used for.
fn is_of_files(op: &str) -> bool {
    let kind = OP_NAMES.iter().position(|name| *name == op).map(|at| OP_KINDS[at]);
    matches!(kind, Some(OpKind::FsRead | OpKind::FsWrite))
}

impl Sample {
    fn of_files(&self) -> impl Iterator<Item = &OpCount> {
        self.calls.iter().flat_map(|c| &c.ops).filter(|o| is_of_files(&o.op))
    }

    /// Calls about files a second, when it is known.
    pub fn calls_per_s(&self) -> Option<f64> {
        Some(self.calls.as_ref()?.per_s(self.of_files().map(|o| o.calls).sum()))
    }

    /// The time in microseconds that `q` of them did not pass.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let mut all = Latencies::default();
        self.of_files().for_each(|o| all.add(&o.latencies));
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

/// The last minutes.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    samples: VecDeque<Arc<Sample>>,
    ops: Option<OpCounts>,
    served: ServedRates,
    /// Of the last pulse.
    now: Duration,
}

fn per_s(n: u64, micros: u64) -> f64 {
    if micros == 0 { 0.0 } else { n as f64 * 1e6 / micros as f64 }
}

impl History {
    /// A pulse at `at` was answered.
    pub fn add(&mut self, at: Duration, ops: OpCounts, loads: &[ServerLoad]) {
        self.now = at;
        self.served.hear(at, loads);
        let first = self.ops.is_none();
        let calls = self.ops.as_ref().and_then(|before| ops.since(before));
        self.ops = Some(ops);
        // One pulse tells no rate.
        if !first {
            self.push(Sample { at, calls, load: Some(self.served.sum()) });
        }
    }

    /// A pulse at `at` was not answered: nothing is known of this time.
    pub fn miss(&mut self, at: Duration) {
        self.now = at;
        self.push(Sample { at, ..Sample::default() });
    }

    fn push(&mut self, sample: Sample) {
        self.samples.push_back(Arc::new(sample));
        while self.samples.len() > SAMPLES_MAX
            || self.samples.front().is_some_and(|s| self.now.saturating_sub(s.at) > KEPT)
        {
            self.samples.pop_front();
        }
    }

    /// What one chunkserver serves now; `None` when it is not known, or nobody answers.
    pub fn rate_of(&self, server: ServerId) -> Option<ServedRate> {
        let is_missed = self.samples.back().is_some_and(|s| s.load.is_none());
        if is_missed { None } else { self.served.of(server) }
    }

    /// When the last pulse was.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// All samples, the oldest first.
    pub fn samples(&self) -> impl DoubleEndedIterator<Item = &Sample> + Clone {
        self.samples.iter().map(|s| &**s)
    }

    /// Operations of the last minute, the most frequent first.
    pub fn lately(&self) -> Vec<OpRate> {
        let (mut micros, mut sums) = (0, BTreeMap::<&str, (u64, u64, Latencies)>::new());
        let lately = self.samples.iter().filter(|s| self.now.saturating_sub(s.at) < LATELY);
        for c in lately.filter_map(|s| s.calls.as_ref()) {
            micros += c.micros;
            for o in &c.ops {
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
    use mooseng_core::{
        attr::Timestamp,
        ids::{Incarnation, Term},
        meta::Served,
    };

    fn counts(term: u64, secs: u64, calls: u64) -> OpCounts {
        let latencies = Latencies(vec![(Latencies::bucket(1000), calls)]);
        let op = OpCount { op: "GetAttr".into(), calls, failed: calls / 10, micros: calls * 1000, latencies };
        // A dashboard's own, which takes long.
        let latencies = Latencies(vec![(Latencies::bucket(10_000_000), secs)]);
        let look = OpCount { op: "GetStatus".into(), calls: secs, failed: 0, micros: 0, latencies };
        OpCounts { term: Term(term), micros: secs * 1_000_000, ops: vec![op, look] }
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
        let [r, look] = &rates[..] else { panic!("{rates:?}") };
        assert_eq!((r.op.as_str(), r.per_s, r.calls, r.failed), ("GetAttr", 20.0, 80, 8));
        assert!((500..=1000).contains(&r.p50_us) && (500..=1000).contains(&r.p99_us), "{r:?}");
        assert_eq!((look.op.as_str(), look.calls), ("GetStatus", 4));
        let last = h.samples().next_back().unwrap();
        assert_eq!(last.calls_per_s(), Some(30.0), "looks are not among them");
        assert!(last.quantile(1.0).unwrap() <= 1000);
        // Another leader counts from 0: what it did before is not of this time.
        h.add(secs(6), counts(2, 3600, 500_000), &[]);
        assert_eq!(h.lately()[0].per_s, 20.0);
        assert_eq!(h.samples().next_back().unwrap().calls_per_s(), None);
        h.add(secs(8), counts(2, 3602, 500_100), &[]);
        assert_eq!(h.samples().next_back().unwrap().calls_per_s(), Some(50.0));
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
    fn nothing_is_known_of_the_time_when_nobody_answers() {
        let (mut h, ops) = (History::default(), |n| counts(1, n, n));
        h.add(secs(0), ops(1), &[load(7, 100, 1000)]);
        h.add(secs(2), ops(3), &[load(7, 105, 6000)]);
        let last = h.samples().next_back().unwrap();
        assert_eq!((h.rate_of(ServerId(1)), last.load.map(|l| l.read_bytes)), (last.load, Some(1000.0)));
        for n in 0..300 {
            h.miss(secs(4 + 2 * n));
        }
        let last = h.samples().next_back().unwrap();
        assert_eq!((last.calls_per_s(), last.quantile(0.5), last.load), (None, None, None));
        assert_eq!((h.rate_of(ServerId(1)), h.now()), (None, secs(602)));
        assert!(h.lately().is_empty(), "what was called ten minutes ago is not of the last minute");
        h.add(secs(604), ops(605), &[load(7, 105, 6000)]);
        assert_eq!(h.rate_of(ServerId(1)), Some(ServedRate::default()));
        assert!(h.samples().next_back().unwrap().calls_per_s().is_some());
    }
}
