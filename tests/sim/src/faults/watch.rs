//! Looking at the masters as no client can, while all goes on.

use super::{NODES, Troublemaker};
use anyhow::{Context as _, Result};
use std::time::Duration;
use tokio::time::Instant;

/// Longest time until a follower has what the leader has committed when nothing is wrong.
const FOLLOWED: Duration = Duration::from_secs(5);

impl Troublemaker {
    /// Errors: two masters lead one term.
    pub(super) fn watch_leaders(&mut self) -> Result<()> {
        for at in 0..NODES {
            let Some(now) = self.cluster.master(at).map(|m| m.status().raft.leadership) else { continue };
            if now.is_me {
                self.chronicle.leads(at, now.term)?;
            }
        }
        Ok(())
    }

    /// Errors: what the masters hold does not go together.
    pub(super) async fn compare_masters(&mut self) -> Result<()> {
        self.watch_leaders()?;
        for at in 0..NODES {
            let Some(master) = self.cluster.master(at) else { continue };
            // One whose disk has failed tells nothing any more.
            if let Ok(held) = master.held().await {
                self.chronicle.holds(at, &held)?;
            }
        }
        Ok(())
    }

    /// The same at the end, when all masters must have everything. How many entries were seen committed.
    pub async fn masters_are_equal(&mut self) -> Result<u64> {
        let end = Instant::now() + FOLLOWED;
        loop {
            self.compare_masters().await?;
            let mut held = Vec::new();
            for at in 0..NODES {
                let master = self.cluster.master(at).with_context(|| format!("master-{} is gone", at + 1))?;
                held.push(master.held().await?);
            }
            match self.chronicle.all_have(&held) {
                // A follower hears with the next message what the leader has just committed.
                Err(_) if Instant::now() < end => tokio::time::sleep(Duration::from_millis(20)).await,
                done => return done.map(|()| self.chronicle.committed() as u64),
            }
        }
    }
}
