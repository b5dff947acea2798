//! Calls that a leader answers, or whose callers gave up, counted by operation and by how long they took. Counting is
//! a few additions without a lock.

use mooseng_core::{
    error::MetaError,
    ids::Term,
    meta::{LATENCY_BUCKETS, Latencies, MetaReply, OP_NAMES, OpCount, OpCounts},
    seam::Clock,
};
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Counts of one operation.
struct Cell {
    failed: AtomicU64,
    micros: AtomicU64,
    buckets: [AtomicU64; LATENCY_BUCKETS],
}

/// Counts of all operations.
pub(super) struct Counts(Vec<Cell>);

impl Default for Counts {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        let cell = |_| Cell {
            failed: zero(),
            micros: zero(),
            buckets: [const { AtomicU64::new(0) }; LATENCY_BUCKETS],
        };
        Self(OP_NAMES.iter().map(cell).collect())
    }
}

impl Counts {
    /// A call of the operation with this number has come. It is counted when what is returned goes: also when the
    /// call is dropped before its answer, as those are that hang.
    pub fn begin<'a>(&'a self, op: usize, clock: &'a dyn Clock) -> Call<'a> {
        Call { counts: self, op, clock, came: clock.now(), failed: true }
    }

    fn count(&self, op: usize, took: Duration, failed: bool) {
        let Some(cell) = self.0.get(op) else { return };
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        cell.micros.fetch_add(micros, Relaxed);
        if let Some(bucket) = cell.buckets.get(usize::from(Latencies::bucket(micros))) {
            bucket.fetch_add(1, Relaxed);
        }
        if failed {
            cell.failed.fetch_add(1, Relaxed);
        }
    }

    /// As they are now, `since` the election.
    pub fn tell(&self, term: Term, since: Duration) -> OpCounts {
        let count = |(op, cell): (&&str, &Cell)| {
            let buckets = (0u8..).zip(&cell.buckets).map(|(b, n)| (b, n.load(Relaxed)));
            let latencies = Latencies(buckets.filter(|(_, n)| *n > 0).collect());
            let (failed, micros) = (cell.failed.load(Relaxed), cell.micros.load(Relaxed));
            OpCount { op: (*op).to_owned(), calls: latencies.count(), failed, micros, latencies }
        };
        let ops = OP_NAMES.iter().zip(&self.0).map(count).filter(|c| c.calls > 0).collect();
        OpCounts { term, micros: u64::try_from(since.as_micros()).unwrap_or(u64::MAX), ops }
    }
}

/// A call under way.
pub(super) struct Call<'a> {
    counts: &'a Counts,
    op: usize,
    clock: &'a dyn Clock,
    came: Duration,
    failed: bool,
}

impl Call<'_> {
    /// It was answered.
    pub fn answered(mut self, answer: &Result<MetaReply, MetaError>) {
        self.failed = matches!(answer, Err(e) if !matches!(e, MetaError::Posix(_) | MetaError::Name(_)));
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.counts.count(self.op, self.clock.now().saturating_sub(self.came), self.failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_core::{
        attr::Timestamp,
        error::Errno,
        meta::{CloseSession, GetLoad, MetaRequest},
    };

    /// Time that the test lets pass.
    #[derive(Default, Debug)]
    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn now(&self) -> Duration {
            Duration::from_millis(self.0.load(Relaxed))
        }
        fn wall(&self) -> Timestamp {
            Timestamp::new(0, 0)
        }
    }

    #[test]
    fn calls_are_counted_by_operation_and_time() {
        let (counts, clock) = (Counts::default(), Hand::default());
        let (close, load) = (MetaRequest::from(CloseSession {}), MetaRequest::from(GetLoad {}));
        let passes = |millis: u64| {
            clock.0.fetch_add(millis, Relaxed);
        };
        let ok = Ok(MetaReply::CloseSession(()));
        for (took, answer) in
            [(5, ok.clone()), (7, Err(MetaError::Posix(Errno::ENOENT))), (9, Err(MetaError::SessionEnded))]
        {
            let call = counts.begin(close.number(), &clock);
            passes(took);
            call.answered(&answer);
        }
        let dropped = counts.begin(load.number(), &clock);
        passes(40_000);
        drop(dropped);
        counts.begin(usize::MAX, &clock).answered(&ok);
        let told = counts.tell(Term(3), Duration::from_secs(2));
        let [c, l] = &told.ops[..] else { panic!("{told:?}") };
        assert_eq!((c.op.as_str(), c.calls, c.failed, c.micros), ("CloseSession", 3, 1, 21_000));
        assert_eq!(
            (c.latencies.quantile(0.3), c.latencies.quantile(1.0)),
            (Some(5_000), Some(10_000)),
            "{told:?}"
        );
        assert_eq!(
            (l.op.as_str(), l.calls, l.failed, l.micros),
            ("GetLoad", 1, 1, 40_000_000),
            "its caller gave up"
        );
        assert_eq!((told.term, told.micros), (Term(3), 2_000_000));
    }
}
