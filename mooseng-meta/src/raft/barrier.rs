//! Read barriers, shared: one round of the quorum is in flight, and those who come meanwhile all
//! wait for the next.

use super::error::RaftFailure;
use super::tasks::Tasks;
use super::types::Raft;
use openraft::ReadPolicy;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Barriers that wait at most; past it callers wait to be taken up.
const WAITING_MAX: usize = 4096;
/// Between two tries while nobody leads.
const RETRY: Duration = Duration::from_millis(20);

type Waiter = oneshot::Sender<Result<u64, RaftFailure>>;

/// The way to the task that runs the rounds.
#[derive(Debug)]
pub(super) struct Barrier(mpsc::Sender<Waiter>);

impl Barrier {
    pub(super) async fn wait(&self) -> Result<u64, RaftFailure> {
        let stopped = || RaftFailure::Stopped("it was shut down".into());
        let (tx, rx) = oneshot::channel();
        self.0.send(tx).await.map_err(|_| stopped())?;
        rx.await.map_err(|_| stopped())?
    }
}

/// Starts the task.
pub(super) fn start(tasks: &Tasks, raft: &Raft, patience: Duration) -> Barrier {
    let (tx, mut rx) = mpsc::channel::<Waiter>(WAITING_MAX);
    let raft = raft.clone();
    tasks.spawn(async move {
        let mut waiters = Vec::new();
        while rx.recv_many(&mut waiters, WAITING_MAX).await > 0 {
            // Everybody here asked before the round begins, so its answer is good for all.
            let outcome = round(&raft, patience).await;
            for waiter in waiters.drain(..) {
                let _ = waiter.send(outcome.clone());
            }
        }
    });
    Barrier(tx)
}

async fn round(raft: &Raft, patience: Duration) -> Result<u64, RaftFailure> {
    let work = async {
        loop {
            match raft.ensure_linearizable(ReadPolicy::ReadIndex).await.map_err(RaftFailure::of_read) {
                Ok(at) => return Ok(at.index()),
                Err(RaftFailure::NotLeader { leader: None }) => tokio::time::sleep(RETRY).await,
                Err(e) => return Err(e),
            }
        }
    };
    let late = || RaftFailure::NoQuorum(format!("no answer within {} ms", patience.as_millis()));
    tokio::time::timeout(patience, work).await.unwrap_or_else(|_| Err(late()))
}
