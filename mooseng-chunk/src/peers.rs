//! Connections to other chunkservers and to masters, one for each address.

use mooseng_core::{
    error::NetError,
    net::{Connection, Connections, Transport},
};
use std::{sync::Arc, time::Duration};

pub(crate) struct Peers(Connections);

impl Peers {
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self(Connections::new(transport))
    }

    pub async fn get(&self, addr: &str, budget: Duration) -> Result<Arc<dyn Connection>, NetError> {
        let silent = || NetError::Deadline { peer: addr.to_owned(), millis: budget.as_millis() as u64 };
        tokio::time::timeout(budget, self.0.get(addr)).await.map_err(|_| silent())?
    }
}
