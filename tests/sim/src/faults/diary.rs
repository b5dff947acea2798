//! A file that is written and synced all the while a disk is ill: whatever a sync covered is there
//! afterwards.

use super::{
    Troublemaker,
    drills::{open, try_for},
};
use anyhow::{Result, bail, ensure};
use mooseng_client::File;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// Places of the file: where the first is, their distance, the bytes of each. They share blocks, and are past
/// what is kept inline.
const FROM: u64 = 12 << 10;
const STEP: u64 = 10_000;
const BYTES: usize = 9_000;
const PLACES: u64 = 6;
/// Longest wait for one step.
const PATIENCE: Duration = Duration::from_secs(40);
/// Between two.
const PACE_MS: u64 = 120;

/// What was written, and what of it must be there.
pub(super) struct Diary {
    path: String,
    age: u64,
    next: u64,
    places: BTreeMap<u64, Place>,
}

#[derive(Default)]
struct Place {
    /// The last value that a sync covered.
    synced: u64,
    /// Written since; whether nothing failed meanwhile that may have lost it.
    since: Vec<(u64, bool)>,
}

fn page(n: u64) -> Vec<u8> {
    let byte = |i: usize| (n.wrapping_mul(31).wrapping_add(i as u64 / 64) % 251) as u8 | 1;
    (0..BYTES).map(byte).collect()
}

impl Troublemaker {
    /// A diary whose places are all synced, or `None` when the weather does not allow for it.
    pub(super) async fn begin_diary(&self) -> Option<Diary> {
        let path = format!("/diary-{}", self.pick(1 << 40));
        let mut diary = Diary { path, age: self.age(), next: 1, places: BTreeMap::new() };
        let file = open(&self.extras.heir.filesystem(), &diary.path, true).await?;
        for place in 0..PLACES {
            diary.write(&file, place).await?;
        }
        diary.sync(&file).await?;
        Some(diary)
    }

    /// Writes on for a while.
    pub(super) async fn keep_diary(&self, diary: &mut Diary, time: Duration) {
        let (fs, until) = (self.extras.heir.filesystem(), Instant::now() + time);
        while Instant::now() < until {
            // A handle that was told of a loss is not used any more.
            let Some(file) = open(&fs, &diary.path, false).await else { continue };
            while Instant::now() < until {
                tokio::time::sleep(self.millis(0, PACE_MS)).await;
                let written = diary.write(&file, self.pick(PLACES)).await;
                let synced = if self.pick(2) == 0 { diary.sync(&file).await } else { Some(()) };
                if written.is_none() || synced.is_none() {
                    diary.failed();
                    break;
                }
            }
            if try_for(PATIENCE, file.close()).await.is_none() {
                diary.failed();
            }
        }
    }

    /// Reads it. Errors: what a sync covered is not there.
    pub(super) async fn read_diary(&self, diary: &Diary) -> Result<()> {
        let Some(file) = open(&self.extras.asker.filesystem(), &diary.path, false).await else {
            return Ok(());
        };
        for (place, Place { synced, since }) in &diary.places {
            let read = tokio::time::timeout(PATIENCE, file.read_at(FROM + place * STEP, BYTES as u64)).await;
            if self.age() != diary.age {
                return Ok(());
            }
            let Ok(Ok(read)) = read else {
                bail!("place {place} of {} cannot be read, {synced} was synced: {read:?}", diary.path)
            };
            let known = since.iter().map(|(n, _)| n).chain([synced]).any(|n| read == page(*n));
            let older = (1..diary.next).find(|n| read == page(*n));
            ensure!(
                known,
                "place {place} of {} shows value {older:?}; {synced} was synced, and {since:?} written since",
                diary.path
            );
        }
        Ok(())
    }
}

impl Diary {
    async fn write(&mut self, file: &File, place: u64) -> Option<()> {
        let n = self.next;
        self.next += 1;
        self.places.entry(place).or_default().since.push((n, true));
        try_for(PATIENCE, file.write_at(FROM + place * STEP, page(n))).await
    }

    async fn sync(&mut self, file: &File) -> Option<()> {
        try_for(PATIENCE, file.sync_all()).await?;
        for place in self.places.values_mut() {
            // What comes last and failed may be lost, and the one before it may be there instead.
            if let Some((last, true)) = place.since.last() {
                place.synced = *last;
                place.since.clear();
            }
        }
        Some(())
    }

    /// What was not synced may be there or not, whatever a later sync says.
    fn failed(&mut self) {
        self.places.values_mut().flat_map(|p| &mut p.since).for_each(|(_, sure)| *sure = false);
    }
}
