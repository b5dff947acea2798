//! Members of the cluster as a test plays them: with certificates of its authority, over its transport.

use super::*;
use mooseng_core::{
    context::CallContext,
    error::{MetaError, NetError},
    ids::*,
    meta::*,
    net::{Connection, Transport},
    rpc::RemoteMeta,
};
use mooseng_net::{
    identity::Identity,
    quic::{QuicOptions, QuicTransport},
    tcp::{TcpOptions, TcpTransport},
};
use std::sync::Arc;

pub const TRANSPORTS: [&str; 2] = ["quic", "tcp"];

pub fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

pub fn cx() -> CallContext {
    CallContext::internal(Duration::from_secs(30))
}

pub fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test)
}

impl Site {
    /// A master and a chunkserver that serve.
    pub fn serving(transport: &'static str) -> (Self, Daemon, Daemon) {
        let site = Self::new(transport);
        let mut master = site.start_master();
        master.wait_ready(site.master[2]);
        let mut chunkserver = site.start_chunkserver();
        chunkserver.wait_ready(site.chunkserver[1]);
        (site, master, chunkserver)
    }

    /// A certificate of this cluster under a name of its own.
    pub fn issue(&self, role: &str, node: u64, name: &str) -> Identity {
        let (ca, out, node) = (self.path("c/ca"), self.path(name), node.to_string());
        let args = ["--ca", &ca, "--role", role, "--node", &node, "--name", name, "--out", &out];
        self.ok(&[&["cluster", "issue"][..], &args].concat());
        Identity::load(Path::new(&out)).unwrap()
    }

    pub fn identity(&self, dir: &str) -> Identity {
        Identity::load(Path::new(&self.path(&format!("c/{dir}")))).unwrap()
    }

    pub fn transport_of(&self, me: &Identity) -> Arc<dyn Transport> {
        match self.transport {
            "quic" => QuicTransport::new(me, QuicOptions::default()).unwrap(),
            _ => TcpTransport::new(me, TcpOptions::default()).unwrap(),
        }
    }

    pub async fn connect(&self, me: &Identity, port: u16) -> Result<Arc<dyn Connection>, NetError> {
        self.transport_of(me).connect(&loopback(port)).await
    }

    pub async fn meta(&self, me: &Identity) -> RemoteMeta {
        RemoteMeta::new(self.connect(me, self.master[0]).await.unwrap())
    }

    /// Whoever holds a good certificate is served.
    pub fn serves(&self) {
        fs::write(self.path("good"), "good").unwrap();
        self.ok(&["put", &self.path("good"), "/good"]);
        assert_eq!(self.ok(&["cat", "/good"]), "good");
        self.ok(&["rm", "/good"]);
    }
}

/// A client with a session of its own.
pub struct Member {
    pub meta: RemoteMeta,
    pub stamp: SessionStamp,
    seq: u64,
}

impl Member {
    pub async fn open(site: &Site, me: &Identity) -> Self {
        let meta = site.meta(me).await;
        let open = OpenSession { client: "c".into(), host: "h".into(), version: "v".into() };
        let stamp = meta.open_session(&cx(), open).await.unwrap().stamp;
        Self { meta, stamp, seq: 0 }
    }

    /// The context of its next mutation.
    pub fn cx(&mut self) -> CallContext {
        self.seq += 1;
        let slot = Some(SlotStamp { slot: SlotId(0), seq: SlotSeq(self.seq) });
        CallContext { session: Some(self.stamp), slot, ..cx() }
    }

    pub async fn ask<O: MetaOp>(&mut self, op: O) -> Result<O::Reply, MetaError> {
        let cx = self.cx();
        ask(&self.meta, &cx, op).await
    }
}

/// Waits for a line of a log that has all of these words.
pub fn logged(daemon: &Daemon, words: &[&str]) {
    wait_for(&format!("a line of the log with {words:?}"), || {
        daemon.log().lines().any(|line| words.iter().all(|w| line.contains(w))).then_some(())
    });
}
