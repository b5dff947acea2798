//! Where copies go: weighted rendezvous hashing (Thaler and Ravishankar 1998; weights after
//! Schindelhauer and Schomaker 2005). Pure: the same question has the same answer.

use mooseng_core::ids::{ChunkId, ServerId};

/// A chunkserver that may take a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub server: ServerId,
    /// Bytes free for chunks on all its disks.
    pub free_bytes: u64,
}

/// Room that a chunkserver must have to get another chunk.
pub const ROOM_BYTES_MIN: u64 = 2 * mooseng_core::limits::CHUNK_BYTES;

fn mix(a: u64, b: u64) -> u64 {
    let mut x = a ^ b.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15;
    for m in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb] {
        x = (x ^ (x >> 30)).wrapping_mul(m);
    }
    x ^ (x >> 31)
}

fn score(seed: u64, c: &Candidate) -> f64 {
    // -weight / ln(u), u uniform in (0, 1): the largest wins.
    let u = ((mix(seed, c.server.get()) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -(c.free_bytes as f64) / u.ln()
}

/// Up to `copies` distinct servers with room, in chain order, `without` left out. `seed` spreads
/// chunks: pass what tells them apart.
pub fn place(seed: u64, copies: usize, candidates: &[Candidate], without: &[ServerId]) -> Vec<ServerId> {
    let mut scored: Vec<_> = candidates
        .iter()
        .filter(|c| c.free_bytes >= ROOM_BYTES_MIN && !without.contains(&c.server))
        .map(|c| (score(seed, c), c.server))
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    scored.dedup_by_key(|(_, s)| *s);
    scored.into_iter().take(copies).map(|(_, s)| s).collect()
}

/// The seed of a chunk that has an id.
pub fn seed_of(chunk: ChunkId) -> u64 {
    chunk.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(free: &[u64]) -> Vec<Candidate> {
        let each = free.iter().enumerate();
        each.map(|(i, f)| Candidate { server: ServerId(i as u64 + 1), free_bytes: f << 30 }).collect()
    }

    #[test]
    fn copies_are_on_distinct_servers_with_room() {
        let c = servers(&[10, 10, 0, 10]);
        for seed in 0..500 {
            let p = place(seed, 3, &c, &[ServerId(1)]);
            assert_eq!(p.len(), 2, "one is full, one is left out");
            assert!(!p.contains(&ServerId(1)) && !p.contains(&ServerId(3)) && p[0] != p[1]);
        }
    }

    #[test]
    fn free_space_weighs() {
        let c = servers(&[10, 30]);
        let second = (0..4000).filter(|s| place(*s, 1, &c, &[]) == [ServerId(2)]).count();
        assert!((2800..3200).contains(&second), "three quarters are expected, {second} of 4000 came");
    }

    #[test]
    fn a_lost_server_moves_only_its_own() {
        let c = servers(&[10, 10, 10, 10]);
        for seed in 0..500 {
            let before = place(seed, 2, &c, &[]);
            let after = place(seed, 2, &c, &[ServerId(4)]);
            for s in before.iter().filter(|s| **s != ServerId(4)) {
                assert!(after.contains(s));
            }
        }
    }
}
