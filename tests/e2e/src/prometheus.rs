//! Debian's Prometheus over a cluster of real processes.

use crate::cluster::{Daemon, free_port, wait_for};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Longest wait for its start.
const START: Duration = Duration::from_secs(120);

/// The configuration of the demo, and its rules.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docker/prometheus")
}

/// Writes the demo's configuration into a directory, with rounds of a second, and each name of the demo replaced by
/// where a daemon is in truth; with its rules beside it. Answers its path.
pub fn configured(dir: &Path, targets: &[(&str, &Daemon)]) -> Result<PathBuf> {
    let mut text =
        fs::read_to_string(sources().join("prometheus.yml"))?.replace("interval: 5s", "interval: 1s");
    for (name, daemon) in targets {
        ensure!(text.contains(name), "prometheus.yml has no target {name}");
        text = text.replace(name, &format!("{}:{}", daemon.host.addr, daemon.metrics_port));
    }
    fs::copy(sources().join("alerts.yml"), dir.join("alerts.yml"))?;
    let path = dir.join("prometheus.yml");
    fs::write(&path, text)?;
    Ok(path)
}

/// A Prometheus that answers there.
pub struct Api(pub SocketAddr);

/// A running Prometheus, killed when it is dropped.
pub struct Prometheus {
    child: Child,
    log: PathBuf,
    /// Where it answers.
    pub api: Api,
}

/// One point of an answer: its labels, and its value now.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// Labels by name.
    pub labels: Value,
    /// NaN where there is nothing to tell.
    pub value: f64,
}

impl Prometheus {
    /// Starts it with a configuration and an empty database, and waits until it answers.
    pub fn start(dir: &Path, config: &Path) -> Result<Self> {
        let at = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let log = dir.join("prometheus.log");
        let file = fs::File::create(&log)?;
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("tsdb").display()));
        command.arg(format!("--web.listen-address={at}"));
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().context("prometheus does not start")?;
        let mut this = Self { child, log, api: Api(at) };
        let ready = wait_for("Prometheus is ready", START, || {
            if this.api.get("/-/ready").is_ok_and(|(status, _)| status == 200) {
                return Some(Ok(()));
            }
            match this.child.try_wait() {
                Ok(None) => None,
                how => Some(Err(anyhow::anyhow!("it has ended ({how:?})"))),
            }
        });
        ready.and_then(|r| r).with_context(|| fs::read_to_string(&this.log).unwrap_or_default())?;
        Ok(this)
    }
}

impl Api {
    /// Status and body of a GET. As HTTP/1.0: the body is whole and ends with the connection.
    fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut s = TcpStream::connect_timeout(&self.0, Duration::from_secs(10))?;
        s.set_read_timeout(Some(Duration::from_secs(60)))?;
        write!(s, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut text = String::new();
        s.read_to_string(&mut text)?;
        let status = text.split(' ').nth(1).and_then(|c| c.parse().ok()).context("no HTTP status")?;
        let (_, body) = text.split_once("\r\n\r\n").context("no HTTP body")?;
        Ok((status, body.to_owned()))
    }

    /// An answer: what is in `data`.
    pub fn data(&self, path: &str) -> Result<Value> {
        let (status, body) = self.get(path)?;
        let answer: Value =
            serde_json::from_str(&body).with_context(|| format!("{path}: {status} {body}"))?;
        ensure!(answer["status"] == "success", "{path}: {}", answer["error"]);
        Ok(answer["data"].clone())
    }

    /// What an expression comes to now.
    pub fn query(&self, expr: &str) -> Result<Vec<Sample>> {
        let data =
            self.data(&format!("/api/v1/query?query={}", encoded(expr))).with_context(|| expr.to_owned())?;
        let sample = |labels: &Value, point: &Value| {
            let value = point[1].as_str().and_then(|v| v.parse().ok()).context("a point has a value")?;
            Ok(Sample { labels: labels.clone(), value })
        };
        match data["resultType"].as_str() {
            Some("vector") => {
                let all = data["result"].as_array().context("a vector is a list")?;
                all.iter().map(|r| sample(&r["metric"], &r["value"])).collect()
            }
            Some("scalar") => Ok(vec![sample(&Value::Null, &data["result"])?]),
            other => bail!("{expr} is a {other:?}"),
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As part of a URL's query.
fn encoded(text: &str) -> String {
    let byte = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_become_part_of_an_address() {
        assert_eq!(encoded("a{b=\"c\"} > 1"), "a%7Bb%3D%22c%22%7D%20%3E%201");
    }
}
