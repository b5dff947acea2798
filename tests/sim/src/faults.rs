//! What goes wrong in a run: processes that die, machines that lose power, walls, slow nodes; one
//! fault or one pair at a time, each over after a while. Between some of them the cluster must become
//! whole again.

mod diary;
mod drills;
mod ills;
mod losses;
mod rare;
mod watch;

use diary::Diary;
pub use drills::{EXTRAS, Extras};
use ills::Sick;
pub use rare::has_rare_faults;
use rare::{Rare, Restored};

use crate::{
    cast::Stage,
    chronicle::Chronicle,
    disk::{CHUNKS, SimMedium},
    weather::{Wall, node_of},
};
use anyhow::{Context as _, Result};
use mooseng_chunk::format::{Header, PAGE};
use mooseng_client::{Client, embedded::Cluster};
use mooseng_core::{ids::ChunkVersion, seam::Rng as _};
use mooseng_host::SeededRng;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// Longest time until the cluster is whole again after the last fault.
pub const CONVERGES: Duration = Duration::from_secs(30);
/// The same between two faults, while clients work.
const WHOLE_AGAIN: Duration = Duration::from_secs(60);
/// Masters, and chunkservers.
pub const NODES: usize = 3;
/// Longest that a process stands still.
const PAUSE_MAX_MS: u64 = 60_000;
/// By how much a time of day may be wrong.
const JUMP_MAX_SECS: u64 = 3600;
/// Bytes of a simulated medium.
const MEDIUM_BYTES: u64 = 8 << 30;

/// All media of a run, by name. They outlive the nodes.
#[derive(Clone, Default)]
pub struct Media(Arc<Mutex<BTreeMap<String, SimMedium>>>, Arc<Mutex<Vec<Removal>>>);

/// The file of a chunk was removed by its server.
#[derive(Clone, Debug)]
pub struct Removal {
    /// The file.
    pub name: String,
    /// From where.
    pub node: String,
    /// Servers that had one of this name then, but for this one.
    pub others: usize,
}

/// Whether a chunk's file is of no version: a copy that is being made, over what no set had any more.
fn is_unfinished(head: &[u8]) -> bool {
    let (a, b) = head.split_at(PAGE);
    Header::newest(a, b).is_some_and(|(h, _)| h.version == ChunkVersion(0))
}

impl Media {
    /// The medium of this name, empty when it is new.
    pub fn get(&self, name: &str) -> SimMedium {
        let mut media = self.0.lock();
        if let Some(there) = media.get(name) {
            return there.clone();
        }
        let medium = SimMedium::new(name, MEDIUM_BYTES);
        let (all, removals) = (Arc::downgrade(&self.0), self.1.clone());
        let node = node_of(name).to_owned();
        medium.watch(Arc::new(move |file: &str, head: &[u8]| {
            if let Some(all) = all.upgrade().filter(|_| file.starts_with(CHUNKS) && !is_unfinished(head)) {
                let all = all.lock();
                let having = all.iter().filter(|(n, m)| node_of(n) != node && m.has(file));
                let others = having.map(|(n, _)| node_of(n)).collect::<BTreeSet<_>>().len();
                removals.lock().push(Removal { name: file.to_owned(), node: node.clone(), others });
            }
        }));
        media.entry(name.to_owned()).or_insert(medium).clone()
    }

    /// Of each medium a number for all that was done to it so far.
    pub fn traces(&self) -> Vec<(String, u64)> {
        self.0.lock().iter().map(|(n, m)| (n.clone(), m.trace())).collect()
    }

    /// All removals of chunk files so far.
    pub fn removals(&self) -> Vec<Removal> {
        self.1.lock().clone()
    }

    /// The end of a run.
    pub fn wipe(&self) {
        self.0.lock().values().for_each(SimMedium::wipe);
    }

    fn of(&self, node: &str) -> Vec<SimMedium> {
        self.0.lock().iter().filter(|(n, _)| node_of(n) == node).map(|(_, m)| m.clone()).collect()
    }
}

/// A node that can die.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Node {
    Master(usize),
    Chunkserver(usize),
}

impl Node {
    fn name(self) -> String {
        match self {
            Self::Master(at) => format!("master-{}", at + 1),
            Self::Chunkserver(at) => format!("chunkserver-{}", at + 1),
        }
    }
}

/// How a node ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// The process dies, the machine lives: everything written stays.
    Killed,
    /// Unsynced sectors are lost, kept or torn.
    Power,
}

#[derive(Clone, Debug)]
enum Fault {
    Down(Vec<(Node, End)>),
    Walls(Vec<Wall>),
    Slow(String, Duration),
    /// A leader is deposed, and one client reaches it alone.
    Deposed,
    /// A session ends that still reaches the head of a chain.
    Haunted,
    /// A replica lost power, and a client that has not heard of it asks it.
    Suspected,
    /// All replicas lost power, and the writer syncs.
    Forgotten,
    /// A disk is ill.
    Sick(Sick),
    /// Bits of a chunkserver's data flip.
    Rot,
    /// A process stands still.
    Paused(String, Duration),
    /// A node's clock has this rate, in milliseconds a second; its time of day is so many seconds off.
    Clock(String, u32, i64),
    /// A master's directory is restored from a copy of itself.
    Restored(Restored),
    /// A node's disks acknowledge fsyncs and keep nothing, until its power fails.
    Lying(Node),
}

impl Fault {
    /// Whether it damages data that is on a disk.
    fn damages(&self) -> bool {
        match self {
            Self::Rot | Self::Lying(Node::Chunkserver(_)) => true,
            Self::Sick(sick) => matches!(sick.node, Node::Chunkserver(_)) && sick.ill.is_damage(),
            _ => false,
        }
    }
}

/// The one who makes trouble.
pub struct Troublemaker {
    cluster: Cluster,
    media: Media,
    stage: Arc<Stage>,
    admin: Client,
    rng: SeededRng,
    extras: Extras,
    clients: Vec<String>,
    down: BTreeSet<Node>,
    /// Chunkservers that lost power, and that were in trouble at all, since the cluster was whole:
    /// when there are two, unsynced data may have been on no other.
    powerless: BTreeSet<usize>,
    hurt: BTreeSet<usize>,
    /// Chunkservers that have died since write numbers may have been forgotten by all.
    restarted: BTreeSet<usize>,
    /// The chunkserver whose data may be damaged.
    sick: Option<usize>,
    diary: Option<Diary>,
    chronicle: Chronicle,
    rare: Option<Rare>,
}

impl Troublemaker {
    /// For a cluster with these media, in the run of a seed; `clients` are names on the network.
    pub fn new(
        cluster: Cluster,
        media: Media,
        stage: Arc<Stage>,
        (admin, extras): (Client, Extras),
        seed: u64,
        clients: Vec<String>,
    ) -> Self {
        let rng = SeededRng::new(seed ^ 0x5151);
        let rare = Rare::of(seed);
        let (down, powerless, hurt, restarted) = Default::default();
        let (sick, diary, chronicle) = Default::default();
        Self {
            cluster,
            media,
            stage,
            admin,
            rng,
            extras,
            clients,
            down,
            powerless,
            hurt,
            restarted,
            sick,
            diary,
            chronicle,
            rare,
        }
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The same, to do what no fault does.
    pub fn cluster_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    fn note(&self, what: impl std::fmt::Display) {
        self.stage.journal.note("fault", what);
    }

    fn pick(&self, n: u64) -> u64 {
        self.rng.next_u64() % n
    }

    fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.pick(to - from))
    }

    /// Makes trouble until nobody works any more, then ends all of it.
    pub async fn while_working(&mut self, is_working: impl Fn() -> bool) -> Result<()> {
        self.stage.weather.set_flaky(true);
        while is_working() {
            tokio::time::sleep(self.millis(100, 3000)).await;
            let fault = self.choose();
            if fault.damages() {
                // What has only one copy at the moment no filesystem gives back.
                self.whole(WHOLE_AGAIN, false).await.context("before data is damaged")?;
            }
            self.begin(&fault).await?;
            self.last(&fault).await;
            self.compare_masters().await?;
            self.end(&fault).await?;
            if self.pick(2) == 0 {
                self.whole(WHOLE_AGAIN, false).await.context("between faults")?;
            }
        }
        self.stage.weather.set_flaky(false);
        Ok(())
    }

    /// Lets a fault last for a while; some of the connections that it cut end with it.
    async fn last(&mut self, fault: &Fault) {
        if matches!(fault, Fault::Deposed | Fault::Haunted | Fault::Suspected | Fault::Forgotten) {
            return;
        }
        let time = match (fault, self.pick(8)) {
            (Fault::Paused(_, time), _) => *time,
            (Fault::Down(nodes), _) if nodes.len() > 2 => self.millis(100, 3000),
            (_, 0) => self.millis(10_000, 45_000),
            (_, 1..4) => self.millis(100, 2000),
            _ => self.millis(1000, 10_000),
        };
        match self.diary.take() {
            None => tokio::time::sleep(time).await,
            Some(mut diary) => {
                self.keep_diary(&mut diary, time).await;
                self.diary = Some(diary);
            }
        }
        if let Fault::Walls(walls) = fault
            && self.pick(2) == 0
        {
            let crosses = |a: &str, b: &str| walls.iter().any(|w| w.crosses(node_of(a), node_of(b)));
            self.stage.network.sever(crosses);
        }
    }

    fn node(&self) -> Node {
        let at = self.pick(NODES as u64) as usize;
        match self.pick(4) {
            0 => Node::Master(at),
            1 => Node::Master(self.cluster.leader().unwrap_or(at)),
            _ => Node::Chunkserver(at),
        }
    }

    fn name(&self) -> String {
        match self.pick(5) {
            0 => self.clients[self.pick(self.clients.len() as u64) as usize].clone(),
            _ => self.node().name(),
        }
    }

    fn two(&self) -> (String, String) {
        let a = self.name();
        loop {
            let b = self.name();
            if a != b {
                return (a, b);
            }
        }
    }

    fn end_of(&self) -> End {
        if self.pick(3) == 0 { End::Killed } else { End::Power }
    }

    fn wrong_clock(&self) -> Fault {
        let jump = match self.pick(3) {
            0 => 0,
            1 => self.pick(JUMP_MAX_SECS) as i64,
            _ => -(self.pick(JUMP_MAX_SECS) as i64),
        };
        Fault::Clock(self.node().name(), 500 + self.pick(1501) as u32, jump)
    }

    fn choose(&self) -> Fault {
        if let Some(rare) = self.choose_rare() {
            return rare;
        }
        match self.pick(36) {
            0..6 => Fault::Down(vec![(self.node(), self.end_of())]),
            6..8 => {
                let (master, chunkserver) = (self.pick(3) as usize, self.pick(3) as usize);
                let master = if self.pick(2) == 0 { self.cluster.leader().unwrap_or(master) } else { master };
                Fault::Down(vec![
                    (Node::Master(master), self.end_of()),
                    (Node::Chunkserver(chunkserver), self.end_of()),
                ])
            }
            8 => {
                let end = self.end_of();
                let all = (0..NODES).flat_map(|n| [(Node::Master(n), end), (Node::Chunkserver(n), end)]);
                Fault::Down(all.collect())
            }
            9..12 => Fault::Walls(vec![Wall::Around(self.name())]),
            12 => Fault::Walls(vec![Wall::Mute(self.name())]),
            13 => Fault::Walls(vec![Wall::Deaf(self.name())]),
            14..17 => {
                let (a, b) = self.two();
                Fault::Walls(vec![Wall::Between(a, b)])
            }
            17 => {
                let (a, b) = self.two();
                Fault::Walls(vec![Wall::OneWay(a, b)])
            }
            20 => Fault::Deposed,
            21 => Fault::Haunted,
            22 => Fault::Suspected,
            23 => Fault::Forgotten,
            24..28 => Fault::Sick(self.sick_chunkserver()),
            28..30 => Fault::Sick(self.sick_master()),
            30 | 31 => Fault::Rot,
            32 | 33 => Fault::Paused(self.name(), self.millis(500, PAUSE_MAX_MS)),
            34 | 35 => self.wrong_clock(),
            _ => Fault::Slow(self.name(), self.millis(20, 500)),
        }
    }

    async fn begin(&mut self, fault: &Fault) -> Result<()> {
        self.stage.calm.end();
        match fault {
            Fault::Down(nodes) => {
                // All disks of a power failure stop at once, before anybody can react: a last flush
                // does not count.
                for (node, end) in nodes {
                    self.note(format_args!("{}: {end:?}", node.name()));
                    for medium in self.media.of(&node.name()) {
                        match end {
                            End::Killed => medium.kill(),
                            End::Power => medium.crash(&self.rng),
                        }
                    }
                    self.hurts(&node.name(), *end == End::Power);
                }
                for (node, _) in nodes {
                    self.kill(*node).await;
                }
            }
            Fault::Walls(walls) => {
                for wall in walls {
                    self.note(wall);
                    let (Wall::Around(n)
                    | Wall::Mute(n)
                    | Wall::Deaf(n)
                    | Wall::Between(n, _)
                    | Wall::Only(n, _)
                    | Wall::OneWay(n, _)) = wall;
                    self.hurts(n, false);
                    if let Wall::Between(_, other) | Wall::OneWay(_, other) = wall {
                        self.hurts(other, false);
                    }
                    self.stage.weather.wall(wall.clone());
                }
            }
            Fault::Deposed => self.depose().await?,
            Fault::Haunted => self.haunt().await?,
            Fault::Suspected => self.suspect().await?,
            Fault::Forgotten => self.forget().await?,
            Fault::Sick(sick) => {
                if matches!(sick.node, Node::Chunkserver(_)) {
                    self.diary = self.begin_diary().await;
                }
                self.falls_ill(*sick);
            }
            Fault::Rot => {
                self.diary = self.begin_diary().await;
                self.rots();
            }
            Fault::Paused(node, time) => {
                self.note(format_args!("{node} stands still for {time:?}"));
                self.hurts(node, false);
                self.stage.weather.pause(node, self.stage.journal.elapsed() + *time);
            }
            Fault::Clock(node, rate, jump) => {
                self.note(format_args!("{node}: clock at {rate} ms a second, off by {jump} s"));
                self.hurts(node, false);
                self.stage.clocks.of(node).changes(*rate, Some(*jump));
            }
            Fault::Slow(node, by) => {
                self.note(format_args!("{node} is slow by {by:?}"));
                self.hurts(node, false);
                self.stage.weather.slow(node, *by);
            }
            Fault::Restored(restored) => self.is_copied(restored).await?,
            Fault::Lying(node) => self.begins_to_lie(*node).await,
        }
        Ok(())
    }

    fn hurts(&mut self, node: &str, power: bool) {
        let Some(at) = (0..NODES).find(|n| Node::Chunkserver(*n).name() == node) else { return };
        self.hurt.insert(at);
        if power {
            self.powerless.insert(at);
        }
        // What was not synced was whole on this one alone, where the other is damaged.
        let was_last = power && self.sick.is_some_and(|sick| sick != at);
        if was_last || (!self.powerless.is_empty() && self.hurt.len() > 1) {
            self.note("unsynced data may be lost");
            self.stage.power_failed();
        }
    }

    async fn kill(&mut self, node: Node) {
        if let Node::Chunkserver(at) = node {
            self.restarted.insert(at);
            if self.restarted.len() > 1 {
                self.restarted = BTreeSet::from([at]);
                self.stage.contended.lock().begin_anew();
                self.stage.restarted();
            }
        }
        match node {
            Node::Master(at) => self.cluster.kill_master(at).await,
            Node::Chunkserver(at) => self.cluster.kill_chunkserver(at),
        }
        self.down.insert(node);
    }

    async fn end(&mut self, fault: &Fault) -> Result<()> {
        self.stage.weather.clear();
        self.stage.clocks.run_right();
        self.note(format_args!("over: {fault:?}"));
        match fault {
            Fault::Sick(sick) => self.recovers(*sick).await?,
            Fault::Rot => self.patient_restarts().await,
            Fault::Restored(restored) => self.is_restored(restored).await?,
            Fault::Lying(node) => self.lie_comes_out(*node).await?,
            _ => {}
        }
        for node in std::mem::take(&mut self.down) {
            match node {
                Node::Master(at) => self.cluster.start_master(at).await,
                Node::Chunkserver(at) => self.cluster.start_chunkserver(at).await,
            }
            .with_context(|| format!("{} does not start again", node.name()))?;
        }
        if let Some(diary) = self.diary.take() {
            self.read_diary(&diary).await.with_context(|| format!("after {fault:?}"))?;
        }
        self.scrub().await.with_context(|| format!("after {fault:?}"))
    }

    /// Waits until the cluster is whole; with `idle`, nothing may be left to delete either.
    pub async fn whole(&mut self, within: Duration, idle: bool) -> Result<Duration> {
        let begin = Instant::now();
        let mut last = String::from("nobody answered");
        let mut seen_whole = 0;
        while begin.elapsed() < within {
            self.watch_leaders()?;
            match self.admin.status().await {
                Ok(s) => {
                    let alive = s.servers.iter().filter(|s| s.alive).count();
                    // Blocks that verify nowhere after a power failure are an alarm and stay one.
                    let lost = if self.stage.is_lossy() { s.chunks.missing } else { 0 };
                    let is_whole = s.chunks.healthy + lost == s.chunks.total
                        && alive == NODES
                        && (!idle || (s.chunks.deleting == 0 && s.chunks.overgoal == 0));
                    seen_whole = if is_whole { seen_whole + 1 } else { 0 };
                    last = format!("{alive} servers, {:?}", s.chunks);
                }
                Err(e) => last = e.to_string(),
            }
            // Once may be before the leader heard of what came back.
            if seen_whole > 4 {
                self.note(format_args!("whole after {:?}", begin.elapsed()));
                (self.powerless, self.hurt) = Default::default();
                self.stage.calm.begin();
                return Ok(begin.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        anyhow::bail!("the cluster did not become whole within {within:?}: {last}")
    }
}
