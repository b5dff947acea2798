//! The vote on disk: two slots, both written one after the other, so that a torn write of one
//! leaves the other, and a damaged one is repaired by the other. Pure.
//!
//! ```text
//! slot (at 0 and 4096):  0     4     8         16    20
//!                        +-----+-----+---------+-----+------+
//!                        |MVOT | crc | sequence| len | vote |
//!                        +-----+-----+---------+-----+------+
//! ```
//! Little-endian; the CRC32C covers everything from the sequence to the end of the vote.

use bytes::Bytes;
use mooseng_core::checksum::crc32c;

/// Where the second slot is; a page, so that the two never share a sector.
pub const SLOT_BYTES: u64 = 4096;
/// Bytes of both slots.
pub const FILE_BYTES: u64 = 2 * SLOT_BYTES;

const MAGIC: [u8; 4] = *b"MVOT";
const HEAD: usize = 20;

/// What the two slots hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Votes {
    /// Never written.
    Empty,
    /// The newest vote and its sequence.
    Newest {
        /// Raised with each vote.
        sequence: u64,
        /// The vote.
        vote: Bytes,
    },
    /// Both slots were written, neither can be read.
    Damaged,
}

/// The bytes of one slot.
pub fn encode(sequence: u64, vote: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + vote.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&(vote.len() as u32).to_le_bytes());
    out.extend_from_slice(vote);
    let crc = crc32c(&out[8..]);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode(slot: &[u8]) -> Option<(u64, Bytes)> {
    let head = slot.get(..HEAD)?;
    let len = u32::from_le_bytes(head[16..20].try_into().ok()?) as usize;
    let whole = slot.get(..HEAD.checked_add(len)?)?;
    let crc = u32::from_le_bytes(head[4..8].try_into().ok()?);
    (head[..4] == MAGIC && crc32c(&whole[8..]) == crc).then(|| {
        let sequence = u64::from_le_bytes(head[8..16].try_into().expect("eight bytes"));
        (sequence, Bytes::copy_from_slice(&whole[HEAD..]))
    })
}

/// Judges the bytes of the file.
pub fn judge(file: &[u8]) -> Votes {
    let cut = (SLOT_BYTES as usize).min(file.len());
    let (first, second) = file.split_at(cut);
    let newest = [first, second].into_iter().filter_map(decode).max_by_key(|(sequence, _)| *sequence);
    match newest {
        Some((sequence, vote)) => Votes::Newest { sequence, vote },
        // The first vote ever may be torn in the first slot: it was not answered.
        None if second.iter().all(|b| *b == 0) => Votes::Empty,
        None => Votes::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(slots: [Option<(u64, &[u8])>; 2]) -> Vec<u8> {
        let mut out = vec![0; FILE_BYTES as usize];
        for (i, slot) in slots.iter().enumerate() {
            if let Some((sequence, vote)) = slot {
                let bytes = encode(*sequence, vote);
                out[i * SLOT_BYTES as usize..][..bytes.len()].copy_from_slice(&bytes);
            }
        }
        out
    }

    #[test]
    fn every_flipped_bit_of_one_slot_leaves_the_other() {
        let whole = file([Some((7, b"vote")), Some((7, b"vote"))]);
        for slot in [0, SLOT_BYTES as usize] {
            for bit in 0..(HEAD + 4) * 8 {
                let mut bytes = whole.clone();
                bytes[slot + bit / 8] ^= 1 << (bit % 8);
                assert_eq!(judge(&bytes), Votes::Newest { sequence: 7, vote: Bytes::from_static(b"vote") });
            }
        }
    }

    #[test]
    fn a_torn_write_leaves_the_vote_before_it() {
        let old = Votes::Newest { sequence: 3, vote: Bytes::from_static(b"old") };
        let new = encode(4, b"newer");
        for len in 0..new.len() {
            let mut bytes = file([Some((3, b"old")), Some((3, b"old"))]);
            bytes[..len].copy_from_slice(&new[..len]);
            assert_eq!(judge(&bytes), old, "{len} bytes of the new vote arrived");
        }
    }

    #[test]
    fn nothing_written_is_empty_and_two_bad_slots_are_damage() {
        assert_eq!(judge(&[]), Votes::Empty);
        assert_eq!(judge(&file([None, None])), Votes::Empty);
        let mut torn_first = file([Some((1, b"v")), None]);
        torn_first[9] ^= 1;
        assert_eq!(judge(&torn_first), Votes::Empty);
        let mut both = file([Some((1, b"v")), Some((1, b"v"))]);
        both[9] ^= 1;
        both[SLOT_BYTES as usize + 9] ^= 1;
        assert_eq!(judge(&both), Votes::Damaged);
    }
}
