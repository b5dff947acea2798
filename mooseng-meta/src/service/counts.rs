//! Calls that a leader answers, counted by operation and by how long they took. Counting is a few additions
//! without a lock.

use mooseng_core::{
    error::MetaError,
    ids::Term,
    meta::{LATENCY_BUCKETS, Latencies, MetaReply, OP_NAMES, OpCount, OpCounts},
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
    /// A call of the operation with this number was answered.
    pub fn answered(&self, op: usize, took: Duration, answer: &Result<MetaReply, MetaError>) {
        let Some(cell) = self.0.get(op) else { return };
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        cell.micros.fetch_add(micros, Relaxed);
        if let Some(bucket) = cell.buckets.get(usize::from(Latencies::bucket(micros))) {
            bucket.fetch_add(1, Relaxed);
        }
        if matches!(answer, Err(e) if !matches!(e, MetaError::Posix(_) | MetaError::Name(_))) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_core::{
        error::Errno,
        meta::{CloseSession, GetLoad, MetaRequest},
    };

    #[test]
    fn calls_are_counted_by_operation_and_time() {
        let counts = Counts::default();
        let (close, load) = (MetaRequest::from(CloseSession {}), MetaRequest::from(GetLoad {}));
        let ok = Ok(MetaReply::CloseSession(()));
        for (took, answer) in
            [(5, ok.clone()), (7, Err(MetaError::Posix(Errno::ENOENT))), (9, Err(MetaError::SessionEnded))]
        {
            counts.answered(close.number(), Duration::from_millis(took), &answer);
        }
        counts.answered(load.number(), Duration::from_secs(1 << 40), &ok);
        counts.answered(usize::MAX, Duration::ZERO, &ok);
        let told = counts.tell(Term(3), Duration::from_secs(2));
        let [c, l] = &told.ops[..] else { panic!("{told:?}") };
        assert_eq!((c.op.as_str(), c.calls, c.failed, c.micros), ("CloseSession", 3, 1, 21_000));
        assert!((4_000..6_000).contains(&c.latencies.quantile(0.3).unwrap()), "{told:?}");
        assert_eq!((l.op.as_str(), l.calls), ("GetLoad", 1));
        assert_eq!((told.term, told.micros), (Term(3), 2_000_000));
    }
}
