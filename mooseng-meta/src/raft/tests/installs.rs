//! A snapshot is received and installed on a disk whose power fails at any change: the next start finds the state
//! from before or the one that was sent, whole, and once the install has answered the one that was sent.

use super::disk::CrashDisk;
use crate::namespace::meta_key;
use crate::raft::segment::LogPos;
use crate::raft::snapshot::{FileWriter, SnapshotFile};
use crate::raft::state::State;
use crate::raft::types::{Mark, SnapshotMeta, log_id};
use crate::state::StateMachine;
use crate::store::{RedbStore, TABLES, Table, View as _};
use bytes::Bytes;
use mooseng_core::seam::{Disk, Job, Lane, Rng as _};
use mooseng_host::{MemDisk, SeededRng};
use openraft::storage::{RaftSnapshotBuilder as _, RaftStateMachine as _};
use std::{collections::BTreeMap, io, ops::Range, sync::Arc};

const CACHE_BYTES: usize = 1 << 20;
/// Entries that the two states have.
const BEFORE: u64 = 10;
const SENT: u64 = 900;

type Rows = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

/// Runs a job at once.
#[derive(Debug)]
struct Inline;

impl Lane for Inline {
    fn run(&self, job: Job) {
        job();
    }
}

fn mark(index: u64) -> Mark {
    Mark { applied: Some(log_id(LogPos { term: 2, index })), ..Mark::default() }
}

/// A state at an entry: rows that others of it have not, and rows that they have with another value.
fn filled(disk: Arc<dyn Disk>, index: u64, rows: Range<u64>) -> io::Result<RedbStore> {
    let store = RedbStore::open(disk, CACHE_BYTES)?;
    store.write(|tx| {
        for n in rows {
            tx.put(Table::Inode, &n.to_be_bytes(), &[index as u8; 6000])?;
        }
        tx.put(Table::Meta, meta_key::MARK, &mark(index).encode()?)
    })?;
    store.flush()?;
    Ok(store)
}

fn rows(store: &RedbStore) -> io::Result<Rows> {
    let (view, mut rows) = (store.view()?, Rows::new());
    for table in TABLES {
        view.scan(table, &[], &[], &mut |key, value| {
            rows.insert((table as u8, key.to_vec()), value.to_vec());
            true
        })?;
    }
    Ok(rows)
}

/// What is tried at each change.
struct Install {
    /// A master's disk with a state and its snapshot.
    disk: CrashDisk,
    before: Rows,
    sent: Rows,
    pieces: Vec<Bytes>,
}

async fn open(disk: &CrashDisk) -> io::Result<(Arc<RedbStore>, State)> {
    let store = Arc::new(RedbStore::open(Arc::new(disk.clone()), CACHE_BYTES)?);
    let machine = Arc::new(StateMachine::new(store.clone()));
    let state = State::open(machine, Arc::new(disk.clone()), Arc::new(Inline), Arc::new(Inline)).await?;
    Ok((store, state))
}

impl Install {
    async fn new() -> Self {
        let disk = CrashDisk::default();
        let before = rows(&filled(Arc::new(disk.clone()), BEFORE, 0..40).unwrap()).unwrap();
        let (_store, mut state) = open(&disk).await.unwrap();
        state.get_snapshot_builder().await.build_snapshot().await.unwrap();
        let other = filled(Arc::new(MemDisk::new("the leader's")), SENT, 20..80).unwrap();
        let (mut reader, mut pieces) = (other.snapshot().unwrap(), vec![]);
        pieces.extend(std::iter::from_fn(|| reader.next_piece().unwrap()));
        assert!(pieces.len() > 1);
        Self { disk, before, sent: rows(&other).unwrap(), pieces }
    }

    /// As a follower does with a leader's snapshot.
    async fn run(&self, state: &mut State) -> io::Result<()> {
        let mut writer = FileWriter::begin(&state.shared.files())?;
        for piece in &self.pieces {
            writer.piece(piece)?;
        }
        let file = writer.finish(&mark(SENT))?;
        let meta = SnapshotMeta { last_log_id: mark(SENT).applied, last_membership: Default::default() };
        state.install_snapshot(&meta, file).await
    }

    /// A master that starts on what is left; what is wrong with it.
    async fn judge(&self, disk: &CrashDisk, answered: bool) -> Result<(), String> {
        let (store, mut state) = open(disk).await.map_err(|e| format!("it does not start: {e}"))?;
        let wrong = |e: io::Error| format!("it cannot be read: {e}");
        let found = rows(&store).map_err(wrong)?;
        let index = match found {
            _ if found == self.sent => SENT,
            _ if answered => return Err("what was sent is not there, though the install had answered".into()),
            _ if found == self.before => BEFORE,
            _ => return Err("the state is neither that from before nor the one that was sent".into()),
        };
        let (applied, _) = state.applied_state().await.map_err(wrong)?;
        if applied != mark(index).applied {
            return Err(format!("the state of entry {index} says that it is of {applied:?}"));
        }
        // A start that finds a damaged one makes another: it would not be seen there.
        let snapshot = SnapshotFile::open(disk).map_err(wrong)?.ok_or("no snapshot is left")?;
        if snapshot.mark.applied > applied || answered && snapshot.mark.applied < applied {
            return Err(format!("the snapshot is of {:?}, the state of {applied:?}", snapshot.mark.applied));
        }
        // The leader sends it again.
        self.run(&mut state).await.map_err(|e| format!("it cannot be installed again: {e}"))?;
        if rows(&store).map_err(wrong)? != self.sent {
            return Err("what was installed again is not what was sent".into());
        }
        let mut left = disk.list("").map_err(wrong)?;
        left.extend(disk.list("raft").map_err(wrong)?);
        if left != ["state.redb", "snapshot"] {
            return Err(format!("there is more than what is needed: {left:?}"));
        }
        Ok(())
    }

    /// The power fails at the first, the second … change of an install, until it is done without a failure; also
    /// of the start after it. How many changes there are.
    async fn at_every_change(&self, left_out: Option<&'static str>) -> Result<u64, String> {
        for changes in 0.. {
            let mut failed = false;
            for seed in 0..4 {
                let rng = SeededRng::new(changes * 10 + seed);
                let disk = self.disk.copy();
                let (_store, mut state) = open(&disk).await.map_err(|e| e.to_string())?;
                left_out.into_iter().for_each(|name| disk.leave_out_syncs_of(name));
                disk.fail_after(changes);
                let answered = self.run(&mut state).await.is_ok();
                failed |= disk.is_dead();
                let after = |disk: &CrashDisk| match seed % 2 {
                    0 => disk.after_crash(&rng),
                    _ => disk.after_crash_with_names(&rng),
                };
                let mut left = after(&disk);
                if seed > 1 {
                    left.fail_after(rng.next_u64() % 40);
                    drop(open(&left).await);
                    left = after(&left);
                }
                let judged = self.judge(&left, answered).await;
                judged.map_err(|e| format!("power failed at change {changes}, seed {seed}: {e}"))?;
            }
            if !failed {
                return Ok(changes);
            }
        }
        unreachable!("an install ends")
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_step_of_an_install_leaves_the_state_from_before_or_the_one_that_was_sent() {
    let changes = Install::new().await.at_every_change(None).await.unwrap();
    assert!(changes > 20, "{changes} changes");
}

/// The sweep is worth something: it sees each flush that is left out.
#[tokio::test(start_paused = true)]
async fn an_install_without_one_of_its_flushes_is_seen_to_break() {
    let install = Install::new().await;
    for left_out in ["state.incoming", "snapshot.", "directory "] {
        let broken = install.at_every_change(Some(left_out)).await;
        assert!(broken.is_err(), "without the flush of {left_out} nothing was found");
    }
}
