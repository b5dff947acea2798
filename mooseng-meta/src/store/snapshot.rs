//! Snapshots: rows in key order, in pieces of about 256 KiB, each `CRC32C ‖ rows`, and a last
//! piece that says how many rows there were. A row is `key length u32 ‖ key ‖ value length u32 ‖
//! value`, little-endian.

use super::{
    RedbView, Table, View as _,
    redb_store::{ROWS, io_err},
};
use crate::machine::{SnapshotReader, SnapshotWriter};
use bytes::Bytes;
use mooseng_core::checksum::crc32c;
use redb::{Database, Durability};
use std::{io, ops::Bound};

const PIECE_BYTES: usize = 256 << 10;
const MARK: &[u8] = b"mark";
/// In the place of a key's length: the last piece.
const END: u32 = u32::MAX;

pub(super) struct Reader {
    view: RedbView,
    mark: Option<Bytes>,
    after: Option<Vec<u8>>,
    rows: u64,
    ended: bool,
}

impl Reader {
    pub(super) fn new(view: RedbView) -> io::Result<Self> {
        let mark = view.get(Table::Meta, MARK)?.map(Bytes::from);
        Ok(Self { view, mark, after: None, rows: 0, ended: false })
    }
}

fn seal(rows: &[u8]) -> Bytes {
    let mut piece = crc32c(rows).to_le_bytes().to_vec();
    piece.extend_from_slice(rows);
    piece.into()
}

impl SnapshotReader for Reader {
    fn mark(&self) -> Option<Bytes> {
        self.mark.clone()
    }
    fn next_piece(&mut self) -> io::Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        let mut piece = Vec::with_capacity(PIECE_BYTES + 4096);
        let from = self.after.as_ref().map_or(Bound::Unbounded, |k| Bound::Excluded(k.as_slice()));
        let mut last = None;
        for row in self.view.0.range::<&[u8]>((from, Bound::Unbounded)).map_err(io_err)? {
            let (k, v) = row.map_err(io_err)?;
            for part in [k.value(), v.value()] {
                piece.extend_from_slice(&(part.len() as u32).to_le_bytes());
                piece.extend_from_slice(part);
            }
            self.rows += 1;
            if piece.len() >= PIECE_BYTES {
                last = Some(k.value().to_vec());
                break;
            }
        }
        match last {
            Some(k) => self.after = Some(k),
            None => {
                self.ended = true;
                piece.extend_from_slice(&END.to_le_bytes());
                piece.extend_from_slice(&self.rows.to_le_bytes());
            }
        }
        Ok(Some(seal(&piece)))
    }
}

type Install = Box<dyn FnOnce(Database) -> io::Result<()> + Send>;

pub(super) struct Writer {
    db: Database,
    install: Install,
    rows: u64,
    expected: Option<u64>,
}

impl Writer {
    pub(super) fn new(db: Database, install: Install) -> Self {
        Self { db, install, rows: 0, expected: None }
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("snapshot: {what}"))
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> io::Result<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(n).ok_or_else(|| bad("a piece is cut short"))?;
    *rest = tail;
    Ok(head)
}

fn take_u32(rest: &mut &[u8]) -> io::Result<u32> {
    take(rest, 4)?.first_chunk().map(|b| u32::from_le_bytes(*b)).ok_or_else(|| bad("short"))
}

impl SnapshotWriter for Writer {
    fn piece(&mut self, piece: &[u8]) -> io::Result<()> {
        let mut rest = piece;
        let crc = take_u32(&mut rest)?;
        if crc != crc32c(rest) || self.expected.is_some() {
            return Err(bad("a piece is damaged or out of order"));
        }
        let mut txn = self.db.begin_write().map_err(io_err)?;
        txn.set_durability(Durability::None).map_err(|e| io::Error::other(e.to_string()))?;
        {
            let mut table = txn.open_table(ROWS).map_err(io_err)?;
            while !rest.is_empty() {
                let len = take_u32(&mut rest)?;
                if len == END {
                    let n = take(&mut rest, 8)?.first_chunk().map(|b| u64::from_le_bytes(*b));
                    self.expected = n;
                    break;
                }
                let key = take(&mut rest, len as usize)?;
                let len = take_u32(&mut rest)? as usize;
                let value = take(&mut rest, len)?;
                table.insert(key, value).map_err(io_err)?;
                self.rows += 1;
            }
        }
        txn.commit().map_err(io_err)
    }

    fn install(self: Box<Self>) -> io::Result<()> {
        if self.expected != Some(self.rows) {
            return Err(bad("it is not complete"));
        }
        let mut txn = self.db.begin_write().map_err(io_err)?;
        txn.set_durability(Durability::Immediate).map_err(|e| io::Error::other(e.to_string()))?;
        txn.set_quick_repair(true);
        txn.commit().map_err(io_err)?;
        (self.install)(self.db)
    }
}
