//! CRC32C of blocks, with chunk id and block number bound in, so that a misdirected block is
//! noticed. Pure.

use crate::{
    ids::{ChunkId, Offset},
    limits::BLOCK_BYTES,
};

/// CRC32C (Castagnoli) of bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Checksum of one block of a chunk: `data` is at most 4 KiB, a shorter block counts as filled up
/// with zeros, so that the checksum does not depend on where a file ends within it.
pub fn block_crc(chunk: ChunkId, block: u64, data: &[u8]) -> u32 {
    const ZEROS: [u8; BLOCK_BYTES as usize] = [0; BLOCK_BYTES as usize];
    debug_assert!(data.len() <= ZEROS.len());
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(data);
    digest.update(&ZEROS[data.len()..]);
    let content = digest.finalize() as u32;
    bind(chunk, block, content)
}

/// Mixes a place into a content checksum (an invertible mix: equal places keep all differences).
fn bind(chunk: ChunkId, block: u64, content: u32) -> u32 {
    let mut x = chunk.get() ^ block.rotate_left(40);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    content ^ ((x ^ (x >> 31)) as u32)
}

/// Splits a range of a chunk at block borders: (block number, range in `data`) for each piece.
pub fn blocks_of(at: Offset, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0usize;
    std::iter::from_fn(move || {
        if done >= len {
            return None;
        }
        let pos = at.get() + done as u64;
        let take = ((BLOCK_BYTES - pos % BLOCK_BYTES) as usize).min(len - done);
        let range = done..done + take;
        done += take;
        Some((pos / BLOCK_BYTES, range))
    })
}

/// Checksums of what a frame carries: one for each block it touches, over the bytes it carries of
/// that block (as if they began the block, filled up with zeros).
pub fn frame_crcs(chunk: ChunkId, at: Offset, data: &[u8]) -> Vec<u32> {
    blocks_of(at, data.len()).map(|(block, r)| block_crc(chunk, block, &data[r])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_checksums() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let a = block_crc(ChunkId(1), 0, b"hello");
        assert_ne!(a, block_crc(ChunkId(2), 0, b"hello"), "chunk is bound");
        assert_ne!(a, block_crc(ChunkId(1), 1, b"hello"), "block is bound");
        assert_eq!(a, block_crc(ChunkId(1), 0, b"hello\0\0"), "padded with zeros");
        assert_eq!(a, 2_854_379_837, "pinned for version 1 of wire and disk");
    }

    #[test]
    fn ranges_are_cut_at_block_borders() {
        let cut: Vec<_> = blocks_of(Offset(4000), 5000).collect();
        assert_eq!(cut, vec![(0, 0..96), (1, 96..4192), (2, 4192..5000)]);
        assert_eq!(blocks_of(Offset(0), 0).count(), 0);
        assert_eq!(blocks_of(Offset(4096), 4096).collect::<Vec<_>>(), vec![(1, 0..4096)]);
    }
}
