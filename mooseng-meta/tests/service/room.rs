//! Masters whose disks are nearly full.

use crate::world::*;
use mooseng_core::{error::Errno, meta::*, seam::Disk as _};
use mooseng_host::MemDisk;
use mooseng_meta::service::ServiceTimings;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

#[tokio::test(start_paused = true)]
async fn what_needs_room_is_refused_below_the_reserve_and_removing_is_not() {
    let mut w = World::of(2, ServiceTimings::default()).await;
    let disk = MemDisk::with_capacity("small", 1024 * MIB);
    w.master.take().unwrap().stop().await;
    (w.disk, w.reserve) = (Arc::new(disk.clone()), 64 * MIB);
    w.start_master().await;
    for id in [1, 2] {
        w.register(id, 1).await;
    }
    let s = w.session("c").await;
    let (inode, place) = w.file(s, "f").await;
    w.create(s, "other").await;
    let ballast = disk.create("ballast").unwrap();
    ballast.allocate(disk.space().unwrap().1 - 32 * MIB).unwrap();
    let mkdir = async |n: u64| {
        let op = MkDir {
            parent: mooseng_core::ids::InodeId::ROOT,
            name: name(&format!("d{n}")),
            mode: 0o755,
            id: None,
        };
        w.service().call(&w.fresh(s), op.into()).await
    };
    let mut n = 0;
    until("it is noticed", async || {
        n += 1;
        mkdir(n).await.is_err()
    })
    .await;
    assert_eq!(mkdir(0).await.unwrap_err().errno(), Errno::ENOSPC);
    // What is written already is told of, and what makes room goes through.
    w.commit(s, inode, place.chunk).await.unwrap();
    w.unlink(s, "other").await.unwrap();
    drop(ballast);
    disk.remove("ballast").unwrap();
    until("there is room again", async || mkdir(0).await.is_ok()).await;
}
