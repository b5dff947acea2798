//! The deterministic state machine that Raft replicates, as Raft sees it: opaque commands in,
//! opaque replies out. Pure; `store` implements it, `raft` drives it.

use bytes::Bytes;
use std::io;

/// One committed log entry: `None` for entries that carry no command (blank, membership).
pub type Committed = Option<Bytes>;

/// A replicated state machine. All calls come from one thread, except [`Machine::snapshot`]'s
/// reader, which is moved elsewhere.
pub trait Machine: Send + Sync + 'static {
    /// Applies `entries` in order and stores `mark` (opaque: last log id and membership), all in
    /// one transaction. Visible to readers on return, durable at the next [`Machine::flush`].
    /// Returns one reply per entry (empty for `None`). A function of state and entries only.
    ///
    /// Errors: the disk failed; the node must stop.
    fn apply(&self, entries: &[Committed], mark: &[u8]) -> io::Result<Vec<Bytes>>;

    /// The mark of the last transaction, durable or not; `None` before the first.
    fn mark(&self) -> io::Result<Option<Bytes>>;

    /// Makes all applied state durable and returns the mark that is durable now.
    fn flush(&self) -> io::Result<Option<Bytes>>;

    /// A stable view of the newest durable state. Later applies do not change it. Nothing stops
    /// meanwhile.
    fn snapshot(&self) -> io::Result<Box<dyn SnapshotReader>>;

    /// Begins to receive a snapshot beside the current state.
    fn receive(&self) -> io::Result<Box<dyn SnapshotWriter>>;
}

/// Reads a snapshot piece by piece.
pub trait SnapshotReader: Send {
    /// The mark the snapshot was taken at.
    fn mark(&self) -> Option<Bytes>;
    /// The next piece, at most 1 MiB; `None` at the end.
    fn next_piece(&mut self) -> io::Result<Option<Bytes>>;
}

/// Receives a snapshot. Dropped before [`SnapshotWriter::install`], it changes nothing.
pub trait SnapshotWriter: Send {
    /// Adds the next piece.
    fn piece(&mut self, piece: &[u8]) -> io::Result<()>;
    /// Verifies completeness, makes the state durable and puts it in the place of the current one.
    fn install(self: Box<Self>) -> io::Result<()>;
}
