//! `mount -t mooseng` as mount(8) does it, with lines of fstab, and `mooseng umount`: a mount that answers when its helper
//! returns, is mounted once, and is gone when it was taken away.

use anyhow::{Context as _, Result, ensure};
use mooseng_e2e::cluster::{PATIENCE, ProcessCluster, binaries, free_port, http_get, wait_for};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
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

/// What `mooseng doctor mount` finds: verdicts by check.
fn doctor(cluster: &ProcessCluster, at: &Path, port: u16) -> Result<BTreeMap<String, Vec<String>>> {
    let mut command = Command::new(binaries()?.join("mooseng"));
    command.args(["doctor", "mount", "-o", "json", "--master-addrs", &cluster.master_addrs.join(",")]);
    command.arg("--identity").arg(cluster.identity("client-1")).arg("--mount-point").arg(at);
    let done = run(command.args(["--metrics-port", &port.to_string()]))?;
    let told: Value = serde_json::from_slice(&done.stdout).with_context(|| said(&done))?;
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for check in told["checks"].as_array().context("checks are a list")? {
        let text = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
        all.entry(text("check")).or_default().push(text("verdict"));
    }
    Ok(all)
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
    for (port, verdict) in [(port, "ok"), (0, "warning")] {
        let link = dir.path().join(format!("link-{port}"));
        symlink(&at, &link)?;
        let told = doctor(&cluster, &link, port)?;
        ensure!(told["mount point"] == [verdict], "{told:?}");
        ensure!(told["port"] == ["ok"], "{told:?}");
    }

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

/// Whether a test can mount as mount(8) does.
fn why_not() -> Option<&'static str> {
    if !Path::new("/dev/fuse").exists() {
        return Some("there is no /dev/fuse");
    }
    (!nix::unistd::geteuid().is_root()).then_some("only root may mount what fstab has")
}

/// In a mount namespace of its own, in which a directory with the helper is all that is in `/sbin`.
const MOUNT_A: &str = r#"
set -eu
helpers=$1 fstab=$2 point=$3
mount --bind "$helpers" /sbin
for n in 1 2 3; do mount -av -T "$fstab"; done
echo "mounted $(grep -c " $point " /proc/self/mountinfo) times: $(findmnt -no SOURCE,FSTYPE "$point")"
echo "options: $(findmnt -no OPTIONS "$point")"
echo kept > "$point/file"
umount "$point"
mount -T "$fstab" "$point"
cat "$point/file"
umount "$point"
"#;

#[test]
fn a_line_of_fstab_is_mounted_once_however_often_mount_looks() -> Result<()> {
    if let Some(why) = why_not() {
        println!("skipped: {why}");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let cluster = ProcessCluster::start(dir.path(), 1, 1)?;
    let (helpers, at, fstab) = (dir.path().join("helpers"), dir.path().join("mnt"), dir.path().join("fstab"));
    fs::create_dir(&helpers)?;
    fs::create_dir(&at)?;
    helper(&helpers)?;
    let (identity, log) = (cluster.identity("client-1"), dir.path().join("mount.log"));
    // The second one does not answer, and is a part of the name all the same.
    let source = format!("{},localhost:1:/", cluster.master_addrs.join(","));
    let options =
        format!("noexec,_netdev,nofail,identity={},log={},metrics_port=0", identity.display(), log.display());
    fs::write(&fstab, format!("{source} {} mooseng {options} 0 0\n", at.display()))?;
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--propagation", "private", "sh", "-c", MOUNT_A, "sh"]);
    let done = run(shell.args([&helpers, &fstab, &at]))?;
    let told = said(&done);
    ensure!(done.status.success(), "{told}; its log: {}", fs::read_to_string(&log).unwrap_or_default());
    let lines = |what: &str| told.lines().filter(|l| l.contains(what)).count();
    ensure!((lines("successfully mounted"), lines("already mounted")) == (1, 2), "{told}");
    ensure!(told.contains(&format!("mounted 1 times: {source} fuse.mooseng")), "{told}");
    ensure!(told.contains("noexec") && told.contains("nosuid"), "{told}");
    ensure!(told.contains("\nkept\n"), "{told}");
    Ok(())
}

#[test]
fn the_capabilities_of_the_unit_are_enough_and_a_mount_that_fails_leaves_nothing() -> Result<()> {
    if let Some(why) = why_not() {
        println!("skipped: {why}");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let cluster = ProcessCluster::start(dir.path(), 1, 1)?;
    let unit = fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/systemd/mooseng-mount@.service"),
    )?;
    let capabilities = unit.lines().find_map(|l| l.strip_prefix("CapabilityBoundingSet="));
    let capabilities =
        capabilities.context("the unit bounds its capabilities")?.replace("CAP_", "+").to_lowercase();
    let bounded = format!("--bounding-set=-all,{}", capabilities.replace(' ', ","));
    // As `chown -R mooseng: /etc/mooseng/identity` makes it, on a machine that is a chunkserver, too.
    let (identity, nobody) = (cluster.identity("client-1"), Some(nix::unistd::Uid::from_raw(65_534)));
    for entry in fs::read_dir(&identity)? {
        nix::unistd::chown(&entry?.path(), nobody, None)?;
    }
    nix::unistd::chown(&identity, nobody, None)?;
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o700))?;
    let (closed, log) = (dir.path().join("closed"), dir.path().join("mount.log"));
    let at = closed.join("mnt");
    fs::create_dir_all(&at)?;
    nix::unistd::chown(&closed, nobody, None)?;
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700))?;
    let helper = helper(dir.path())?;
    let options =
        |more: &str| format!("identity={},log={},metrics_port=0{more}", identity.display(), log.display());
    let spec = format!("{}:/", cluster.master_addrs.join(","));
    let mount = |options: &str| {
        let mut command = Command::new("setpriv");
        command.args([&bounded, "--inh-caps=-all", "--no-new-privs", "--"]).arg(&helper).arg(&spec);
        // From where it is mounted, by a relative path.
        run(command.arg("mnt").args(["-o", options]).current_dir(&closed))
    };
    let done = mount(&options(""))?;
    ensure!(done.status.success(), "{}", said(&done));
    fs::write(at.join("file"), "with the unit's capabilities")?;
    let point = at.to_str().context("a path is text")?;
    // Another one at the same place is refused, and the one that is there stays.
    let done = mount(&options(""))?;
    ensure!(
        done.status.code() == Some(32) && said(&done).contains("mounted there already"),
        "{}",
        said(&done)
    );
    ensure!(fs::read_to_string(at.join("file"))? == "with the unit's capabilities");
    let done = umount(&[point])?;
    ensure!(done.status.success(), "{}", said(&done));
    Ok(())
}
