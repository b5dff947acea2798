//! Emptying a chunkserver: it gets no new copies, the repair loop makes its own elsewhere, with it as a
//! source, and then takes it out of their sets (`repair::plan`).

use super::{Inner, Lead, internal};
use crate::store::*;
use mooseng_core::{attr::Timestamp, context::CallContext, error::MetaError, ids::*, meta::*};
use std::{collections::BTreeMap, io};

/// Servers that are being emptied.
pub(super) fn draining(view: &RedbView) -> io::Result<BTreeMap<ServerId, Timestamp>> {
    let mut all = BTreeMap::new();
    scan_recs(view, Table::Drain, &[], &[], |k, since: Timestamp| {
        all.insert(ServerId(number(k)), since);
        true
    })?;
    Ok(all)
}

impl Inner {
    pub(super) async fn drain(&self, lead: &Lead, cx: &CallContext, r: Drain) -> Result<(), MetaError> {
        let changed = self.propose(Command::Drain { server: r.server, on: r.on }, cx.budget).await?;
        let now = draining(&self.view()?).map_err(internal)?;
        if changed != Applied::Done(true) && now.contains_key(&r.server) != r.on {
            return Err(MetaError::Invalid(format!("there is no chunkserver {}", r.server)));
        }
        tracing::info!(server = %r.server, on = r.on, "drain");
        let mut m = lead.memory.lock();
        m.draining = now;
        m.drain_left.clear();
        m.look_at_all = true;
        lead.wake.notify_one();
        Ok(())
    }
}
