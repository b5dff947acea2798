//! Emptying a chunkserver: it gets no new copies, the repair loop makes its own elsewhere, with it as a
//! source, and then takes it out of their sets (`repair::plan`). Emptying a disk: its server puts nothing new
//! there and tells of what is there as leaving, as of a disk that it set aside.

use super::{
    Inner, Lead, internal,
    lead::{Memory, Server},
};
use crate::{placement::ROOM_BYTES_MIN, store::*};
use mooseng_core::{attr::Timestamp, context::CallContext, error::MetaError, ids::*, meta::*};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

/// Servers that are being emptied.
pub(super) fn draining(view: &RedbView) -> io::Result<BTreeMap<ServerId, Timestamp>> {
    let mut all = BTreeMap::new();
    scan_recs(view, Table::Drain, &[], &[], |k, since: Timestamp| {
        all.insert(ServerId(number(k)), since);
        true
    })?;
    Ok(all)
}

/// Disks that are being emptied.
pub(super) fn disks(view: &RedbView) -> io::Result<BTreeMap<(ServerId, DiskId), Timestamp>> {
    let mut all = BTreeMap::new();
    scan_recs(view, Table::DrainDisk, &[], &[], |k, since: Timestamp| {
        all.insert((ServerId(number(k)), DiskId(second(k))), since);
        true
    })?;
    Ok(all)
}

impl Memory {
    fn disk(&self, server: ServerId, disk: DiskId) -> Option<&DiskReport> {
        let disks = &self.servers.get(&server)?.disks;
        disks.iter().find(|d| d.disk == disk)
    }

    /// What is left on disks that are being emptied, by what their servers last said.
    pub fn disks_left(&self) -> Vec<DrainingDisk> {
        let one = |(&(server, disk), since): (&(ServerId, DiskId), &Timestamp)| {
            let there = self.disk(server, disk);
            DrainingDisk {
                server,
                disk,
                path: there.map(|d| d.path.clone()),
                since: *since,
                // Before it has said that the order came, a new chunk may go there this moment.
                left: there.filter(|d| d.drains).map(|d| d.chunks),
            }
        };
        self.disk_drains.iter().map(one).collect()
    }
}

impl Inner {
    pub(super) async fn drain(&self, lead: &Lead, cx: &CallContext, r: Drain) -> Result<(), MetaError> {
        let changed = self.propose(Command::Drain { server: r.server, on: r.on }, cx.budget).await?;
        let now = draining(&self.view()?).map_err(internal)?;
        if changed != Applied::Done(true) && now.contains_key(&r.server) != r.on {
            return Err(MetaError::Invalid(format!("there is no chunkserver {}", r.server)));
        }
        tracing::info!(server = %r.server, on = r.on, "drain");
        let mut m = lead.memory.lock();
        m.draining = now;
        m.drain_left.clear();
        m.look_at_all = true;
        lead.wake.notify_one();
        Ok(())
    }

    pub(super) async fn drain_disk(
        &self,
        lead: &Lead,
        cx: &CallContext,
        r: DrainDisk,
    ) -> Result<(), MetaError> {
        let view = self.fresh_view(cx.budget).await?;
        let drains = disks(&view).map_err(internal)?.contains_key(&(r.server, r.disk));
        match (r.on, drains) {
            (true, false) => self.may_drain(lead, &view, &r)?,
            (false, false) => {
                let (server, disk) = (r.server.get(), name(r.disk));
                return Err(MetaError::Invalid(format!(
                    "disk {disk} of chunkserver {server} is not being emptied"
                )));
            }
            (_, true) => {}
        }
        drop(view);
        let (server, disk, on) = (r.server, r.disk, r.on);
        self.propose(Command::DrainDisk { server, disk, on }, cx.budget).await?;
        tracing::info!(%server, disk = %name(disk), on, "drain of a disk");
        let now = disks(&self.view()?).map_err(internal)?;
        let mut m = lead.memory.lock();
        m.disk_drains = now;
        m.look_at_all = true;
        lead.wake.notify_one();
        Ok(())
    }

    /// Errors: there is no such disk, or nowhere that its copies could be.
    fn may_drain(&self, lead: &Lead, view: &RedbView, r: &DrainDisk) -> Result<(), MetaError> {
        let no = |why: String| Err(MetaError::Invalid(why));
        let (server, disk) = (r.server, name(r.disk));
        let number = server.get();
        if load::<ServerRec>(view, Table::Server, &key(server.get())).map_err(internal)?.is_none() {
            return no(format!("there is no chunkserver {number}"));
        }
        let m = lead.memory.lock();
        let Some(Server { disks, .. }) = m.servers.get(&server) else {
            return no(format!(
                "chunkserver {number} was not heard since the leader's election: which disks it has is not known; start it first"
            ));
        };
        let Some(there) = m.disk(server, r.disk) else {
            let has: Vec<_> = disks.iter().map(|d| format!("{} ({})", name(d.disk), d.path)).collect();
            return no(format!("chunkserver {number} has no disk {disk}; it has {}", has.join(", ")));
        };
        let takes = |d: &&DiskReport| d.error.is_none() && !m.disk_drains.contains_key(&(server, d.disk));
        let room = |d: &&DiskReport| d.disk != r.disk && d.free_bytes >= ROOM_BYTES_MIN;
        let (is_last, has_room) = (
            !disks.iter().any(|d| d.disk != r.disk && takes(&d)),
            disks.iter().filter(takes).any(|d| room(&d)),
        );
        let others: BTreeSet<_> = m
            .candidates(self.now(), self.timings.server_dead)
            .into_iter()
            .filter(|c| c.server != server && c.free_bytes >= ROOM_BYTES_MIN)
            .map(|c| c.server)
            .collect();
        let has_chunks = there.chunks > 0;
        drop(m);
        let mut stuck = 0u64;
        scan_recs(view, Table::Chunk, &[], &[], |_, rec: ChunkRec| {
            if rec.members.contains(&server) {
                let mut at = others.clone();
                at.extend(rec.members.iter().filter(|s| **s != server));
                // One copy of several may be on another disk of the same server: it is filled from the others.
                let goes = at.len() >= usize::from(rec.wanted).max(1) || (has_room && !at.is_empty());
                stuck += u64::from(!goes);
            }
            true
        })
        .map_err(internal)?;
        if (stuck > 0 && has_chunks) || (is_last && others.is_empty()) {
            return no(format!(
                "there is no room elsewhere for what is on disk {disk} of chunkserver {number} ({stuck} chunks could be nowhere else): start another chunkserver, or give this one another directory"
            ));
        }
        Ok(())
    }
}

/// How people name a disk.
fn name(disk: DiskId) -> String {
    format!("{:016x}", disk.get())
}
