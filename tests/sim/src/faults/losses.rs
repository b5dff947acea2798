//! Drills of what a power failure leaves: a replica that is asked for what it had not synced, and a sync
//! of what all replicas have lost.

use super::{
    End, NODES, Node, Troublemaker,
    drills::{AT, EXTRAS, VALUE, open, try_for, value},
};
use crate::{acts::ask_head, weather::Wall};
use anyhow::{Context as _, Result, ensure};
use mooseng_core::{
    ids::{ChunkIndex, Offset},
    meta::GetLayout,
};
use std::time::Duration;

/// Longest wait for a step.
const STEP: Duration = Duration::from_secs(10);
/// A chunkserver that has started hears from the masters.
const KEYS_COME: Duration = Duration::from_millis(1500);

impl Troublemaker {
    /// The power of these chunkservers fails, and comes back at once.
    async fn flicker(&mut self, servers: &[usize]) -> Result<()> {
        for at in servers {
            let name = Node::Chunkserver(*at).name();
            self.note(format_args!("{name}: {:?}, for a moment", End::Power));
            self.media.of(&name).iter().for_each(|m| m.crash(&self.rng));
            self.hurts(&name, true);
        }
        for at in servers {
            self.kill(Node::Chunkserver(*at)).await;
        }
        tokio::time::sleep(self.millis(50, 500)).await;
        for at in servers {
            self.down.remove(&Node::Chunkserver(*at));
            self.cluster.start_chunkserver(*at).await.context("after a moment without power")?;
        }
        Ok(())
    }

    /// A replica that lost power answers nobody, not even a client that has not heard of it. Errors: it
    /// did, with what was there before.
    pub(super) async fn suspect(&mut self) -> Result<()> {
        let path = format!("/suspect-{}", self.pick(1 << 40));
        let (heir, asker) = (self.extras.heir.clone(), self.extras.asker.clone());
        let Some(file) = open(&heir.filesystem(), &path, true).await else { return Ok(()) };
        let at = GetLayout { inode: file.attr().inode, from: ChunkIndex(0), count: 1 };
        let written = async {
            file.write_at(AT, value(1)).await?;
            file.sync_all().await?;
            file.write_at(AT, value(2)).await?;
            file.flush_all().await?;
            asker.request(at).await
        };
        let (age, written) = (self.age(), try_for(STEP * 2, written).await);
        let Some(layout) = written else { return Ok(()) };
        let place = layout.chunks.first().context("a file without a chunk")?;
        let head = place.chain.first().context("a chunk without a head")?.addr.clone();
        let at = (0..NODES).find(|n| Node::Chunkserver(*n).name() == head).context("a head of no name")?;
        // Nobody fills it.
        for other in (0..NODES).filter(|n| *n != at) {
            self.stage.weather.wall(Wall::Between(Node::Chunkserver(other).name(), head.clone()));
        }
        self.flicker(&[at]).await?;
        // It needs the masters' keys before it answers anybody.
        tokio::time::sleep(KEYS_COME).await;
        let (right, what) = ((place, layout.capability.clone()), (Offset(AT), VALUE as u64));
        let read = ask_head(&self.cluster, EXTRAS[2], right, what).await;
        if let Ok(read) = read
            && self.age() == age
        {
            let is_new = read.starts_with(&value(2));
            ensure!(is_new, "{path} shows what {head} had before what every replica had taken");
        }
        Ok(())
    }

    /// What all replicas lost is told by the next sync of the client that wrote it. Errors: it says that
    /// all is well, and it is not.
    pub(super) async fn forget(&mut self) -> Result<()> {
        let path = format!("/forgotten-{}", self.pick(1 << 40));
        let fs = self.extras.heir.filesystem();
        let Some(file) = open(&fs, &path, true).await else { return Ok(()) };
        let written = async {
            file.write_at(AT, value(1)).await?;
            file.sync_all().await?;
            file.write_at(AT, value(2)).await?;
            file.close().await
        };
        if try_for(STEP, written).await.is_none() {
            return Ok(());
        }
        self.flicker(&[0, 1, 2]).await?;
        let age = self.age();
        let Some(file) = open(&fs, &path, false).await else { return Ok(()) };
        if try_for(STEP * 3, file.sync_all()).await.is_none() {
            return Ok(());
        }
        self.note(format_args!("{path} was synced"));
        let read = try_for(STEP, file.read_at(AT, VALUE as u64)).await;
        if let Some(read) = read.filter(|_| self.age() == age) {
            ensure!(read == value(2), "a sync of {path} was acknowledged, and what it covers is gone");
        }
        Ok(())
    }

    /// Power failures of all replicas so far.
    pub(super) fn age(&self) -> u64 {
        self.stage.power_failures.load(std::sync::atomic::Ordering::Relaxed)
    }
}
