//! Chunkservers whose disks become full under a chunk that is written already.

use crate::common::within;
use mooseng_client::{ErrorKind, File, Filesystem, embedded::Cluster};
use mooseng_core::{ids::ServerId, seam::Disk};
use mooseng_host::MemDisk;
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

const MIB: usize = 1 << 20;
/// Of each disk of a chunkserver: room for another chunk, and no more than is soon filled.
const CAPACITY: u64 = 512 << 20;
/// Room for headers and notes, not for a frame: what the reserve of a chunkserver is for.
const LITTLE: u64 = 128 << 10;

/// The disks of all nodes, by name.
#[derive(Clone, Default)]
struct Disks(Arc<Mutex<BTreeMap<String, MemDisk>>>);

impl Disks {
    fn get(&self, name: &str) -> Arc<dyn Disk> {
        let bytes = if name.starts_with("chunkserver") { CAPACITY } else { 1 << 40 };
        let mut all = self.0.lock();
        Arc::new(all.entry(name.into()).or_insert_with(|| MemDisk::with_capacity(name, bytes)).clone())
    }

    fn of(&self, server: ServerId) -> [Arc<dyn Disk>; 2] {
        [1, 2].map(|n| self.get(&format!("chunkserver-{}/disk-{n}", server.get())))
    }

    /// Leaves so many bytes free on each disk.
    fn fill(&self, server: ServerId, left: u64) {
        for disk in self.of(server) {
            disk.create("ballast").unwrap().allocate(disk.space().unwrap().1 - left).unwrap();
        }
    }

    fn make_room(&self, server: ServerId) {
        for disk in self.of(server) {
            disk.remove("ballast").unwrap();
        }
    }
}

async fn cluster(chunkservers: u64) -> (Cluster, Disks) {
    let disks = Disks::default();
    let source = disks.clone();
    let builder = Cluster::builder().masters(1).chunkservers(chunkservers);
    (builder.disks(move |name| source.get(name)).start().await.unwrap(), disks)
}

fn content(byte: u8) -> Vec<u8> {
    (0..MIB).map(|i| (i / 4096) as u8 ^ byte).collect()
}

/// Who has the only chunk of the file, the head first.
async fn members(fs: &Filesystem) -> Vec<ServerId> {
    let chunks = fs.chunks("/f").await.unwrap();
    chunks[0].replicas.iter().map(|r| r.place.server).collect()
}

/// A file of a MiB that is synced.
async fn synced(fs: &Filesystem) -> File {
    let file = fs.create("/f").await.unwrap();
    file.write_at(0, content(1)).await.unwrap();
    within("the first sync", file.sync_all()).await.unwrap();
    file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_has_no_room_for_goes_to_another_server() {
    for (at, left) in [(0, 0), (0, LITTLE), (1, 0), (1, LITTLE)] {
        let (cluster, disks) = cluster(3).await;
        let fs = cluster.client().await.unwrap().filesystem();
        let file = synced(&fs).await;
        let full = members(&fs).await[at];
        disks.fill(full, left);
        file.write_at(MIB as u64, content(2)).await.unwrap();
        within("a sync past a full disk", file.sync_all()).await.unwrap();
        let now = members(&fs).await;
        assert!(now.len() == 2 && !now.contains(&full), "{full} is full: {now:?}");
        file.close().await.unwrap();
        let other = cluster.client().await.unwrap().filesystem();
        let got = within("reading", other.read("/f")).await.unwrap();
        assert!(got[..MIB] == content(1) && got[MIB..] == content(2), "nothing is lost");
        cluster.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_another_server_the_writer_hears_of_it_and_nothing_is_changed() {
    for at in [0, 1] {
        let (cluster, disks) = cluster(2).await;
        let fs = cluster.client().await.unwrap().filesystem();
        let file = synced(&fs).await;
        let full = members(&fs).await[at];
        disks.fill(full, LITTLE);
        file.write_at(MIB as u64, content(2)).await.unwrap();
        let e = within("a sync without room", file.sync_all()).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NoSpace, "{e}");
        let mut now = members(&fs).await;
        now.sort();
        assert_eq!(now, [ServerId(1), ServerId(2)], "the copy is kept");
        let other = cluster.client().await.unwrap().filesystem();
        assert!(other.read("/f").await.unwrap() == content(1));
        disks.make_room(full);
        within("a sync with room again", file.sync_all()).await.unwrap();
        file.close().await.unwrap();
        let other = cluster.client().await.unwrap().filesystem();
        let got = other.read("/f").await.unwrap();
        assert!(got[..MIB] == content(1) && got[MIB..] == content(2));
        cluster.shutdown().await;
    }
}
