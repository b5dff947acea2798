//! Verbs that look: what they show, and the schemas that programs rely on.

use super::*;
use crate::output::Format;
use mooseng_client::report;
use mooseng_core::meta::MasterInfo;
use serde_json::Value;

/// Each place of a value with its kind, items of arrays once: what a program that reads it relies on.
pub(crate) fn shape(value: &Value) -> String {
    fn walk(at: &str, value: &Value, out: &mut std::collections::BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (name, v) in fields {
                    walk(&format!("{at}.{name}"), v, out);
                }
            }
            Value::Array(items) if items.is_empty() => drop(out.insert(format!("{at}[]"))),
            Value::Array(items) => items.iter().for_each(|v| walk(&format!("{at}[]"), v, out)),
            Value::String(_) => drop(out.insert(format!("{at}: string"))),
            Value::Number(_) => drop(out.insert(format!("{at}: number"))),
            Value::Bool(_) => drop(out.insert(format!("{at}: bool"))),
            Value::Null => drop(out.insert(format!("{at}: null"))),
        }
    }
    let mut out = Default::default();
    walk("", value, &mut out);
    out.into_iter().collect::<Vec<_>>().join("\n")
}

/// Compares the shape of a verb's JSON with the one that is kept.
pub(crate) fn pinned(name: &str, json: &Value) {
    assert!(json["schema"].as_str().is_some_and(|s| s.starts_with("mooseng.")), "{name}: {json}");
    let wanted = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/schemas").join(format!("{name}.txt"));
    let is = format!("{}\n", shape(json));
    if std::env::var_os("MOOSENG_WRITE_SCHEMAS").is_some() {
        make(&wanted, is.as_bytes());
    }
    assert_eq!(fs::read_to_string(&wanted).unwrap_or_default(), is, "{name}: {}", wanted.display());
}

/// Some fields of an object: what the others are depends on the moment.
pub(crate) fn part(of: &Value, fields: &[&str]) -> Value {
    fields.iter().map(|field| ((*field).to_owned(), of[*field].clone())).collect()
}

impl Fixture {
    /// Exit code and JSON of a verb that tells what it found and fails by it.
    async fn finds(&self, line: &str) -> (u8, Value) {
        let args = ["mooseng"].into_iter().chain(line.split_whitespace()).chain(["--masters", "m1:1"]);
        let Verb::Client(verb) = Cli::try_parse_from(args).unwrap().verb else { panic!("it is a client's") };
        let mut out = Vec::new();
        let done = run_on(&self.client, &verb, &Default::default(), &mut out).await;
        let json = serde_json::from_slice(&out).unwrap();
        (done.map_or_else(|e| exit::code(&e), |()| 0), json)
    }

    /// Waits until `health` tells these problems.
    async fn until_health_is(&self, wanted: &[&str]) -> (u8, Value) {
        until(&format!("{wanted:?}"), async || {
            let (code, told) = self.finds("health -o json").await;
            let codes: Vec<_> = told["problems"].as_array().unwrap().iter().map(|p| &p["code"]).collect();
            (codes == wanted).then_some((code, told))
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_with_cause_and_cure() {
    let mut f = Fixture::of(3).await;
    assert_eq!(f.says("health").await, "healthy\n");
    let healthy = f.json("health -o json").await;
    assert_eq!(
        healthy,
        serde_json::json!({ "schema": "mooseng.health/1", "health": "healthy", "problems": [] })
    );

    let follower = (0..3).find(|m| f.cluster.leader() != Some(*m)).unwrap();
    f.cluster.kill_master(follower).await;
    let (code, told) = f.until_health_is(&["MASTER_SILENT"]).await;
    assert_eq!((code, &told["health"]), (8, &"degraded".into()));
    pinned("health", &told);
    let problem = &told["problems"][0];
    let cause = problem["cause"].as_str().unwrap();
    let wanted = format!("master {} ", follower + 1);
    assert!(
        cause.starts_with(&wanted) && cause.ends_with("when one more fails, the cluster stops"),
        "{cause}"
    );
    assert!(problem["cure"].as_str().unwrap().contains("remove-master"), "{problem}");
    assert_eq!(problem["severity"], "warning");
    let (code, said) = f.fails("health").await;
    assert_eq!((code, said.as_str()), (8, "the cluster has a problem"));
    f.cluster.start_master(follower).await.unwrap();
    f.until_health_is(&[]).await;

    // The only copy of something goes with its server, and one of two copies of another.
    f.says("mkdir --copies 1 /one").await;
    for n in 0..6 {
        f.fs.write(&format!("/one/{n}"), bytes(20_000)).await.unwrap();
    }
    f.fs.write("/two", bytes(20_000)).await.unwrap();
    let place = f.fs.chunks("/one/0").await.unwrap()[0].replicas[0].place.server.get();
    f.cluster.kill_chunkserver(place as usize - 1);
    let (code, told) = f.until_health_is(&["CHUNK_MISSING", "CHUNK_ENDANGERED", "CHUNKSERVER_SILENT"]).await;
    assert_eq!((code, &told["health"]), (7, &"critical".into()));
    let said = f.json("status -o json").await;
    assert_eq!(
        said["health"],
        serde_json::json!(["CHUNK_MISSING", "CHUNK_ENDANGERED", "CHUNKSERVER_SILENT"])
    );
    pinned("status-problems", &part(&said, &["schema", "health"]));
    f.cluster.start_chunkserver(place as usize - 1).await.unwrap();
    f.until_health_is(&[]).await;
    f.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn room_disks_and_sessions_are_listed() {
    let f = Fixture::new().await;
    f.fs.write("/f", bytes(20_000)).await.unwrap();
    let df = f.json("df -o json").await;
    assert_eq!((&df["files_bytes"], &df["inodes"]), (&20_000.into(), &2.into()));
    let sum = df["used_bytes"].as_u64().unwrap() + df["free_bytes"].as_u64().unwrap();
    assert_eq!(Some(sum), df["total_bytes"].as_u64());
    assert!(f.says("df").await.lines().next().unwrap().contains("USE%"));

    let disks = f.json("disks -o json").await;
    let all = disks["items"].as_array().unwrap();
    assert!(all.len() == 4 && all.iter().all(|d| d["state"] == "ok"), "{disks}");
    assert_eq!(f.says("disks").await.lines().count(), 5);
    let mut status = f.client.status().await.unwrap();
    status.servers[0].disks[0].error = Some("EIO".into());
    let mut told = report::disks(&status);
    let of = |item: &Value| part(item, &["error", "state"]);
    told["items"] = told["items"].as_array().unwrap().iter().map(of).collect();
    pinned("disks-error", &told);

    let sessions = f.json("sessions -o json").await;
    assert_eq!(sessions["items"].as_array().unwrap().len(), 1, "{sessions}");
    let _held = f.fs.open("/f").await.unwrap();
    until("the open file is counted", async || {
        (f.json("sessions -o json").await["items"][0]["open_files"] == 1).then_some(())
    })
    .await;
    assert_eq!(f.says("sessions").await.lines().count(), 2);
    f.cluster.shutdown().await;
}

/// The master that is left tells what it knows by itself, to whom has a session and to whom could not open one.
#[tokio::test(flavor = "multi_thread")]
async fn no_quorum_is_told_with_cause_and_cure() {
    let mut f = Fixture::of(3).await;
    let leader = f.cluster.leader().unwrap();
    for m in [leader, (leader + 1) % 3] {
        f.cluster.kill_master(m).await;
    }
    let left = (leader + 2) % 3;
    until("the master that is left knows no leader", async || {
        (!f.cluster.master(left).unwrap().status().ready()).then_some(())
    })
    .await;
    let (code, told) = f.until_health_is(&["MASTER_NO_QUORUM"]).await;
    assert_eq!((code, &told["health"]), (6, &"critical".into()));
    pinned("health", &told);
    let builder = Client::builder()
        .masters((1..=3).map(|m| format!("master-{m}")))
        .transport(f.cluster.transport(mooseng_core::net::Role::Client, 77, "late"))
        .seams(mooseng_host::host_seams());
    let problems = builder.health().await.unwrap();
    assert_eq!(problems.len(), 1);
    let (cause, id) = (&problems[0].cause, left + 1);
    let wanted =
        format!("2 of 3 have to answer each other; master {id} answers and knows none; no answer from ");
    assert!(cause.contains(&wanted), "{cause}");
    assert!(problems[0].cure.contains("start masters"));
    f.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_and_load_are_told_as_they_are_now() {
    let f = Fixture::new().await;
    f.fs.write("/f", bytes(200_000)).await.unwrap();
    let stats = f.json("stats --all -o json").await;
    pinned("stats", &stats);
    let create = |i: &&Value| i["op"] == "Create";
    assert!(stats["items"].as_array().unwrap().iter().any(|i| create(&i)), "{stats}");
    let (stats, _) = tokio::join!(f.json("stats --window 300ms -o json"), f.says("stat /f"));
    assert!(
        !stats["items"].as_array().unwrap().iter().any(|i| create(&i)),
        "only what came meanwhile: {stats}"
    );
    assert!((0.3..30.0).contains(&stats["seconds"].as_f64().unwrap()), "{stats}");
    assert!(f.says("stats --window 100ms").await.lines().nth(2).unwrap().contains("CALLS/S"));

    let top = until("all chunkservers have told twice", async || {
        let top = f.json("top --once --every 6s -o json").await;
        let all = top["chunkservers"].as_array().unwrap();
        (all.len() == 2 && all.iter().all(|s| s["reads_per_s"].is_number())).then_some(top)
    })
    .await;
    pinned("top", &top);
    assert_eq!(top["sessions"].as_array().unwrap().len(), 1);
    let said = f.says("top --once --every 100ms").await;
    assert!(said.contains("1 sessions, 2 chunkservers") && !said.contains('\x1b'), "{said}");
    f.cluster.shutdown().await;
}

/// A change of these is a change of what programs read: it wants a new number in the schema's name.
#[tokio::test(flavor = "multi_thread")]
async fn schemas_stay() {
    let f = Fixture::new().await;
    f.fs.write("/f", bytes(200_000)).await.unwrap();
    for verb in
        ["status", "df", "disks", "sessions", "events", "gc", "fsck", "info /f", "stat /f", "du /", "ls -l /"]
    {
        let name = verb.split(' ').next().unwrap();
        pinned(name, &f.json(&format!("{verb} -o json")).await);
    }
    f.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn masters_are_listed() {
    let f = Fixture::new().await;
    let mut all = f.client.status().await.unwrap().masters;
    all.push(MasterInfo { voter: false, leader: false, lag: None, ..all[0].clone() });
    let told = |format| {
        let mut out = Vec::new();
        masters::tell(&all, format, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    let json: Value = serde_json::from_str(&told(Format::Json)).unwrap();
    pinned("masters", &json);
    assert_eq!(told(Format::Jsonl).lines().count(), 2);
    let text = told(Format::Table);
    assert!(text.contains(" leads\n") && text.ends_with(" is being filled\n"), "{text}");
    f.cluster.shutdown().await;
}

fn local(line: &str) -> anyhow::Result<String> {
    let cli = Cli::try_parse_from(line.split(' '))?;
    let mut out = Vec::new();
    run_local(&cli.verb, &mut out).unwrap_or_else(|| panic!("{line} is no local verb"))?;
    Ok(String::from_utf8(out)?)
}

#[test]
fn settings_are_shown_judged_and_explained() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.toml");
    make(&file, b"copies = 3\n");
    let file = file.display();
    let said = local(&format!("mooseng config show --origin master --config {file} --raft-port 7")).unwrap();
    for line in [
        &format!("copies = \"3\" # from the file {file}"),
        "raft_port = \"7\" # from a flag",
        "listen_port = \"9421\" # from the default",
    ] {
        assert!(said.lines().any(|l| l == line), "no {line} in\n{said}");
    }
    let said = local(&format!("mooseng config show master --config {file}")).unwrap();
    assert!(said.lines().any(|l| l == "copies = \"3\""), "{said}");
    let said = local(&format!("mooseng config show master --config {file} -o json")).unwrap();
    let json: Value = serde_json::from_str(&said).unwrap();
    pinned("config", &json);
    let of = |key: &str| json["items"].as_array().unwrap().iter().find(|i| i["key"] == key).unwrap();
    assert_eq!((&of("copies")["source"], &of("copies")["from"]), (&"file".into(), &file.to_string().into()));
    assert_eq!((&of("raft_port")["source"], &of("node_id")["value"]), (&"default".into(), &Value::Null));
    for role in ["master", "chunkserver", "mount", "dashboard"] {
        let template = local(&format!("mooseng config example {role}")).unwrap();
        assert!(template.contains("#identity = \"/etc/mooseng/identity\""), "{template}");
    }
    make(&dir.path().join("bad.toml"), b"copys = 3\n");
    let bad = dir.path().join("bad.toml");
    let e = local(&format!("mooseng config check master --config {}", bad.display())).unwrap_err();
    assert_eq!(exit::code(&e), 2);
    assert!(format!("{e:#}").contains("\"copys\""), "{e:#}");
    let e = local("mooseng config check mount --identity /nowhere").unwrap_err();
    assert!(format!("{e:#}").contains("/nowhere"), "{e:#}");
}

#[test]
fn the_manual_and_completions_know_every_verb() {
    let dir = tempfile::tempdir().unwrap();
    local(&format!("mooseng man --dir {}", dir.path().display())).unwrap();
    let (page, bash) = (local("mooseng man").unwrap(), local("mooseng completions bash").unwrap());
    for verb in Cli::command().get_subcommands() {
        let name = verb.get_name();
        assert!(verb.get_about().is_some(), "{name} has no line of help");
        assert!(dir.path().join(format!("mooseng-{name}.1")).exists(), "no page for {name}");
        assert!(page.contains(&name.replace('-', "\\-")) && bash.contains(name), "{name}");
    }
    for shell in ["zsh", "fish"] {
        assert!(local(&format!("mooseng completions {shell}")).unwrap().contains("mooseng"));
    }
    let version: Value = serde_json::from_str(&local("mooseng version -o json").unwrap()).unwrap();
    pinned("version", &version);
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert!(local("mooseng version").unwrap().starts_with("mooseng "));
}
