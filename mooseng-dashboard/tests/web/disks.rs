//! A disk with errors that is used still.

use super::world::World;
use mooseng_client::embedded::Cluster;
use mooseng_core::seam::{Disk, DiskFile};
use mooseng_dashboard::Options;
use mooseng_host::MemDisk;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// A disk that fails so many times when it is asked for its space.
#[derive(Debug)]
struct Failing {
    disk: MemDisk,
    left: Arc<AtomicU64>,
}

impl Disk for Failing {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(name)
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(name)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn list_dirs(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk.list_dirs(dir)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn space(&self) -> io::Result<(u64, u64)> {
        match self.left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)) {
            Ok(_) => Err(io::Error::from_raw_os_error(5)),
            Err(_) => self.disk.space(),
        }
    }
    fn describe(&self) -> String {
        self.disk.describe()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_a_disk_are_shown_before_it_is_set_aside() {
    let left = Arc::<AtomicU64>::default();
    let fails = left.clone();
    let disk_of = move |name: &str| -> Arc<dyn Disk> {
        let disk = MemDisk::new(name);
        match name {
            "chunkserver-1/disk-1" => Arc::new(Failing { disk, left: fails.clone() }),
            _ => Arc::new(disk),
        }
    };
    let cluster = Cluster::builder().masters(1).chunkservers(2).disks(disk_of).start().await.unwrap();
    let w = World::over(cluster, Options::default(), Duration::from_secs(60)).await;
    left.store(2, Relaxed);
    let disks = w
        .until("both errors are told", async |w| {
            let disks = w.json("/api/disks", "mooseng.disks/1").await;
            (disks["items"][0]["errors"] == 2).then_some(disks)
        })
        .await;
    let all = disks["items"].as_array().unwrap();
    assert!(all.len() == 4 && all.iter().all(|d| d["state"] == "ok"), "{disks}");
    assert!(all[1..].iter().all(|d| d["errors"] == 0), "{disks}");
    let page = w.page("/topology").await;
    assert!(page.contains("data-label=\"Errors\">2</td>"), "{page}");
    assert_eq!(page.matches("data-label=\"Errors\">0</td>").count(), 3, "{page}");
    w.cluster.shutdown().await;
}
