//! The memory transport: messages are handed over by pointer, identities are given, and a
//! [`Faults`] may delay, lose or reset whatever travels. For tests, the simulator, embedding.

mod connection;
mod faults;
#[cfg(test)]
mod tests;

pub use faults::{Event, Fate, Faults, NoFaults};

use async_trait::async_trait;
use connection::MemoryConnection;
use mooseng_core::{
    error::NetError,
    net::{Connection, Handler, Listening, PeerIdentity, Transport},
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a connect waits on a network that swallows it.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Names and who listens at them. Clones share them.
#[derive(Clone, Debug)]
pub struct MemoryNetwork {
    shared: Arc<Shared>,
}

struct Shared {
    faults: Arc<dyn Faults>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    listeners: BTreeMap<String, Arc<Listener>>,
    /// Open connections with the names at their ends, so that a crash can cut them.
    connections: Vec<(String, String, Weak<CancelOnDrop>)>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.state.lock().listeners.keys().cloned().collect();
        f.debug_struct("MemoryNetwork").field("listeners", &names).finish()
    }
}

struct Listener {
    name: String,
    owner: String,
    identity: PeerIdentity,
    handler: Arc<dyn Handler>,
    ended: CancellationToken,
    tasks: TaskTracker,
}

/// A token that is cancelled with its last holder.
struct CancelOnDrop(CancellationToken);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Default for MemoryNetwork {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryNetwork {
    /// A network without faults.
    pub fn new() -> Self {
        Self::with_faults(Arc::new(NoFaults))
    }

    /// A network on which `faults` decides.
    pub fn with_faults(faults: Arc<dyn Faults>) -> Self {
        Self { shared: Arc::new(Shared { faults, state: Mutex::default() }) }
    }

    /// The transport of a node; its name on the network is the identity's name.
    pub fn transport(&self, identity: PeerIdentity) -> Arc<dyn Transport> {
        let name = identity.name.clone();
        self.transport_named(&name, identity)
    }

    /// The transport of a node that [`Faults`] know by another name than its identity's.
    pub fn transport_named(&self, name: &str, identity: PeerIdentity) -> Arc<dyn Transport> {
        Arc::new(MemoryTransport { name: name.into(), identity, shared: self.shared.clone() })
    }

    /// Ends at once all that a named transport listens at and all connections from or to it, as
    /// the crash of its process does.
    pub fn cut(&self, name: &str) {
        let mut state = self.shared.state.lock();
        let gone: Vec<String> =
            state.listeners.values().filter(|l| l.owner == name).map(|l| l.name.clone()).collect();
        let listeners: Vec<_> = gone.iter().filter_map(|at| state.listeners.remove(at)).collect();
        let hit = |(from, to, _): &(String, String, _)| from == name || gone.contains(to);
        let tokens: Vec<CancellationToken> = state
            .connections
            .iter()
            .filter(|c| hit(c))
            .filter_map(|(.., token)| token.upgrade().map(|t| t.0.clone()))
            .collect();
        drop(state);
        // Cancelling wakes tasks: not under the lock.
        listeners.iter().for_each(|l| l.ended.cancel());
        tokens.iter().for_each(CancellationToken::cancel);
    }
}

impl MemoryNetwork {
    /// Ends at once the open connections for whose two ends (the caller's name, the listening name)
    /// `hit` says so, as long silence on a partitioned network does.
    pub fn sever(&self, hit: impl Fn(&str, &str) -> bool) {
        let state = self.shared.state.lock();
        let open = state.connections.iter().filter(|(from, to, _)| hit(from, to));
        let tokens: Vec<CancellationToken> =
            open.filter_map(|(.., token)| token.upgrade().map(|t| t.0.clone())).collect();
        drop(state);
        // Cancelling wakes tasks: not under the lock.
        tokens.iter().for_each(CancellationToken::cancel);
    }
}

struct MemoryTransport {
    name: String,
    identity: PeerIdentity,
    shared: Arc<Shared>,
}

impl MemoryTransport {
    async fn travel(&self, to: &str) -> Result<(), NetError> {
        let refused = |cause: &str| NetError::Connect { to: to.into(), cause: cause.into() };
        match self.shared.faults.fate(&self.name, to, Event::Connect) {
            Fate::Deliver(after) | Fate::Twice(after, _) => {
                connection::pass(after).await;
                Ok(())
            }
            Fate::Drop => {
                tokio::time::sleep(CONNECT_TIMEOUT).await;
                Err(refused("no answer (the network is partitioned)"))
            }
            Fate::Reset => Err(refused("the connection was reset")),
        }
    }
}

#[async_trait]
impl Transport for MemoryTransport {
    async fn connect(&self, to: &str) -> Result<Arc<dyn Connection>, NetError> {
        self.travel(to).await?;
        let mut state = self.shared.state.lock();
        let listener = state.listeners.get(to).cloned().ok_or_else(|| NetError::Connect {
            to: to.into(),
            cause: "nobody listens at this name".into(),
        })?;
        if listener.identity.cluster != self.identity.cluster {
            return Err(NetError::Identity {
                peer: to.into(),
                cause: format!(
                    "it belongs to cluster {}, this node to {}: use the certificate of that cluster",
                    listener.identity.cluster, self.identity.cluster
                ),
            });
        }
        let open = Arc::new(CancelOnDrop(listener.ended.child_token()));
        state.connections.retain(|(.., c)| c.strong_count() > 0);
        state.connections.push((self.name.clone(), to.into(), Arc::downgrade(&open)));
        drop(state);
        let (faults, me) = (self.shared.faults.clone(), self.identity.clone());
        Ok(Arc::new(MemoryConnection::new(listener, open, self.name.clone(), me, faults)))
    }

    async fn listen(&self, at: &str, handler: Arc<dyn Handler>) -> Result<Box<dyn Listening>, NetError> {
        let mut state = self.shared.state.lock();
        if state.listeners.contains_key(at) {
            return Err(NetError::Listen { at: at.into(), cause: "the name is in use".into() });
        }
        let listener = Arc::new(Listener {
            name: at.into(),
            owner: self.name.clone(),
            identity: self.identity.clone(),
            handler,
            ended: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        state.listeners.insert(at.into(), listener.clone());
        Ok(Box::new(MemoryListening { listener, shared: self.shared.clone() }))
    }
}

struct MemoryListening {
    listener: Arc<Listener>,
    shared: Arc<Shared>,
}

impl MemoryListening {
    fn stop(&self) {
        let mut state = self.shared.state.lock();
        // Another listener may have the name by now, after a cut.
        if state.listeners.get(&self.listener.name).is_some_and(|l| Arc::ptr_eq(l, &self.listener)) {
            state.listeners.remove(&self.listener.name);
        }
        drop(state);
        self.listener.ended.cancel();
        self.listener.tasks.close();
    }
}

impl Drop for MemoryListening {
    fn drop(&mut self) {
        self.stop();
    }
}

#[async_trait]
impl Listening for MemoryListening {
    fn local_addr(&self) -> String {
        self.listener.name.clone()
    }
    async fn close(self: Box<Self>) {
        self.stop();
        self.listener.tasks.wait().await;
    }
}
