//! What runs beside Raft's own tasks.

use super::gate::{End, Gate};
use super::network::Links;
use super::node::Leadership;
use super::state::Shared;
use super::types::{Member, Raft};
use mooseng_core::{error::NetError, ids::Term};
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use std::{future::Future, sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The node's tasks; none outlives [`Tasks::stop`] or the node.
#[derive(Debug, Default)]
pub(super) struct Tasks(Mutex<Vec<JoinHandle<()>>>);

impl Tasks {
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.lock().push(tokio::spawn(work));
    }

    /// Ends all and waits until they are gone.
    pub(super) async fn stop(&self) {
        let tasks = std::mem::take(&mut *self.0.lock());
        tasks.iter().for_each(JoinHandle::abort);
        for task in tasks {
            let _ = task.await;
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.lock().iter().for_each(JoinHandle::abort);
    }
}

/// Tells who leads, at each change.
pub(super) fn watch_leadership(tasks: &Tasks, raft: &Raft, me: u64) -> watch::Receiver<Leadership> {
    let mut metrics = raft.server_metrics();
    let (tx, rx) = watch::channel(Leadership::default());
    tasks.spawn(async move {
        loop {
            let now = {
                let m = metrics.borrow_and_update();
                let node =
                    |id: u64| m.membership_config.membership().get_node(&id).map(|n| Member::of(id, n));
                Leadership {
                    term: Term(m.vote.leader_id.term),
                    leader: m.current_leader.and_then(node),
                    is_me: m.state == ServerState::Leader && m.current_leader == Some(me),
                }
            };
            tx.send_if_modified(|before| {
                let changed = *before != now;
                *before = now;
                changed
            });
            if metrics.changed().await.is_err() {
                // Raft has stopped: whoever leads now, it is not this node.
                tx.send_modify(|before| *before = Leadership { term: before.term, ..Leadership::default() });
                return;
            }
        }
    });
    rx
}

/// Makes the state durable every `period`. A failure stops the node: what it would go on to answer
/// could not be kept.
pub(super) fn flush_at_intervals(tasks: &Tasks, raft: &Raft, state: &Arc<Shared>, period: Duration) {
    let (raft, state) = (raft.clone(), Arc::clone(state));
    tasks.spawn(async move {
        loop {
            tokio::time::sleep(period).await;
            if let Err(e) = state.flush().await {
                tracing::error!(error = %e, "the state cannot be made durable: this master stops");
                let _ = raft.shutdown().await;
                return;
            }
        }
    });
}

/// Between two looks at who votes.
const LOOK: Duration = Duration::from_millis(20);
/// Time for a voter to tell where its log ends, connecting included; between two questions of a node whose
/// last batch was cut off.
const ASK: Duration = Duration::from_millis(600);

/// Who votes, as far as this node knows: by its log, or before that by what it was started with.
fn voters(raft: &Raft, founders: &[Member]) -> Vec<(u64, String)> {
    let metrics = raft.metrics();
    let m = metrics.borrow_watched();
    let members = m.membership_config.membership();
    let known: Vec<_> = members
        .voter_ids()
        .filter_map(|id| members.get_node(&id).map(|n| (id, n.raft_addr.clone())))
        .collect();
    match known.is_empty() {
        true => founders.iter().map(|m| (m.id.get(), m.raft_addr.clone())).collect(),
        false => known,
    }
}

/// Where all voters but `me` are, when all of them answer.
pub(super) async fn ends_of(links: &Links, voters: &[(u64, String)], me: u64) -> Result<Vec<End>, NetError> {
    let others = voters.iter().filter(|(id, _)| *id != me);
    let asked = others.map(|(id, addr)| links.last_of(*id, addr, ASK));
    futures::future::join_all(asked).await.into_iter().collect()
}

/// Asks all other voters for the end of their logs until nothing is to be made up for, and lets this
/// node stand for election when it may.
pub(super) fn ask_all_voters(
    tasks: &Tasks,
    raft: &Raft,
    gate: &Arc<Gate>,
    links: &Arc<Links>,
    (me, founders): (u64, Vec<Member>),
) {
    let (raft, gate, links) = (raft.clone(), Arc::clone(gate), Arc::clone(links));
    if !gate.is_unproven() {
        tracing::warn!("the last batch of the Raft log was cut off: this master catches up before it votes");
    }
    tasks.spawn(async move {
        while gate.is_torn() {
            let voters = voters(&raft, &founders);
            if voters.iter().any(|(id, _)| *id == me)
                && let Ok(answers) = ends_of(&links, &voters, me).await
            {
                gate.all_answered(&answers);
            }
            let term = raft.metrics().borrow_watched().vote.leader_id.term;
            gate.prove(term);
            raft.runtime_config().elect(gate.may_stand());
            tokio::time::sleep(if gate.is_unproven() { LOOK } else { ASK }).await;
        }
        raft.runtime_config().elect(true);
    });
}
