//! What is left to be copied, and how long that takes.

use super::{
    Inner, Lead, internal,
    lead::Memory,
    walk::{Step, step},
};
use crate::{placement::ROOM_BYTES_MIN, store::*};
use mooseng_core::{attr::Timestamp, error::MetaError, ids::*, limits::CHUNK_BYTES, meta::*};
use std::{io, time::Duration};

/// Bytes of a chunk by its file's size; a whole chunk when there is no file.
pub(super) fn bytes_of(view: &(impl View + ?Sized), rec: &ChunkRec) -> io::Result<u64> {
    let inode: Option<InodeRec> = load(view, Table::Inode, &key(rec.inode.get()))?;
    let before = rec.index.get().saturating_mul(CHUNK_BYTES);
    Ok(inode.map_or(CHUNK_BYTES, |i| i.size.saturating_sub(before).min(CHUNK_BYTES)))
}

impl Inner {
    /// How far repairs are, and what is left at servers that are being emptied.
    pub(super) async fn outlook(
        &self,
        lead: &Lead,
        view: &RedbView,
    ) -> Result<(Repairs, Vec<Draining>), MetaError> {
        let now = self.now();
        let (mut left, room) = {
            let m = lead.memory.lock();
            let draining = |(s, t): (&ServerId, &Timestamp)| Draining { server: *s, since: *t, left: 0 };
            let left: Vec<_> = m.draining.iter().map(draining).collect();
            let room = m.candidates(now, self.timings.server_dead);
            (left, room.iter().filter(|c| c.free_bytes >= ROOM_BYTES_MIN).count())
        };
        let (mut r, mut at) = (Repairs::default(), Some(ChunkId(0)));
        while let Some(from) = at {
            let Step { records, next } = step::<ChunkRec>(view, Table::Chunk, from)?;
            at = next;
            for (_, rec) in &records {
                left.iter_mut().for_each(|d| d.left += u64::from(names(rec, d.server)));
            }
            // The files are read when the memory is free again.
            let lacking = self.lacking(&lead.memory.lock(), now, &records);
            for (rec, lack) in lacking {
                r.bytes += bytes_of(view, rec).map_err(internal)? * lack;
                r.chunks += 1;
                r.stuck += u64::from(room < usize::from(rec.wanted));
            }
            tokio::task::yield_now().await;
        }
        let (m, now) = (lead.memory.lock(), self.now());
        (r.running, r.done) = (m.progress.running as u64, m.progress.done);
        r.bytes_per_s = m.progress.bytes_per_s(now);
        let waits = self.waits(&m, lead, now);
        r.waits_secs = if r.chunks > 0 { waits.as_secs() } else { 0 };
        let takes = m.progress.takes(now, r.chunks, r.bytes).filter(|_| r.stuck == 0);
        r.until_safe_secs = takes.map(|t| r.waits_secs + t.as_secs());
        Ok((r, left))
    }

    /// Those of some chunks that lack copies and have one to copy from, and how many they lack.
    fn lacking<'a>(
        &self,
        m: &Memory,
        now: Duration,
        records: &'a [(ChunkId, ChunkRec)],
    ) -> Vec<(&'a ChunkRec, u64)> {
        let alive = |s: &ServerId| m.is_alive(*s, now, self.timings.server_dead);
        let lack = |(id, rec): &'a (ChunkId, ChunkRec)| {
            let (_, sources) = m.copies(*id, &rec.members, alive);
            let (stay, _) = m.copies(*id, &rec.members, |s| alive(s) && !m.draining.contains_key(s));
            let lack = usize::from(rec.wanted).saturating_sub(stay);
            (lack > 0 && sources > 0).then_some((rec, lack as u64))
        };
        records.iter().filter_map(lack).collect()
    }

    /// How long silent servers are still waited for before their chunks are copied elsewhere.
    fn waits(&self, m: &Memory, lead: &Lead, now: Duration) -> Duration {
        let patience = self.timings.server_dead + self.timings.repair_after;
        let silent = m.servers.values().map(|s| now.saturating_sub(s.heard));
        let silent = silent.filter(|silent| *silent >= self.timings.server_dead);
        let early = patience.saturating_sub(now.saturating_sub(lead.since));
        silent.map(|silent| patience.saturating_sub(silent).max(early)).max().unwrap_or_default()
    }
}

/// Whether a server has a copy that counts, or is being given one.
pub(super) fn names(rec: &ChunkRec, server: ServerId) -> bool {
    let bump = rec.pending.iter().flat_map(|b| b.survivors.iter().chain(&b.joining));
    rec.members.iter().chain(bump).any(|s| *s == server)
}
