//! Recovery: from the bytes of all segments to the state of the log, or a refusal. Pure.

use super::segment::{CarriedState, End, Found, Header, Kind, LogPos, RECORD_BYTES, TornTail, scan};
use mooseng_core::planted::{self, Bug};
use std::collections::VecDeque;

/// Why a log cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the Raft log is damaged: {cause} (segment {segment:016x}.log). Nothing was changed. This node must not \
     take part with a log that has lost entries: remove it from the cluster, empty its storage directory and \
     add it again, so that it is rebuilt from its peers; check the disk before"
)]
pub struct Damage {
    /// Which segment.
    pub segment: u64,
    /// What was found.
    pub cause: String,
}

/// Where an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Of which term it is.
    pub term: u64,
    /// What kind of entry it is.
    pub kind: Kind,
    /// In which segment.
    pub segment: u64,
    /// Where its record begins.
    pub at: u64,
    /// Bytes of its data.
    pub len: u32,
}

/// One segment that was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentInfo {
    /// Its number.
    pub id: u64,
    /// The highest index of any entry in it.
    pub last_index: Option<u64>,
}

/// How the log goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail {
    /// There is no segment.
    Empty,
    /// In the last segment.
    GoOn {
        /// Which.
        segment: u64,
        /// Where.
        at: u64,
        /// Length of its file.
        bytes: u64,
    },
    /// In a new segment: the last batch of the last one is cut off.
    Cut {
        /// The last segment.
        segment: u64,
        /// Highest index that was cut off, if known.
        until: Option<u64>,
    },
}

/// The state of a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// Index of the first of `places`.
    pub first: u64,
    /// Where the entries are.
    pub places: VecDeque<Place>,
    /// What is carried on.
    pub state: CarriedState,
    /// The segments, oldest first.
    pub segments: Vec<SegmentInfo>,
    /// Number of the next batch.
    pub next_batch: u64,
    /// How to go on.
    pub tail: Tail,
}

impl Recovered {
    /// Turns a cut tail into the torn state; says whether there is one.
    pub(super) fn note_cut(&mut self, term: u64) -> bool {
        let Tail::Cut { until, .. } = self.tail else { return false };
        if self.state.torn == Some(TornTail::UNPROVEN) {
            return true;
        }
        let until = match self.state.torn {
            None => until,
            Some(before) => before.until.zip(until).map(|(a, b)| a.max(b)),
        };
        self.state.torn = Some(TornTail { until, term });
        true
    }

    /// The last entry, or what stands for it.
    pub fn last(&self) -> Option<LogPos> {
        let index = self.first + (self.places.len() as u64).saturating_sub(1);
        self.places.back().map(|p| LogPos { term: p.term, index }).or(self.state.purged)
    }
}

/// Takes the segments one by one, oldest first.
#[derive(Debug)]
pub struct Recovery {
    out: Recovered,
    previous: Option<(u64, End)>,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            out: Recovered {
                first: 0,
                places: VecDeque::new(),
                state: CarriedState::default(),
                segments: Vec::new(),
                next_batch: 1,
                tail: Tail::Empty,
            },
            previous: None,
        }
    }
}

impl Recovery {
    /// Takes the next segment: its number by its file's name, and its bytes.
    pub fn segment(&mut self, id: u64, bytes: &[u8]) -> Result<(), Damage> {
        let damage = |cause: String| Damage { segment: id, cause };
        let Some(header) = Header::decode(bytes) else {
            return Err(damage("the header cannot be read".into()));
        };
        if header.id != id {
            return Err(damage(format!("the header is that of segment {:016x}", header.id)));
        }
        if let Some((before, _)) = self.previous
            && before + 1 != id
        {
            return Err(damage(format!("segment {:016x}.log before it is missing", id - 1)));
        }
        if self.previous.is_some() && header.first_batch != self.out.next_batch {
            return Err(damage(format!(
                "it begins with batch {}, but batch {} of the segment before it cannot be read",
                header.first_batch, self.out.next_batch
            )));
        }
        let scan = scan(bytes, &header);
        if let End::Damaged { at, later_batch } = scan.end
            && !planted::is(Bug::BadTailCut)
        {
            return Err(damage(format!(
                "the record at byte {at} of batch {} cannot be read, but batch {later_batch} follows it",
                scan.next_batch
            )));
        }
        self.out.state = header.state;
        drop_purged(&mut self.out);
        for found in &scan.records {
            self.record(id, bytes, found)?;
        }
        let last_index = scan.records.iter().filter(|f| f.kind.is_entry()).map(|f| f.pos.index).max();
        self.out.segments.push(SegmentInfo { id, last_index });
        self.out.next_batch = scan.next_batch;
        self.out.tail = match scan.end {
            End::Clean => Tail::GoOn { segment: id, at: scan.end_at as u64, bytes: header.bytes },
            End::Torn { until } => Tail::Cut { segment: id, until },
            End::Damaged { .. } => Tail::Cut { segment: id, until: None },
        };
        self.previous = Some((id, scan.end));
        Ok(())
    }

    fn record(&mut self, segment: u64, bytes: &[u8], found: &Found) -> Result<(), Damage> {
        let out = &mut self.out;
        let damage = |cause: String| Damage { segment, cause };
        match found.kind {
            Kind::Truncate => {
                let keep = found.pos.index.saturating_sub(out.first) as usize;
                out.places.truncate(keep);
            }
            Kind::Purge => out.state.purged = Some(found.pos),
            Kind::Torn => {
                let data = &bytes[found.at + RECORD_BYTES..][..found.len];
                out.state.torn = postcard::from_bytes::<Option<TornTail>>(data)
                    .map_err(|e| damage(format!("a record makes no sense: {e}")))?;
            }
            Kind::Blank | Kind::Command | Kind::Membership => {
                if out.places.is_empty() {
                    out.first = found.pos.index;
                }
                let expected = out.first + out.places.len() as u64;
                if found.pos.index != expected {
                    return Err(damage(format!("entry {} follows where {expected} should", found.pos.index)));
                }
                out.places.push_back(Place {
                    term: found.pos.term,
                    kind: found.kind,
                    segment,
                    at: found.at as u64,
                    len: found.len as u32,
                });
            }
        }
        drop_purged(out);
        Ok(())
    }

    /// The state after the last segment.
    pub fn finish(self) -> Result<Recovered, Damage> {
        let out = self.out;
        if let (Some(purged), false) = (out.state.purged, out.places.is_empty())
            && out.first != purged.index + 1
        {
            return Err(Damage {
                segment: out.places[0].segment,
                cause: format!("entries {} to {} are missing", purged.index + 1, out.first - 1),
            });
        }
        Ok(out)
    }
}

/// Forgets the entries that are purged.
fn drop_purged(out: &mut Recovered) {
    let Some(purged) = out.state.purged else { return };
    while !out.places.is_empty() && out.first <= purged.index {
        out.places.pop_front();
        out.first += 1;
    }
}
