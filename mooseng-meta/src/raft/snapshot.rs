//! Snapshot files: the pieces of a state machine with checksums, complete or not there at all.
//!
//! ```text
//! file:   | MNGSNAP1 | piece ... | end |
//! piece:  | len u32 | crc u32 | bytes |      crc: CRC32C over number of the piece and bytes
//! end:    | 0 u32   | crc u32 | mark len u32 | mark | pieces u64 |   crc over mark and pieces
//! ```
//! Little-endian. Written as `snapshot.N.tmp`, synced, read back and verified, and only then renamed.
//! A temporary file that nobody holds any more is removed; those of an earlier start, too.

use super::types::Mark;
use super::writer::RAFT_DIR;
use bytes::Bytes;
use mooseng_core::checksum::crc32c;
use mooseng_core::seam::{Disk, DiskFile, Lane};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::{fmt, io, sync::Arc};

const MAGIC: [u8; 8] = *b"MNGSNAP1";
/// The newest complete snapshot.
pub(super) const CURRENT: &str = "raft/snapshot";
/// End of the names of those that are being built or received.
const TEMPORARY: &str = ".tmp";
/// Bytes of a piece at most: what one piece of a stream on the network may carry.
const PIECE_BYTES_MAX: u32 = mooseng_core::limits::PIECE_BYTES_MAX as u32;
/// Bytes of a mark at most: a few log ids and a few members.
const MARK_BYTES_MAX: u32 = 1 << 20;

/// A complete snapshot on disk.
#[derive(Clone, Debug)]
pub(super) struct SnapshotFile {
    file: Arc<dyn DiskFile>,
    /// What it was taken at.
    pub mark: Mark,
    /// Its file's name until it is the current one.
    temporary: Option<Arc<Temporary>>,
    /// How many pieces it has.
    pub pieces: u64,
}

/// Where snapshot files are made.
pub(super) struct Place {
    /// The node's disk.
    pub disk: Arc<dyn Disk>,
    /// The lane for all that is done to snapshot files.
    pub lane: Arc<dyn Lane>,
    next: AtomicU64,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl Place {
    pub fn new(disk: Arc<dyn Disk>, lane: Arc<dyn Lane>) -> Arc<Self> {
        Arc::new(Self { disk, lane, next: AtomicU64::new(0) })
    }

    /// Removes what an earlier start left unfinished.
    pub fn clean(&self) -> io::Result<()> {
        for name in self.disk.list(RAFT_DIR)? {
            if name.starts_with("snapshot.") && name.ends_with(TEMPORARY) {
                self.disk.remove(&format!("{RAFT_DIR}/{name}"))?;
            }
        }
        Ok(())
    }
}

/// A name that no other snapshot has; its file goes with it unless it was published.
#[derive(Debug)]
struct Temporary {
    place: Arc<Place>,
    name: String,
    published: AtomicBool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.published.load(Ordering::Relaxed) {
            return;
        }
        let (disk, name) = (Arc::clone(&self.place.disk), std::mem::take(&mut self.name));
        self.place.lane.run(Box::new(move || {
            if let Err(e) = disk.remove(&name) {
                tracing::warn!(error = %e, name, "an unfinished snapshot stays until the next start");
            }
        }));
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot is damaged: {what}"))
}

fn piece_crc(number: u64, piece: &[u8]) -> u32 {
    // The number is mixed in by an invertible step: equal pieces at other places differ.
    crc32c(piece) ^ crc32c(&number.to_le_bytes())
}

/// Writes a snapshot file piece by piece.
#[derive(Debug)]
pub(super) struct FileWriter {
    file: Arc<dyn DiskFile>,
    temporary: Arc<Temporary>,
    at: u64,
    pieces: u64,
}

impl FileWriter {
    /// Begins a file.
    pub fn begin(place: &Arc<Place>) -> io::Result<Self> {
        let number = place.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{CURRENT}.{number}{TEMPORARY}");
        let file = place.disk.create(&name)?;
        let temporary =
            Arc::new(Temporary { place: Arc::clone(place), name, published: AtomicBool::new(false) });
        file.write_at(0, &MAGIC)?;
        Ok(Self { file, temporary, at: MAGIC.len() as u64, pieces: 0 })
    }

    /// Adds a piece; an empty one is nothing.
    pub fn piece(&mut self, piece: &[u8]) -> io::Result<()> {
        let len = u32::try_from(piece.len()).ok().filter(|l| *l <= PIECE_BYTES_MAX);
        let len = len.ok_or_else(|| bad("a piece is too long"))?;
        if len == 0 {
            return Ok(());
        }
        let mut head = [0u8; 8];
        head[..4].copy_from_slice(&len.to_le_bytes());
        head[4..].copy_from_slice(&piece_crc(self.pieces, piece).to_le_bytes());
        self.file.write_at(self.at, &head)?;
        self.file.write_at(self.at + 8, piece)?;
        self.at += 8 + u64::from(len);
        self.pieces += 1;
        Ok(())
    }

    /// How many pieces there are so far.
    pub fn pieces(&self) -> u64 {
        self.pieces
    }

    /// Ends the file, makes it durable, and reads all of it back.
    pub fn finish(self, mark: &Mark) -> io::Result<SnapshotFile> {
        let mark_bytes = mark.encode()?;
        let mut end = vec![0u8; 8];
        end.extend_from_slice(&(mark_bytes.len() as u32).to_le_bytes());
        end.extend_from_slice(&mark_bytes);
        end.extend_from_slice(&self.pieces.to_le_bytes());
        let crc = crc32c(&end[8..]);
        end[4..8].copy_from_slice(&crc.to_le_bytes());
        self.file.write_at(self.at, &end)?;
        self.file.sync()?;
        verify(self.file, Some(self.temporary))
    }
}

/// Reads the pieces of a snapshot file in order, checking each.
#[derive(Debug)]
pub(super) struct FileReader {
    file: Arc<dyn DiskFile>,
    at: u64,
    pieces: u64,
    mark: Option<Mark>,
}

impl FileReader {
    fn new(file: Arc<dyn DiskFile>) -> io::Result<Self> {
        let mut magic = [0; 8];
        file.read_at(0, &mut magic)?;
        if magic != MAGIC {
            return Err(bad("it does not begin like one"));
        }
        Ok(Self { file, at: 8, pieces: 0, mark: None })
    }

    /// The next piece; `None` at the end, which is checked too.
    pub fn next_piece(&mut self) -> io::Result<Option<Bytes>> {
        if self.mark.is_some() {
            return Ok(None);
        }
        let mut head = [0u8; 8];
        self.file.read_at(self.at, &mut head)?;
        let [len, crc] = [0, 4].map(|i| u32::from_le_bytes(head[i..i + 4].try_into().expect("four bytes")));
        if len == 0 {
            self.mark = Some(self.read_end(crc)?);
            return Ok(None);
        }
        if len > PIECE_BYTES_MAX {
            return Err(bad("a piece is too long"));
        }
        let mut piece = vec![0; len as usize];
        self.file.read_at(self.at + 8, &mut piece)?;
        if piece_crc(self.pieces, &piece) != crc {
            return Err(bad("a piece does not match its checksum"));
        }
        self.at += 8 + u64::from(len);
        self.pieces += 1;
        Ok(Some(piece.into()))
    }

    fn read_end(&self, crc: u32) -> io::Result<Mark> {
        let mut len = [0u8; 4];
        self.file.read_at(self.at + 8, &mut len)?;
        let mark_len = u32::from_le_bytes(len);
        if mark_len > MARK_BYTES_MAX {
            return Err(bad("its end makes no sense"));
        }
        let mut end = vec![0; 4 + mark_len as usize + 8];
        self.file.read_at(self.at + 8, &mut end)?;
        let pieces = u64::from_le_bytes(end[end.len() - 8..].try_into().expect("eight bytes"));
        if crc32c(&end) != crc || pieces != self.pieces {
            return Err(bad("its end does not match its checksum"));
        }
        Mark::decode(Some(Bytes::copy_from_slice(&end[4..end.len() - 8])))
    }
}

fn verify(file: Arc<dyn DiskFile>, temporary: Option<Arc<Temporary>>) -> io::Result<SnapshotFile> {
    let mut reader = FileReader::new(Arc::clone(&file))?;
    while reader.next_piece()?.is_some() {}
    let mark = reader.mark.expect("the end was read");
    Ok(SnapshotFile { file, mark, temporary, pieces: reader.pieces })
}

impl SnapshotFile {
    /// The complete snapshot on disk; `None` when there is none. Reads all of it.
    pub fn open(disk: &dyn Disk) -> io::Result<Option<Self>> {
        match disk.open(CURRENT) {
            Ok(file) => verify(file, None).map(Some),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A reader from its beginning.
    pub fn reader(&self) -> io::Result<FileReader> {
        FileReader::new(Arc::clone(&self.file))
    }

    /// Makes it the current one, durably.
    pub fn publish(mut self) -> io::Result<Self> {
        if let Some(temporary) = self.temporary.take() {
            temporary.place.disk.rename(&temporary.name, CURRENT)?;
            temporary.published.store(true, Ordering::Relaxed);
            temporary.place.disk.sync_dir(RAFT_DIR)?;
        }
        Ok(self)
    }
}
