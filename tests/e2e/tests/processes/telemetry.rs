//! What operators look at, over a cluster of real processes: every query of Grafana's dashboard on a real Prometheus that
//! scrapes it, the alert rules, and what each daemon exposes.

use anyhow::{Context as _, Result, ensure};
use mooseng_core::health::HealthCode;
use mooseng_e2e::{
    cluster::{Daemon, PATIENCE, ProcessCluster, free_port, wait_for},
    prometheus::{Api, Prometheus, configured, sources},
    surface::MountProcess,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// Longest wait until a query has data: the leader looks at the cluster every ten seconds.
const DATA: Duration = Duration::from_secs(90);
/// In the place of Grafana's variable: some rounds of a Prometheus that scrapes every second.
const RATE_INTERVAL: &str = "10s";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(root().join(path)).with_context(|| path.to_owned())
}

fn dashboard() -> Result<Value> {
    Ok(serde_json::from_str(&read("docker/grafana/dashboards/mooseng.json")?)?)
}

/// Why a program cannot be run here.
fn lacks(program: &str) -> Option<String> {
    let asked = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    (!asked.is_ok_and(|done| done.status.success()))
        .then(|| format!("there is no {program} (Debian: apt-get install prometheus)"))
}

/// Runs promtool, with text to read; an error tells what it said.
fn promtool(args: &[&str], input: Option<&str>) -> Result<()> {
    let mut command = Command::new("promtool");
    command.args(args).current_dir(sources()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() }).spawn()?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        std::io::Write::write_all(&mut stdin, text.as_bytes())?;
    }
    let done = child.wait_with_output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    ensure!(done.status.success() && !said.contains("FAILED"), "promtool {}: {said}", args.join(" "));
    Ok(())
}

/// The alerts of alerts.yml: name, and the values of its keys.
fn alerts() -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let mut all = BTreeMap::<_, BTreeMap<_, _>>::new();
    let mut name = None;
    for line in read("docker/prometheus/alerts.yml")?.lines().map(str::trim) {
        if let Some(alert) = line.strip_prefix("- alert: ") {
            name = Some(alert.to_owned());
        } else if line.starts_with("- record: ") {
            name = None;
        } else if let (Some(name), Some((key, value))) = (&name, line.split_once(": ")) {
            let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
            all.entry(name.clone()).or_default().insert(key.to_owned(), value.replace("\\\"", "\""));
        }
    }
    Ok(all)
}

#[test]
fn each_code_has_its_alert_and_each_alert_its_section() -> Result<()> {
    let (alerts, runbook) = (alerts()?, read("docs/runbook.md")?);
    for code in HealthCode::ALL {
        let of = |a: &&BTreeMap<String, String>| a.get("code").map(String::as_str) == Some(code.name());
        let alert = alerts.values().find(of).with_context(|| format!("no alert for {code}"))?;
        ensure!(alert["severity"] == code.severity().name(), "{code}: another severity");
        ensure!(alert["cure"] == code.cure(), "{code}: another cure: {}", alert["cure"]);
    }
    for (name, alert) in &alerts {
        for key in ["expr", "for", "severity", "summary", "description", "cure", "runbook"] {
            ensure!(alert.get(key).is_some_and(|v| !v.is_empty()), "{name} has no {key}");
        }
        ensure!(
            alert["runbook"] == format!("docs/runbook.md#{}", name.to_lowercase()),
            "{name}: another section"
        );
        let section = runbook.split("\n## ").find(|s| s.lines().next() == Some(name.as_str()));
        let section = section.with_context(|| format!("no section {name} in the runbook"))?;
        for part in ["**Cause.**", "**Look at.**", "**Cure.**"] {
            ensure!(section.contains(part), "{name}: no {part}");
        }
        let same = section.to_lowercase().contains(&alert["cure"].to_lowercase());
        ensure!(same, "{name}: the runbook has another cure than \"{}\"", alert["cure"]);
    }
    let sections = runbook.lines().filter_map(|l| l.strip_prefix("## "));
    let known: BTreeSet<_> = alerts.keys().map(String::as_str).collect();
    ensure!(sections.collect::<BTreeSet<_>>() == known, "the runbook has a section of no alert");
    Ok(())
}

/// The queries of all panels, with the panel's title. Rates are of so long a time.
fn queries(dashboard: &Value, rates: &str) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().context("a dashboard has panels")? {
        let title = panel["title"].as_str().context("a panel has a title")?;
        for target in panel["targets"].as_array().unwrap_or(&vec![]) {
            let expr = target["expr"].as_str().context("a target has an expression")?;
            all.push((title.to_owned(), expr.replace("$__rate_interval", rates)));
        }
    }
    Ok(all)
}

#[test]
fn the_dashboard_is_what_grafana_wants() -> Result<()> {
    let dashboard = dashboard()?;
    ensure!(dashboard["schemaVersion"] == 39 && dashboard["uid"] == "mooseng");
    let source = read("docker/grafana/provisioning/datasources/prometheus.yml")?;
    let uid = source.lines().find_map(|l| l.trim().strip_prefix("uid: ")).context("the source has a uid")?;
    let panels = dashboard["panels"].as_array().context("a dashboard has panels")?;
    let rows = panels.iter().filter(|p| p["type"] == "row").filter_map(|p| p["title"].as_str());
    let wanted = ["Overview", "Masters", "Chunkservers and disks", "Clients", "Operations"];
    ensure!(rows.collect::<Vec<_>>() == wanted, "other rows");
    let mut ids = BTreeSet::new();
    let mut places = Vec::new();
    for panel in panels {
        ensure!(ids.insert(panel["id"].as_u64()), "an id is there twice: {panel}");
        let at = |key: &str| panel["gridPos"][key].as_u64().context("a panel has a place");
        let (x, y, w, h) = (at("x")?, at("y")?, at("w")?, at("h")?);
        ensure!(x + w <= 24, "a panel is too wide: {panel}");
        let apart = |(x2, y2, w2, h2): &(u64, u64, u64, u64)| {
            x + w <= *x2 || x2 + w2 <= x || y + h <= *y2 || y2 + h2 <= y
        };
        ensure!(places.iter().all(apart), "panels overlap: {panel}");
        places.push((x, y, w, h));
        for target in panel["targets"].as_array().unwrap_or(&vec![]) {
            ensure!(target["datasource"]["uid"] == uid, "another source: {target}");
        }
    }
    ensure!(queries(&dashboard, RATE_INTERVAL)?.len() > 50, "the queries were not found");
    one_unit_a_panel(&dashboard)
}

/// What is drawn on one axis counts the same.
fn one_unit_a_panel(dashboard: &Value) -> Result<()> {
    let documented = documented()?;
    let unit = |name: &str| {
        let bare = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
        let row = documented.get(bare).with_context(|| format!("{name} is not documented"))?;
        // All that is counted by the piece goes together.
        Ok(["bytes", "seconds"].into_iter().find(|base| row.unit.starts_with(base)).unwrap_or("pieces"))
    };
    let mut units = BTreeMap::<_, BTreeSet<_>>::new();
    for (title, expr) in queries(dashboard, RATE_INTERVAL)? {
        let all = names_in(&expr).into_iter().filter(|name| *name != "up");
        units.entry(title).or_default().extend(all.map(unit).collect::<Result<Vec<_>>>()?);
    }
    let mixed: Vec<_> = units.iter().filter(|(_, units)| units.len() > 1).collect();
    ensure!(mixed.is_empty(), "panels with several units: {mixed:?}");
    Ok(())
}

#[test]
fn the_rules_hold() -> Result<()> {
    if let Some(why) = lacks("promtool") {
        println!("skipped: {why}");
        return Ok(());
    }
    promtool(&["check", "rules", "alerts.yml"], None)?;
    promtool(&["check", "config", "prometheus.yml"], None)?;
    promtool(&["test", "rules", "alerts.test.yml", "alerts-days.test.yml"], None)
}

/// A row of docs/metrics.md.
struct Row {
    kind: String,
    unit: String,
    roles: String,
}

impl Row {
    fn is_of(&self, role: &str) -> bool {
        self.roles == "all" || self.roles.split(", ").any(|r| r == role)
    }
}

/// Rows of docs/metrics.md by name.
fn documented() -> Result<BTreeMap<String, Row>> {
    let mut all = BTreeMap::new();
    for line in read("docs/metrics.md")?.lines().filter(|l| l.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, kind, _labels, unit, roles, _help] = cells[..] else {
            anyhow::bail!("a row has other cells: {line}")
        };
        let row = Row { kind: kind.into(), unit: unit.into(), roles: roles.into() };
        all.insert(name.trim_matches('`').to_owned(), row);
    }
    Ok(all)
}

/// Names and types of an exposition.
fn exposed(text: &str) -> BTreeMap<String, String> {
    let types = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

/// Every metric that a daemon exposes is documented as what it is; its names.
fn exposition_is_documented(role: &str, daemon: &Daemon) -> Result<BTreeSet<String>> {
    let (documented, mut seen) = (documented()?, BTreeSet::new());
    for (name, kind) in exposed(&daemon.http("/metrics")?.1) {
        let row = documented.get(&name).with_context(|| format!("{name} is not documented"))?;
        ensure!(row.kind == kind, "{name} is documented as a {}, and is a {kind}", row.kind);
        ensure!(row.is_of(role), "{name} is no metric of a {role}");
        seen.insert(name);
    }
    Ok(seen)
}

/// Each daemon exposes what is documented, as promtool wants it; all that is documented is exposed by somebody of its role.
fn expositions_are_documented(daemons: &[(&str, &Daemon)]) -> Result<()> {
    match lacks("promtool") {
        Some(why) => println!("skipped: {why}"),
        None => {
            for (_, daemon) in daemons {
                let (_, text) = daemon.http("/metrics")?;
                promtool(&["check", "metrics"], Some(&text)).with_context(|| daemon.name.clone())?;
            }
        }
    }
    for role in ["master", "chunkserver", "mount", "dashboard"] {
        // Of drains, when there is one.
        let is_due = |name: &str, row: &Row| row.is_of(role) && name != "mooseng_draining_chunks";
        let due = documented()?.into_iter().filter(|(name, row)| is_due(name, row));
        let due: BTreeSet<_> = due.map(|(name, _)| name).collect();
        let of_role = || daemons.iter().filter(|(r, _)| *r == role);
        let all = || {
            let seen =
                of_role().map(|(role, d)| exposition_is_documented(role, d)).collect::<Result<Vec<_>>>();
            match seen {
                Ok(seen) => {
                    seen.into_iter().flatten().collect::<BTreeSet<_>>().is_superset(&due).then_some(Ok(()))
                }
                Err(e) => Some(Err(e)),
            }
        };
        if let Err(e) = wait_for("all that is documented is exposed", DATA, all).and_then(|done| done) {
            let seen = of_role().flat_map(|(role, d)| exposition_is_documented(role, d).unwrap_or_default());
            let seen: BTreeSet<_> = seen.collect();
            return Err(e.context(format!("of a {role} missing: {:?}", due.difference(&seen))));
        }
    }
    Ok(())
}

/// Work of all kinds through two mounts, until it is told to stop.
fn work(at: [&Path; 2], done: &AtomicBool) -> Result<()> {
    let mut n = 0u64;
    while !done.load(Ordering::Relaxed) {
        n += 1;
        let [here, there] = at.map(|p| p.join(format!("d{}", n % 8)));
        fs::create_dir_all(&here)?;
        let data = vec![n as u8; 300_000];
        let file = fs::File::create(here.join("file"))?;
        std::io::Write::write_all(&mut &file, &data)?;
        file.sync_all()?;
        drop(file);
        ensure!(fs::read(there.join("file"))? == data, "other bytes");
        fs::rename(there.join("file"), there.join("renamed"))?;
        ensure!(fs::read_dir(&here)?.count() > 0 && fs::metadata(here.join("none")).is_err());
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Names of metrics in an expression.
fn names_in(expr: &str) -> BTreeSet<&str> {
    let words = expr.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|w| w.starts_with("mooseng_") || w.starts_with("process_") || *w == "up").collect()
}

/// Every query of Grafana's dashboard has data.
pub(super) fn every_query_has_data(prometheus: &Api, rates: &str) -> Result<()> {
    for (title, expr) in queries(&dashboard()?, rates)? {
        let has_data = || match prometheus.query(&expr) {
            // A quotient of nothing is no number.
            Ok(samples) => samples.iter().any(|s| s.value.is_finite()).then_some(Ok(())),
            Err(e) => Some(Err(e)),
        };
        wait_for(&format!("data of \"{title}\": {expr}"), DATA, has_data)??;
    }
    // What is marked in all panels has data only when something happens.
    for mark in dashboard()?["annotations"]["list"].as_array().context("a dashboard has annotations")? {
        mark["expr"].as_str().map(|expr| prometheus.query(expr)).transpose()?;
    }
    Ok(())
}

fn every_rule_is_good(prometheus: &Api) -> Result<()> {
    let all_rules = |rules: &Value| -> Vec<Value> {
        let groups = rules["groups"].as_array().cloned().unwrap_or_default();
        groups.iter().flat_map(|g| g["rules"].as_array().cloned().unwrap_or_default()).collect()
    };
    let evaluated = || {
        let rules = prometheus.data("/api/v1/rules").map(|r| all_rules(&r)).ok()?;
        rules.iter().all(|r| r["health"] != "unknown").then_some(rules)
    };
    let rules = wait_for("all rules were evaluated", DATA, evaluated)?;
    let alerting = rules.iter().filter(|r| r["type"] == "alerting").count();
    ensure!(alerting == alerts()?.len(), "{alerting} alerts");
    for rule in rules {
        let (name, expr) = (&rule["name"], rule["query"].as_str().context("a rule has a query")?);
        ensure!(rule["health"] == "ok", "{name}: {}", rule["lastError"]);
        for metric in names_in(expr) {
            let is_there = || prometheus.query(metric).ok().filter(|s| !s.is_empty());
            wait_for(&format!("{name}: data of {metric}"), DATA, is_there)?;
        }
    }
    Ok(())
}

/// A code is in the metric, in the leader's `/health`, and in an alert, after one fault.
fn a_fault_is_seen_everywhere(cluster: &mut ProcessCluster, prometheus: &Api) -> Result<()> {
    let code = HealthCode::ChunkserverSilent;
    cluster.chunkservers[2].kill9()?;
    let expr = format!("max(mooseng_health_problems{{code=\"{code}\", severity=\"{}\"}})", code.severity());
    let counted = || prometheus.query(&expr).ok().filter(|s| s.iter().any(|s| s.value == 1.0));
    wait_for("the metric tells", DATA, counted)?;
    let pending = "count(ALERTS{alertname=\"MoosengChunkserverSilent\"})";
    wait_for("the alert begins", DATA, || prometheus.query(pending).ok().filter(|s| !s.is_empty()))?;
    let down = "count(ALERTS{alertname=\"MoosengTargetDown\"})";
    wait_for("the target is down", DATA, || prometheus.query(down).ok().filter(|s| !s.is_empty()))?;
    let leader = cluster.leads(None).context("somebody leads")?;
    let (_, body) = cluster.masters[leader].http("/health")?;
    let health: Value = serde_json::from_str(&body)?;
    let problems = health["details"]["problems"].as_array().context("the leader tells problems")?;
    let problem = problems.iter().find(|p| p["code"] == code.name()).context("the code is among them")?;
    ensure!(problem["cure"] == code.cure() && problem["severity"] == "warning", "{problem}");
    ensure!(health["details"]["health"] != "healthy" && health["version"].is_string(), "{health}");
    Ok(())
}

#[test]
fn the_dashboard_and_the_alerts_see_a_real_cluster() -> Result<()> {
    if !Path::new("/dev/fuse").exists() {
        println!("skipped: there is no /dev/fuse");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut cluster = ProcessCluster::start(dir.path(), 3, 3)?;
    let mut mounts = Vec::new();
    for n in 1..=3 {
        let at = dir.path().join(format!("mnt{n}"));
        fs::create_dir(&at)?;
        mounts.push(MountProcess::start(&cluster, &format!("mount-{n}"), &at)?);
    }
    let mut dashboard = cluster.dashboard("dashboard", free_port()?, None)?;
    dashboard.start()?;
    dashboard.wait_ready()?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (at, until) = ([mounts[0].at.as_path(), mounts[1].at.as_path()], &done);
        let worker = scope.spawn(move || work(at, until));
        let seen = look(dir.path(), &cluster, &mounts, &dashboard);
        done.store(true, Ordering::Relaxed);
        let worked = worker.join().map_err(|_| anyhow::anyhow!("the work panicked"))?;
        seen.and_then(|prometheus| worked.map(|()| prometheus))
    })?
    .map_or(Ok(()), |prometheus| a_fault_is_seen_everywhere(&mut cluster, &prometheus.api))
}

/// Everything that needs a healthy cluster under load. `None` where there is no Prometheus.
fn look(
    dir: &Path,
    cluster: &ProcessCluster,
    mounts: &[MountProcess],
    dashboard: &Daemon,
) -> Result<Option<Prometheus>> {
    let masters = cluster.masters.iter().map(|d| ("master", d));
    let chunkservers = cluster.chunkservers.iter().map(|d| ("chunkserver", d));
    let mounts = mounts.iter().map(|m| ("mount", &m.daemon));
    let daemons: Vec<_> =
        masters.chain(chunkservers).chain(mounts).chain([("dashboard", dashboard)]).collect();
    let told = || {
        cluster.masters.iter().any(|m| m.metric("mooseng_chunk_copies").is_ok_and(|n| n > 0.0)).then_some(())
    };
    wait_for("the leader has looked at the cluster", PATIENCE, told)?;
    expositions_are_documented(&daemons)?;
    if let Some(why) = lacks("prometheus") {
        println!("skipped: {why}");
        return Ok(None);
    }
    let names = [
        "master-1:9423",
        "master-2:9423",
        "master-3:9423",
        "chunkserver-1:9425",
        "chunkserver-2:9425",
        "chunkserver-3:9425",
        "client-1:9427",
        "client-2:9427",
        "client-3:9427",
        "dashboard:9429",
    ];
    let targets: Vec<_> = names.into_iter().zip(daemons.iter().map(|(_, d)| *d)).collect();
    let prometheus = Prometheus::start(dir, &configured(dir, &targets)?)?;
    let all_up = || prometheus.api.query("sum(up)").ok().filter(|s| s.iter().any(|s| s.value == 10.0));
    wait_for("all ten are scraped", PATIENCE, all_up)?;
    every_query_has_data(&prometheus.api, RATE_INTERVAL)?;
    let misses = "sum(mooseng_client_cache_misses_total)";
    let counted = || prometheus.api.query(misses).ok().filter(|s| s.iter().any(|s| s.value > 0.0));
    wait_for("what is read through a mount is counted", DATA, counted)?;
    every_rule_is_good(&prometheus.api)?;
    Ok(Some(prometheus))
}
