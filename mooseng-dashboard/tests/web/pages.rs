//! What pages show.

use super::world::World;
use mooseng_core::meta::StorageClass;

const PAGES: &[&str] = &["/", "/topology", "/chunks", "/sessions", "/operations", "/jobs", "/files"];

/// Tags that are opened and not closed, or closed and not opened.
fn unbalanced(html: &str) -> Vec<String> {
    const VOID: &[&str] = &["meta", "link", "input", "br", "rect", "line", "polyline", "path", "!doctype"];
    let (mut open, mut wrong) = (Vec::new(), Vec::new());
    for tag in html.split('<').skip(1) {
        let inside = tag.split('>').next().unwrap();
        let name = inside.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap().to_lowercase();
        if VOID.contains(&name.as_str()) || inside.ends_with('/') {
            continue;
        }
        match inside.strip_prefix('/') {
            None => open.push(name),
            Some(_) if open.last() == Some(&name) => drop(open.pop()),
            Some(_) => wrong.push(name),
        }
    }
    wrong.extend(open);
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_whole_and_loads_nothing_from_elsewhere() {
    let w = World::new().await;
    w.fs.write("/file", vec![1; 20_000]).await.unwrap();
    for path in PAGES.iter().chain(&["/chunks/2/2", "/files?path=/file"]) {
        let html = w.page(path).await;
        assert_eq!(unbalanced(&html), Vec::<String>::new(), "{path}:\n{html}");
        assert!(html.contains("<title>") && html.contains("aria-current=\"page\""), "{path}");
        for forbidden in ["http://", "https://", "//cdn", " style=", "<style", " onclick", "javascript:"] {
            assert!(!html.contains(forbidden), "{path} has {forbidden}");
        }
        assert_eq!(html.matches("<script").count(), 1, "{path}: one script, from a file");
    }
    for (asset, kind) in [
        ("style.css", "text/css; charset=utf-8"),
        ("live.js", "text/javascript; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ] {
        let a = w.get(&format!("/assets/{asset}")).await;
        assert_eq!((a.status, a.header("content-type")), (200, Some(kind)), "{asset}");
    }
    for nowhere in ["/nowhere", "/assets/../Cargo.toml", "/assets/nothing.js", "/chunks/x/y"] {
        assert!(matches!(w.get(nowhere).await.status, 400 | 404), "{nowhere}");
    }
    w.cluster.shutdown().await;
}

impl World {
    /// Health as the first page shows it, once it is one of these.
    async fn until_shown(&self, health: &str, says: &[&str]) -> String {
        self.until(&format!("{health} {says:?}"), async |w| {
            let html = w.page("/").await;
            let is = html.contains(&format!("data-health=\"{health}\""));
            (is && says.iter().all(|s| html.contains(s))).then_some(html)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_chunkserver_is_shown_with_reason_and_cure_until_it_is_back() {
    let mut w = World::new().await;
    for n in 0..4 {
        w.fs.write(&format!("/{n}"), vec![n; 20_000]).await.unwrap();
    }
    w.until_shown("healthy", &["All copies are there", "MASTER_ELECTED", "CHUNKSERVER_JOINED"]).await;
    let matrix = w.page("/chunks").await;
    assert!(
        matrix.contains("class=\"n healthy\"><a href=\"/chunks/2/2\" title=\"healthy\">4</a>"),
        "{matrix}"
    );

    w.cluster.kill_chunkserver(0);
    let says = ["CHUNKSERVER_SILENT", "CHUNK_ENDANGERED", "look at its machine and log, and start it"];
    w.until_shown("degraded", &says).await;
    w.until_shown("degraded", &["CHUNKSERVER_LOST", "PROBLEM_RAISED"]).await;
    assert!(w.page("/topology").await.contains("class=\"state bad\">silent"));
    assert!(w.page("/jobs").await.contains("4 chunks are to be copied"));
    w.until("the cell of those with one copy left", async |w| {
        let html = w.page("/chunks/2/1").await;
        (html.contains(">/0</a>") && html.contains(">/3</a>")).then_some(())
    })
    .await;
    // The silent one is among its copies until the set is made without it.
    let file = w.page("/files?path=/0").await;
    assert!(file.contains("swatch endangered\">1 of 2 copies"), "{file}");

    w.cluster.start_chunkserver(0).await.unwrap();
    w.until_shown("healthy", &["CHUNKSERVER_BACK", "PROBLEM_CLEARED"]).await;
    assert!(w.page("/files?path=/0").await.contains("2 of 2 copies"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_masters_pages_say_so_and_what_was_seen_stays() {
    let mut w = World::hasty(1).await;
    w.until_shown("healthy", &["Room"]).await;
    w.cluster.kill_master(0).await;
    let html = w.until_shown("unreachable", &["was seen", "Look whether most masters run"]).await;
    assert!(html.contains("Room") && html.contains("When it was last seen"), "what was seen last: {html}");
    assert!(!html.contains("<h2>healthy</h2>") && !html.contains("banner healthy"), "{html}");
    assert!(html.contains("read ?</span>"), "a rate that nobody told is not known: {html}");
    let (ready, api) = (w.get("/readyz").await, w.get("/api/health").await);
    assert_eq!((ready.status, api.status), (503, 503), "{ready:?} {api:?}");
    assert_eq!(api.json()["kind"], "unreachable");
    assert_eq!(w.get("/livez").await.status, 200, "it lives");
    let page = w.get("/chunks").await;
    assert!(matches!(page.status, 503 | 504) && page.body.contains("Not now"), "{page:?}");
    w.cluster.start_master(0).await.unwrap();
    w.until_shown("healthy", &["MASTER_ELECTED"]).await;
    assert_eq!(w.get("/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn masters_without_a_leader_are_told_as_mooseng_health_tells_them() {
    let mut w = World::hasty(3).await;
    w.until_shown("healthy", &["Room"]).await;
    for _ in 0..2 {
        let leader = w.until("somebody leads", async |w| w.cluster.leader()).await;
        w.cluster.kill_master(leader).await;
    }
    let says = ["MASTER_NO_QUORUM: no master leads: 2 of 3 have to answer each other", "start masters until"];
    w.until_shown("unreachable", &says).await;
    let api = w.get("/api/health").await;
    assert_eq!(api.status, 503);
    assert_eq!(api.json()["problems"][0]["code"], "MASTER_NO_QUORUM", "{api:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_shown_as_they_are_and_never_as_markup() {
    let w = World::new().await;
    let name = "<img src=x onerror=alert(1)>\"'&amp; ü";
    w.fs.create_dir("/d").await.unwrap();
    w.fs.write(&format!("/d/{name}"), vec![1; 20_000]).await.unwrap();
    w.fs.symlink("/d/<b>", "/d/link").await.unwrap();
    w.fs.write("/d/small", "x").await.unwrap();
    let dir = w.page("/files?path=/d").await;
    assert!(!dir.contains("<img") && dir.contains("&#60;img src=x onerror=alert(1)&#62;"), "{dir}");
    let encoded = "/d/%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E%22%27%26amp%3B%20%C3%BC";
    assert!(dir.contains(&format!("href=\"/files?path={encoded}\"")), "{dir}");
    let file = w.page(&format!("/files?path={encoded}")).await;
    assert!(file.contains("2 of 2 copies") && !file.contains("<img"), "{file}");
    let cell = w.page("/chunks/2/2").await;
    assert!(!cell.contains("<img") && cell.contains(encoded), "{cell}");
    assert!(w.page("/files?path=/d/link").await.contains("/d/&#60;b&#62;"));
    assert!(w.page("/files?path=/d/small").await.contains("inside the inode"));
    let named = |b: mooseng_client::ClientBuilder| b.name("<script>alert(1)</script>").host("<b>\"host");
    let client = w.cluster.client_with(named).await.unwrap();
    let sessions = w
        .until("the session is listed", async |w| {
            let html = w.page("/sessions").await;
            html.contains("&#60;script&#62;alert(1)&#60;/script&#62;").then_some(html)
        })
        .await;
    assert!(!sessions.contains("<script>") && !sessions.contains("<b>"), "{sessions}");
    drop(client);
    let none = w.get("/files?path=/%3Cscript%3E").await;
    assert!(none.status == 404 && !none.body.contains("<script>"), "{none:?}");
    w.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lists_come_in_pages() {
    let w = World::new().await;
    w.fs.create_dir("/many").await.unwrap();
    w.fs.set_class("/many", StorageClass { copies: 1 }).await.unwrap();
    for n in 0..300 {
        let data = if n < 70 { vec![1; 9_000] } else { vec![] };
        w.fs.write(&format!("/many/{n:03}"), data).await.unwrap();
    }
    let mut names = 0;
    let mut path = "/files?path=/many".to_owned();
    loop {
        let html = w.page(&path).await;
        names += html.matches("href=\"/files?path=/many/").count();
        let Some((before, _)) = html.split_once("\">Next page</a>") else { break };
        path = before.rsplit_once("href=\"").unwrap().1.replace("&#38;", "&").replace("&amp;", "&");
    }
    assert_eq!(names, 300);
    let (mut files, mut path) = (0, "/chunks/1/1".to_owned());
    loop {
        let html = w.page(&path).await;
        files += html.matches("href=\"/files?path=/many/").count();
        let Some((before, _)) = html.split_once("\">Next page</a>") else { break };
        path = before.rsplit_once("href=\"").unwrap().1.to_owned();
    }
    assert_eq!(files, 70);
    w.cluster.shutdown().await;
}
