//! A network of calls between masters, one millisecond each way, whose lines can be cut.

use async_trait::async_trait;
use mooseng_core::context::CallContext;
use mooseng_core::error::NetError;
use mooseng_core::ids::ClusterId;
use mooseng_core::net::{
    CertHash, Connection, Handler, Listening, Message, Method, PeerIdentity, Role, Transport,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::{sync::Arc, time::Duration};

#[derive(Default)]
struct Inner {
    listening: BTreeMap<String, (u64, Arc<dyn Handler>)>,
    /// Lines (from, to) that carry nothing.
    cut: BTreeSet<(u64, u64)>,
    calls: BTreeMap<Method, u64>,
}

/// The network.
#[derive(Clone, Default)]
pub struct TestNet(Arc<Mutex<Inner>>);

pub fn identity(role: Role, node: u64) -> PeerIdentity {
    PeerIdentity {
        cluster: ClusterId("018f0000-0000-7000-8000-000000000001".parse::<ClusterId>().unwrap().0),
        role,
        node,
        name: format!("{role}-{node}"),
        cert_hash: CertHash::default(),
    }
}

impl TestNet {
    pub fn endpoint(&self, node: u64) -> Arc<dyn Transport> {
        Arc::new(Endpoint { net: self.clone(), me: identity(Role::Master, node) })
    }
    pub fn endpoint_of(&self, role: Role, node: u64) -> Arc<dyn Transport> {
        Arc::new(Endpoint { net: self.clone(), me: identity(role, node) })
    }
    /// Cuts both directions between `node` and all others.
    pub fn isolate(&self, node: u64, others: impl IntoIterator<Item = u64>) {
        let mut inner = self.0.lock();
        for other in others {
            inner.cut.insert((node, other));
            inner.cut.insert((other, node));
        }
    }
    /// Nothing of all others reaches `node` any more.
    pub fn deafen(&self, node: u64, others: impl IntoIterator<Item = u64>) {
        self.0.lock().cut.extend(others.into_iter().map(|other| (other, node)));
    }
    pub fn mend(&self) {
        self.0.lock().cut.clear();
    }
    pub fn calls(&self, method: Method) -> u64 {
        self.0.lock().calls.get(&method).copied().unwrap_or(0)
    }
}

struct Endpoint {
    net: TestNet,
    me: PeerIdentity,
}

#[async_trait]
impl Transport for Endpoint {
    async fn connect(&self, to: &str) -> Result<Arc<dyn Connection>, NetError> {
        let node = self.net.0.lock().listening.get(to).map(|(node, _)| *node);
        let cause = || NetError::Connect { to: to.into(), cause: "nobody listens".into() };
        let peer = identity(Role::Master, node.ok_or_else(cause)?);
        Ok(Arc::new(Line { net: self.net.clone(), me: self.me.clone(), to: to.into(), peer }))
    }
    async fn listen(&self, at: &str, handler: Arc<dyn Handler>) -> Result<Box<dyn Listening>, NetError> {
        self.net.0.lock().listening.insert(at.into(), (self.me.node, handler));
        Ok(Box::new(Ear { net: self.net.clone(), at: at.into() }))
    }
}

struct Ear {
    net: TestNet,
    at: String,
}

#[async_trait]
impl Listening for Ear {
    fn local_addr(&self) -> String {
        self.at.clone()
    }
    async fn close(self: Box<Self>) {
        self.net.0.lock().listening.remove(&self.at);
    }
}

struct Line {
    net: TestNet,
    me: PeerIdentity,
    to: String,
    peer: PeerIdentity,
}

impl Line {
    async fn pass(&self, line: (u64, u64)) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        if self.net.0.lock().cut.contains(&line) {
            futures::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Connection for Line {
    fn peer(&self) -> &PeerIdentity {
        &self.peer
    }
    async fn call(&self, cx: &CallContext, method: Method, msg: Message) -> Result<Message, NetError> {
        let work = async {
            self.pass((self.me.node, self.peer.node)).await;
            let handler = {
                let mut inner = self.net.0.lock();
                *inner.calls.entry(method).or_default() += 1;
                inner.listening.get(&self.to).map(|(_, handler)| Arc::clone(handler))
            };
            let closed = || NetError::Closed { peer: self.to.clone(), cause: "gone".into(), sent: false };
            let reply = handler.ok_or_else(closed)?.handle(&self.me, cx.clone(), method, msg).await;
            self.pass((self.peer.node, self.me.node)).await;
            reply
        };
        let late = || NetError::Deadline { peer: self.to.clone(), millis: cx.budget.as_millis() as u64 };
        tokio::time::timeout(cx.budget, work).await.unwrap_or_else(|_| Err(late()))
    }
    fn is_closed(&self) -> bool {
        false
    }
    fn close(&self) {}
}
