//! File names and paths, parsed rather than validated. Pure.

use crate::limits::NAME_BYTES_MAX;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a name was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum NameError {
    /// No bytes at all.
    #[error("a name cannot be empty")]
    Empty,
    /// Over 255 bytes.
    #[error("a name has at most {NAME_BYTES_MAX} bytes")]
    TooLong,
    /// Contains `/` or NUL.
    #[error("a name cannot contain '/' or NUL")]
    Forbidden,
    /// Is `.` or `..`.
    #[error("\".\" and \"..\" name no entry")]
    Dots,
}

/// One name in a directory: 1 to 255 bytes without `/` and NUL, not `.` or `..`. Not always UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct Name(Bytes);

impl Name {
    /// Parses a name.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, NameError> {
        Self::try_from(Bytes::copy_from_slice(bytes.as_ref()))
    }
    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Bytes> for Name {
    type Error = NameError;
    fn try_from(b: Bytes) -> Result<Self, NameError> {
        match &b[..] {
            [] => Err(NameError::Empty),
            b"." | b".." => Err(NameError::Dots),
            s if s.len() > NAME_BYTES_MAX => Err(NameError::TooLong),
            s if s.iter().any(|c| *c == b'/' || *c == 0) => Err(NameError::Forbidden),
            _ => Ok(Self(b)),
        }
    }
}

impl From<Name> for Bytes {
    fn from(n: Name) -> Self {
        n.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(&self.0))
    }
}
impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_of_a_name() {
        assert!(Name::new(vec![b'a'; 255]).is_ok());
        assert_eq!(Name::new(vec![b'a'; 256]), Err(NameError::TooLong));
        assert_eq!(Name::new(""), Err(NameError::Empty));
        assert_eq!(Name::new("."), Err(NameError::Dots));
        assert_eq!(Name::new(".."), Err(NameError::Dots));
        assert!(Name::new("...").is_ok());
        assert_eq!(Name::new("a\0b"), Err(NameError::Forbidden));
        assert_eq!(Name::new("a/b"), Err(NameError::Forbidden));
        assert!(Name::new([0xff, 0xfe]).is_ok());
    }

    #[test]
    fn a_bad_name_does_not_decode() {
        let bytes = postcard::to_stdvec(&Bytes::from_static(b"a/b")).unwrap();
        assert!(postcard::from_bytes::<Name>(&bytes).is_err());
    }
}
