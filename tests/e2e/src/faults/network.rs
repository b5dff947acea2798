//! Nodes in network namespaces, cut off fully, one way, and with loss.

use super::{Amount, Stage, can_mount, shared};
use crate::{
    cluster::{Host, PATIENCE, Plan, wait_for},
    load::Load,
    report::{Report, secs},
    surface::MountProcess,
};
use anyhow::{Result, ensure};
use std::{
    process::Command,
    time::{Duration, Instant},
};

/// How long a cut lasts: longer than it takes to call a chunkserver dead.
const CUT: Duration = Duration::from_secs(20);
/// Lost packets of a bad network, of a hundred.
const LOSS: &str = "0.10";
/// Longest wait for service after the cut.
const HEALS: Duration = Duration::from_secs(60);

fn run(program: &str, args: &[&str]) -> Result<()> {
    let out = Command::new(program).args(args).output()?;
    let err = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{program} {}: {}", args.join(" "), err.trim());
    Ok(())
}

/// A bridge with a namespace for each node behind it.
struct Net {
    /// Part of all names, so that two runs do not meet.
    tag: String,
    hosts: Vec<Host>,
}

impl Net {
    fn make(nodes: usize) -> Result<Self> {
        let tag = format!("mng{}", std::process::id() % 10_000);
        let subnet = format!("10.{}.{}", 64 + std::process::id() % 60, std::process::id() % 250);
        let mut net = Self { tag: tag.clone(), hosts: vec![] };
        run("ip", &["link", "add", &tag, "type", "bridge"])?;
        run("ip", &["addr", "add", &format!("{subnet}.1/24"), "dev", &tag])?;
        run("ip", &["link", "set", &tag, "up"])?;
        // Where Docker has run, what goes over other bridges than its own is dropped.
        let _ = net.passes("-I");
        for n in 0..nodes {
            let (name, here, there) = (format!("{tag}-{n}"), format!("{tag}h{n}"), format!("{tag}n{n}"));
            let addr = format!("{subnet}.{}", 10 + n);
            run("ip", &["netns", "add", &name])?;
            net.hosts.push(Host { addr: addr.clone(), namespace: Some(name.clone()) });
            run("ip", &["link", "add", &here, "type", "veth", "peer", "name", &there])?;
            run("ip", &["link", "set", &there, "netns", &name])?;
            run("ip", &["link", "set", &here, "master", &tag])?;
            run("ip", &["link", "set", &here, "up"])?;
            run("ip", &["-n", &name, "addr", "add", &format!("{addr}/24"), "dev", &there])?;
            run("ip", &["-n", &name, "link", "set", &there, "up"])?;
            run("ip", &["-n", &name, "link", "set", "lo", "up"])?;
        }
        Ok(net)
    }

    fn passes(&self, how: &str) -> Result<()> {
        run("iptables", &[how, "FORWARD", "-i", &self.tag, "-o", &self.tag, "-j", "ACCEPT"])
    }

    fn rule(&self, node: usize, add: bool, chain: &str, matched: &[&str]) -> Result<()> {
        let name = format!("{}-{node}", self.tag);
        let mut args = vec!["netns", "exec", name.as_str(), "iptables", if add { "-A" } else { "-D" }, chain];
        args.extend(matched);
        // HTTP is how this program looks at a node; the cluster speaks UDP.
        args.extend(["-p", "udp", "-j", "DROP"]);
        run("ip", &args)
    }

    /// Cuts a node as `cut` says, or ends it.
    fn set(&self, node: usize, cut: Cut, on: bool) -> Result<()> {
        let loss = ["-m", "statistic", "--mode", "random", "--probability", LOSS];
        match cut {
            Cut::Fully => {
                self.rule(node, on, "INPUT", &[])?;
                self.rule(node, on, "OUTPUT", &[])
            }
            Cut::Mute => self.rule(node, on, "OUTPUT", &[]),
            Cut::Deaf => self.rule(node, on, "INPUT", &[]),
            Cut::Lossy => {
                self.rule(node, on, "INPUT", &loss)?;
                self.rule(node, on, "OUTPUT", &loss)
            }
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in &self.hosts {
            if let Some(name) = &host.namespace {
                let _ = run("ip", &["netns", "del", name]);
            }
        }
        let _ = self.passes("-D");
        let _ = run("ip", &["link", "del", &self.tag]);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cut {
    Fully,
    Mute,
    Deaf,
    Lossy,
}

/// Cuts a master, a chunkserver and a client off, each in each way.
pub fn network(amount: Amount, report: &mut Report) -> Result<()> {
    // Six nodes and a mount.
    let net = match Net::make(7) {
        Ok(net) => net,
        Err(e) => {
            report.skip(format!("network namespaces cannot be made here: {e:#}"));
            return Ok(());
        }
    };
    for (cut, what) in [(Cut::Fully, "drops"), (Cut::Lossy, "the statistic match")] {
        if let Err(e) = net.set(0, cut, true).and_then(|()| net.set(0, cut, false)) {
            report.skip(format!("no {what} of iptables here: {e:#}"));
            return Ok(());
        }
    }
    let stage = &mut Stage::start(Plan { hosts: net.hosts[..6].to_vec(), ..Plan::new(3, 3) })?;
    let cuts = amount.of(
        &[Cut::Fully][..],
        &[Cut::Fully, Cut::Lossy],
        &[Cut::Fully, Cut::Mute, Cut::Deaf, Cut::Lossy],
    );
    for cut in cuts {
        let leader = stage.cluster.leader()?;
        cut_one(stage, report, &net, *cut, leader, "the leading master")?;
        cut_one(stage, report, &net, *cut, 3 + leader % 3, "a chunkserver")?;
    }
    if can_mount(report) {
        for cut in cuts {
            cut_client(stage, report, &net, *cut)?;
        }
    }
    Ok(())
}

/// One server is cut: the others serve, and nothing fails.
fn cut_one(
    stage: &mut Stage,
    report: &mut Report,
    net: &Net,
    cut: Cut,
    node: usize,
    who: &str,
) -> Result<()> {
    stage.masters_follow()?;
    let sdk = shared(stage.sdk());
    let dir = format!("/{cut:?}-{node}");
    let load = Load::start(&sdk, &dir, 3, Duration::from_millis(20))?;
    wait_for("load goes on", PATIENCE, || (load.acknowledged() > 60).then_some(()))?;
    let at = Instant::now();
    net.set(node, cut, true)?;
    let served = wait_for("load is served", PATIENCE, || load.served_since(at).then(|| at.elapsed()));
    if let Err(e) = &served {
        report.fail(format!("{who} {cut:?}: {e:#}"));
    }
    let first = load.longest_since(at).0;
    std::thread::sleep(CUT.saturating_sub(at.elapsed()));
    let during = load.longest_since(at).0;
    net.set(node, cut, false)?;
    let on = Instant::now();
    wait_for("load is served after the cut", HEALS, || load.served_since(on).then_some(()))?;
    std::thread::sleep(Duration::from_secs(3));
    let after = load.longest_since(on).0;
    let done = load.finish()?;
    report.say(format!(
        "{who} {cut:?} for {} s: longest wait at first {}, during {}, after {}; {} operations, {} errors",
        CUT.as_secs(),
        secs(first),
        secs(during),
        secs(after),
        done.acknowledged,
        done.errors().len()
    ));
    report.fail_all(&format!("{who} {cut:?}: error"), done.errors());
    report.fail_all(&format!("{who} {cut:?}: looked for"), done.check(&*sdk)?);
    stage.heal(report);
    Ok(())
}

/// A client is cut: it waits or hears errors, others are served, and what it was told stays true.
fn cut_client(stage: &mut Stage, report: &mut Report, net: &Net, cut: Cut) -> Result<()> {
    let name = format!("mount-{cut:?}");
    let at = stage.path(&name);
    let daemon = stage.cluster.mount_on(&name, &at, &net.hosts[6])?;
    let mount = MountProcess::begin(daemon, &at)?;
    let (mounted, sdk) = (shared(mount.surface()), shared(stage.sdk()));
    let pace = Duration::from_millis(20);
    let cut_off = Load::start(&mounted, &format!("/client-{cut:?}"), 2, pace)?;
    let others = Load::start(&sdk, &format!("/others-{cut:?}"), 2, pace)?;
    wait_for("load goes on", PATIENCE, || (cut_off.acknowledged() > 60).then_some(()))?;
    let begin = Instant::now();
    net.set(6, cut, true)?;
    std::thread::sleep(CUT);
    let others_waited = others.longest_since(begin).0;
    net.set(6, cut, false)?;
    let on = Instant::now();
    wait_for("the client is served after the cut", HEALS, || cut_off.served_since(on).then_some(()))?;
    let back = on.elapsed();
    let (client, others) = (cut_off.finish()?, others.finish()?);
    report.say(format!(
        "a client {cut:?} for {} s: served again {} after it, {} errors of {}; the others waited {} at the longest, {} errors",
        CUT.as_secs(),
        secs(back),
        client.errors().len(),
        client.acknowledged,
        secs(others_waited),
        others.errors().len()
    ));
    report.fail_all(&format!("a client {cut:?}: error at it"), client.errors());
    report.fail_all(&format!("a client {cut:?}: error at others"), others.errors());
    report.fail_all(&format!("a client {cut:?}: looked for"), client.check(&*sdk)?);
    report.fail_all(&format!("a client {cut:?}: others looked for"), others.check(&*sdk)?);
    stage.heal(report);
    Ok(())
}
