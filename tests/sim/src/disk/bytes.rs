//! Bytes of a simulated file, and changes of them that a power failure may take apart.

use mooseng_core::seam::Rng;
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, LazyLock},
};

/// What a write cache may lose on its own: disks guarantee sectors, nothing larger.
const SECTOR_BYTES: usize = 512;

/// What memory is taken in: files may be sparse, and copies of them share what is equal.
pub const PAGE_BYTES: u64 = 4096;

type Page = Arc<[u8; PAGE_BYTES as usize]>;

/// What reserved pages share.
static ZEROS: LazyLock<Page> = LazyLock::new(|| Arc::new([0; PAGE_BYTES as usize]));

/// Bytes of a file, holes left out.
#[derive(Clone, Debug, Default)]
pub(super) struct Bytes {
    pub len: u64,
    pages: BTreeMap<u64, Page>,
}

impl Bytes {
    /// Parts of a range, each within one page: page, position in it, position in the range, length.
    fn parts(at: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize, usize)> {
        let pages = at / PAGE_BYTES..(at + len).div_ceil(PAGE_BYTES);
        pages.filter(move |_| len > 0).map(move |page| {
            let from = at.max(page * PAGE_BYTES);
            let to = (at + len).min((page + 1) * PAGE_BYTES);
            (page, (from % PAGE_BYTES) as usize, (from - at) as usize, (to - from) as usize)
        })
    }

    fn write(&mut self, at: u64, data: &[u8]) {
        for (page, within, from, len) in Self::parts(at, data.len() as u64) {
            let page = self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE_BYTES as usize]));
            Arc::make_mut(page)[within..within + len].copy_from_slice(&data[from..from + len]);
        }
        self.len = self.len.max(at + data.len() as u64);
    }

    fn zero(&mut self, at: u64, len: u64) {
        let end = (at + len).min(self.len);
        for (page, within, _, len) in Self::parts(at, end.saturating_sub(at)) {
            if let Some(page) = self.pages.get_mut(&page) {
                Arc::make_mut(page)[within..within + len].fill(0);
            }
        }
    }

    /// Takes room for all pages up to a length.
    fn allocate(&mut self, len: u64) {
        for page in 0..len.div_ceil(PAGE_BYTES) {
            self.pages.entry(page).or_insert_with(|| ZEROS.clone());
        }
        self.len = self.len.max(len);
    }

    /// Whether all pages of a range have their room.
    pub fn has_room(&self, at: u64, len: u64) -> bool {
        Self::parts(at, len).all(|(page, ..)| self.pages.contains_key(&page))
    }

    /// Pages with room.
    pub fn pages(&self) -> impl Iterator<Item = u64> {
        self.pages.keys().copied()
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.zero(len, self.len - len);
            self.pages.split_off(&len.div_ceil(PAGE_BYTES));
        }
        self.len = len;
    }

    pub fn read(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        if at + buf.len() as u64 > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (page, within, from, len) in Self::parts(at, buf.len() as u64) {
            let into = &mut buf[from..from + len];
            match self.pages.get(&page) {
                Some(page) => into.copy_from_slice(&page[within..within + len]),
                None => into.fill(0),
            }
        }
        Ok(())
    }

    /// Bytes up to the last that is not zero.
    pub fn used(&self) -> u64 {
        let last = |page: &Page| page.iter().rposition(|b| *b != 0);
        let used =
            self.pages.iter().rev().find_map(|(n, page)| Some(n * PAGE_BYTES + last(page)? as u64 + 1));
        used.unwrap_or(0)
    }

    pub fn flip(&mut self, bit: u64) {
        let mut byte = [0];
        if self.read(bit / 8, &mut byte).is_ok() {
            self.write(bit / 8, &[byte[0] ^ (1 << (bit % 8))]);
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { at: u64, data: Vec<u8> },
    SetLen(u64),
    Allocate(u64),
    Punch { at: u64, len: u64 },
}

impl Change {
    pub fn apply(&self, bytes: &mut Bytes) {
        match self {
            Self::Write { at, data } => bytes.write(*at, data),
            Self::SetLen(len) => bytes.set_len(*len),
            Self::Allocate(len) => bytes.allocate(*len),
            Self::Punch { at, len } => bytes.zero(*at, *len),
        }
    }

    /// What of it survives a power failure: all, nothing, or some of its sectors.
    pub fn survivor(&self, rng: &dyn Rng) -> Vec<Self> {
        let r = rng.next_u64();
        match (r % 3, self) {
            (0, _) => vec![],
            (1, Self::Write { at, data }) => {
                let mut kept = Vec::new();
                for (i, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                    if rng.next_u64() & 1 == 0 {
                        let at = at + (i * SECTOR_BYTES) as u64;
                        kept.push(Self::Write { at, data: sector.to_vec() });
                    }
                }
                kept
            }
            _ => vec![self.clone()],
        }
    }
}
