//! The masters' commands about one chunk. Each is idempotent, and is checked again once the chunk's
//! order lock is held: a newer leader may have spoken while it waited.

use crate::{
    chunk_file::FileError,
    disk::DataDisk,
    shared::{Shared, clean, is_good},
    slot::{Inside, Slot, stopped},
    under_way::Closed,
};
use mooseng_core::{chunk::*, error::ChunkError, ids::*, meta::ReplicaState};
use std::{cmp::Ordering, sync::Arc, time::Duration};
use tokio::sync::OwnedMutexGuard;

/// How long a new version waits for frames that were sent on and have to be applied here, too.
const CATCH_UP: Duration = Duration::from_secs(1);

impl Shared {
    async fn opened(&self, slot: &Slot) -> Result<OwnedMutexGuard<Inside>, ChunkError> {
        slot.open(None).await.map_err(|e| self.disk_error(e))?.ok_or(ChunkError::NotFound(slot.id))
    }

    /// What can be told of a chunk. A file that nobody has opened since the start is opened: what it tells of itself
    /// counts, too. While something is done to the chunk it is open.
    async fn looked_at(&self, id: ChunkId) -> Result<ChunkStat, ChunkError> {
        let slot = self.slot(id)?;
        let unseen = slot.inside.try_lock().is_ok_and(|inside| inside.file.is_none() && !inside.gone);
        if unseen {
            match slot.open(None).await {
                Ok(Some(_)) => {}
                Ok(None) => slot.has_no_header(),
                Err(e) => drop(self.unreadable(&slot, FileError::Io(e))),
            }
        }
        self.stat(id)
    }

    /// Of [`Control::SetVersion`].
    async fn set_version(
        &self,
        ChunkRef { id, version: to }: ChunkRef,
        members: Vec<ServerId>,
        cut_to: Option<u64>,
        (create, settle): (bool, bool),
        term: Term,
    ) -> Result<ChunkStat, ChunkError> {
        let slot = match self.slot(id) {
            // It has no version, and is not served, before the one asked for is durable.
            Err(ChunkError::NotFound(_)) if create => {
                self.may_be_made(ChunkRef { id, version: to })?;
                self.place(id, ChunkVersion(0), ReplicaState::Good)?
            }
            found => found?,
        };
        self.stop_ahead(id);
        // What was sent on may have been read behind: no other version begins without it.
        let closed = Closed::new(&slot, to);
        tokio::time::timeout(CATCH_UP, closed.catches_up()).await.map_err(|_| {
            ChunkError::Busy(format!("frames that were sent on are not applied here within {CATCH_UP:?}"))
        })?;
        // Under the lock nothing that was admitted is under way any more.
        let opened = slot.open(create.then(|| members.clone())).await.map_err(|e| {
            self.give_up(&slot);
            self.disk_error(e)
        })?;
        let guard = opened.ok_or(ChunkError::NotFound(id))?;
        self.access.term_is_not_old(term)?;
        let known = *slot.known.lock();
        match known.version.cmp(&to) {
            Ordering::Greater => {
                return Err(ChunkError::Stale { chunk: id, here: known.version, asked: to });
            }
            // A repeat: the version is durable before it is known, and may have been written since.
            Ordering::Equal if known.state == ReplicaState::Good => {
                drop(guard);
                return self.stat(id);
            }
            // One whose copy was broken off is of no version, and never the truth.
            _ if settle && known.version > ChunkVersion(0) && known.state == ReplicaState::Suspect => {}
            _ => is_good(ChunkRef { id, version: known.version }, known)?,
        }
        // A version that could not be flushed may be on the disk or not: with the note it is suspect at the next
        // start, whichever it is.
        let guard = self.mark_dirty(&slot, guard).await?;
        if create && cut_to == Some(0) {
            *slot.own_since.lock() = to;
        }
        let noted = slot.known.clone();
        let set = move |inside: &mut Inside, disk: &DataDisk| -> Result<Vec<u64>, FileError> {
            let file = inside.file.as_mut().ok_or_else(stopped)?;
            let mut damaged = match known.state {
                ReplicaState::Suspect => file.settle_all(&disk.redo)?,
                _ => vec![],
            };
            // It begins with nothing: what was written before is written again.
            if cut_to == Some(0) {
                file.forget_numbers();
            }
            damaged.extend(file.set_version(to, members, cut_to, &disk.redo)?);
            {
                let mut known = noted.lock();
                (known.version, known.length, known.state) = (to, file.header.length, ReplicaState::Good);
            }
            closed.begins();
            clean(disk, id, &noted);
            Ok(damaged)
        };
        let (guard, done) = slot.with(true, guard, set).await.map_err(|e| self.disk_error(e))?;
        let damaged = done.map_err(|e| match e {
            FileError::Damaged(..) | FileError::LogFull => self.note(&slot, e),
            FileError::Io(_) => self.poisoned(&slot, e),
        })?;
        // They stay so, and the masters hear of it with the answer.
        if let Some(first) = damaged.first() {
            self.note(&slot, FileError::Damaged(*first, damaged.len() as u64));
        }
        drop(guard);
        self.stat(id)
    }

    pub async fn delete(&self, chunk: ChunkRef, term: Term) -> Result<(), ChunkError> {
        let id = chunk.id;
        self.note_deleted(chunk);
        self.stop_ahead(id);
        self.stop_filling(id).await;
        let Ok(slot) = self.slot(chunk.id) else { return Ok(()) };
        let guard = slot.inside.clone().lock_owned().await;
        if guard.gone || !slot.known.lock().made {
            return Ok(());
        }
        self.access.term_is_not_old(term)?;
        let here = slot.known.lock().version;
        if here > chunk.version {
            return Err(ChunkError::Stale { chunk: chunk.id, here, asked: chunk.version });
        }
        tracing::info!(%id, here = %here, upto = %chunk.version, "a replica is removed");
        self.remove_file(&slot, guard).await
    }

    /// Removes a chunk's file and forgets the chunk.
    pub async fn remove_file(&self, slot: &Slot, guard: OwnedMutexGuard<Inside>) -> Result<(), ChunkError> {
        let (id, noted) = (slot.id, slot.known.clone());
        let remove = move |inside: &mut Inside, disk: &DataDisk| {
            inside.file = None;
            disk.remove(id)?;
            let mut known = noted.lock();
            (known.made, known.dirty) = (false, false);
            Ok(())
        };
        let (mut guard, done) = slot.with(true, guard, remove).await.map_err(|e| self.disk_error(e))?;
        done.map_err(|e| self.note(slot, FileError::Io(e)))?;
        guard.gone = true;
        self.slots.lock().remove(&id);
        self.damaged.lock().remove(&id);
        Ok(())
    }

    pub async fn table(&self, chunk: ChunkRef) -> Result<ChecksumTable, ChunkError> {
        let slot = self.good(chunk)?;
        let guard = self.opened(&slot).await?;
        is_good(chunk, *slot.known.lock())?;
        let table = move |inside: &mut Inside, _: &DataDisk| {
            inside.file.as_ref().map_or_else(|| Err(stopped()), |f| f.table())
        };
        let (guard, table) = slot.with(false, guard, table).await.map_err(|e| self.disk_error(e))?;
        drop(guard);
        let (table, damaged) = table.map_err(|e| self.note(&slot, FileError::Io(e)))?;
        if let Some(first) = damaged.first() {
            self.note(&slot, FileError::Damaged(*first, damaged.len() as u64));
        }
        Ok(table)
    }

    pub async fn numbers(
        &self,
        chunk: ChunkRef,
        head: Option<(ServerId, Incarnation)>,
    ) -> Result<Vec<(SessionId, WriteNumber)>, ChunkError> {
        let slot = self.good(chunk)?;
        // Behind what is being applied.
        let _order = self.opened(&slot).await?;
        is_good(chunk, *slot.known.lock())?;
        if let Some(head) = head {
            slot.heads.lock().begins(chunk, head)?;
        }
        Ok(slot.numbers.lock().list())
    }

    /// Answers when every write that passed the older fence is done, here and at those behind: no reader sees one
    /// appear later, but where a chain has failed with frames under way, which only its next version ends.
    pub async fn fence(&self, session: SessionStamp) {
        self.access.fence(session);
        drop(self.admitted.write().await);
        // Another session has the way only once all that this one sent has arrived, or the chain has failed.
        let sends = |s: &&Arc<Slot>| s.known.lock().sent.is_some_and(|(_, by)| by == session.id);
        let sending: Vec<_> = self.slots.lock().values().filter(sends).cloned().collect();
        futures::future::join_all(sending.iter().map(|s| s.way.clears())).await;
    }

    /// Carries out a command.
    pub async fn command(self: &Arc<Self>, op: Control) -> Result<ControlReply, ChunkError> {
        if let Control::SetVersion { term, .. }
        | Control::Pull { term, .. }
        | Control::Delete { term, .. }
        | Control::Fence { term, .. } = &op
        {
            self.take_term(*term).await?;
        }
        match op {
            Control::Stat { chunk } => self.looked_at(chunk).await.map(ControlReply::Done),
            Control::SetVersion { chunk, to, members, cut_to, create, settle, term } => {
                let chunk = ChunkRef { id: chunk, version: to };
                self.set_version(chunk, members, cut_to, (create, settle), term).await.map(ControlReply::Done)
            }
            Control::Pull { chunk, from, ahead: false, member_of, term } => {
                crate::pull::pull(self, chunk, from, member_of, term).await.map(ControlReply::Done)
            }
            Control::Pull { chunk, from, ahead: true, member_of: _, term } => {
                crate::pull::pull_ahead(self, chunk, from, term).await.map(ControlReply::Done)
            }
            Control::Delete { chunk, term } => self.delete(chunk, term).await.map(|()| ControlReply::Gone),
            Control::Table { chunk } => self.table(chunk).await.map(ControlReply::Table),
            Control::Fence { session, .. } => {
                self.fence(session).await;
                Ok(ControlReply::Gone)
            }
            Control::Numbers { chunk, head } => self.numbers(chunk, head).await.map(ControlReply::Numbers),
        }
    }
}
