//! What operators watch: events, how many copies chunks have, how fast calls are answered, what chunkservers do.

use crate::{attr::Timestamp, ids::*};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

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

/// Buckets that times are counted in: four for each doubling, up to a minute.
pub const LATENCY_BUCKETS: usize = 100;

/// How often which time was taken: counts by bucket, without those that are 0, in order.
///
/// A bucket is a quarter of a doubling of microseconds, so that what is told of its times is right within a quarter.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Latencies(pub Vec<(u8, u64)>);

impl Latencies {
    /// The bucket of a time in microseconds.
    pub fn bucket(micros: u64) -> u8 {
        if micros < 4 {
            return micros as u8;
        }
        let doublings = micros.ilog2();
        let quarter = (micros >> (doublings - 2)) & 3;
        let bucket = 4 + u64::from(doublings - 2) * 4 + quarter;
        bucket.min(LATENCY_BUCKETS as u64 - 1) as u8
    }

    /// The least time of a bucket, in microseconds.
    pub fn least(bucket: u8) -> u64 {
        let bucket = u64::from(bucket);
        match bucket.checked_sub(4) {
            None => bucket,
            Some(above) => (4 + above % 4) << (above / 4).min(58),
        }
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

    /// The time in microseconds that a part `q` of all, 0.0 to 1.0, stayed below; `None` when there are none.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let rank = (self.count() as f64 * q.clamp(0.0, 1.0)).ceil().max(1.0);
        let mut below = 0.0;
        for (bucket, n) in self.0.iter().filter(|(_, n)| *n > 0) {
            let n = *n as f64;
            if below + n >= rank {
                let (from, to) = (Self::least(*bucket) as f64, Self::least(bucket.saturating_add(1)) as f64);
                return Some((from + (to - from) * (rank - below) / n) as u64);
            }
            below += n;
        }
        None
    }
}

/// Calls of one operation that a leader answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OpCount {
    /// The operation's name, one of [`super::OP_NAMES`].
    pub op: String,
    /// How many were answered.
    pub calls: u64,
    /// Of them, those that could not be carried out. What POSIX answers, as ENOENT, is no failure.
    pub failed: u64,
    /// How long they took at the leader, in all.
    pub micros: u64,
    /// How long each took.
    pub latencies: Latencies,
}

/// Calls that a leader answered since its election.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct OpCounts {
    /// The leader's term: another one counts from 0.
    pub term: Term,
    /// Microseconds since its election: rates are between two of these.
    pub micros: u64,
    /// Operations that were called at all, in wire order.
    pub ops: Vec<OpCount>,
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
    fn buckets_follow_each_other_and_hold_their_times() {
        let mut last = 0;
        for micros in 0..100_000 {
            let b = Latencies::bucket(micros);
            assert!(b == last || b == last + 1, "{micros}");
            assert!(Latencies::least(b) <= micros && micros < Latencies::least(b + 1), "{micros} in {b}");
            last = b;
        }
        let top = LATENCY_BUCKETS as u8 - 1;
        assert_eq!(Latencies::bucket(u64::MAX), top);
        assert!(Latencies::least(top) > 25_000_000, "half a minute is told apart from more");
        assert_eq!(Latencies::bucket(Latencies::least(top)), top);
        assert_eq!(Latencies::bucket(Latencies::least(top) - 1), top - 1);
        assert!(Latencies::least(u8::MAX) > 0, "what a stranger sends is no trap");
    }

    #[test]
    fn quantiles_are_near_the_truth() {
        let all = of(1..=10_000);
        for (q, right) in [(0.5, 5_000.0), (0.9, 9_000.0), (0.99, 9_900.0), (1.0, 10_000.0)] {
            let told = all.quantile(q).unwrap() as f64;
            assert!((told - right).abs() / right < 0.125, "{q}: {told}");
        }
        assert_eq!(Latencies::default().quantile(0.5), None);
        assert_eq!(of([3]).quantile(0.0), Some(4), "the end of the bucket of the only one");
    }

    #[test]
    fn what_came_since_is_told_apart() {
        let (before, mut after) = (of([10, 20, 5000]), of([10, 20, 5000]));
        after.add(&of([20, 20]));
        assert_eq!(after.since(&before), Latencies(vec![(Latencies::bucket(20), 2)]));
        assert_eq!(after.since(&after), Latencies::default());
        assert_eq!(before.since(&after), before, "another one counts from 0");
    }

    #[test]
    fn names_of_events_are_stable() {
        let names: Vec<_> = EventCode::ALL.iter().map(|c| c.name()).collect();
        assert_eq!(names.len(), 10);
        assert_eq!((names[0], names[9]), ("MASTER_ELECTED", "SESSION_FENCED"));
    }
}
