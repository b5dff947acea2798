//! Randomness: the kernel's, and a seeded one.

use mooseng_core::seam::Rng;
use parking_lot::Mutex;
use rustix::rand::{GetRandomFlags, getrandom};
use std::fmt;

/// Bytes fetched from the kernel at once: the most that `getrandom` never cuts short.
const BUFFER_BYTES: usize = 256;

/// The kernel's randomness, good for keys. Fetched 256 bytes at a time; used bytes are wiped.
#[derive(Default)]
pub struct OsRng {
    buffer: Mutex<Vec<u8>>,
}

impl fmt::Debug for OsRng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OsRng")
    }
}

impl OsRng {
    fn refill(buffer: &mut Vec<u8>) {
        buffer.resize(BUFFER_BYTES, 0);
        let mut filled = 0;
        while filled < BUFFER_BYTES {
            match getrandom(&mut buffer[filled..], GetRandomFlags::empty()) {
                Ok(n) => filled += n,
                Err(rustix::io::Errno::INTR) => {}
                // Going on with predictable numbers would be worse than stopping.
                Err(e) => panic!("the kernel gives no randomness: {e}"),
            }
        }
    }
}

impl Rng for OsRng {
    fn next_u64(&self) -> u64 {
        let mut buffer = self.buffer.lock();
        if buffer.len() < 8 {
            Self::refill(&mut buffer);
        }
        let at = buffer.len() - 8;
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&buffer[at..]);
        buffer[at..].fill(0);
        buffer.truncate(at);
        u64::from_le_bytes(bytes)
    }
}

/// A reproducible sequence (splitmix64, Steele, Lea and Flood 2014). Never for keys.
#[derive(Debug)]
pub struct SeededRng {
    state: Mutex<u64>,
}

impl SeededRng {
    /// The sequence of a seed.
    pub const fn new(seed: u64) -> Self {
        Self { state: Mutex::new(seed) }
    }
}

impl Rng for SeededRng {
    fn next_u64(&self) -> u64 {
        let mut state = self.state.lock();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn kernel_numbers_do_not_repeat_across_refills() {
        let rng = OsRng::default();
        let drawn: BTreeSet<_> = (0..1000).map(|_| rng.next_u64()).collect();
        assert_eq!(drawn.len(), 1000);
        assert!(!drawn.contains(&0));
    }

    #[test]
    fn equal_seeds_give_equal_sequences() {
        let draw = |seed| {
            let rng = SeededRng::new(seed);
            [rng.next_u64(), rng.next_u64(), rng.next_u64()]
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        // First output of splitmix64 for seed 0, from the reference implementation.
        assert_eq!(SeededRng::new(0).next_u64(), 0xe220_a839_7b1d_cdaf);
    }
}
