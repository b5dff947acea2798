//! One seeded run: a cluster on a faulty network in virtual time, two clients that work, nodes that
//! die and come back, an oracle that judges.

use crate::{
    acts,
    cast::Stage,
    clocks::Clocks,
    faults::{CONVERGES, EXTRAS, Extras, Media, NODES, Removal, Troublemaker, has_rare_faults},
    journal::Journal,
    replicas,
    weather::{Weather, node_of},
    workload::{Namer, Worker},
};
use anyhow::{Context as _, Result, bail};
use mooseng_client::embedded::Cluster;
use mooseng_core::ids::ChunkId;
use mooseng_host::SeededRng;
use mooseng_meta::{raft::RaftTimings, service::ServiceTimings};
use mooseng_net::memory::MemoryNetwork;
use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// Parts of the namespace that clients take turns in.
const GROUPS: u64 = 4;
/// Clients that work at the same time.
const WORKERS: u32 = 2;
/// Entries between two snapshots of a master, and kept behind one: few, so that a run has some.
const SNAPSHOT_ENTRIES: u64 = 100;
const KEPT_ENTRIES: u64 = 20;
/// Copies of each chunk.
const COPIES: usize = 2;
/// Clients that change names at the same time.
const NAMERS: u32 = 3;
/// Times that the replicas are compared until nothing of them is under repair.
const COMPARISONS_MAX: usize = 5;
/// The masters' signing keys are renewed so often in runs with rare faults: several times.
const KEY_PERIOD: Duration = Duration::from_secs(20);
/// Processes that each of them may be, one after the other.
const LIVES: u32 = 3;

/// What a run did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outline {
    /// Hash of all that happened, in order.
    pub trace: u64,
    /// Decisions of the network.
    pub events: u64,
    /// Steps that were acknowledged.
    pub acknowledged: u64,
    /// Steps that failed in a fault, with nobody knowing whether they were carried out.
    pub failed: u64,
    /// The longest step of a client, in milliseconds of virtual time.
    pub longest_ms: u64,
    /// From the end of the faults to a whole cluster, from the last removal to nothing left to delete, or from
    /// the last looks to damage mended, whichever took longest, in milliseconds of virtual time.
    pub converged_ms: u64,
    /// Replicas that were compared with another at the end.
    pub replicas: u64,
    /// Calls on names that several clients changed at the same time, all explained.
    pub calls: u64,
    /// Entries of the masters' log that were seen committed.
    pub committed: u64,
    /// What ill disks spoiled.
    pub ills_felt: u64,
    /// Sessions that were fenced while they still reached the head of what they wrote.
    pub fenced: u64,
    /// Nodes whose directories came back older than they had vouched for.
    pub rolled_back: u64,
    /// Virtual time of the run in milliseconds.
    pub virtual_ms: u64,
}

/// How a run ended, and what happened in it.
#[derive(Debug)]
pub struct Run {
    /// `Err` tells what was promised and not kept.
    pub outline: Result<Outline>,
    /// What clients did and what went wrong, in order.
    pub journal: Vec<String>,
    /// Hash of all that happened, also when a promise was broken.
    pub trace: u64,
}

/// Runs one seed.
pub fn run(seed: u64) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()))
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => return Run { outline: Err(e.into()), journal: Vec::new(), trace: 0 },
    };
    runtime.block_on(async {
        let journal = Arc::new(Journal::new());
        let weather = Arc::new(Weather::new(seed ^ 0x77, journal.clone()));
        let network = MemoryNetwork::with_faults(weather.clone());
        let media = Media::default();
        let live = live(seed, journal.clone(), weather, network.clone(), media.clone());
        let outline = live.await.with_context(|| format!("seed {seed}"));
        // A listener has its server, which has the network, which has the listener.
        for n in 1..=NODES {
            network.cut(&format!("master-{n}"));
            network.cut(&format!("chunkserver-{n}"));
        }
        media.wipe();
        Run { outline, journal: journal.lines(), trace: journal.hash() }
    })
}

async fn live(
    seed: u64,
    journal: Arc<Journal>,
    weather: Arc<Weather>,
    network: MemoryNetwork,
    media: Media,
) -> Result<Outline> {
    let disks = {
        let media = media.clone();
        move |name: &str| media.get(name).mount()
    };
    let seams = mooseng_host::sim_seams(seed);
    let raft = RaftTimings {
        snapshot_entries: SNAPSHOT_ENTRIES,
        kept_entries: KEPT_ENTRIES,
        ..RaftTimings::default()
    };
    let clocks = Clocks::default();
    let of_node = {
        let (clocks, seams) = (clocks.clone(), seams.clone());
        move |name: &str| clocks.seams(&seams, name)
    };
    let builder = Cluster::builder().seams(seams).seams_of(of_node).disks(disks);
    let builder = builder.network(network.clone()).raft(raft).timings(timings(seed));
    let cluster = builder.start().await?;
    let stage = Stage::new(weather.clone(), journal.clone(), network.clone(), clocks, GROUPS);
    let stage = Arc::new(stage);
    tokio::spawn(end_silent_connections(weather.clone(), network));
    let closer = cluster.client_named("closer", |b| b).await?;
    let (kept, rng) = (media.clone(), SeededRng::new(seed ^ 0x3333));
    let admin = cluster.client_with(|b| b.name("admin")).await?;
    let extras = extras(&cluster).await?;
    let (workers, mut names) = workers(&cluster, &stage, seed).await?;
    let namers = namers(&cluster, &stage, seed, &mut names).await?;
    let mut trouble = Troublemaker::new(cluster, media, stage.clone(), (admin, extras), seed, names);
    let tasks: Vec<_> = workers.into_iter().map(|w| tokio::spawn(w.work())).collect();
    let namers: Vec<_> = namers.into_iter().map(|n| tokio::spawn(n.work())).collect();
    // A broken promise ends the run: what is going wrong meanwhile does not matter any more.
    let is_working = || tasks.iter().any(|t| !t.is_finished()) || namers.iter().any(|t| !t.is_finished());
    trouble.while_working(is_working).await?;
    let (mut done, mut named) = (Vec::new(), Vec::new());
    for task in tasks {
        done.push(task.await??);
    }
    for task in namers {
        named.push(task.await??);
    }
    let whole = trouble.whole(CONVERGES, false).await.context("after the faults")?;
    if let Some(worker) = done.first() {
        worker.remove_lossy().await.context("after the faults")?;
    }
    let removals = kept.removals();
    let idle = trouble.whole(CONVERGES, true).await.context("after the faults")?;
    for worker in &done {
        worker.look_at_contended().await.context("after the faults")?;
        worker.look_at_all().await.context("after the faults")?;
    }
    for namer in named {
        namer.look().await.context("after the faults")?;
    }
    let calls = stage.names.lock().explain()?;
    // Damage that only these looks met is mended by now as well.
    let mended = trouble.whole(CONVERGES, true).await.context("after the last looks")?;
    let committed = trouble.masters_are_equal().await.context("after the faults")?;
    let (several, replicas) = compare(&mut trouble).await.context("after the faults")?;
    // A copy that nobody names waits in quarantine.
    let named = replicas::named(trouble.cluster()).await?;
    let live = several.intersection(&named).copied().collect();
    none_was_needed(&live, &removals).context("after the faults")?;
    acts::theft(trouble.cluster(), &closer).await?;
    acts::cut_across(trouble.cluster(), &closer).await?;
    acts::rot(trouble.cluster_mut(), &kept, &rng, &journal).await?;
    acts::rot_of_state(trouble.cluster_mut(), &kept, &rng, &journal).await?;
    acts::rot_beside_chunks(trouble.cluster_mut(), &kept, &rng, &journal).await?;
    let healed = serves_right(&mut trouble, done.first()).await.context("after bits flipped")?;
    for (medium, trace) in kept.traces() {
        journal.fold(medium.bytes().chain(trace.to_le_bytes()));
    }
    let count = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
    Ok(Outline {
        trace: journal.hash(),
        events: weather.events(),
        acknowledged: count(&stage.acknowledged),
        failed: count(&stage.failed),
        longest_ms: count(&stage.longest_ms),
        converged_ms: whole.max(idle).max(mended).max(healed).as_millis() as u64,
        replicas: replicas as u64,
        calls,
        committed,
        ills_felt: count(&stage.ills_felt),
        fenced: count(&stage.fenced),
        rolled_back: count(&stage.rolled_back),
        virtual_ms: journal.elapsed().as_millis() as u64,
    })
}

/// How long the masters' keys and all else lasts in the run of a seed.
fn timings(seed: u64) -> ServiceTimings {
    let usual = ServiceTimings::default();
    let key_period = if has_rare_faults(seed) { KEY_PERIOD } else { usual.key_period };
    ServiceTimings { key_period, ..usual }
}

/// Nodes that started on what has a flipped bit have made up for it, or it was of no account.
async fn serves_right(trouble: &mut Troublemaker, looker: Option<&Worker>) -> Result<Duration> {
    let healed = trouble.whole(CONVERGES, true).await?;
    trouble.masters_are_equal().await?;
    compare(trouble).await?;
    if let Some(worker) = looker {
        worker.look_at_all().await?;
    }
    Ok(healed)
}

/// Compares the replicas. Reading all of them may meet damage that is mended then; they are compared once it is.
async fn compare(trouble: &mut Troublemaker) -> Result<(BTreeSet<ChunkId>, usize)> {
    let mut tries = 0;
    loop {
        match replicas::equal(trouble.cluster(), NODES).await {
            Err(e) if replicas::has_moved(&e) && tries < COMPARISONS_MAX => {
                trouble.whole(CONVERGES, true).await?;
                tries += 1;
            }
            done => return done,
        }
    }
}

/// Errors: a copy was removed of a chunk that is still needed, while there were not two others.
fn none_was_needed(live: &BTreeSet<ChunkId>, removals: &[Removal]) -> Result<()> {
    let needed = |r: &&Removal| live.iter().any(|id| r.name.ends_with(&format!("/{:016x}", id.get())));
    if let Some(r) = removals.iter().filter(needed).find(|r| r.others < COPIES) {
        bail!("{} was removed from {} while {} others had it, and is needed", r.name, r.node, r.others);
    }
    Ok(())
}

/// Ends connections on which something was lost, as the real transports do, for as long as the run
/// lasts.
async fn end_silent_connections(weather: Arc<Weather>, network: MemoryNetwork) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let silent = weather.take_silent();
        network.sever(|a, b| silent.contains(&(node_of(a).to_owned(), node_of(b).to_owned())));
    }
}

async fn extras(cluster: &Cluster) -> Result<Extras> {
    let [ghost, heir, asker] = EXTRAS;
    Ok(Extras {
        ghost: cluster.client_named(ghost, |b| b).await?,
        heir: cluster.client_named(heir, |b| b).await?,
        asker: cluster.client_named(asker, |b| b).await?,
    })
}

/// Those who change names at the same time; adds their names on the network.
async fn namers(
    cluster: &Cluster,
    stage: &Arc<Stage>,
    seed: u64,
    names: &mut Vec<String>,
) -> Result<Vec<Namer>> {
    let mut namers = Vec::new();
    for n in 1..=NAMERS {
        let name = format!("namer-{n}");
        let client = cluster.client_named(&name, |b| b).await?;
        namers.push(Namer::new(&name, n, &client, stage.clone(), seed ^ (u64::from(n) << 40)));
        names.push(name);
    }
    Ok(namers)
}

/// The workers with their processes, and the names of these on the network.
async fn workers(cluster: &Cluster, stage: &Arc<Stage>, seed: u64) -> Result<(Vec<Worker>, Vec<String>)> {
    let (mut workers, mut names) = (Vec::new(), Vec::new());
    for n in 1..=WORKERS {
        let name = format!("worker-{n}");
        let mut lives = Vec::new();
        for life in 1..=LIVES {
            let process = format!("{name}-{life}");
            lives.push(cluster.client_named(&process, |b| b).await?);
            names.push(process);
        }
        workers.push(Worker::new(&name, lives, stage.clone(), seed ^ (u64::from(n) << 32), n * 1000));
    }
    Ok((workers, names))
}
