//! Mounts begin and end; parts of the cluster end below them.

use crate::world::*;
use anyhow::{Result, ensure};
use mooseng_client::embedded::Cluster;
use mooseng_fuse::{Mount, MountError, MountOptions};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::minor,
};
use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::MetadataExt as _,
    process::{Command, Stdio},
    time::Duration,
};

/// Tells the helper below where to mount.
const MOUNT_AT: &str = "MOOSENG_TEST_MOUNT_AT";
const MOUNTED: &str = "it is mounted";

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_mount_stays_until_it_is_free() -> Result<()> {
    if no_fuse() {
        return Ok(());
    }
    let w = World::one().await?;
    let mut open = w.on(|at| Ok(File::create(at.join("f"))?)).await?;
    let busy = w.mounts[0].unmount().await;
    ensure!(matches!(busy, Err(MountError::Busy { .. })), "{busy:?}");
    let open = blocking(move || {
        open.write_all(&bytes(1, 2_000_000))?;
        Ok(open)
    })
    .await?;
    ensure!(w.on(|at| Ok(fs::metadata(at.join("f"))?.len())).await? == 2_000_000, "it still serves");
    drop(open);
    let client = w.clients[0].clone();
    w.mounts[0].unmount().await?;
    ensure!(fs::read_dir(w.at(0))?.next().is_none(), "the directory is the one below again");
    ensure!(client.filesystem().read("/f").await? == bytes(1, 2_000_000));
    let again = w.mounts[0].unmount().await;
    ensure!(again.is_ok(), "unmounting what is unmounted: {again:?}");
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_mount_ends_with_its_last_file() -> Result<()> {
    if no_fuse() {
        return Ok(());
    }
    let mut w = World::one().await?;
    let at = w.at(0);
    let mut open = w.on(|at| Ok(File::create(at.join("f"))?)).await?;
    drop(w.mounts.pop());
    ensure!(fs::read_dir(&at)?.next().is_none(), "it is out of the tree at once");
    blocking(move || {
        open.write_all(b"written after")?;
        open.sync_all()?;
        Ok(())
    })
    .await?;
    ensure!(w.clients[0].filesystem().read("/f").await? == "written after");
    // And another takes its place.
    w.mounts.push(Mount::start(w.clients[0].vfs().clone(), &at, MountOptions::default()).await?);
    ensure!(w.on(|at| Ok(fs::read(at.join("f"))?)).await? == b"written after");
    w.end().await
}

/// What ends after a lazy unmount takes nothing away with it that was mounted in its place since.
#[tokio::test(flavor = "multi_thread")]
async fn a_detached_mount_leaves_the_one_that_took_its_place() -> Result<()> {
    if no_fuse() {
        return Ok(());
    }
    let mut w = World::one().await?;
    let at = w.at(0);
    let open = w.on(|at| Ok(File::create(at.join("f"))?)).await?;
    umount2(&at, MntFlags::MNT_DETACH)?;
    let second = Mount::start(w.clients[0].vfs().clone(), &at, MountOptions::default()).await?;
    drop(open);
    tokio::time::timeout(PATIENCE, w.mounts[0].wait()).await??;
    ensure!(w.on(|at| Ok(fs::read_dir(at)?.count())).await? == 1, "the second is gone with the first");
    w.mounts[0] = second;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_unmounts() -> Result<()> {
    if no_fuse() {
        return Ok(());
    }
    let w = World::one().await?;
    w.on(|at| Ok(fs::write(at.join("f"), bytes(2, 100_000))?)).await?;
    let at = w.at(0);
    let outside =
        blocking(move || run(&at, "sh", &["-c", "cd /; fusermount3 -u \"$OLDPWD\" || umount \"$OLDPWD\""]));
    let (ended, outside) = tokio::join!(tokio::time::timeout(PATIENCE, w.mounts[0].wait()), outside);
    outside?;
    ended??;
    w.end().await
}

/// An operator aborts the connection in the kernel's control filesystem: no dead mount stays.
#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_mount_ends_and_leaves_nothing() -> Result<()> {
    if no_fuse() {
        return Ok(());
    }
    let w = World::one().await?;
    let control = tempfile::tempdir()?;
    let none = None::<&str>;
    if let Err(e) = mount(none, control.path(), Some("fusectl"), MsFlags::empty(), none) {
        println!("skipped: the kernel's FUSE control cannot be mounted: {e}");
        return w.end().await;
    }
    let dir = control.path().to_path_buf();
    let aborted = w.on(move |at| {
        fs::write(at.join("f"), bytes(2, 100_000))?;
        let abort = dir.join(minor(fs::metadata(at)?.dev()).to_string()).join("abort");
        let done = fs::write(abort, "1");
        umount2(&dir, MntFlags::MNT_DETACH)?;
        Ok(done?)
    });
    aborted.await?;
    tokio::time::timeout(PATIENCE, w.mounts[0].wait()).await??;
    w.on(|at| {
        ensure!(fs::read_dir(at)?.next().is_none(), "it is a plain directory again");
        Ok(())
    })
    .await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_mount_changes_nothing() -> Result<()> {
    if no_fuse() {
        return Ok(());
    }
    let options = [MountOptions::default(), MountOptions { read_only: true, ..Default::default() }];
    let w = World::start(small(), &options).await?;
    let (a, b) = (w.at(0), w.at(1));
    blocking(move || {
        fs::write(a.join("f"), "x")?;
        ensure!(fs::read(b.join("f"))? == b"x");
        ensure!(fs::write(b.join("f"), "y").unwrap_err().raw_os_error() == Some(30), "EROFS");
        ensure!(fs::remove_file(b.join("f")).unwrap_err().raw_os_error() == Some(30));
        Ok(())
    })
    .await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn masters_and_chunkservers_end_below_a_mount() -> Result<()> {
    if no_fuse() {
        return Ok(());
    }
    let mut w = World::start(Cluster::builder(), &[MountOptions::default()]).await?;
    w.on(|at| Ok(fs::create_dir(at.join("d"))?)).await?;
    let at = w.at(0);
    let (tell, mut told) = tokio::sync::watch::channel(0);
    let writer = blocking(move || {
        for i in 0..120u64 {
            let mut f = File::create(at.join(format!("d/f{i}")))?;
            f.write_all(&bytes(i, if i % 10 == 0 { 1_500_000 } else { 3000 }))?;
            if i % 3 == 0 {
                f.sync_all()?;
            }
            drop(f);
            tell.send_replace(i);
        }
        Ok(())
    });
    let writer = tokio::spawn(writer);
    told.wait_for(|i| *i >= 20).await?;
    let leader = w.cluster.leader().unwrap();
    w.cluster.kill_master(leader).await;
    told.wait_for(|i| *i >= 50).await?;
    w.cluster.start_master(leader).await?;
    told.wait_for(|i| *i >= 70).await?;
    w.cluster.kill_chunkserver(0);
    writer.await??;
    w.on(|at| {
        ensure!(fs::read_dir(at.join("d"))?.count() == 120);
        for i in 0..120u64 {
            let want = bytes(i, if i % 10 == 0 { 1_500_000 } else { 3000 });
            ensure!(fs::read(at.join(format!("d/f{i}")))? == want, "f{i} reads back different");
        }
        Ok(())
    })
    .await?;
    w.cluster.start_chunkserver(0).await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_masters_calls_fail_in_time_and_the_mount_survives() -> Result<()> {
    if no_fuse() {
        return Ok(());
    }
    let mut w = World::start(small(), &[]).await?;
    let dir = tempfile::tempdir()?;
    let client = w.cluster.client().await?;
    let options = MountOptions { request_deadline: Duration::from_secs(2), ..Default::default() };
    let mount = Mount::start(client.vfs().clone(), dir.path(), options).await?;
    let at = dir.path().to_path_buf();
    let file = at.clone();
    blocking(move || Ok(fs::write(file.join("f"), "x")?)).await?;
    w.cluster.kill_master(0).await;
    let file = at.clone();
    let failed = blocking(move || Ok(fs::read(file.join("f")))).await?;
    ensure!(failed.as_ref().is_err_and(|e| e.raw_os_error() == Some(110)), "ETIMEDOUT: {failed:?}");
    w.cluster.start_master(0).await?;
    w.cluster.wait_ready(PATIENCE).await?;
    blocking(move || until("the file is read again", || Ok(fs::read(at.join("f")).is_ok_and(|d| d == b"x"))))
        .await?;
    mount.unmount().await?;
    client.shutdown(PATIENCE).await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_point_must_be_fit() -> Result<()> {
    if no_fuse() {
        return Ok(());
    }
    let w = World::start(small(), &[]).await?;
    let client = w.cluster.client().await?;
    let dir = tempfile::tempdir()?;
    let start = |sub: &str| Mount::start(client.vfs().clone(), dir.path().join(sub), MountOptions::default());
    let missing = start("missing").await;
    ensure!(matches!(missing, Err(MountError::Point { .. })), "{missing:?}");
    fs::write(dir.path().join("file"), "")?;
    ensure!(matches!(start("file").await, Err(MountError::Point { .. })));
    ensure!(matches!(start(".").await, Err(MountError::Point { .. })), "not empty");
    client.shutdown(PATIENCE).await?;
    w.end().await
}

/// Does nothing unless the next test runs it as a process of its own.
#[tokio::test(flavor = "multi_thread")]
async fn mounts_and_stays() -> Result<()> {
    let Ok(at) = std::env::var(MOUNT_AT) else { return Ok(()) };
    let w = World::start(small(), &[]).await?;
    let client = w.cluster.client().await?;
    let _mount = Mount::start(client.vfs().clone(), at, MountOptions::default()).await?;
    println!("{MOUNTED}");
    std::future::pending().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_whose_process_was_killed_is_cleared() -> Result<()> {
    if no_fuse() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut process = Command::new(std::env::current_exe()?)
        .args(["--exact", "--nocapture", "life::mounts_and_stays"])
        .env(MOUNT_AT, dir.path())
        .stdout(Stdio::piped())
        .spawn()?;
    let said = BufReader::new(process.stdout.take().unwrap());
    let mounted = said.lines().map_while(Result::ok).any(|l| l.contains(MOUNTED));
    process.kill()?;
    process.wait()?;
    ensure!(mounted, "the helper did not mount");
    let dead = fs::metadata(dir.path());
    ensure!(dead.as_ref().is_err_and(|e| e.raw_os_error() == Some(107)), "ENOTCONN: {dead:?}");
    let w = World::start(small(), &[]).await?;
    let client = w.cluster.client().await?;
    let mount = Mount::start(client.vfs().clone(), dir.path(), MountOptions::default()).await?;
    let at = dir.path().to_path_buf();
    blocking(move || Ok(fs::write(at.join("f"), "alive")?)).await?;
    mount.unmount().await?;
    ensure!(client.filesystem().read("/f").await? == "alive");
    client.shutdown(PATIENCE).await?;
    w.end().await
}
