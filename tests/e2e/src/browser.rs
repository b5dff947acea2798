//! A headless Chromium, driven over its DevTools protocol: pages are loaded, clicked and looked at as a person's
//! browser does, and all that it complains of or asks for is kept.

use crate::cluster::wait_for;
use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::{
    fs,
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tungstenite::{Message, WebSocket};

/// Names that it goes by.
const NAMES: &[&str] = &["chromium", "chromium-browser", "google-chrome"];
/// Longest wait for an answer of the browser, or for a page to be loaded.
const PATIENCE: Duration = Duration::from_secs(120);
/// Wait for events that may come.
const READ: Duration = Duration::from_millis(50);

/// How a program of this name is started; `None` where there is none.
pub fn chromium() -> Option<&'static str> {
    let answers = |name: &&&str| {
        let asked = Command::new(name).arg("--version").stdin(Stdio::null()).output();
        asked.is_ok_and(|done| done.status.success())
    };
    NAMES.iter().find(answers).copied()
}

/// A browser with one page.
pub struct Browser {
    child: Child,
    socket: WebSocket<TcpStream>,
    session: String,
    calls: u64,
    events: Vec<Value>,
    _profile: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Browser {
    /// Starts it with an empty profile.
    pub fn start(program: &str) -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let child = Command::new(program)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
            .args(["--remote-debugging-port=0", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{program} does not start"))?;
        let (port, path) = wait_for("the browser tells its port", PATIENCE, || port_of(profile.path()))?;
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (socket, _) = tungstenite::client(format!("ws://127.0.0.1:{port}{path}"), stream)?;
        socket.get_ref().set_read_timeout(Some(READ))?;
        let (session, calls, events) = (String::new(), 0, Vec::new());
        let mut b = Self { child, socket, session, calls, events, _profile: profile };
        let target = b.call("Target.createTarget", &json!({ "url": "about:blank" }))?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = b.call("Target.attachToTarget", &attach)?;
        b.session = attached["sessionId"].as_str().context("no session with the page")?.to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            b.call(&format!("{domain}.enable"), &json!({}))?;
        }
        Ok(b)
    }

    /// The next message, or `None` when none comes for a moment.
    fn next(&mut self) -> Result<Option<Value>> {
        match self.socket.read() {
            Ok(Message::Text(text)) => Ok(Some(serde_json::from_str(text.as_str())?)),
            Ok(_) => Ok(None),
            Err(tungstenite::Error::Io(e))
                if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                Ok(None)
            }
            Err(e) => Err(e).context("the browser has ended"),
        }
    }

    /// One command of the protocol.
    fn call(&mut self, method: &str, params: &Value) -> Result<Value> {
        self.calls += 1;
        let id = self.calls;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.as_str().into();
        }
        self.socket.send(Message::text(message.to_string()))?;
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            match self.next()? {
                Some(answer) if answer["id"] == id => {
                    ensure!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                    return Ok(answer["result"].clone());
                }
                Some(event) => self.events.push(event),
                None => {}
            }
        }
        bail!("the browser did not answer {method} within {PATIENCE:?}")
    }

    /// The size of the window, and whether it is dark outside.
    pub fn window(&mut self, width: u32, height: u32, dark: bool) -> Result<()> {
        let mobile = width < 600;
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile });
        self.call("Emulation.setDeviceMetricsOverride", &size)?;
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", &media)?;
        Ok(())
    }

    /// Goes to a page and waits until it is loaded.
    pub fn go(&mut self, url: &str) -> Result<()> {
        // The page before stays for a moment, and is as complete as the next one.
        self.eval("window.isBefore = true")?;
        let answer = self.call("Page.navigate", &json!({ "url": url }))?;
        ensure!(answer["errorText"].is_null(), "{url}: {}", answer["errorText"]);
        self.until_loaded(url)
    }

    /// Waits until the page that is under way is loaded.
    fn until_loaded(&mut self, what: &str) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            const LOADED: &str = "!window.isBefore && document.readyState === 'complete'";
            // While another page comes there is none to ask.
            if self.eval(LOADED).is_ok_and(|v| v == true) {
                return Ok(());
            }
            std::thread::sleep(READ);
        }
        bail!("{what} was not loaded within {PATIENCE:?}")
    }

    /// What an expression is in the page. An exception is an error.
    pub fn eval(&mut self, expression: &str) -> Result<Value> {
        let ask = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", &ask)?;
        ensure!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        Ok(answer["result"]["value"].clone())
    }

    /// Waits until an expression is true in the page, through whatever it loads.
    pub fn until(&mut self, what: &str, expression: &str, patience: Duration) -> Result<()> {
        let begin = Instant::now();
        loop {
            // While another page comes there is none to ask.
            if self.eval(expression).is_ok_and(|v| v == true) {
                return Ok(());
            }
            ensure!(begin.elapsed() < patience, "{what}: not within {patience:?}");
            std::thread::sleep(READ);
        }
    }

    /// A picture of the whole page, as PNG.
    pub fn picture(&mut self, to: &Path) -> Result<()> {
        let size = self.call("Page.getLayoutMetrics", &json!({}))?["cssContentSize"].clone();
        let clip = json!({ "x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1 });
        let ask = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let answer = self.call("Page.captureScreenshot", &ask)?;
        let png = STANDARD.decode(answer["data"].as_str().context("no picture")?)?;
        Ok(fs::write(to, png)?)
    }

    /// What the page's console has complained of so far: exceptions, errors, warnings, refusals of the policy.
    pub fn complaints(&self) -> Vec<String> {
        let is_loud = |v: &Value| matches!(v.as_str(), Some("error" | "warning" | "assert"));
        let complaint = |e: &Value| {
            let p = &e["params"];
            let loud = match e["method"].as_str()? {
                "Runtime.exceptionThrown" => true,
                "Runtime.consoleAPICalled" => is_loud(&p["type"]),
                "Log.entryAdded" => is_loud(&p["entry"]["level"]),
                _ => false,
            };
            loud.then(|| p.to_string())
        };
        self.events.iter().filter_map(complaint).collect()
    }

    /// All that the page has asked for so far.
    pub fn requests(&self) -> Vec<String> {
        let of = |e: &Value| match e["method"].as_str() {
            Some("Network.requestWillBeSent") => e["params"]["request"]["url"].as_str().map(str::to_owned),
            _ => None,
        };
        self.events.iter().filter_map(of).collect()
    }
}

/// Port and path of a started browser, once it has written them down.
fn port_of(profile: &Path) -> Option<(u16, String)> {
    let text = fs::read_to_string(profile.join("DevToolsActivePort")).ok()?;
    let (port, path) = text.split_once('\n')?;
    Some((port.trim().parse().ok()?, path.trim().to_owned())).filter(|(_, path)| !path.is_empty())
}
