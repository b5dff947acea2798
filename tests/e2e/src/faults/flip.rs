//! A bit flipped in a file, and where.

use anyhow::{Context as _, Result, ensure};
use std::{
    fmt, fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

/// Draws places: a small generator with a fixed beginning, so that a run can be repeated.
pub(super) struct Draw(pub u64);

impl Draw {
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n.max(1)
    }
}

/// A flipped bit, which can be flipped back.
pub(super) struct Flip {
    path: PathBuf,
    at: u64,
    pub bit: u8,
    was: u8,
}

impl Flip {
    pub(super) fn make(path: &Path, at: u64, bit: u8) -> Result<Self> {
        let file = fs::File::options().read(true).write(true).open(path)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).with_context(|| format!("{} at {at}", path.display()))?;
        file.write_all_at(&[byte[0] ^ (1 << bit)], at)?;
        Ok(Self { path: path.into(), at, bit, was: byte[0] })
    }

    /// Whether the byte was written since; `None` when the file is gone.
    pub(super) fn is_mended(&self) -> Option<bool> {
        let mut byte = [0];
        fs::File::open(&self.path).ok()?.read_exact_at(&mut byte, self.at).ok()?;
        Some(byte[0] != self.was ^ (1 << self.bit))
    }

    /// Takes it back where nobody wrote since.
    pub(super) fn undo(&self) -> Result<()> {
        let mut byte = [0];
        let Ok(file) = fs::File::options().read(true).write(true).open(&self.path) else { return Ok(()) };
        // One that was made shorter has lost it.
        if file.read_exact_at(&mut byte, self.at).is_ok() && byte[0] == self.was ^ (1 << self.bit) {
            file.write_all_at(&[self.was], self.at)?;
        }
        Ok(())
    }
}

impl fmt::Display for Flip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bit {} at {} of {}", self.bit, self.at, self.path.display())
    }
}

/// Copies a directory with all that is in it.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(done.success(), "{} cannot be copied", from.display());
    Ok(())
}

/// Where something begins.
pub(super) fn find(bytes: &[u8], what: &[u8]) -> Option<u64> {
    bytes.windows(what.len()).position(|w| w == what).map(|at| at as u64)
}
