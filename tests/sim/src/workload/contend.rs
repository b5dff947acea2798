//! Files that both workers change at the same time. Shared mode (PROTOCOL §2) is to come, so little is
//! promised: but that one write wins at every replica is; that a write which was acknowledged after
//! another had been is not undone by that one; and that what a cut took away does not come back as zeros
//! under a size that was committed for the bytes.
//!
//! After a power failure that may have taken unsynced data they begin anew with other files. So they do
//! when all replicas of a chunk may have been killed: the numbers of what was not synced are gone with it, so
//! that what a writer sends again then passes for new at all of them, and undoes what another wrote meanwhile.

use super::{Worker, bytes};
use crate::oracle::Register;
use anyhow::{Result, ensure};
use mooseng_client::{File, OpenFlags};
use mooseng_core::error::Errno;
use std::{collections::BTreeMap, future::Future, time::Duration};

/// Writes at any place begin below this.
const ANYWHERE: u64 = 64 << 10;
/// Places of one value each: where the first is, their distance, their length. Several share a block.
const PLACES_AT: u64 = 128 << 10;
const PLACES: u64 = 8;
const PLACE_STEP: u64 = 1500;
const PLACE_BYTES: usize = 1000;
/// Cuts leave at most so much; writes of the file that is cut go from its beginning past it.
const CUT_MAX: u64 = 16 << 10;
const CUT_WRITE_MAX: u64 = 96 << 10;

/// What the workers know of the contended files together, by the power failures before.
#[derive(Debug, Default)]
pub struct Contended {
    places: BTreeMap<(u64, u64), Register>,
    handles: u64,
    /// Files of the present begin with it.
    age: u64,
    /// Cuts that were begun, and that have not ended for sure.
    cuts: (u64, u64),
}

impl Contended {
    /// From now on other files are worked on: of these a power failure may have taken data, or all
    /// replicas have forgotten who wrote what last.
    pub fn begin_anew(&mut self) {
        self.age += 1;
        self.cuts = (0, 0);
    }
}

fn shared(age: u64) -> String {
    format!("/shared-{age}")
}

fn cut(age: u64) -> String {
    format!("/cut-{age}")
}

/// Never a zero, so that zeros are what nobody wrote.
fn solid(n: u64, len: usize) -> Vec<u8> {
    bytes(n, len).into_iter().map(|b| b | 1).collect()
}

impl Worker {
    fn age(&self) -> u64 {
        self.stage().contended.lock().age
    }

    /// Works on a file that the other worker may be working on now.
    pub(super) async fn contend(&mut self) -> Result<()> {
        match self.hands.random() % 4 {
            0 => self.scribble().await,
            1 => self.write_and_cut().await,
            _ => self.write_places().await,
        }
    }

    async fn open_contended(&self, path: &str, age: u64) -> Result<Option<File>> {
        let fs = self.fs()?;
        let flags = OpenFlags { read: true, write: true, create: true, ..OpenFlags::default() };
        self.contended(&format!("open {path}"), age, fs.open_with(path, flags, 0o644)).await
    }

    /// Writes of any length at any place.
    async fn scribble(&mut self) -> Result<()> {
        let age = self.age();
        let Some(file) = self.open_contended(&shared(age), age).await? else { return Ok(()) };
        for _ in 0..=self.hands.random() % 8 {
            let r = self.hands.random();
            self.written += 1;
            let (at, len) = (r % ANYWHERE, (r >> 24) % 9000 + 1);
            let data = bytes(self.written ^ (u64::from(self.writer) << 32), len as usize);
            self.contended("write somewhere", age, file.write_at(at, data)).await?;
            match (r >> 48) % 4 {
                0 => drop(self.contended("sync", age, file.sync_all()).await?),
                1 => drop(self.contended("flush", age, file.flush_all()).await?),
                _ => {}
            }
        }
        self.contended("close", age, file.close()).await?;
        Ok(())
    }

    /// Writes of whole values, each judged against all others at its place.
    async fn write_places(&mut self) -> Result<()> {
        let (stage, age) = (self.stage(), self.age());
        let Some(file) = self.open_contended(&shared(age), age).await? else { return Ok(()) };
        let handle = {
            let mut c = stage.contended.lock();
            c.handles += 1;
            c.handles
        };
        // What failed may arrive at any time, or be lost: later success says nothing of it.
        let mut sure = true;
        for _ in 0..2 + self.hands.random() % 6 {
            let r = self.hands.random();
            self.written += 1;
            let tag = self.written ^ (u64::from(self.writer) << 32);
            let place = r % PLACES;
            let now = stage.journal.elapsed();
            stage.contended.lock().places.entry((age, place)).or_default().begin(tag, handle, now);
            let at = PLACES_AT + place * PLACE_STEP;
            let what = format!("write {tag:x} to place {place}");
            let write = file.write_at(at, bytes(tag, PLACE_BYTES));
            sure &= self.contended(&what, age, write).await?.is_some();
            let flushes = (r >> 48) % 4;
            sure &= match flushes {
                0 => self.contended("sync", age, file.sync_all()).await?.is_some(),
                1 | 2 => self.contended("flush", age, file.flush_all()).await?.is_some(),
                _ => sure,
            };
            if sure && flushes < 3 {
                self.acknowledged(age, handle);
            }
            tokio::time::sleep(Duration::from_millis((r >> 32) % 500)).await;
        }
        if self.contended("close", age, file.close()).await?.is_some() && sure {
            self.acknowledged(age, handle);
        }
        self.read_places(age).await
    }

    fn acknowledged(&self, age: u64, handle: u64) {
        let stage = self.stage();
        let now = stage.journal.elapsed();
        let mut c = stage.contended.lock();
        c.places.range_mut((age, 0)..(age + 1, 0)).for_each(|(_, p)| p.acknowledged(handle, now));
    }

    /// Errors: a value that another had replaced for good.
    pub(super) async fn read_places(&self, age: u64) -> Result<()> {
        let (stage, path) = (self.stage(), shared(age));
        let begun = stage.journal.elapsed();
        let Some(file) = self.open_contended(&path, age).await? else { return Ok(()) };
        for place in 0..PLACES {
            let at = PLACES_AT + place * PLACE_STEP;
            let what = format!("read place {place}");
            let read = self.contended(&what, age, file.read_at(at, PLACE_BYTES as u64)).await?;
            if self.age() != age {
                break;
            }
            let Some(mut data) = read.map(|d| d.to_vec()) else { continue };
            data.resize(PLACE_BYTES, 0);
            let c = stage.contended.lock();
            let Some(register) = c.places.get(&(age, place)) else { continue };
            let judged = register.admits(begun, |tag| match tag {
                Some(tag) => bytes(tag, PLACE_BYTES) == data,
                None => data.iter().all(|b| *b == 0),
            });
            judged.map_err(|e| anyhow::anyhow!("place {place} of {path}: {e}"))?;
        }
        self.contended("close", age, file.close()).await?;
        Ok(())
    }

    /// The file is always one run of bytes from its beginning: a writer writes them all, a cut shortens it.
    async fn write_and_cut(&mut self) -> Result<()> {
        let (age, path) = (self.age(), cut(self.age()));
        let Some(file) = self.open_contended(&path, age).await? else { return Ok(()) };
        for _ in 0..1 + self.hands.random() % 4 {
            let r = self.hands.random();
            if r.is_multiple_of(3) {
                let to = (r >> 8) % CUT_MAX;
                let what = format!("cut to {to}");
                let began = |c: &mut Contended| (c.cuts.0, c.cuts.1) = (c.cuts.0 + 1, c.cuts.1 + 1);
                began(&mut self.stage().contended.lock());
                if self.contended(&what, age, file.set_len(to)).await?.is_some() {
                    let stage = self.stage();
                    let mut c = stage.contended.lock();
                    c.cuts.1 = c.cuts.1.saturating_sub(1);
                }
            } else {
                self.written += 1;
                let len = CUT_MAX + 1 + (r >> 8) % CUT_WRITE_MAX;
                let data = solid(self.written ^ (u64::from(self.writer) << 32), len as usize);
                self.contended(&format!("write {len} from the beginning"), age, file.write_at(0, data))
                    .await?;
                match (r >> 48) % 3 {
                    0 => drop(self.contended("sync", age, file.sync_all()).await?),
                    1 => drop(self.contended("flush", age, file.flush_all()).await?),
                    _ => {}
                }
            }
            tokio::time::sleep(Duration::from_millis((r >> 32) % 100)).await;
        }
        self.contended("close", age, file.close()).await?;
        self.read_cut(age).await
    }

    /// Errors: bytes that nobody wrote below a size that somebody committed for what was written.
    pub(super) async fn read_cut(&self, age: u64) -> Result<()> {
        let (stage, path) = (self.stage(), cut(age));
        let before = stage.contended.lock().cuts;
        let Some(file) = self.open_contended(&path, age).await? else { return Ok(()) };
        let read = file.read_at(CUT_MAX, CUT_MAX + CUT_WRITE_MAX);
        let read = self.contended("read what was cut", age, read).await?;
        // A read during a cut may show the size before it and the bytes after it.
        let is_clear = before.1 == 0 && stage.contended.lock().cuts == before && self.age() == age;
        if let Some(data) = read.filter(|_| is_clear) {
            let zero = data.iter().position(|b| *b == 0);
            ensure!(
                zero.is_none(),
                "byte {} of {path} is a zero that nobody wrote, {} bytes are there",
                CUT_MAX + zero.unwrap_or(0) as u64,
                CUT_MAX + data.len() as u64
            );
        }
        self.contended("close", age, file.close()).await?;
        Ok(())
    }

    /// Looks a last time.
    pub async fn look_at_contended(&self) -> Result<()> {
        let age = self.age();
        self.read_places(age).await?;
        self.read_cut(age).await
    }

    /// Removes what a power failure took data of.
    pub(super) async fn remove_contended(&self) -> Result<()> {
        let fs = self.fs()?;
        for age in 0..self.age() {
            for path in [shared(age), cut(age)] {
                match self.hands.try_step(&format!("remove {path}"), fs.remove_file(&path)).await? {
                    Ok(()) => {}
                    Err(e) if e.errno() == Errno::ENOENT => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        Ok(())
    }

    /// A step on a file that all write. Errors: it failed in calm weather, though no power failure can
    /// have taken any of it. EIO is no failure: that a replica restarted before what a closed handle
    /// wrote was synced is told as a loss, also when the others had it (PROTOCOL §4).
    async fn contended<T>(
        &self,
        what: &str,
        age: u64,
        work: impl Future<Output = mooseng_client::Result<T>>,
    ) -> Result<Option<T>> {
        let calm = self.hands.calm();
        match self.hands.try_step(&format!("contended {age}: {what}"), work).await? {
            Ok(t) => Ok(Some(t)),
            Err(e) if e.errno() == Errno::EIO || self.age() != age => Ok(None),
            Err(e) => self.hands.failed(&e, calm).map(|()| None),
        }
    }
}
