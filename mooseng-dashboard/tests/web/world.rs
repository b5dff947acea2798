//! A cluster, a dashboard over it on a port of this machine, and a client that speaks HTTP.

use mooseng_client::{Filesystem, embedded::Cluster};
use mooseng_dashboard::{Dashboard, Options};
use serde_json::Value;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

pub struct World {
    pub cluster: Cluster,
    pub fs: Filesystem,
    pub at: SocketAddr,
    _server: Server,
}

/// Ends with its world.
struct Server(JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|l| l.split_once(':'));
        lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim())
    }
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

impl World {
    pub async fn new() -> Self {
        Self::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Self {
        Self::of(1, options, Duration::from_secs(60)).await
    }

    /// Of so many masters, of which some are to end: a call is given up soon.
    pub async fn hasty(masters: u64) -> Self {
        Self::of(masters, Options::default(), Duration::from_secs(3)).await
    }

    async fn of(masters: u64, options: Options, deadline: Duration) -> Self {
        let cluster = Cluster::builder().masters(masters).chunkservers(2).start().await.unwrap();
        Self::over(cluster, options, deadline).await
    }

    /// Over a cluster that a test has made.
    pub async fn over(cluster: Cluster, options: Options, deadline: Duration) -> Self {
        let fs = cluster.client().await.unwrap().filesystem();
        let deadline = |b: mooseng_client::ClientBuilder| b.deadline(deadline);
        let dashboard = Dashboard::new(cluster.client_with(deadline).await.unwrap(), options);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { dashboard.serve(listener).await.unwrap() });
        Self { cluster, fs, at, _server: Server(server) }
    }

    /// A request with these header lines and this body.
    pub async fn ask(&self, method: &str, path: &str, lines: &str, body: &str) -> Answer {
        let mut s = TcpStream::connect(self.at).await.unwrap();
        let host = if lines.to_lowercase().contains("host:") { "" } else { "Host: localhost\r\n" };
        let len = body.len();
        let text = format!(
            "{method} {path} HTTP/1.1\r\n{host}{lines}Content-Length: {len}\r\nConnection: close\r\n\r\n{body}"
        );
        s.write_all(text.as_bytes()).await.unwrap();
        let mut got = Vec::new();
        let whole = tokio::time::timeout(Duration::from_secs(60), s.read_to_end(&mut got)).await;
        whole.unwrap_or_else(|_| panic!("{path} was not answered")).unwrap();
        let got = String::from_utf8(got).unwrap();
        let (head, body) = got.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.into(), body: body.into() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", "").await
    }

    /// A page that has to be there.
    pub async fn page(&self, path: &str) -> String {
        let a = self.get(path).await;
        assert_eq!(a.status, 200, "{path}: {a:?}");
        assert_eq!(a.header("content-type"), Some("text/html; charset=utf-8"), "{path}");
        a.body
    }

    /// JSON of a schema.
    pub async fn json(&self, path: &str, schema: &str) -> Value {
        let a = self.get(path).await;
        assert_eq!(a.status, 200, "{path}: {a:?}");
        let json = a.json();
        assert_eq!(json["schema"], schema, "{path}");
        json
    }

    /// What `look` finds, once it does.
    pub async fn until<T>(&self, what: &str, look: impl AsyncFn(&Self) -> Option<T>) -> T {
        let found = async {
            loop {
                if let Some(found) = look(self).await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(120), found).await;
        found.unwrap_or_else(|_| panic!("not in time: {what}"))
    }
}
