//! The dashboard in a real browser, over a cluster of real processes: every page loads at both widths, light and dark,
//! without an error in the console and without a request to elsewhere; a chunkserver is killed, and the page turns red
//! and green again by itself; the dashboard ends, and the page says so until it is back.

use anyhow::{Context as _, Result, ensure};
use mooseng_e2e::{
    browser::{Browser, chromium},
    cluster::{Daemon, ProcessCluster, free_port, http_get},
    surface::connect_to,
};
use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    net::TcpListener,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

const TOKEN: &str = "a-token-of-this-test-only";
/// Longest wait for the masters to notice, and for the page to show it.
const NOTICED: Duration = Duration::from_secs(180);
/// Longest wait for the copies that were lost.
const WHOLE: Duration = Duration::from_secs(300);
/// Widths of a desk's and of a hand's screen, with heights.
const WINDOWS: &[(u32, u32)] = &[(1280, 900), (390, 844)];

/// The pages, and what each must say.
const PAGES: &[(&str, &str, &str)] = &[
    ("overview", "/", "Recent events"),
    ("topology", "/topology", "Chunkserver 3"),
    ("chunks", "/chunks", "wanted"),
    ("cell", "/chunks/2/2", "/photos/one"),
    ("sessions", "/sessions", "dashboard-test"),
    ("operations", "/operations", "The last minute"),
    ("jobs", "/jobs", "Until safe"),
    ("files", "/files?path=/photos", "one"),
    ("file", "/files?path=/photos/one", "Where its copies are"),
];

async fn write_files(cluster: &ProcessCluster) -> Result<mooseng_client::Client> {
    let deadline = Duration::from_secs(60);
    let client = connect_to(cluster, cluster.master_addrs.clone(), "dashboard-test", deadline).await?;
    let fs = client.filesystem();
    fs.create_dir_all("/photos").await?;
    for name in ["one", "two", "three <b>&amp;", "four"] {
        fs.write(&format!("/photos/{name}"), vec![7u8; 300_000]).await?;
    }
    fs.write("/photos/small", "inline").await?;
    fs.symlink("/photos/one", "/photos/link").await?;
    Ok(client)
}

/// Writes and reads a file again and again, so that there is something to show.
async fn works_on(client: mooseng_client::Client) {
    let fs = client.filesystem();
    loop {
        // It is to go on whatever the cluster meets; that nothing is shown is told with the reason in the output.
        let work = async { fs.write("/busy", vec![9u8; 2 << 20]).await.and(fs.read("/busy").await) };
        if let Err(e) = work.await {
            println!("the load failed: {e}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Whether the dashboard knows rates of calls, of bytes read and of bytes written.
const RATES: &str = "fetch('/api/rates').then((r) => r.json()).then((r) => r.samples.some((s) => \
    s.calls_per_s > 0 && s.read_bytes_per_s > 0 && s.written_bytes_per_s > 0))";

fn token_file(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("token");
    let mut file = fs::File::options().create_new(true).write(true).mode(0o600).open(&path)?;
    file.write_all(TOKEN.as_bytes())?;
    Ok(path)
}

/// Every page loads, says what it must, fits its window; pictures are kept.
fn every_page(b: &mut Browser, base: &str, pictures: &Path) -> Result<()> {
    for dark in [false, true] {
        for (width, height) in WINDOWS {
            b.window(*width, *height, dark)?;
            for (name, path, says) in PAGES {
                b.go(&format!("{base}{path}"))?;
                let text = b.eval("document.body.innerText")?;
                let said = text.as_str().is_some_and(|t| t.contains(says));
                ensure!(said, "{name} does not say \"{says}\": {text}");
                let wide = b.eval("document.documentElement.scrollWidth")?.as_u64().unwrap_or(u64::MAX);
                ensure!(wide <= u64::from(*width), "{name} is {wide} wide in a window of {width}");
                let scheme = if dark { "dark" } else { "light" };
                b.picture(&pictures.join(format!("{name}-{width}-{scheme}.png")))?;
            }
        }
    }
    Ok(())
}

/// Whether the word for the cluster's health is written in red, or in green.
fn is_colour(colour: &str) -> String {
    let more = if colour == "red" { "c[0] > c[1] + 40" } else { "c[1] > c[0] + 40" };
    format!(
        "(() => {{ const c = getComputedStyle(document.querySelector('#health-banner h2')).color.match(/\\d+/g).map(Number); return {more}; }})()"
    )
}

fn starts(cluster: &ProcessCluster, dir: &Path) -> Result<(Daemon, u16)> {
    let port = free_port()?;
    let token = token_file(dir)?;
    let mut dashboard = cluster.dashboard("dashboard", port, Some(&token))?;
    dashboard.start()?;
    dashboard.wait_ready()?;
    Ok((dashboard, port))
}

/// A dashboard that others could reach, and whoever has no token, are turned away.
fn is_closed_to_strangers(cluster: &ProcessCluster, port: u16, dir: &Path) -> Result<()> {
    for path in ["/api/status", "/live"] {
        let (status, _) = http_get("127.0.0.1", port, path)?;
        ensure!(status == 401, "{path} answers {status} without a token");
    }
    ensure!(http_get("127.0.0.1", port, "/")?.0 == 303, "a page leads to the login");
    let mut open =
        cluster.dashboard("open-dashboard", free_port()?, None)?.with_env("MOOSENG_LISTEN_ADDR", "0.0.0.0");
    open.start()?;
    let ended = mooseng_e2e::cluster::wait_for("it ends", NOTICED, || open.ended().transpose())??;
    ensure!(ended.code() == Some(1) || ended.code() == Some(2), "off loopback without a token: {ended}");
    ensure!(open.log_end(5).contains("token"), "it says why: {}", open.log_end(5));
    let loose = dir.join("loose-token");
    fs::write(&loose, TOKEN)?;
    fs::set_permissions(&loose, fs::Permissions::from_mode(0o644))?;
    let mut loose = cluster.dashboard("loose-dashboard", free_port()?, Some(&loose))?;
    loose.start()?;
    mooseng_e2e::cluster::wait_for("it ends", NOTICED, || loose.ended().transpose())??;
    ensure!(loose.log_end(5).contains("chmod 600"), "it says why: {}", loose.log_end(5));
    Ok(())
}

/// Has the dashboard's port and answers everything with 503, as whatever stands before one that is gone.
struct StandIn {
    ends: Arc<AtomicBool>,
    /// How often the live events were asked for.
    asked: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    fn start(port: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        listener.set_nonblocking(true)?;
        let (ends, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (end, count) = (ends.clone(), asked.clone());
        let thread = std::thread::spawn(move || {
            while !end.load(Relaxed) {
                match refuse(&listener) {
                    Ok(is_live) => drop(count.fetch_add(u32::from(is_live), Relaxed)),
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            }
        });
        Ok(Self { ends, asked, thread: Some(thread) })
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers one request, when there is one; whether it was for the live events.
fn refuse(listener: &TcpListener) -> io::Result<bool> {
    let (stream, _) = listener.accept()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut first = String::new();
    let mut reader = BufReader::new(&stream);
    reader.read_line(&mut first)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    (&stream)
        .write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    Ok(first.starts_with("GET /live "))
}

/// The page tells that it is not connected, and follows again, also after an answer after which a browser does not ask
/// again by itself.
fn is_lost_and_found(b: &mut Browser, dashboard: &mut Daemon, port: u16, pictures: &Path) -> Result<()> {
    let lost = "!document.getElementById('connection').hidden";
    dashboard.stop()?;
    let stand_in = StandIn::start(port)?;
    b.until("the page tells that the connection is lost", lost, NOTICED)?;
    mooseng_e2e::cluster::wait_for("the page asks again and again", NOTICED, || {
        (stand_in.asked.load(Relaxed) >= 3).then_some(())
    })?;
    b.picture(&pictures.join("lost-1280-light.png"))?;
    drop(stand_in);
    dashboard.start()?;
    dashboard.wait_ready()?;
    b.until("the page is connected again", &format!("!({lost})"), NOTICED)?;
    b.until("and green", &is_colour("green"), NOTICED)
}

/// Events of these codes come to the page.
fn are_told(b: &mut Browser, codes: &[&str]) -> Result<()> {
    for code in codes {
        let told = format!("document.querySelector('.events').innerText.includes('{code}')");
        b.until(&format!("{code} is among the events"), &told, NOTICED)?;
    }
    Ok(())
}

/// Without masters the page says so, in red, with what to do; what was seen last is not told as of now.
fn is_unreachable(b: &mut Browser, cluster: &mut ProcessCluster, pictures: &Path) -> Result<()> {
    for m in &mut cluster.masters {
        m.kill9()?;
    }
    let badge = "document.querySelector('#notice h2')?.textContent === 'unreachable'";
    b.until("it tells that the cluster is unreachable", badge, NOTICED)?;
    let text = b.eval("document.getElementById('main').innerText")?;
    let text = text.as_str().unwrap_or_default();
    ensure!(
        !text.contains("healthy\n") && text.contains("Look whether most masters run"),
        "nothing is healthy that cannot be reached: {text}"
    );
    b.picture(&pictures.join("unreachable-1280-light.png"))?;
    b.window(390, 844, true)?;
    b.picture(&pictures.join("unreachable-390-dark.png"))?;
    b.window(1280, 900, false)?;
    for m in &mut cluster.masters {
        m.start()?;
    }
    b.until("it is green again", &is_colour("green"), WHOLE)
}

#[test]
fn the_dashboard_shows_a_cluster_in_a_browser() -> Result<()> {
    let Some(program) = chromium() else {
        println!("skipped: there is no chromium");
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard");
    fs::create_dir_all(&pictures)?;
    let mut cluster = ProcessCluster::start(dir.path(), 3, 3)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let client = runtime.block_on(write_files(&cluster))?;
    let (mut dashboard, port) = starts(&cluster, dir.path())?;
    is_closed_to_strangers(&cluster, port, dir.path())?;

    let base = format!("http://127.0.0.1:{port}");
    let mut b = Browser::start(program)?;
    b.window(390, 844, false)?;
    b.go(&format!("{base}/chunks"))?;
    b.picture(&pictures.join("login-390-light.png"))?;
    b.eval(&format!(
        "document.getElementById('token').value = '{TOKEN}'; document.querySelector('form').requestSubmit()"
    ))?;
    b.until("the login leads to the page", "location.pathname === '/chunks'", NOTICED)?;
    let load = runtime.spawn(works_on(client.clone()));
    b.until("there are rates", RATES, NOTICED)?;
    every_page(&mut b, &base, &pictures)?;
    load.abort();

    // From the matrix to the file.
    b.window(1280, 900, false)?;
    b.go(&format!("{base}/chunks"))?;
    b.eval("document.querySelector('.matrix td.healthy a').click()")?;
    let link = "document.querySelector('td a[href*=photos]')";
    b.until("a cell leads to files", &format!("{link} !== null"), NOTICED)?;
    b.eval(&format!("{link}.click()"))?;
    b.until(
        "a file tells where its copies are",
        "document.querySelectorAll('.copies li').length === 2",
        NOTICED,
    )?;
    b.go(&format!("{base}/files?path=/photos/three%20%3Cb%3E%26amp%3B"))?;
    let name = b.eval("document.querySelector('.crumbs').innerText")?;
    ensure!(
        name.as_str().is_some_and(|n| n.contains("three <b>&amp;")),
        "names are shown as they are: {name}"
    );

    // It turns red and green by itself: nothing is loaded again by this test.
    b.go(&format!("{base}/"))?;
    b.until("it is green", &is_colour("green"), NOTICED)?;
    cluster.chunkservers[0].kill9()?;
    b.until("the page turns red", &is_colour("red"), NOTICED)?;
    let cause = b.eval("document.getElementById('health-banner').innerText")?;
    ensure!(
        cause.as_str().is_some_and(|c| c.contains("CHUNKSERVER_SILENT") && c.contains("start it")),
        "{cause}"
    );
    b.picture(&pictures.join("red-1280-light.png"))?;
    b.window(390, 844, true)?;
    b.picture(&pictures.join("red-390-dark.png"))?;
    b.window(1280, 900, false)?;
    are_told(&mut b, &["CHUNKSERVER_LOST", "PROBLEM_RAISED"])?;
    cluster.chunkservers[0].start()?;
    b.until("the page turns green again", &is_colour("green"), WHOLE)?;
    are_told(&mut b, &["CHUNKSERVER_BACK", "PROBLEM_CLEARED"])?;
    b.picture(&pictures.join("green-again-1280-light.png"))?;

    let complaints = b.complaints();
    ensure!(complaints.is_empty(), "the console is not empty: {complaints:#?}");
    let foreign: Vec<_> =
        b.requests().into_iter().filter(|r| !r.starts_with(&base) && r != "about:blank").collect();
    ensure!(foreign.is_empty(), "requests to elsewhere: {foreign:#?}");
    ensure!(b.requests().iter().any(|r| r.ends_with("/live")), "it follows what happens");
    is_unreachable(&mut b, &mut cluster, &pictures)?;
    is_lost_and_found(&mut b, &mut dashboard, port, &pictures)?;
    println!("pictures: {}", pictures.display());
    dashboard.stop()?;
    runtime.block_on(client.shutdown(Duration::from_secs(10))).context("the session ends")?;
    Ok(())
}
