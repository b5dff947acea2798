//! The bytes of a log segment: header and records. Pure.
//!
//! ```text
//! segment:  0        8      12     16        24            32              40         44      124   128
//!           +--------+------+------+---------+-------------+---------------+----------+-------+-----+
//!           |MNGRLOG1| ver  |  0   | id      | first batch | segment bytes | state len| state | crc |
//!           +--------+------+------+---------+-------------+---------------+----------+-------+-----+
//! record:   0      4     8         16      24     32      40    44     45     46    48
//!           +------+-----+---------+-------+------+-------+-----+------+------+-----+------+---------+
//!           |magic | crc | segment | batch | term | index | len | kind | last |  0  | data | 0 to 8  |
//!           +------+-----+---------+-------+------+-------+-----+------+------+-----+------+---------+
//! ```
//! Little-endian. The checksums are CRC32C: the header's over its first 124 bytes, a record's over
//! everything from its segment id to the end of its data, so that no record is taken for one of
//! another segment. A batch is the records of one flush; its last one says so. What follows the
//! last record is zeros up to the length of the file.

use bytes::Bytes;
use mooseng_core::checksum::crc32c;
use serde::{Deserialize, Serialize};

/// Bytes of a segment's header.
pub const HEADER_BYTES: usize = 128;
/// Bytes of a record before its data.
pub const RECORD_BYTES: usize = 48;
/// Bytes of a record's data at most: a larger length field is taken for damage before anything is
/// allocated.
pub const DATA_BYTES_MAX: usize = 64 << 20;

const SEGMENT_MAGIC: [u8; 8] = *b"MNGRLOG1";
const RECORD_MAGIC: u32 = 0x4c47_4e4d;
const VERSION: u32 = 1;
const STATE_AT: usize = 44;
const CRC_AT: usize = 124;

/// A place in the replicated log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct LogPos {
    /// Term of the leader that wrote the entry.
    pub term: u64,
    /// Number of the entry, from 0.
    pub index: u64,
}

/// What a record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// An entry without content.
    Blank = 1,
    /// An entry with a command.
    Command = 2,
    /// An entry with a membership.
    Membership = 3,
    /// Entries from `index` on are void.
    Truncate = 4,
    /// Entries up to and with (`term`, `index`) are in the state machine and gone.
    Purge = 5,
    /// The data is the new torn state, or nothing when the node has caught up.
    Torn = 6,
}

impl Kind {
    /// The kind by its number.
    pub const fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Blank,
            2 => Self::Command,
            3 => Self::Membership,
            4 => Self::Truncate,
            5 => Self::Purge,
            6 => Self::Torn,
            _ => return None,
        })
    }

    /// Whether it carries an entry of the replicated log.
    pub const fn is_entry(self) -> bool {
        matches!(self, Self::Blank | Self::Command | Self::Membership)
    }
}

/// A record to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it says.
    pub kind: Kind,
    /// About which place.
    pub pos: LogPos,
    /// Its data.
    pub data: Bytes,
}

/// The last batch was cut off by a recovery: until a leader has made up for it, the node must not
/// vote as if it knew everything that it once acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TornTail {
    /// Highest index that can have been lost, when enough was readable to tell.
    pub until: Option<u64>,
    /// Term of the node's vote at the time: what it acknowledged was of this term or older.
    pub term: u64,
}

impl TornTail {
    /// Of a node whose log begins empty: whether it never acknowledged anything, or lost all that it
    /// did with its disk, it does not know. Or of one whose directory was restored from an older copy. No
    /// entry heals that, the other voters do ([`super::gate`]).
    pub const UNPROVEN: Self = Self { until: None, term: u64::MAX };

    /// Whether holding an entry at `pos`, received from a leader since, makes up for the loss.
    ///
    /// Either the log is past all that was lost, or it is the log of a leader elected later, who
    /// has every committed entry.
    pub fn healed_by(&self, pos: LogPos) -> bool {
        pos.term > self.term || self.until.is_some_and(|until| pos.index >= until && pos.term == self.term)
    }
}

/// What is carried from segment to segment, so that old ones can go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CarriedState {
    /// Everything up to here is purged.
    pub purged: Option<LogPos>,
    /// The torn tail that is not made up for.
    pub torn: Option<TornTail>,
}

/// A segment's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Number of the segment; never used twice.
    pub id: u64,
    /// Number of the first batch in it.
    pub first_batch: u64,
    /// Length of the file.
    pub bytes: u64,
    /// State at its beginning.
    pub state: CarriedState,
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0u8; HEADER_BYTES];
        out[..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.id.to_le_bytes());
        out[24..32].copy_from_slice(&self.first_batch.to_le_bytes());
        out[32..40].copy_from_slice(&self.bytes.to_le_bytes());
        let used = postcard::to_slice(&self.state, &mut out[STATE_AT..CRC_AT])
            .expect("four numbers and two tags fit into 80 bytes")
            .len();
        out[40..44].copy_from_slice(&(used as u32).to_le_bytes());
        let crc = crc32c(&out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header; `None` when it is not one, whole.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        if bytes[..8] != SEGMENT_MAGIC
            || u32_at(bytes, 8) != VERSION
            || u32_at(bytes, CRC_AT) != crc32c(&bytes[..CRC_AT])
        {
            return None;
        }
        let used = u32_at(bytes, 40) as usize;
        let state = postcard::from_bytes(bytes[STATE_AT..CRC_AT].get(..used)?).ok()?;
        Some(Self { id: u64_at(bytes, 16), first_batch: u64_at(bytes, 24), bytes: u64_at(bytes, 32), state })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn magic_of(segment: u64) -> u32 {
    RECORD_MAGIC ^ segment as u32
}

/// Bytes that a record with `data` bytes takes, with its padding.
pub const fn record_len(data: usize) -> usize {
    RECORD_BYTES + data.next_multiple_of(8)
}

/// Appends a record to `out`, whose start is 8-aligned in the segment.
pub fn encode_record(out: &mut Vec<u8>, segment: u64, batch: u64, last: bool, record: &Record) {
    let start = out.len();
    out.extend_from_slice(&magic_of(segment).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for number in [segment, batch, record.pos.term, record.pos.index] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&(record.data.len() as u32).to_le_bytes());
    out.extend_from_slice(&[record.kind as u8, u8::from(last), 0, 0]);
    out.extend_from_slice(&record.data);
    let crc = crc32c(&out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    out.resize(start + record_len(record.data.len()), 0);
}

/// A record found in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// What it says.
    pub kind: Kind,
    /// About which place.
    pub pos: LogPos,
    /// In which batch.
    pub batch: u64,
    /// Whether it ends its batch.
    pub last: bool,
    /// Where it begins.
    pub at: usize,
    /// Bytes of its data, which begin [`RECORD_BYTES`] further.
    pub len: usize,
}

impl Found {
    /// Where the next record begins.
    pub const fn end(&self) -> usize {
        self.at + record_len(self.len)
    }
}

/// The record at `at`; `None` when there is no whole, undamaged one of this segment.
pub fn record_at(bytes: &[u8], at: usize, segment: u64) -> Option<Found> {
    let head = bytes.get(at..at.checked_add(RECORD_BYTES)?)?;
    if u32_at(head, 0) != magic_of(segment) || u64_at(head, 8) != segment {
        return None;
    }
    let len = u32_at(head, 40) as usize;
    if len > DATA_BYTES_MAX {
        return None;
    }
    let whole = bytes.get(at..at + record_len(len))?;
    let (body, padding) = whole.split_at(RECORD_BYTES + len);
    if crc32c(&body[8..]) != u32_at(head, 4) || padding.iter().any(|b| *b != 0) {
        return None;
    }
    let last = match head[45] {
        0 => false,
        1 => true,
        _ => return None,
    };
    Some(Found {
        kind: Kind::of(head[44])?,
        pos: LogPos { term: u64_at(head, 24), index: u64_at(head, 32) },
        batch: u64_at(head, 16),
        last,
        at,
        len,
    })
}

/// How the records of a segment end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// With zeros.
    Clean,
    /// With a batch that is not whole and has none behind it.
    Torn {
        /// Highest index seen in that batch, when its last record was readable.
        until: Option<u64>,
    },
    /// With a record that cannot be read although a later batch follows, which was only written
    /// after it was durable.
    Damaged {
        /// Where.
        at: usize,
        /// Which later batch.
        later_batch: u64,
    },
}

/// What a segment holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scan {
    /// The records of whole batches, in order.
    pub records: Vec<Found>,
    /// Where the next batch would begin.
    pub end_at: usize,
    /// Number of the next batch.
    pub next_batch: u64,
    /// What is behind.
    pub end: End,
}

/// Reads all records of a segment.
pub fn scan(bytes: &[u8], header: &Header) -> Scan {
    let mut out =
        Scan { records: Vec::new(), end_at: HEADER_BYTES, next_batch: header.first_batch, end: End::Clean };
    let mut whole = 0;
    let mut at = HEADER_BYTES;
    while let Some(found) = record_at(bytes, at, header.id) {
        if found.batch != out.next_batch {
            break;
        }
        at = found.end();
        out.records.push(found);
        if found.last {
            whole = out.records.len();
            out.end_at = at;
            out.next_batch += 1;
        }
    }
    let begun: Vec<Found> = out.records.split_off(whole);
    let shorter = (bytes.len() as u64) < header.bytes;
    let rest = bytes.get(out.end_at..).unwrap_or_default();
    if shorter || rest.iter().any(|b| *b != 0) {
        out.end = judge_rest(bytes, at, header.id, out.next_batch, &begun);
    }
    out
}

/// Tells a torn last batch from damage by looking for a later batch behind it.
fn judge_rest(bytes: &[u8], from: usize, segment: u64, torn: u64, begun: &[Found]) -> End {
    let mut until = None;
    for found in begun
        .iter()
        .copied()
        .chain((from..bytes.len()).step_by(8).filter_map(|at| record_at(bytes, at, segment)))
    {
        if found.batch > torn {
            return End::Damaged { at: from, later_batch: found.batch };
        }
        if found.batch == torn && found.last && found.kind.is_entry() {
            until = Some(found.pos.index);
        }
    }
    End::Torn { until }
}
