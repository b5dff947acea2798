//! What runs beside Raft's own tasks.

use super::gate::{Gate, Told};
use super::network::Links;
use super::node::Leadership;
use super::state::Shared;
use super::types::{Member, Raft};
use mooseng_core::{error::NetError, ids::Term};
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use std::{
    collections::BTreeSet,
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
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

/// Tells who leads, at each change, and how many leaders there have been.
pub(super) fn watch_leadership(
    tasks: &Tasks,
    raft: &Raft,
    me: u64,
) -> (watch::Receiver<Leadership>, Arc<AtomicU64>) {
    let mut metrics = raft.server_metrics();
    let (tx, rx) = watch::channel(Leadership::default());
    let leaders = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&leaders);
    tasks.spawn(async move {
        let mut last = None;
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
            let leads = now.leader.as_ref().map(|m| (now.term, m.id));
            if leads.is_some() && leads != last {
                counted.fetch_add(1, Ordering::Relaxed);
                last = leads;
            }
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
    (rx, leaders)
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
/// Time for a voter to tell where its log ends, connecting included; between two questions to one that did not
/// answer, or of a node whose last batch was cut off.
const ASK: Duration = Duration::from_millis(600);
/// Between two looks for voters that were added since.
const REST: Duration = Duration::from_secs(5);

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

/// What each of `others` tells of itself and of this node, as far as they answer.
pub(super) async fn ask(
    links: &Links,
    gate: &Gate,
    others: &[(u64, String)],
) -> Vec<(u64, Result<Told, NetError>)> {
    let starts = Arc::new(gate.starts().own());
    let one = |(id, addr): &(u64, String)| {
        let (id, addr, starts) = (*id, addr.clone(), Arc::clone(&starts));
        async move {
            let told = links.last_of(id, &addr, &starts, ASK).await;
            // At once: others may be silent, and this node is filled meanwhile.
            if let Ok(told) = &told {
                gate.judge(&told.seen);
            }
            (id, told)
        }
    };
    let asked = others.iter().map(one);
    futures::future::join_all(asked).await
}

/// Asks the other voters until all know of this start and nothing is to be made up for, and lets this
/// node stand for election when it may.
pub(super) fn ask_all_voters(
    tasks: &Tasks,
    raft: &Raft,
    gate: &Arc<Gate>,
    links: &Arc<Links>,
    (me, founders): (u64, Vec<Member>),
) {
    let mut asker = Asker {
        raft: raft.clone(),
        gate: Arc::clone(gate),
        links: Arc::clone(links),
        me,
        founders,
        knowing: BTreeSet::new(),
    };
    if gate.is_torn() && !gate.is_unproven() {
        tracing::warn!("the last batch of the Raft log was cut off: this master catches up before it votes");
    }
    tasks.spawn(async move {
        loop {
            match asker.round().await {
                Ok(rest) => {
                    let _ = tokio::time::timeout(rest, asker.gate.found()).await;
                }
                Err(e) => {
                    tracing::error!(error = %e, "the starts of the masters cannot be stored: this master stops");
                    let _ = asker.raft.shutdown().await;
                    return;
                }
            }
        }
    });
}

/// Exchanges starts with the other voters.
struct Asker {
    raft: Raft,
    gate: Arc<Gate>,
    links: Arc<Links>,
    me: u64,
    founders: Vec<Member>,
    /// Who keeps this node's newest start.
    knowing: BTreeSet<u64>,
}

impl Asker {
    /// One round of questions; how long to rest after it.
    async fn round(&mut self) -> io::Result<Duration> {
        let gate = Arc::clone(&self.gate);
        if gate.rise().await? {
            self.knowing.clear();
        }
        let mut others = voters(&self.raft, &self.founders);
        let votes = others.iter().any(|(id, _)| *id == self.me);
        others.retain(|(id, _)| *id != self.me);
        // What it may have lost is asked of all of them at once.
        let all = gate.is_torn() && votes;
        let asked: Vec<_> =
            others.iter().filter(|(id, _)| all || !self.knowing.contains(id)).cloned().collect();
        let mut ends = Vec::new();
        for (id, told) in ask(&self.links, &gate, &asked).await {
            let Ok(told) = told else { continue };
            gate.starts().meet(id, &told.starts).await?;
            self.knowing.insert(id);
            ends.push(told.end);
        }
        gate.has_asked();
        if all && ends.len() == others.len() {
            gate.all_answered(&ends);
        }
        gate.prove(self.raft.metrics().borrow_watched().vote.leader_id.term);
        self.raft.runtime_config().elect(gate.may_stand());
        let known = others.iter().all(|(id, _)| self.knowing.contains(id));
        Ok(match gate.is_torn() {
            true if gate.is_unproven() => LOOK,
            false if known => REST,
            _ => ASK,
        })
    }
}
