//! What a leader tells its own process of the cluster: more than a request answers, from fewer looks.

use super::MasterService;
use mooseng_core::{error::MetaError, meta::*};
use std::{collections::BTreeMap, time::Duration};

/// A cluster as its leader sees it.
#[derive(Clone, Debug)]
pub struct Survey {
    /// As `GetStatus` answers.
    pub status: ClusterStatus,
    /// As `GetCare` answers.
    pub care: Care,
    /// Chunks by copies wanted, and good ones at servers that are heard.
    pub copies: BTreeMap<(u8, u8), u64>,
    /// Attempts to mend or settle a chunk that failed in this leader's term.
    pub repair_failures: u64,
}

impl MasterService {
    /// Looks at the whole cluster: reads every chunk's record, twice. Only at the leader, which a quorum confirms
    /// within `budget`.
    ///
    /// Cancellation: nothing is changed. Errors: who leads instead, no quorum, the disk's.
    pub async fn survey(&self, budget: Duration) -> Result<Survey, MetaError> {
        let s = &self.0;
        let lead = s.lead()?;
        let view = s.fresh_view(budget).await?;
        let mut copies = BTreeMap::new();
        let status = s.status(&lead, &view, |wanted, good| {
            *copies.entry((wanted, u8::try_from(good).unwrap_or(u8::MAX))).or_default() += 1;
        });
        let status = status.await?;
        let care = s.care(&lead, &view).await?;
        let repair_failures = lead.memory.lock().progress.failed;
        Ok(Survey { status, care, copies, repair_failures })
    }
}
