//! The leader's own look at the cluster, from which events come.

use super::{
    Inner, Lead,
    events::{News, Ring, Seen},
};
use mooseng_core::{
    error::MetaError,
    health::HealthCode,
    ids::Term,
    meta::{EventCode, EventPage, ListEvents, ServerLoad},
};
use parking_lot::{Mutex, MutexGuard};
use std::time::Duration;

/// Between two looks at chunkservers.
const EVERY: Duration = Duration::from_secs(2);
/// After a look at all chunks the pause until the next one is so many times what it took.
const SHARE: u32 = 50;

/// What a leader watches with.
pub(super) struct Watch {
    ring: Mutex<Ring>,
    seen: Mutex<Seen>,
}

impl Watch {
    /// Of a leader that begins now.
    pub fn new(term: Term) -> Self {
        Self { ring: Mutex::new(Ring::new(term)), seen: Mutex::default() }
    }

    /// What the looks have seen. It is taken before the leader's memory.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock()
    }
}

impl Inner {
    /// Something happened that operators want to know of.
    pub(super) fn tell(&self, lead: &Lead, code: EventCode, text: String) {
        self.tell_of(lead, code, None, text);
    }

    fn tell_of(&self, lead: &Lead, code: EventCode, problem: Option<HealthCode>, text: String) {
        let (name, of) = (code.name(), problem.map(HealthCode::name));
        match code.is_bad() {
            true => tracing::warn!(code = name, problem = of, "{text}"),
            false => tracing::info!(code = name, problem = of, "{text}"),
        }
        lead.watch.ring.lock().tell(self.wall(), code, problem, text);
    }

    pub(super) fn list_events(&self, lead: &Lead, r: &ListEvents) -> EventPage {
        lead.watch.ring.lock().page(r.after, r.count)
    }

    /// Looks at chunkservers again and again, and tells what is new: also while a look at all chunks goes on.
    pub(super) async fn watch_servers(&self, lead: &Lead) {
        // Before everybody had a chance to register nobody is missed.
        tokio::time::sleep(self.timings.server_dead).await;
        loop {
            self.tell_all(lead, "chunkservers", self.look_at_servers(lead));
            tokio::time::sleep(EVERY).await;
        }
    }

    /// The same of the whole cluster.
    pub(super) async fn watch_cluster(&self, lead: &Lead) {
        tokio::time::sleep(self.timings.server_dead).await;
        loop {
            let began = self.now();
            self.tell_all(lead, "all chunks", self.look_at_cluster(lead).await);
            let took = self.now().saturating_sub(began);
            tokio::time::sleep(self.timings.look.max(took * SHARE)).await;
        }
    }

    fn look_at_servers(&self, lead: &Lead) -> Result<Vec<News>, MetaError> {
        let view = self.view()?;
        let mut seen = lead.watch.seen();
        Ok(seen.servers(&self.server_infos(lead, &view)?))
    }

    async fn look_at_cluster(&self, lead: &Lead) -> Result<Vec<News>, MetaError> {
        let view = self.view()?;
        let (status, care) = (self.status(lead, &view, |_, _| ()).await?, self.care(lead, &view).await?);
        Ok(lead.watch.seen().whole(&status, &care))
    }

    fn tell_all(&self, lead: &Lead, at: &str, found: Result<Vec<News>, MetaError>) {
        match found {
            Ok(news) => {
                news.into_iter().for_each(|(code, problem, text)| self.tell_of(lead, code, problem, text))
            }
            Err(e) => tracing::warn!(error = %e, "a look at {at} failed, the next one goes on"),
        }
    }

    /// What chunkservers told of what they serve.
    pub(super) fn loads(&self, lead: &Lead) -> Vec<ServerLoad> {
        lead.memory.lock().loads.values().copied().collect()
    }
}
