//! One chunk of a store: its state, and the order lock under which everything happens to its file.

use crate::{
    chunk_file::ChunkFile, disk::DataDisk, numbers::Numbers, redo::Record, under_way::UnderWay, way::Way,
};
use mooseng_core::{error::ChunkError, ids::*, meta::ReplicaState, seam::on_lane};
use parking_lot::Mutex;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

/// What can be told of a chunk without its file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub version: ChunkVersion,
    pub length: u64,
    /// The counter of its newest header, of a file that is not open.
    pub header: u64,
    pub state: ReplicaState,
    pub dirty: bool,
    /// Streams with a frame that goes to the server behind this one and is not applied here yet: the note that
    /// the chunk is dirty stays until it is.
    pub sending: u32,
    /// The version whose frames are under way to the servers behind this one, or may be for ever because
    /// their chain failed: the note stays until all of them have been acknowledged, or the version is over.
    pub sent: Option<(ChunkVersion, SessionId)>,
    /// All that is here is on disk, and the note waits for that only.
    pub clean_when_through: bool,
    /// Whether there is a file. Without one it is a place that a first write or a copy will fill.
    pub made: bool,
}

impl Known {
    /// Whether the servers behind this one may lack something that was sent on at this version.
    pub fn is_under_way(&self) -> bool {
        self.sending > 0 || self.sent.is_some_and(|(version, _)| version == self.version)
    }
}

/// What the order lock guards.
#[derive(Default)]
pub(crate) struct Inside {
    pub file: Option<ChunkFile>,
    pub gone: bool,
}

/// A replica was made equal to another.
#[derive(Clone, Copy)]
pub(crate) struct Equalised {
    /// For this version.
    pub version: ChunkVersion,
    /// The first block that could not be had, and how many.
    pub lost: Option<(u64, u64)>,
}

pub(crate) struct Slot {
    pub id: ChunkId,
    pub disk: Arc<DataDisk>,
    /// Changed by the jobs themselves, so that a caller who gives up leaves nothing half noted.
    pub known: Arc<Mutex<Known>>,
    pub inside: Arc<tokio::sync::Mutex<Inside>>,
    /// Changed under the order lock, read without; known once the file was opened.
    pub numbers: Arc<Mutex<Numbers>>,
    /// Whose frames it takes, when it is behind a head. Changed under the order lock.
    pub heads: Mutex<Heads>,
    /// To the servers behind this one, when it is the chain's head.
    pub way: Way,
    /// What the server behind this one may lack.
    pub under_way: UnderWay,
    /// What the redo log has of it and a start could not put into its file: nothing is done with it before.
    owed: Arc<Mutex<Vec<Record>>>,
    /// What a copy made of it last. Changed under the order lock.
    pub equalised: Mutex<Option<Equalised>>,
    /// At which version another's content took the place of its own in this start. Changed under the order lock.
    pub own_since: Mutex<ChunkVersion>,
    /// Whether what reads show may not be on the disk: a copy writes all of it anew.
    pub disbelieved: Arc<AtomicBool>,
    /// Ends a copy that is made ahead.
    ahead: Mutex<CancellationToken>,
}

/// The starts of a chain's head that sent something on, at one version. What an earlier start has sent may
/// come when a later one, which has lost it, has begun.
#[derive(Default)]
pub(crate) struct Heads {
    version: ChunkVersion,
    now: Option<(ServerId, Incarnation)>,
    over: Vec<(ServerId, Incarnation)>,
}

impl Heads {
    fn at(&mut self, version: ChunkVersion) -> &mut Self {
        if self.version != version {
            *self = Self { version, ..Self::default() };
        }
        self
    }

    /// A frame of a head comes.
    ///
    /// # Errors
    /// Another start of it has spoken.
    pub fn sends(&mut self, chunk: ChunkRef, head: (ServerId, Incarnation)) -> Result<(), ChunkError> {
        match *self.at(chunk.version).now.get_or_insert(head) == head {
            true => Ok(()),
            false => Err(ChunkError::Busy(format!("{} has another start of its head {}", chunk.id, head.0))),
        }
    }

    /// A head that has started asks what is here: what its earlier starts sent on is over.
    ///
    /// # Errors
    /// A later start has spoken.
    pub fn begins(&mut self, chunk: ChunkRef, head: (ServerId, Incarnation)) -> Result<(), ChunkError> {
        let at = self.at(chunk.version);
        if at.now != Some(head) && !at.over.contains(&head) {
            at.over.extend(at.now.replace(head));
        }
        self.sends(chunk, head)
    }
}

/// An error of the disk, or the lane's end.
pub(crate) fn stopped() -> io::Error {
    io::Error::other("the disk's thread was stopped")
}

/// A frame that is sent on and not applied here yet.
pub(crate) struct Sending<'a>(&'a Slot);

impl<'a> Sending<'a> {
    /// Begins; and whether the chunk is dirty, with a durable note.
    pub fn begin(slot: &'a Slot) -> (Self, bool) {
        let mut known = slot.known.lock();
        known.sending += 1;
        (Self(slot), known.dirty)
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.0.known.lock().sending -= 1;
    }
}

impl Slot {
    pub fn new(id: ChunkId, disk: Arc<DataDisk>, known: Known, owed: Vec<Record>) -> Self {
        Self {
            id,
            owed: Arc::new(Mutex::new(owed)),
            disk,
            known: Arc::new(Mutex::new(known)),
            inside: Default::default(),
            numbers: Default::default(),
            heads: Default::default(),
            way: Way::default(),
            under_way: UnderWay::default(),
            equalised: Mutex::default(),
            own_since: Mutex::default(),
            disbelieved: Arc::default(),
            ahead: Mutex::default(),
        }
    }

    /// A copy that is made ahead begins, and ends one before it. It has to end when what is answered is cancelled.
    pub fn begin_ahead(&self) -> CancellationToken {
        let mut now = self.ahead.lock();
        now.cancel();
        *now = CancellationToken::new();
        now.clone()
    }

    /// A copy that is made ahead keeps no command of the masters waiting.
    pub fn stop_ahead(&self) {
        self.ahead.lock().cancel();
    }

    /// The file is there, and no header of it verifies: nothing of it can be served.
    pub fn has_no_header(&self) {
        self.known.lock().state = ReplicaState::Damaged;
    }

    /// Runs `work` on the chunk's open file, on a lane of its disk, under the order lock.
    pub async fn with<T: Send + 'static>(
        &self,
        commit: bool,
        guard: OwnedMutexGuard<Inside>,
        work: impl FnOnce(&mut Inside, &DataDisk) -> T + Send + 'static,
    ) -> io::Result<(OwnedMutexGuard<Inside>, T)> {
        let lane = if commit { &self.disk.commit } else { &self.disk.io };
        let disk = self.disk.clone();
        let mut guard = guard;
        on_lane(lane, move || {
            let done = work(&mut guard, &disk);
            (guard, done)
        })
        .await
        .ok_or_else(stopped)
    }

    /// The order lock with the file open; `None` when the chunk is gone.
    pub async fn open(&self, create: Option<Vec<ServerId>>) -> io::Result<Option<OwnedMutexGuard<Inside>>> {
        let guard = self.inside.clone().lock_owned().await;
        if guard.gone {
            return Ok(None);
        }
        if guard.file.is_some() {
            return Ok(Some(guard));
        }
        let known = *self.known.lock();
        if !known.made && create.is_none() {
            return Ok(None);
        }
        let chunk = ChunkRef { id: self.id, version: known.version };
        let was_made = known.made;
        let dirty = known.dirty || known.state == ReplicaState::Suspect;
        let (noted, numbers, owed) = (self.known.clone(), self.numbers.clone(), self.owed.clone());
        let disbelieved = self.disbelieved.clone();
        let load = move |inside: &mut Inside, disk: &DataDisk| -> io::Result<bool> {
            disk.settle_owed(chunk.id, &mut owed.lock())?;
            inside.file = disk.load(chunk, create, dirty, numbers)?;
            if let Some(file) = &inside.file {
                let mut known = noted.lock();
                known.made = true;
                // The two headers of a sync count as one.
                let is_older = file.header.counter + 1 < known.header || file.may_be_older();
                if (file.dirty || is_older) && !dirty && was_made && known.state == ReplicaState::Good {
                    let disk_name = disk.disk.describe();
                    known.state = if is_older {
                        tracing::error!(chunk = %chunk.id, disk_name, "the newest header of the file is lost: the replica is damaged");
                        disbelieved.store(true, Ordering::Relaxed);
                        ReplicaState::Damaged
                    } else {
                        tracing::error!(chunk = %chunk.id, disk_name, "the file was written to since its last sync, and no note says so: it is suspect");
                        ReplicaState::Suspect
                    };
                    disk.doubt(chunk.id);
                }
                (known.version, known.length) = (file.header.version, file.header.length);
            }
            Ok(inside.file.is_some())
        };
        let (guard, loaded) = self.with(false, guard, load).await?;
        match loaded {
            Ok(true) => Ok(Some(guard)),
            Ok(false) => Ok(None),
            Err(e) => {
                self.disk.failed(&e);
                Err(e)
            }
        }
    }

    /// Lets the file and its table go when nobody uses them and all is durable in the file.
    pub fn unload(&self) {
        if let Ok(mut inside) = self.inside.try_lock()
            && !self.known.lock().dirty
            && inside.file.as_ref().is_none_or(|f| !f.is_behind())
            && let Some(file) = inside.file.take()
        {
            self.known.lock().header = file.header.counter;
        }
    }
}
