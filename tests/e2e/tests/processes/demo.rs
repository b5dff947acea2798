//! The compose demo on a real Docker daemon, as a user starts it: it comes up, the walk works through its failures,
//! files outlive a stop, and nothing is left. The image is built from the binaries of this checkout over a base made from
//! Debian packages.

use anyhow::{Context as _, Result, ensure};
use mooseng_e2e::{
    cluster::{PATIENCE, binaries, wait_for},
    prometheus::Api,
};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A demo of its own name, which is taken down at the end, whatever becomes of it.
struct Demo {
    root: PathBuf,
    program: PathBuf,
}

impl Demo {
    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(&self.root).stdin(Stdio::null());
        command.env("COMPOSE_PROJECT_NAME", "mooseng-test").env("MOOSENG_IMAGE", "mooseng:test");
        command.env("MOOSENG_PROGRAM", &self.program);
        command
    }

    /// What it said; an error with that when it failed.
    fn run(&self, script: &str, args: &[&str]) -> Result<String> {
        let done =
            self.command(&format!("./{script}"), args).output().context("the script does not start")?;
        let said =
            format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        println!("$ ./{script} {}\n{said}", args.join(" "));
        ensure!(done.status.success(), "{script} {args:?} ended with {}", done.status);
        Ok(said)
    }

    /// As a user types it.
    fn in_client(&self, typed: &str) -> Result<String> {
        let exec = ["exec", "-T", "client-1", "sh", "-c", typed];
        let mut command = match answers("docker", &["compose", "version"]) {
            true => self.command("docker", &[&["compose"][..], &exec].concat()),
            false => self.command("docker-compose", &exec),
        };
        let done = command.output()?;
        ensure!(done.status.success(), "{typed}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if let Err(e) = self.run("demo-real-services.sh", &["clean"]) {
            println!("the demo could not be taken down: {e:#}");
        }
    }
}

fn answers(program: &str, args: &[&str]) -> bool {
    let asked = Command::new(program).args(args).stdin(Stdio::null()).output();
    asked.is_ok_and(|done| done.status.success())
}

/// Why it cannot run here.
fn lacks() -> Option<&'static str> {
    if !answers("docker", &["info"]) {
        return Some("no Docker daemon answers");
    }
    if !answers("docker", &["compose", "version"]) && !answers("docker-compose", &["--version"]) {
        return Some("there is no compose");
    }
    if !answers("mmdebstrap", &["--version"]) {
        return Some("there is no mmdebstrap");
    }
    if !Path::new("/dev/fuse").exists() {
        return Some("there is no /dev/fuse");
    }
    None
}

/// Whether another has the demo's place.
fn ports_are_used() -> bool {
    std::net::TcpListener::bind("0.0.0.0:9421").is_err()
}

#[test]
fn the_demo_comes_up_works_through_failures_and_keeps_its_files() -> Result<()> {
    if let Some(why) = lacks() {
        println!("skipped: {why}");
        return Ok(());
    }
    let lock = std::fs::File::create(std::env::temp_dir().join("mooseng-test-demo.lock"))?;
    if lock.try_lock().is_err() {
        println!("skipped: another run of this test has the demo");
        return Ok(());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let demo = Demo { root, program: binaries()?.join("mooseng") };
    // A run that was killed leaves its demo, which Docker starts again with itself.
    demo.run("demo-real-services.sh", &["clean"])?;
    if ports_are_used() {
        println!("skipped: something uses port 9421, as the demo does");
        return Ok(());
    }
    demo.run("demo-real-services.sh", &["build", "host"])?;
    let said = demo.run("start-demo.sh", &[])?;
    let has_grafana = said.contains("http://localhost:3000") || said.contains("Grafana is left out");
    ensure!(has_grafana, "it tells where Grafana is, or that there is none");
    let status = demo.run("start-demo.sh", &["status"])?;
    ensure!(status.contains("health    healthy") && status.contains("leader"), "it tells who leads");
    demo.run("start-demo.sh", &["test"])?;
    let log = demo.run("start-demo.sh", &["logs", "master-1", "master-2", "master-3"])?;
    ensure!(log.contains(" INFO "), "it shows what a service logs");
    let warnings = log.matches(" WARN ").count();
    ensure!(warnings < 50, "{warnings} warnings: a master that was away fills the log");
    for (verb, says) in [
        ("health", "healthy"),
        ("info /largefile", "2 of 2"),
        ("sessions", "client-3"),
        ("stats", "calls/s"),
        ("doctor mount", "is mounted by this daemon"),
        ("fsck", "0 unreadable, 0 short of copies"),
    ] {
        // A busy machine may make somebody late for a moment.
        let mut said = Ok(String::new());
        let asked = wait_for(verb, PATIENCE, || {
            said = demo.in_client(&format!("mooseng {verb}"));
            said.as_ref().is_ok_and(|said| said.contains(says)).then_some(())
        });
        asked.with_context(|| format!("mooseng {verb}: {said:?}"))?;
    }
    // What the walk did counts.
    super::telemetry::every_query_has_data(&Api(([127, 0, 0, 1], 9090).into()), "40m")?;
    let admin = "MOOSENG_IDENTITY_DIR=/etc/mooseng/identities/cluster/admin";
    let trace = demo.in_client(&format!("{admin} mooseng trace -- ls / 2>&1"))?;
    ensure!(trace.contains("master") && trace.contains("a quorum confirms"), "a waterfall: {trace}");
    demo.in_client("echo kept > /mnt/mooseng/kept.txt")?;
    demo.run("start-demo.sh", &["stop"])?;
    demo.run("start-demo.sh", &[])?;
    let kept = demo.in_client("cat /mnt/mooseng/kept.txt")?;
    ensure!(kept.trim() == "kept", "a stop keeps files: {kept:?}");
    demo.run("demo-real-services.sh", &["clean"])?;
    let left = demo.command("docker", &["volume", "ls", "-q", "--filter", "name=mooseng-test"]).output()?;
    ensure!(left.status.success() && left.stdout.is_empty(), "nothing is left: {left:?}");
    Ok(())
}
