//! One seeded run: a cluster on a faulty network in virtual time, a client that works, nodes that
//! die and come back, an oracle that judges.

use crate::{
    disk::SimMedium,
    oracle::{Ended, Held, Oracle, Seen},
};
use anyhow::{Context as _, Result, ensure};
use mooseng_client::{Error, Filesystem, embedded::Cluster};
use mooseng_core::{
    error::{Errno, Outcome},
    seam::Rng,
};
use mooseng_host::SeededRng;
use mooseng_net::memory::{Event, Fate, Faults, MemoryNetwork};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// Operations of the client in one run.
const OPERATIONS: u64 = 40;
/// Paths it works on.
const PATHS: u64 = 8;
/// Longest wait for the cluster to be whole again after the faults.
const CONVERGES: Duration = Duration::from_secs(120);

/// A network that delays everything a little, and while `armed` loses requests and breaks
/// connections; it folds all it decides into a hash.
#[derive(Debug)]
struct Weather {
    rng: SeededRng,
    armed: AtomicBool,
    trace: Mutex<u64>,
    events: AtomicU64,
}

impl Faults for Weather {
    fn fate(&self, from: &str, to: &str, event: Event) -> Fate {
        let r = self.rng.next_u64();
        self.events.fetch_add(1, Ordering::Relaxed);
        let mut trace = self.trace.lock();
        for b in from.bytes().chain(to.bytes()).chain(r.to_le_bytes()) {
            *trace = (*trace ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        }
        let delay = Duration::from_micros(50 + r % 2000);
        match (r >> 32) % 1000 {
            0..4 if self.armed.load(Ordering::Relaxed) && !matches!(event, Event::Connect) => Fate::Reset,
            4..8 if self.armed.load(Ordering::Relaxed) && matches!(event, Event::Request(_)) => Fate::Drop,
            _ => Fate::Deliver(delay),
        }
    }
}

/// What a run did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outline {
    /// Hash of all that the network decided, in order.
    pub trace: u64,
    /// Decisions of the network.
    pub events: u64,
    /// Operations that were acknowledged.
    pub acknowledged: u64,
}

/// Runs one seed. `Err` tells what was promised and not kept.
pub fn run(seed: u64) -> Result<Outline> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()))
        .build()?;
    runtime.block_on(live(seed)).with_context(|| format!("seed {seed}"))
}

async fn live(seed: u64) -> Result<Outline> {
    let weather = Arc::new(Weather {
        rng: SeededRng::new(seed ^ 0x77),
        armed: AtomicBool::new(false),
        trace: Mutex::new(0xcbf2_9ce4_8422_2325),
        events: AtomicU64::new(0),
    });
    let builder = Cluster::builder().seams(mooseng_host::sim_seams(seed));
    let media = Media::default();
    let builder = builder.disks({
        let media = media.clone();
        move |name| media.get(name).mount()
    });
    let mut cluster = builder.network(MemoryNetwork::with_faults(weather.clone())).start().await?;
    let client = cluster.client().await?;
    let fs = client.filesystem();
    let rng = SeededRng::new(seed ^ 0x5151);
    let mut oracle = Oracle::default();
    let mut acknowledged = 0;
    weather.armed.store(true, Ordering::Relaxed);
    let mut down: Option<(bool, usize)> = None;
    for _ in 0..OPERATIONS {
        disturb(&mut cluster, &media, &rng, &mut down).await?;
        acknowledged += u64::from(operate(&fs, &rng, &mut oracle).await?);
    }
    weather.armed.store(false, Ordering::Relaxed);
    restore(&mut cluster, &mut down).await?;
    let whole = async {
        loop {
            if let Ok(s) = client.status().await
                && s.chunks.healthy == s.chunks.total
                && s.servers.iter().filter(|s| s.alive).count() == 3
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(CONVERGES, whole).await.context("the cluster did not become whole again")?;
    let paths: Vec<_> = oracle.paths().map(str::to_owned).collect();
    for path in paths {
        let seen = look(&fs, &path).await?;
        oracle.saw(&path, &seen).map_err(anyhow::Error::msg)?;
    }
    let (trace, events) = (*weather.trace.lock(), weather.events.load(Ordering::Relaxed));
    Ok(Outline { trace, events, acknowledged })
}

/// Bytes of a simulated medium.
const MEDIUM_BYTES: u64 = 8 << 30;

/// All media of a run, by name. They outlive the nodes.
#[derive(Clone, Default)]
struct Media(Arc<Mutex<BTreeMap<String, SimMedium>>>);

impl Media {
    fn get(&self, name: &str) -> SimMedium {
        let mut media = self.0.lock();
        media.entry(name.to_owned()).or_insert_with(|| SimMedium::new(name, MEDIUM_BYTES)).clone()
    }

    /// The media whose names begin so lose what was not synced, in part or whole.
    fn power_fails(&self, prefix: &str, rng: &SeededRng) {
        let media: Vec<_> =
            self.0.lock().iter().filter(|(n, _)| n.starts_with(prefix)).map(|(_, m)| m.clone()).collect();
        for m in media {
            m.crash(rng);
        }
    }
}

/// Now and then ends a node, or brings the one that is down back; one at a time.
async fn disturb(
    cluster: &mut Cluster,
    media: &Media,
    rng: &SeededRng,
    down: &mut Option<(bool, usize)>,
) -> Result<()> {
    let r = rng.next_u64();
    if !r.is_multiple_of(6) {
        return Ok(());
    }
    if down.is_some() {
        return restore(cluster, down).await;
    }
    let at = (r >> 8) as usize % 3;
    if (r >> 16).is_multiple_of(2) {
        cluster.kill_chunkserver(at);
        media.power_fails(&format!("chunkserver-{}/", at + 1), rng);
        *down = Some((false, at));
    } else {
        let at = cluster.leader().unwrap_or(at);
        // The disk's handles are dead before the node is stopped: its last flush does not count.
        media.power_fails(&format!("master-{}", at + 1), rng);
        cluster.kill_master(at).await;
        *down = Some((true, at));
    }
    Ok(())
}

async fn restore(cluster: &mut Cluster, down: &mut Option<(bool, usize)>) -> Result<()> {
    match down.take() {
        Some((true, at)) => cluster.start_master(at).await?,
        Some((false, at)) => cluster.start_chunkserver(at).await?,
        None => {}
    }
    Ok(())
}

fn ended<T>(r: &std::result::Result<T, Error>) -> Ended {
    match r {
        Ok(_) => Ended::Done,
        Err(e) if e.outcome() == Outcome::NotApplied => Ended::Refused,
        Err(_) => Ended::Unknown,
    }
}

/// One operation; whether it was acknowledged.
async fn operate(fs: &Filesystem, rng: &SeededRng, oracle: &mut Oracle) -> Result<bool> {
    let r = rng.next_u64();
    let path = format!("/p{}", (r >> 8) % PATHS);
    let done = match r % 8 {
        0..=3 => {
            let len = match (r >> 16) % 4 {
                0 => (r >> 24) % 5_000,
                1 => (r >> 24) % 200_000,
                _ => (r >> 24) % 20_000,
            };
            let content: Vec<u8> = (0..len).map(|i| (i.wrapping_mul(r | 1) >> 7) as u8).collect();
            let write = async {
                let file = fs.create(&path).await?;
                file.write_at(0, content.clone()).await?;
                file.sync_all().await?;
                file.close().await
            };
            let result = write.await;
            // Several steps: a refusal of a later one leaves what the earlier ones did.
            let ended = if result.is_ok() { Ended::Done } else { Ended::Unknown };
            oracle.changed(&path, Held::File { content, synced: true }, ended);
            ended
        }
        4 => {
            let ended = ended(&fs.remove_file(&path).await);
            oracle.changed(&path, Held::Nothing, ended);
            ended
        }
        5 => {
            let to = format!("/p{}", (r >> 16) % PATHS);
            let ended = ended(&fs.rename(&path, &to).await);
            if path != to {
                oracle.renamed(&path, &to, ended);
            }
            ended
        }
        _ => {
            let seen = look(fs, &path).await?;
            oracle.saw(&path, &seen).map_err(anyhow::Error::msg)?;
            Ended::Done
        }
    };
    Ok(done == Ended::Done)
}

async fn look(fs: &Filesystem, path: &str) -> Result<Seen> {
    match fs.read(path).await {
        Ok(data) => Ok(Seen::File(data.to_vec())),
        Err(e) if e.errno() == Errno::ENOENT => Ok(Seen::Nothing),
        Err(e) => {
            ensure!(e.errno() == Errno::EIO, "{path} cannot be read: {e}");
            Ok(Seen::Unreadable)
        }
    }
}
