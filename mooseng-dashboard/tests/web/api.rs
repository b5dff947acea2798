//! JSON, in the command line's schemas, and in those that only a dashboard has.

use super::world::World;
use std::time::Duration;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

/// The fields of an object: what a program that reads it relies on. Schemas of verbs are kept with these.
fn fields(of: &serde_json::Value) -> String {
    let mut all: Vec<_> = of.as_object().unwrap().keys().map(String::as_str).collect();
    all.sort_unstable();
    all.join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_answers_what_the_command_line_prints() {
    let w = World::new().await;
    w.fs.write("/f", vec![7; 200_000]).await.unwrap();
    w.fs.write("/small", "x").await.unwrap();
    w.until("the file is seen", async |w| {
        (w.json("/api/status", "mooseng.status/1").await["chunks"]["healthy"] == 1).then_some(())
    })
    .await;
    let health = w.json("/api/health", "mooseng.health/1").await;
    assert_eq!((&health["health"], health["problems"].as_array().unwrap().len()), (&"healthy".into(), 0));
    assert_eq!(w.json("/api/df", "mooseng.df/1").await["files_bytes"], 200_001);
    assert_eq!(w.json("/api/disks", "mooseng.disks/1").await["items"].as_array().unwrap().len(), 4);
    assert_eq!(w.json("/api/gc", "mooseng.gc/1").await["items"].as_array().unwrap().len(), 2);
    let sessions = w.json("/api/sessions", "mooseng.sessions/2").await;
    assert!(
        sessions["items"].as_array().unwrap().iter().all(|s| s["calls"].as_u64() > Some(0)),
        "{sessions}"
    );
    let events = w.json("/api/events", "mooseng.events/1").await;
    assert_eq!(events["items"][0]["code"], "MASTER_ELECTED");
    let (term, last) = (&events["next"]["term"], events["next"]["number"].as_u64().unwrap());
    assert_eq!(last as usize, events["items"].as_array().unwrap().len(), "all so far: {events}");
    let later = w.json(&format!("/api/events?term={term}&number={last}"), "mooseng.events/1").await;
    assert!(later["items"].as_array().unwrap().iter().all(|e| e["number"].as_u64() > Some(last)), "{later}");
    assert_eq!((events["lost"].as_u64(), later["lost"].as_u64()), (Some(0), Some(0)), "{later}");
    let matrix = w.json("/api/matrix", "mooseng.matrix/1").await;
    assert_eq!(matrix["items"], serde_json::json!([{ "wanted": 2, "copies": 2, "chunks": 1 }]));
    assert_eq!(fields(&matrix), "items schema");
    let cell = w.json("/api/cell?wanted=2&copies=2", "mooseng.cell/1").await;
    assert_eq!((&cell["items"][0]["path"], &cell["next"]), (&"/f".into(), &serde_json::Value::Null));
    assert_eq!(fields(&cell), "copies items next schema wanted");
    assert_eq!(fields(&cell["items"][0]), "chunk index inode path servers version");
    let info = w.json("/api/info?path=/f", "mooseng.info/1").await;
    assert_eq!(info["chunks"][0]["replicas"].as_array().unwrap().len(), 2);
    assert_eq!(w.json("/api/info?path=/small", "mooseng.info/1").await["inline"], true);
    let ls = w.json("/api/ls?path=/", "mooseng.files/1").await;
    assert_eq!((&ls["items"][0]["path"], &ls["next"]), (&"f".into(), &serde_json::Value::Null));
    assert_eq!(w.json("/api/stat?path=/f", "mooseng.files/1").await["items"][0]["size"], 200_000);
    let ops = w.json("/api/operations", "mooseng.operations/1").await;
    let looks = ops["items"].as_array().unwrap().iter().find(|o| o["op"] == "GetStatus").unwrap();
    assert!(looks["calls"].as_u64() > Some(0) && looks["p99_us"].is_u64(), "{ops}");
    w.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_tells_where_links_lead() {
    let w = World::new().await;
    w.fs.create_dir("/d").await.unwrap();
    w.fs.write("/d/file", "x").await.unwrap();
    // More than are read at a time.
    for n in 0..20 {
        w.fs.symlink(&format!("../{n}"), &format!("/d/{n}")).await.unwrap();
    }
    let ls = w.json("/api/ls?path=/d", "mooseng.files/1").await;
    let seen: Vec<_> = ls["items"].as_array().unwrap().iter().map(|i| (&i["path"], &i["target"])).collect();
    assert_eq!(seen.len(), 21, "{ls}");
    assert_eq!(seen[0], (&"file".into(), &serde_json::Value::Null), "in the order they were made");
    for (n, link) in seen[1..].iter().enumerate() {
        assert_eq!(*link, (&n.to_string().into(), &format!("../{n}").into()));
    }
    let stat = w.json("/api/stat?path=/d/7", "mooseng.files/1").await;
    assert_eq!((&stat["items"][0]["kind"], &stat["items"][0]["target"]), (&"symlink".into(), &"../7".into()));
    w.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_come_from_the_dashboards_own_memory() {
    let w = World::new().await;
    let rates = w
        .until("rates of calls and bytes", async |w| {
            w.fs.write("/f", vec![7; 1 << 18]).await.unwrap();
            w.fs.read("/f").await.unwrap();
            let rates = w.json("/api/rates", "mooseng.rates/1").await;
            let last = rates["samples"].as_array().unwrap().last().cloned()?;
            let known = |name: &str| last[name].as_f64() > Some(0.0);
            (known("calls_per_s") && known("read_bytes_per_s") && known("written_bytes_per_s"))
                .then_some(rates)
        })
        .await;
    let ops = rates["last_minute"].as_array().unwrap();
    assert!(ops.iter().any(|o| o["per_s"].as_f64() > Some(0.0) && o["p99_us"].as_u64() > Some(0)), "{rates}");
    assert_eq!(fields(&rates), "last_minute samples schema");
    let sample = "calls_per_s p50_us p99_us read_bytes_per_s seconds_ago written_bytes_per_s";
    assert_eq!(fields(&rates["samples"][0]), sample);
    assert_eq!(fields(&ops[0]), "calls failed op p50_us p99_us per_s");
    let page = w.page("/operations").await;
    assert!(page.contains("GetStatus") && page.contains("<polyline class=\"line p99\""), "{page}");
    let scrubs = w.json("/api/scrub", "mooseng.scrub/1").await;
    assert_eq!(scrubs["items"].as_array().unwrap().len(), 4);
    let load = w.json("/api/load", "mooseng.load/1").await;
    assert_eq!((load["items"].as_array().unwrap().len(), fields(&load)), (2, "items schema".into()));
    let served = "copies damages incarnation read_bytes reads server syncs told writes written_bytes";
    assert_eq!(fields(&load["items"][0]), served);
    w.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_a_status_and_say_why() {
    let w = World::new().await;
    for (path, status, kind) in [
        ("/api/info?path=/nothing", 404, "not_found"),
        ("/api/info?path=/", 400, "invalid"),
        ("/api/ls?path=/nothing", 404, "not_found"),
        ("/api/cell?wanted=2&copies=2&from=x", 400, "invalid"),
        ("/api/nothing", 404, "not_found"),
        ("/api/status/nothing", 404, "not_found"),
        ("/api/", 404, "not_found"),
        ("/api", 404, "not_found"),
        ("/api/cell?wanted=1000&copies=2", 400, "invalid"),
        ("/api/cell", 400, "invalid"),
        ("/api/events?term=x&number=1", 400, "invalid"),
        ("/api/ls?after=-1", 400, "invalid"),
        ("/api/info", 400, "invalid"),
    ] {
        let a = w.get(path).await;
        assert_eq!((a.status, &a.json()["kind"]), (status, &kind.into()), "{path}: {a:?}");
        assert_eq!(a.json()["schema"], "mooseng.error/1", "{path}");
        assert_eq!(fields(&a.json()), "error kind schema", "{path}");
    }
    for path in ["/", "/api/status", "/files"] {
        for method in ["POST", "PUT", "DELETE"] {
            assert_eq!(w.ask(method, path, "", "").await.status, 405, "{method} {path}: it changes nothing");
        }
    }
    let changes = w.ask("POST", "/api/status", "", "").await;
    assert_eq!(changes.json()["schema"], "mooseng.error/1", "{changes:?}");
    w.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_hear_of_each_look() {
    let w = World::new().await;
    let mut s = TcpStream::connect(w.at).await.unwrap();
    s.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let (mut lines, mut looks) = (BufReader::new(s).lines(), Vec::new());
    let hear = async {
        while looks.len() < 3 || looks.last().is_some_and(|l: &serde_json::Value| l["health"] != "healthy") {
            let line = lines.next_line().await.unwrap().unwrap();
            if let Some(data) = line.strip_prefix("data: ") {
                looks.push(serde_json::from_str::<serde_json::Value>(data).unwrap());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(120), hear).await.unwrap();
    let numbers: Vec<_> = looks.iter().map(|l| l["number"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|n| n[0] < n[1]), "{looks:?}");
    w.cluster.shutdown().await;
}
