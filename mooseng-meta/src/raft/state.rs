//! The state machine as openraft wants to see it: entries applied batch by batch on one lane,
//! made durable at intervals, snapshots as files.

use super::snapshot::{FileWriter, Place, SnapshotFile};
use super::traced::UnderWay;
use super::types::{Entry, LogId, Mark, Payload, Reply, Snapshot, SnapshotMeta, StoredMembership, Types};
use crate::machine::{Committed, Machine, SnapshotReader};
use futures::{Stream, StreamExt};
use mooseng_core::{
    seam::{Disk, Lane, on_lane},
    trace,
};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use parking_lot::Mutex;
use std::{io, sync::Arc};

/// Entries applied in one transaction at most: bounds its memory and the time readers wait.
const APPLY_ENTRIES_MAX: usize = 1024;
/// Bytes of commands applied after which the state is made durable. Bounds what a restart replays.
pub(super) const FLUSH_BYTES: u64 = 64 << 20;

/// What the parts around one machine share.
pub(super) struct Shared {
    machine: Arc<dyn Machine>,
    /// The one thread that the machine is called from.
    lane: Arc<dyn Lane>,
    /// For the files of snapshots.
    files: Arc<Place>,
    snapshot: Mutex<Option<SnapshotFile>>,
    unflushed: Mutex<u64>,
    /// Which commands are of kept traces.
    pub under_way: Arc<UnderWay>,
}

/// The state machine under openraft. Clones are handles to the same one.
#[derive(Clone)]
pub(super) struct State {
    pub shared: Arc<Shared>,
    mark: Mark,
}

fn stopped() -> io::Error {
    io::Error::other("the state machine's lane was stopped")
}

/// Flattens the outcome of a lane and of its job.
fn joined<T>(outcome: Option<io::Result<T>>) -> io::Result<T> {
    outcome.unwrap_or_else(|| Err(stopped()))
}

impl Shared {
    /// Makes applied state durable if there is any that is not.
    pub async fn flush(&self) -> io::Result<()> {
        if std::mem::take(&mut *self.unflushed.lock()) == 0 {
            return Ok(());
        }
        let machine = Arc::clone(&self.machine);
        joined(on_lane(&self.lane, move || machine.flush().map(|_| ())).await)
    }

    /// Bytes of this node's disk: all, and free.
    pub async fn space(&self) -> io::Result<(u64, u64)> {
        let files = self.files();
        let lane = Arc::clone(&files.lane);
        joined(on_lane(&lane, move || files.disk.space()).await)
    }

    /// Where snapshot files are made.
    pub fn files(&self) -> Arc<Place> {
        Arc::clone(&self.files)
    }
}

impl State {
    /// Wraps `machine`, whose snapshots go to `disk`.
    pub async fn open(
        machine: Arc<dyn Machine>,
        disk: Arc<dyn Disk>,
        lane: Arc<dyn Lane>,
        file_lane: Arc<dyn Lane>,
    ) -> io::Result<Self> {
        let files = Place::new(disk, file_lane);
        let at = Arc::clone(&files);
        let look = move || at.clean().and_then(|()| SnapshotFile::open(&*at.disk));
        let snapshot = match joined(on_lane(&files.lane, look).await) {
            Ok(snapshot) => snapshot,
            // A damaged snapshot is no loss: the state is in the machine, and a new one is built.
            Err(e) if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                tracing::error!(error = %e, "the newest snapshot cannot be used; another will be built");
                None
            }
            Err(e) => return Err(e),
        };
        let reader = Arc::clone(&machine);
        let mark = Mark::decode(joined(on_lane(&lane, move || reader.mark()).await)?)?;
        let (snapshot, unflushed) = (Mutex::new(snapshot), Mutex::new(0));
        let shared = Shared { machine, lane, files, snapshot, unflushed, under_way: Arc::default() };
        Ok(Self { shared: Arc::new(shared), mark })
    }

    async fn apply_batch(&mut self, batch: Vec<io::Result<EntryResponder<Types>>>) -> io::Result<()> {
        let mut responders = Vec::with_capacity(batch.len());
        let mut committed: Vec<Committed> = Vec::with_capacity(batch.len());
        // A blank entry counts as well: the mark it moves is to be durable some time.
        let mut bytes = 0u64;
        for item in batch {
            let (entry, responder): (Entry, _) = item?;
            self.mark.applied = Some(entry.log_id);
            committed.push(match entry.payload {
                Payload::Blank => None,
                Payload::Normal(command) => Some(command.0),
                Payload::Membership(m) => {
                    self.mark.membership = StoredMembership::new(Some(entry.log_id), m);
                    None
                }
            });
            bytes += 1 + committed.last().and_then(Option::as_ref).map_or(0, |c| c.len() as u64);
            responders.push(responder);
        }
        let (machine, mark) = (Arc::clone(&self.shared.machine), self.mark.encode()?);
        let place = self.shared.under_way.place(committed.iter().flatten());
        let apply = on_lane(&self.shared.lane, move || machine.apply(&committed, &mark));
        let replies = joined(trace::within(place, trace::step("apply", apply)).await)?;
        if replies.len() != responders.len() {
            return Err(io::Error::other("the state machine did not reply to every entry"));
        }
        for (responder, reply) in responders.into_iter().zip(replies) {
            if let Some(responder) = responder {
                responder.send(Reply(reply));
            }
        }
        let unflushed = {
            let mut sum = self.shared.unflushed.lock();
            *sum += bytes;
            *sum
        };
        if unflushed >= FLUSH_BYTES { self.shared.flush().await } else { Ok(()) }
    }
}

impl RaftStateMachine<Types> for State {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.mark.applied, self.mark.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + Send,
    {
        let mut batches = entries.ready_chunks(APPLY_ENTRIES_MAX);
        while let Some(batch) = batches.next().await {
            self.apply_batch(batch).await?;
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let machine = Arc::clone(&self.shared.machine);
        *self.shared.unflushed.lock() = 0;
        let reader = joined(
            on_lane(&self.shared.lane, move || {
                machine.flush()?;
                machine.snapshot()
            })
            .await,
        );
        Builder { shared: Arc::clone(&self.shared), reader: Mutex::new(Some(reader)) }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, file: SnapshotFile) -> Result<(), io::Error> {
        let (machine, source) = (Arc::clone(&self.shared.machine), file.clone());
        joined(
            on_lane(&self.shared.lane, move || {
                let mut reader = source.reader()?;
                let mut writer = machine.receive()?;
                while let Some(piece) = reader.next_piece()? {
                    writer.piece(&piece)?;
                }
                writer.install()
            })
            .await,
        )?;
        self.mark = Mark { applied: meta.last_log_id, membership: meta.last_membership.clone() };
        self.shared.publish(file).await.map(|_| ())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let current = self.shared.snapshot.lock().clone();
        Ok(current.map(|file| Snapshot { meta: meta_of(&file), snapshot: file }))
    }
}

fn meta_of(file: &SnapshotFile) -> SnapshotMeta {
    SnapshotMeta { last_log_id: file.mark.applied, last_membership: file.mark.membership.clone() }
}

impl Shared {
    /// Makes `file` the current snapshot unless a newer one is.
    async fn publish(self: &Arc<Self>, file: SnapshotFile) -> io::Result<SnapshotFile> {
        let shared = Arc::clone(self);
        joined(
            on_lane(&self.files.lane, move || {
                if let Some(current) = shared.snapshot.lock().clone()
                    && current.mark.applied > file.mark.applied
                {
                    return Ok(current);
                }
                let file = file.publish()?;
                *shared.snapshot.lock() = Some(file.clone());
                Ok(file)
            })
            .await,
        )
    }
}

/// Builds one snapshot file from a view that was taken when it was made.
pub(super) struct Builder {
    shared: Arc<Shared>,
    reader: Mutex<Option<io::Result<Box<dyn SnapshotReader>>>>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let reader = self.reader.lock().take();
        let mut reader = reader.ok_or_else(|| io::Error::other("the snapshot was built already"))??;
        let files = self.shared.files();
        let at = Arc::clone(&files);
        let file = joined(
            on_lane(&files.lane, move || {
                let mark = Mark::decode(reader.mark())?;
                let mut writer = FileWriter::begin(&at)?;
                while let Some(piece) = reader.next_piece()? {
                    writer.piece(&piece)?;
                }
                writer.finish(&mark)
            })
            .await,
        )?;
        let file = self.shared.publish(file).await?;
        Ok(Snapshot { meta: meta_of(&file), snapshot: file })
    }
}
