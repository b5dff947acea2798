//! Wall clocks jump while sessions live and files are written: deadlines are of the steady clock,
//! so that nothing ends and nothing is lost.

use bytes::Bytes;
use mooseng_client::embedded::Cluster;
use mooseng_core::{
    attr::Timestamp,
    seam::{Clock, Seams},
};
use mooseng_host::{OsClock, host_seams};
use mooseng_meta::service::ServiceTimings;
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

const HOUR: i64 = 3600;
const PART: usize = 256 << 10;
/// Between two looks of the leader at who has been silent for too long.
const TICK: Duration = Duration::from_millis(50);

/// A clock whose wall side is set by the test; what it counts goes on steadily.
#[derive(Debug)]
struct Jumping {
    steady: OsClock,
    ahead_secs: AtomicI64,
}

impl Clock for Jumping {
    fn now(&self) -> Duration {
        self.steady.now()
    }
    fn wall(&self) -> Timestamp {
        let wall = self.steady.wall();
        Timestamp::new(wall.secs() + self.ahead_secs.load(Ordering::Relaxed), wall.nanos())
    }
}

fn part(n: usize) -> Bytes {
    (0..PART).map(|i| (i * 31 + n * 17 + i / 251) as u8).collect::<Vec<_>>().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jumps_of_the_wall_clock_end_no_session_and_harm_no_data() {
    let clock = Arc::new(Jumping { steady: OsClock, ahead_secs: AtomicI64::new(0) });
    let seams = Seams { clock: clock.clone(), ..host_seams() };
    let timings = ServiceTimings { tick: TICK, ..ServiceTimings::default() };
    let mut cluster =
        Cluster::builder().masters(3).chunkservers(2).seams(seams).timings(timings).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    let fs = client.filesystem();
    fs.write("/other", part(100)).await.unwrap();
    // A removed file lives as long as the session that has it open.
    let orphan = fs.create("/orphan").await.unwrap();
    orphan.write_at(0, part(200)).await.unwrap();
    orphan.sync_all().await.unwrap();
    fs.remove_file("/orphan").await.unwrap();
    let file = fs.create("/f").await.unwrap();
    file.write_at(0, part(0)).await.unwrap();
    file.sync_all().await.unwrap();
    // By an hour either way; then so far that every capability given before has expired.
    let jumps = [HOUR, 0, -HOUR, HOUR, -25 * HOUR, 0, 25 * HOUR, 50 * HOUR];
    for (n, ahead) in (1..).zip(jumps) {
        let lived = fs.metadata("/f").await.unwrap();
        clock.ahead_secs.store(ahead, Ordering::Relaxed);
        file.write_at((n * PART) as u64, part(n)).await.unwrap();
        file.sync_all().await.unwrap();
        fs.write(&format!("/at-{n}"), part(n)).await.unwrap();
        assert_eq!(file.read_at(0, PART as u64).await.unwrap(), part(0), "jump {n}: an old part");
        assert_eq!(orphan.read_at(0, PART as u64).await.unwrap(), part(200), "jump {n}: the removed file");
        if n == 4 {
            let leader = cluster.leader().unwrap();
            cluster.kill_master(leader).await;
            cluster.start_master(leader).await.unwrap();
            cluster.wait_ready(Duration::from_secs(30)).await.unwrap();
        }
        // The leader looks several times at what it holds; nothing shows when, so time has to pass.
        tokio::time::sleep(TICK * 5).await;
        let now = fs.metadata("/f").await.unwrap();
        assert_eq!(now.size, lived.size + PART as u64, "jump {n}: the size");
        let status = client.status().await.unwrap();
        assert_eq!(status.sessions, 1, "jump {n}: the session is the same one");
        assert!(status.servers.iter().all(|s| s.alive), "jump {n}: chunkservers stay alive");
    }
    // A client that comes anew sees all of it, with capabilities by the clock that is now.
    let fresh = cluster.client().await.unwrap().filesystem();
    let whole = fresh.read("/f").await.unwrap();
    for n in 0..=jumps.len() {
        assert!(whole[n * PART..(n + 1) * PART] == part(n), "part {n} differs");
    }
    for n in 1..=jumps.len() {
        assert!(fresh.read(&format!("/at-{n}")).await.unwrap() == part(n), "file {n} differs");
    }
    assert!(orphan.read_at(0, PART as u64).await.unwrap() == part(200));
    assert!(fresh.read("/other").await.unwrap() == part(100));
}
