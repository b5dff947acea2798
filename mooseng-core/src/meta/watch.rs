//! What operators watch: events, how many copies chunks have, how fast calls are answered, what chunkservers do.

use crate::{attr::Timestamp, ids::*};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

macro_rules! event_codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)+) => {
        /// A kind of event. Its name is stable: scripts may rely on it. Variants are only ever added at the end.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        pub enum EventCode { $($(#[$doc])* $variant,)+ }

        impl EventCode {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its stable name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

event_codes! {
    /// A master leads from now on.
    MasterElected = "MASTER_ELECTED";
    /// A chunkserver came that the masters did not know.
    ChunkserverJoined = "CHUNKSERVER_JOINED";
    /// A chunkserver is not heard any more.
    ChunkserverLost = "CHUNKSERVER_LOST";
    /// A chunkserver is heard again, or has started anew.
    ChunkserverBack = "CHUNKSERVER_BACK";
    /// A disk was set aside after errors.
    DiskSetAside = "DISK_SET_ASIDE";
    /// The cluster has a problem that it had not before.
    ProblemRaised = "PROBLEM_RAISED";
    /// A problem is over.
    ProblemCleared = "PROBLEM_CLEARED";
    /// Chunks that lack copies are being copied.
    RepairBegun = "REPAIR_BEGUN";
    /// No chunk lacks copies that could be made.
    RepairEnded = "REPAIR_ENDED";
    /// A client was silent for so long that its session was ended, and chunkservers refuse what it still sends.
    SessionFenced = "SESSION_FENCED";
}

impl EventCode {
    /// Whether something is worse than before.
    #[must_use]
    pub const fn is_bad(self) -> bool {
        matches!(self, Self::ChunkserverLost | Self::DiskSetAside | Self::ProblemRaised | Self::SessionFenced)
    }
}

impl fmt::Display for EventCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something that an operator wants to know of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterEvent {
    /// Which one, and of which leader.
    pub mark: EventMark,
    /// When the leader saw it, by its clock.
    pub at: Timestamp,
    /// Of which kind.
    pub code: EventCode,
    /// Of a problem: the name of its [`crate::health::HealthCode`].
    pub problem: Option<String>,
    /// What happened, for people.
    pub text: String,
}

/// A place in a leader's events. Each leader begins anew.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub struct EventMark {
    /// The leader's term.
    pub term: Term,
    /// The event's number, from 1.
    pub number: u64,
}

/// One page of events.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EventPage {
    /// Events, the oldest first.
    pub events: Vec<ClusterEvent>,
    /// Where to go on.
    pub next: EventMark,
    /// Events between the place that was asked for and the first one here that the leader has forgotten.
    pub lost: u64,
}

/// Chunks that want so many copies and have so many.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MatrixCell {
    /// Copies wanted.
    pub wanted: u8,
    /// Good copies at chunkservers that are heard, not on disks that are set aside or being emptied.
    pub copies: u8,
    /// How many chunks.
    pub chunks: u64,
}

/// All chunks, by how many copies they want and have.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ChunkMatrix {
    /// Cells with at least one chunk, in order.
    pub cells: Vec<MatrixCell>,
}

/// A chunk of a cell of the matrix.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CellChunk {
    /// Id and version.
    pub chunk: ChunkRef,
    /// The file it belongs to.
    pub inode: InodeId,
    /// Where there.
    pub index: ChunkIndex,
    /// One path of the file. `None` when it has no name, or its directories are too large to be looked through.
    pub path: Option<Bytes>,
    /// Its set, in chain order.
    pub servers: Vec<ServerId>,
}

/// One page of a cell's chunks.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CellPage {
    /// Chunks, in the order of their ids; perhaps none, with more behind.
    pub chunks: Vec<CellChunk>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<ChunkId>,
}

/// What a chunkserver did since its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Served {
    /// Bytes that clients and other chunkservers read.
    pub read_bytes: u64,
    /// Bytes written: each copy counts.
    pub written_bytes: u64,
    /// Reads begun.
    pub reads: u64,
    /// Frames written.
    pub writes: u64,
    /// Syncs.
    pub syncs: u64,
    /// Copies made from other chunkservers.
    pub copies: u64,
    /// Damaged blocks or chunks met.
    pub damages: u64,
}

/// What a chunkserver did, as it last told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerLoad {
    /// Which.
    pub server: ServerId,
    /// Since which start of it.
    pub incarnation: Incarnation,
    /// When it told, by the leader's clock: rates are between two of these.
    pub told: Timestamp,
    /// What it did.
    pub served: Served,
}

/// Times that calls are counted by, each the longest of its bucket: from what is answered from memory to what has
/// failed. The metrics' histograms have the same, so that both tell the same quantiles. A bucket's number is on the
/// wire: this table stays as it is.
pub const LATENCY_BOUNDS: [Duration; 18] = [
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
];

/// Buckets of [`Latencies`]: the last one is of what took longer than all bounds.
pub const LATENCY_BUCKETS: usize = LATENCY_BOUNDS.len() + 1;

/// How often which time was taken: counts by bucket of [`LATENCY_BOUNDS`], without those that are 0, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Latencies(pub Vec<(u8, u64)>);

impl Latencies {
    /// The bucket of a time in microseconds.
    pub fn bucket(micros: u64) -> u8 {
        let time = Duration::from_micros(micros);
        LATENCY_BOUNDS.partition_point(|bound| *bound < time) as u8
    }

    /// The longest time of a bucket in microseconds; of the last one, and past it, what it begins after.
    fn longest(bucket: u8) -> u64 {
        let at = usize::from(bucket).min(LATENCY_BOUNDS.len() - 1);
        LATENCY_BOUNDS[at].as_micros() as u64
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, (_, n)| sum.saturating_add(*n))
    }

    /// Those that came since an earlier count of the same; all of them when it is not one.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        if earlier.0.iter().any(|(b, n)| self.at(*b) < *n) {
            return self.clone();
        }
        let more = self.0.iter().map(|(b, n)| (*b, n.saturating_sub(earlier.at(*b))));
        Self(more.filter(|(_, n)| *n > 0).collect())
    }

    fn at(&self, bucket: u8) -> u64 {
        self.0.iter().find(|(at, _)| *at == bucket).map_or(0, |(_, n)| *n)
    }

    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        for (bucket, n) in &other.0 {
            match self.0.binary_search_by_key(bucket, |(b, _)| *b) {
                Ok(at) => self.0[at].1 = self.0[at].1.saturating_add(*n),
                Err(at) => self.0.insert(at, (*bucket, *n)),
            }
        }
    }

    /// The time in microseconds that a part `q` of all, 0.0 to 1.0, did not pass; `None` when there are none. Within a
    /// bucket all times are taken as equally likely; of what took longer than all bounds the last one is told.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let rank = (self.count() as f64 * q.clamp(0.0, 1.0)).ceil().max(1.0);
        let mut below = 0.0;
        for (bucket, n) in self.0.iter().filter(|(_, n)| *n > 0) {
            let n = *n as f64;
            if below + n >= rank {
                let from = bucket.checked_sub(1).map_or(0, Self::longest) as f64;
                let to = Self::longest(*bucket) as f64;
                return Some((from + (to - from) * (rank - below) / n) as u64);
            }
            below += n;
        }
        None
    }
}

/// What one master knows of the masters by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MasterView {
    /// Which one.
    pub id: MasterId,
    /// Its term.
    pub term: Term,
    /// Who leads, itself perhaps; `None` when it has heard no leader, or as the leader no quorum, for longer than an
    /// election takes.
    pub leader: Option<MasterId>,
    /// Masters that vote.
    pub voters: u32,
}

/// Calls of one operation that came to a leader.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OpCount {
    /// The operation's name, one of [`super::OP_NAMES`].
    pub op: String,
    /// How many were answered, or given up by their callers.
    pub calls: u64,
    /// Of them, those that were given up or could not be carried out. What POSIX answers, as ENOENT, is no failure.
    pub failed: u64,
    /// How long they took at the leader, in all.
    pub micros: u64,
    /// How long each took.
    pub latencies: Latencies,
}

/// Calls that came to a leader since its election, or between two counts of one leader.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct OpCounts {
    /// The leader's term: another one counts from 0.
    pub term: Term,
    /// Microseconds since its election, or between the two counts.
    pub micros: u64,
    /// Operations that were called at all, in wire order.
    pub ops: Vec<OpCount>,
}

impl OpCounts {
    /// What came since an earlier count; `None` when another leader counted it.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        let micros = self.micros.checked_sub(earlier.micros).filter(|_| self.term == earlier.term)?;
        let more = |now: &OpCount| {
            let Some(was) = earlier.ops.iter().find(|o| o.op == now.op) else { return now.clone() };
            OpCount {
                op: now.op.clone(),
                calls: now.calls.saturating_sub(was.calls),
                failed: now.failed.saturating_sub(was.failed),
                micros: now.micros.saturating_sub(was.micros),
                latencies: now.latencies.since(&was.latencies),
            }
        };
        let ops = self.ops.iter().map(more).filter(|o| o.calls > 0).collect();
        Some(Self { term: self.term, micros, ops })
    }

    /// So many calls, as a number each second.
    pub fn per_s(&self, calls: u64) -> f64 {
        if self.micros == 0 { 0.0 } else { calls as f64 * 1e6 / self.micros as f64 }
    }

    /// How long all calls took.
    pub fn latencies(&self) -> Latencies {
        let mut all = Latencies::default();
        self.ops.iter().for_each(|o| all.add(&o.latencies));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(times: impl IntoIterator<Item = u64>) -> Latencies {
        let mut all = Latencies::default();
        times.into_iter().for_each(|t| all.add(&Latencies(vec![(Latencies::bucket(t), 1)])));
        all
    }

    #[test]
    fn buckets_end_with_their_bounds() {
        assert!(LATENCY_BOUNDS.is_sorted() && LATENCY_BUCKETS <= usize::from(u8::MAX));
        assert_eq!(Latencies::bucket(0), 0);
        for (b, bound) in (0..).zip(LATENCY_BOUNDS) {
            let micros = bound.as_micros() as u64;
            assert_eq!((Latencies::bucket(micros), Latencies::bucket(micros + 1)), (b, b + 1));
        }
        assert_eq!(usize::from(Latencies::bucket(u64::MAX)), LATENCY_BUCKETS - 1);
        for secs in [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0] {
            assert!(
                LATENCY_BOUNDS.iter().any(|b| b.as_secs_f64() == secs),
                "{secs} s, which alerts may be about"
            );
        }
    }

    #[test]
    fn quantiles_are_near_the_truth() {
        let all = of(1..=10_000);
        for (q, right) in [(0.5, 5_000), (0.75, 7_500), (0.99, 9_900), (1.0, 10_000)] {
            let told = all.quantile(q).unwrap();
            assert!(told.abs_diff(right) <= 1, "{q}: {told}");
        }
        assert_eq!(Latencies::default().quantile(0.5), None);
        assert_eq!(of([3]).quantile(0.0), Some(50), "the end of the bucket of the only one");
        let long = 30_000_000;
        assert_eq!(of([u64::MAX]).quantile(0.5), Some(long), "as far as it can be told");
        assert_eq!(
            Latencies(vec![(u8::MAX, 1)]).quantile(0.5),
            Some(long),
            "what a stranger sends is no trap"
        );
    }

    #[test]
    fn what_came_since_is_told_apart() {
        let (before, mut after) = (of([10, 20, 5000]), of([10, 20, 5000]));
        after.add(&of([20, 20]));
        assert_eq!(after.since(&before), Latencies(vec![(0, 2)]));
        assert_eq!(after.since(&after), Latencies::default());
        assert_eq!(before.since(&after), before, "another one counts from 0");
    }

    #[test]
    fn calls_between_two_counts_of_one_leader() {
        let count = |op: &str, calls: u64| OpCount {
            op: op.into(),
            calls,
            failed: calls / 2,
            micros: calls * 10,
            latencies: Latencies(vec![(0, calls)]),
        };
        let counts = |term, micros, ops| OpCounts { term: Term(term), micros, ops };
        let before = counts(3, 1_000_000, vec![count("A", 4), count("B", 2)]);
        let after = counts(3, 3_000_000, vec![count("A", 10), count("B", 2), count("C", 6)]);
        let since = after.since(&before).unwrap();
        assert_eq!(since, counts(3, 2_000_000, vec![count("A", 6), count("C", 6)]));
        assert_eq!((since.per_s(6), since.latencies().count()), (3.0, 12));
        assert_eq!(after.since(&counts(2, 0, vec![])), None);
        assert_eq!(after.since(&after).unwrap().per_s(5), 0.0, "no time has passed");
    }

    #[test]
    fn names_of_events_are_stable() {
        let names: Vec<_> = EventCode::ALL.iter().map(|c| c.name()).collect();
        assert_eq!(names.len(), 10);
        assert_eq!((names[0], names[9]), ("MASTER_ELECTED", "SESSION_FENCED"));
    }
}
