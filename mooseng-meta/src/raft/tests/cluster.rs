//! A cluster of masters to do harm to.

use super::{disk::CrashDisk, machine::TestMachine, net::TestNet};
use crate::raft::{LogOptions, Member, RaftFailure, RaftNode, RaftOptions, RaftTimings, StartError};
use bytes::Bytes;
use mooseng_core::ids::MasterId;
use mooseng_core::seam::Seams;
use mooseng_host::{HeldLanes, SeededRng, sim_seams};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How long anything may take, in virtual time.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Master {
    pub disk: CrashDisk,
    /// Its log's lane can stand still: then nothing is written.
    pub lanes: HeldLanes,
    pub machine: TestMachine,
    pub node: Option<RaftNode>,
}

pub struct Cluster {
    pub net: TestNet,
    pub masters: BTreeMap<u64, Master>,
    pub timings: RaftTimings,
    pub rng: SeededRng,
    pub log: LogOptions,
    /// Members of the fresh cluster.
    pub founders: u64,
    seed: u64,
}

pub fn member(id: u64) -> Member {
    Member { id: MasterId(id), raft_addr: format!("raft-{id}"), client_addr: format!("client-{id}") }
}

impl Cluster {
    pub fn empty(seed: u64) -> Self {
        Self {
            net: TestNet::default(),
            masters: BTreeMap::new(),
            timings: RaftTimings::default(),
            rng: SeededRng::new(seed),
            log: LogOptions { segment_bytes: 4096, cache_bytes: 2048 },
            founders: 0,
            seed,
        }
    }

    pub async fn of(seed: u64, n: u64) -> Self {
        let mut cluster = Self::empty(seed);
        cluster.form(n).await;
        cluster
    }

    pub async fn form(&mut self, n: u64) {
        self.founders = n;
        for id in 1..=n {
            self.start_new(id).await;
        }
        let members: Vec<_> = (1..=n).map(member).collect();
        self.node(1).bootstrap(&members).await.unwrap();
        self.leader().await;
        eventually("all to know that they lost nothing", async || {
            self.running().all(|(_, n)| !n.status().torn).then_some(())
        })
        .await;
    }

    pub async fn start_new(&mut self, id: u64) {
        let (disk, machine) = Default::default();
        let master = Master { disk, lanes: HeldLanes::of("raft-log"), machine, node: None };
        self.masters.insert(id, master);
        self.start(id).await.unwrap();
    }

    pub async fn start(&mut self, id: u64) -> Result<(), StartError> {
        self.seed += 1;
        let master = self.masters.get_mut(&id).unwrap();
        let options = RaftOptions {
            id: MasterId(id),
            raft_addr: member(id).raft_addr,
            members: if id <= self.founders { (1..=self.founders).map(member).collect() } else { vec![] },
            timings: self.timings.clone(),
            log: self.log,
            disk: Arc::new(master.disk.clone()),
            machine: Arc::new(master.machine.clone()),
            transport: self.net.endpoint(id),
            seams: Seams { lanes: Arc::new(master.lanes.clone()), ..sim_seams(self.seed) },
        };
        master.node = Some(RaftNode::start(options).await?);
        Ok(())
    }

    pub fn node(&self, id: u64) -> &RaftNode {
        self.masters[&id].node.as_ref().unwrap()
    }

    /// A power failure: unsynced data is lost in part, the unflushed state whole.
    pub async fn crash(&mut self, id: u64) {
        let master = self.masters.get_mut(&id).unwrap();
        master.disk.kill();
        if let Some(node) = master.node.take() {
            node.shutdown().await;
        }
        master.disk = master.disk.after_crash(&self.rng);
        master.machine = master.machine.after_crash();
    }

    /// A copy of a master's whole directory, also of one that runs.
    pub fn copy_of(&self, id: u64) -> (CrashDisk, TestMachine) {
        let master = &self.masters[&id];
        (master.disk.copy(), master.machine.after_crash())
    }

    /// Puts a copy in place of the directory of a master that does not run.
    pub fn restore(&mut self, id: u64, (disk, machine): (CrashDisk, TestMachine)) {
        let master = self.masters.get_mut(&id).unwrap();
        (master.disk, master.machine) = (disk, machine);
    }

    pub fn running(&self) -> impl Iterator<Item = (u64, &RaftNode)> {
        self.masters.iter().filter_map(|(id, m)| Some((*id, m.node.as_ref()?)))
    }

    /// Waits for a running master that leads with a quorum.
    pub async fn leader(&self) -> u64 {
        self.leader_but(&[]).await
    }

    pub async fn leader_but(&self, not: &[u64]) -> u64 {
        eventually("a leader", async || {
            let leading = self
                .running()
                .filter(|(id, n)| !not.contains(id) && n.leadership().borrow().is_me)
                .max_by_key(|(_, n)| n.leadership().borrow().term)?;
            leading.1.read_barrier().await.ok().map(|_| leading.0)
        })
        .await
    }

    /// Proposes at whoever leads until it is certain that it was applied.
    pub async fn set(&self, name: &str, value: &str) {
        let command = Bytes::from(format!("{name}={value}"));
        eventually("a command to be applied", async || {
            for (_, node) in self.running().filter(|(_, n)| n.leadership().borrow().is_me) {
                let outcome = tokio::time::timeout(Duration::from_secs(3), node.propose(command.clone()));
                match outcome.await {
                    Ok(Ok(_)) => return Some(()),
                    Ok(Err(RaftFailure::NotLeader { .. } | RaftFailure::Unknown(_))) | Err(_) => {}
                    Ok(Err(e)) => tracing::info!(error = %e, "proposing failed"),
                }
            }
            None
        })
        .await;
    }

    /// Waits until all running masters have the same state.
    pub async fn converged(&self) {
        eventually("all masters to be equal", async || {
            let leader = self.leader().await;
            let last = self.node(leader).status().last_log;
            let want = self.masters[&leader].machine.registers().values;
            self.running()
                .all(|(id, n)| {
                    n.status().applied == last && self.masters[&id].machine.registers().values == want
                })
                .then_some(())
        })
        .await;
    }

    pub async fn stop(&self) {
        for (_, node) in self.running() {
            node.shutdown().await;
        }
    }
}

/// Polls until there is something, or panics after [`PATIENCE`].
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited for {what}"))
}
