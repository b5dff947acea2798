//! Frame headers and bounded encoding of heads. Pure.
//!
//! ```text
//!  0        4   5    6      8              16      18      20        24        28        32
//!  +--------+---+----+------+---------------+-------+-------+---------+---------+---------+
//!  | "MOOS" |ver|kind| flags|   request id  |method |  0    |head len |body len | crc32c  |
//!  +--------+---+----+------+---------------+-------+-------+---------+---------+---------+
//! ```
//! Little-endian; the checksum covers the 28 bytes before it. The head and the body follow.

use crate::{
    checksum::crc32c,
    error::NetError,
    limits::{BODY_BYTES_MAX, HEAD_BYTES_MAX},
};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 32;
/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"MOOS";
/// Newest protocol version spoken here.
pub const VERSION: u8 = 1;
/// Oldest protocol version spoken here.
pub const VERSION_MIN: u8 = 1;
/// ALPN names, newest first.
pub const ALPN: &[&[u8]] = &[b"mooseng/1"];

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// Begins a call.
    Request = 1,
    /// Begins a reply.
    Reply = 2,
    /// One piece of a stream in either direction.
    Piece = 3,
    /// Ends a stream well.
    End = 4,
    /// Ends a call or stream with an error in its head.
    Error = 5,
    /// The caller does not want the rest.
    Cancel = 6,
    /// First frame of a connection in each direction.
    Hello = 7,
    /// Gives the sender of a stream room for more pieces.
    Window = 8,
}

impl FrameKind {
    const fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            1 => Self::Request,
            2 => Self::Reply,
            3 => Self::Piece,
            4 => Self::End,
            5 => Self::Error,
            6 => Self::Cancel,
            7 => Self::Hello,
            8 => Self::Window,
            _ => return None,
        })
    }
}

/// Set in [`FrameHeader::flags`] when pieces follow instead of a whole body.
pub const FLAG_STREAM: u16 = 1;
/// Set in [`FrameHeader::flags`] when there is a whole body, also when it has no bytes.
pub const FLAG_WHOLE: u16 = 2;

/// The fixed start of every frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// Kind.
    pub kind: FrameKind,
    /// Bits; unknown ones are ignored.
    pub flags: u16,
    /// Which call of the connection.
    pub request: u64,
    /// What is asked; 0 except in requests.
    pub method: u16,
    /// Bytes of the head.
    pub head_len: u32,
    /// Bytes of the body.
    pub body_len: u32,
}

impl FrameHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut b = [0u8; HEADER_BYTES];
        b[0..4].copy_from_slice(&MAGIC);
        b[4] = VERSION;
        b[5] = self.kind as u8;
        b[6..8].copy_from_slice(&self.flags.to_le_bytes());
        b[8..16].copy_from_slice(&self.request.to_le_bytes());
        b[16..18].copy_from_slice(&self.method.to_le_bytes());
        b[20..24].copy_from_slice(&self.head_len.to_le_bytes());
        b[24..28].copy_from_slice(&self.body_len.to_le_bytes());
        let crc = crc32c(&b[..28]);
        b[28..32].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// Reads a header and checks its lengths against their limits, before anything is allocated.
    pub fn decode(b: &[u8; HEADER_BYTES]) -> Result<Self, NetError> {
        let malformed = |what: &str| NetError::Malformed { what: what.into() };
        if b[0..4] != MAGIC {
            return Err(malformed("magic bytes are not MooseNG's"));
        }
        if crc32c(&b[..28]).to_le_bytes() != b[28..32] {
            return Err(malformed("header checksum does not match"));
        }
        if !(VERSION_MIN..=VERSION).contains(&b[4]) {
            return Err(NetError::Version { got: b[4], min: VERSION_MIN, max: VERSION });
        }
        let kind = FrameKind::from_u8(b[5]).ok_or_else(|| malformed("unknown frame kind"))?;
        let u16_at = |i: usize| u16::from_le_bytes([b[i], b[i + 1]]);
        let u32_at = |i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        let (head_len, body_len) = (u32_at(20), u32_at(24));
        bounded("head", head_len as usize, HEAD_BYTES_MAX)?;
        bounded("body", body_len as usize, BODY_BYTES_MAX)?;
        let mut request = [0u8; 8];
        request.copy_from_slice(&b[8..16]);
        Ok(Self {
            kind,
            flags: u16_at(6),
            request: u64::from_le_bytes(request),
            method: u16_at(16),
            head_len,
            body_len,
        })
    }
}

/// Refuses a length over its limit.
pub fn bounded(what: &str, bytes: usize, limit: usize) -> Result<(), NetError> {
    if bytes > limit {
        return Err(NetError::TooLarge { what: what.into(), bytes: bytes as u64, limit: limit as u64 });
    }
    Ok(())
}

/// Encodes a head or a record with postcard.
///
/// # Panics
/// Never for our types: postcard into a vector fails only for sequences of unknown length, and
/// none of ours has one.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Bytes {
    Bytes::from(postcard::to_stdvec(value).expect("our types have known lengths"))
}

/// Decodes a head; trailing bytes are an error. postcard allocates no more than the input holds.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, NetError> {
    bounded("head", bytes.len(), HEAD_BYTES_MAX)?;
    match postcard::take_from_bytes::<T>(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => {
            Err(NetError::Malformed { what: format!("{} bytes too many after a head", rest.len()) })
        }
        Err(e) => Err(NetError::Malformed { what: format!("head does not decode: {e}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> FrameHeader {
        FrameHeader {
            kind: FrameKind::Request,
            flags: FLAG_STREAM,
            request: 7,
            method: 258,
            head_len: 3,
            body_len: 9,
        }
    }

    #[test]
    fn golden_header_of_version_1() {
        let golden: [u8; 28] =
            [b'M', b'O', b'O', b'S', 1, 1, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 3, 0, 0, 0, 9, 0, 0, 0];
        let b = header().encode();
        assert_eq!(b[..28], golden);
        assert_eq!(FrameHeader::decode(&b), Ok(header()));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let good = header().encode();
        for bit in 0..HEADER_BYTES * 8 {
            let mut b = good;
            b[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::decode(&b).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn lengths_are_bounded_at_the_edge() {
        let ok = FrameHeader { head_len: HEAD_BYTES_MAX as u32, body_len: BODY_BYTES_MAX as u32, ..header() };
        assert_eq!(FrameHeader::decode(&ok.encode()), Ok(ok));
        let over = FrameHeader { head_len: HEAD_BYTES_MAX as u32 + 1, ..header() };
        assert!(matches!(FrameHeader::decode(&over.encode()), Err(NetError::TooLarge { .. })));
        let over = FrameHeader { body_len: BODY_BYTES_MAX as u32 + 1, ..header() };
        assert!(matches!(FrameHeader::decode(&over.encode()), Err(NetError::TooLarge { .. })));
    }

    #[test]
    fn trailing_bytes_are_refused() {
        assert_eq!(decode::<u8>(&[5]), Ok(5));
        assert!(decode::<u8>(&[5, 6]).is_err());
        assert!(decode::<u8>(&[]).is_err());
    }
}
