//! Connections to other chunkservers and to masters, one for each address.

use mooseng_core::{
    error::NetError,
    net::{Connection, Transport},
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

pub(crate) struct Peers {
    transport: Arc<dyn Transport>,
    connections: Mutex<BTreeMap<String, Arc<dyn Connection>>>,
}

impl Peers {
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, connections: Mutex::default() }
    }

    pub async fn get(&self, addr: &str, budget: Duration) -> Result<Arc<dyn Connection>, NetError> {
        if let Some(c) = self.connections.lock().get(addr).filter(|c| !c.is_closed()) {
            return Ok(c.clone());
        }
        let silent = || NetError::Deadline { peer: addr.to_owned(), millis: budget.as_millis() as u64 };
        let c = tokio::time::timeout(budget, self.transport.connect(addr)).await.map_err(|_| silent())??;
        self.connections.lock().insert(addr.to_owned(), c.clone());
        Ok(c)
    }
}
