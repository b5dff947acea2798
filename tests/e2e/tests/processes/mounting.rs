//! `mount -t mooseng` as mount(8) does it, and `mooseng umount`: a mount that answers when its helper returns, and is gone
//! when it was taken away.

use anyhow::{Context as _, Result, ensure};
use mooseng_e2e::cluster::{PATIENCE, ProcessCluster, binaries, free_port, http_get, wait_for};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// The helper under its name, which decides what the program does.
fn helper(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("mount.mooseng");
    symlink(binaries()?.join("mooseng"), &path)?;
    Ok(path)
}

fn run(command: &mut Command) -> Result<Output> {
    // Nothing of the machine's own settings but where programs are.
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).stdin(Stdio::null());
    command.output().with_context(|| format!("{command:?}"))
}

fn said(done: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

fn umount(args: &[&str]) -> Result<Output> {
    run(Command::new(binaries()?.join("mooseng")).arg("umount").args(args))
}

#[test]
fn the_helper_returns_when_the_mount_answers_and_umount_takes_it_away() -> Result<()> {
    if !Path::new("/dev/fuse").exists() {
        println!("skipped: there is no /dev/fuse");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let cluster = ProcessCluster::start(dir.path(), 1, 1)?;
    let (at, log, port) = (dir.path().join("mnt"), dir.path().join("mount.log"), free_port()?);
    fs::create_dir(&at)?;
    let helper = helper(dir.path())?;
    let spec = format!("{}:/", cluster.master_addrs.join(","));
    let options = |identity: &Path| {
        format!("rw,_netdev,nofail,identity={},log={},metrics_port={port}", identity.display(), log.display())
    };
    let point = at.to_str().context("a path is text")?;

    // What is wrong is told, with the end of the log, and nothing is left mounted.
    let none = options(&dir.path().join("none"));
    let done = run(Command::new(&helper).args([spec.as_str(), point, "-o", &none]))?;
    ensure!(done.status.code() == Some(32) && said(&done).contains("no identity in"), "{}", said(&done));
    let done = run(Command::new(&helper).args([spec.as_str(), point, "-o", "fast"]))?;
    ensure!(
        done.status.code() == Some(1) && said(&done).contains("\"fast\" is not known"),
        "{}",
        said(&done)
    );
    let done = umount(&[point])?;
    ensure!(done.status.code() == Some(3) && said(&done).contains("nothing is mounted"), "{}", said(&done));

    let good = options(&cluster.identity("client-1"));
    let done = run(Command::new(&helper).args([spec.as_str(), point, "-o", &good]))?;
    ensure!(done.status.success(), "{}", said(&done));
    fs::write(at.join("file"), "at once")?;
    ensure!(fs::read_to_string(at.join("file"))? == "at once");
    ensure!(http_get("127.0.0.1", port, "/readyz")?.0 == 200, "the daemon goes on by itself");

    // Something is open there.
    let open = fs::File::open(at.join("file"))?;
    let done = umount(&[point])?;
    ensure!(done.status.code() == Some(5) && said(&done).contains("is in use"), "{}", said(&done));
    drop(open);
    let done =
        wait_for("it can be unmounted", PATIENCE, || umount(&[point]).ok().filter(|d| d.status.success()))?;
    ensure!(said(&done).contains("is unmounted"), "{}", said(&done));
    ensure!(fs::read_dir(&at)?.next().is_none(), "the directory is empty again");
    wait_for("the daemon has ended", PATIENCE, || http_get("127.0.0.1", port, "/livez").err())?;
    Ok(())
}
