//! What comes back older than it was: masters whose directory is restored from a copy, and nodes whose disks have
//! acknowledged fsyncs and kept nothing when power fails. Only some seeds have these, drawn from a stream of their
//! own, so that all others keep their course.
//!
//! A master tells neither from the other, and has to notice both: what was committed stays, whoever is elected.
//!
//! A chunkserver whose disks lied comes back with replicas that are older, at the same version, and right by all that
//! they say of themselves: the note that they were dirty is lost with them. Nothing on that server can tell, and a
//! copy that is made equal to such a replica takes the last good one along. What is judged is what remains: nobody
//! else needed what the liar said it had. So it starts with what it has left, walled off, and answers for each block
//! with what verifies or with an error; then it gets empty disks, as an operator gives it who has heard of the lie,
//! and all that a sync covered has to be there.

use super::{Fault, NODES, Node, Troublemaker, WHOLE_AGAIN};
use crate::{
    clocks::RIGHT,
    disk::{Copied, Ill, SimMedium},
    replicas,
    weather::{SCRUBBER, Wall},
};
use anyhow::{Context as _, Result};
use mooseng_core::seam::Rng as _;
use mooseng_host::SeededRng;
use std::{sync::atomic::Ordering::Relaxed, time::Duration};

/// One of so many faults of a seed that has them.
const ONE_IN: u64 = 4;
/// Days that the time of day of a master may jump forward, at most. Keys and capabilities live for days.
const DAYS_MAX: u64 = 4;
const DAY_SECS: u64 = 24 * 3600;
/// Longest look at what a liar has left.
const LOOK: Duration = Duration::from_secs(30);

/// Whether a seed has such faults: a third do, and none of those that catch a planted bug.
pub fn has_rare_faults(seed: u64) -> bool {
    matches!(seed % 9, 5 | 6 | 8)
}

/// Their stream, and what one of them has to remember.
pub(super) struct Rare {
    rng: SeededRng,
    copy: Option<Copied>,
}

impl Rare {
    /// That of a seed, if it has them.
    pub fn of(seed: u64) -> Option<Self> {
        has_rare_faults(seed).then(|| Self { rng: SeededRng::new(seed ^ 0x7a7e), copy: None })
    }

    fn pick(&self, n: u64) -> u64 {
        self.rng.next_u64() % n
    }
}

/// A master that is to be restored.
#[derive(Clone, Debug)]
pub(super) struct Restored {
    at: usize,
    /// The third one lacks meanwhile what the others have.
    apart: Option<Wall>,
    /// It starts once more after the copy, which does not know of that start.
    anew: bool,
}

impl Troublemaker {
    /// A rare fault, for seeds that have them.
    pub(super) fn choose_rare(&self) -> Option<Fault> {
        let rare = self.rare.as_ref()?;
        if rare.pick(ONE_IN) > 0 {
            return None;
        }
        let at = rare.pick(NODES as u64) as usize;
        let leader = self.cluster.leader().unwrap_or(at);
        let master = if rare.pick(2) == 0 { leader } else { at };
        Some(match rare.pick(4) {
            0 => Fault::Lying(Node::Chunkserver(at)),
            1 => Fault::Lying(Node::Master(master)),
            2 => {
                let days = 1 + rare.pick(DAYS_MAX);
                Fault::Clock(Node::Master(master).name(), RIGHT, (days * DAY_SECS) as i64)
            }
            _ => {
                let third = (0..NODES).find(|n| ![master, leader].contains(n)).unwrap_or(at);
                let apart = Wall::Between(Node::Master(leader).name(), Node::Master(third).name());
                let apart = (rare.pick(2) == 0).then_some(apart);
                let anew = rare.pick(2) == 0;
                Fault::Restored(Restored { at: master, apart, anew })
            }
        })
    }

    /// Somebody copies a master's directory while it is in use.
    pub(super) async fn is_copied(&mut self, restored: &Restored) -> Result<()> {
        let name = Node::Master(restored.at).name();
        self.note(format_args!("{name}'s directory is copied: {restored:?}"));
        let medium = self.media.get(&name);
        if let Some(rare) = &mut self.rare {
            rare.copy = Some(medium.copy());
        }
        if restored.anew {
            medium.kill();
            self.cluster.kill_master(restored.at).await;
            self.cluster.start_master(restored.at).await.context("after it was copied")?;
        }
        if let Some(wall) = &restored.apart {
            self.note(wall);
            self.stage.weather.wall(wall.clone());
        }
        Ok(())
    }

    /// It ends, and starts on the copy. Errors: it does not, or the cluster does not become whole with it.
    pub(super) async fn is_restored(&mut self, restored: &Restored) -> Result<()> {
        let name = Node::Master(restored.at).name();
        let Some(copy) = self.rare.as_mut().and_then(|rare| rare.copy.take()) else { return Ok(()) };
        self.note(format_args!("{name} is restored from the copy"));
        let medium = self.media.get(&name);
        medium.kill();
        self.cluster.kill_master(restored.at).await;
        medium.restore(&copy);
        self.cluster.start_master(restored.at).await.with_context(|| format!("{name} was restored"))?;
        self.stage.rolled_back.fetch_add(1, Relaxed);
        self.whole(WHOLE_AGAIN, false).await.with_context(|| format!("{name} was restored")).map(drop)
    }

    /// The disks of a node lie from now on.
    pub(super) async fn begins_to_lie(&mut self, node: Node) {
        if matches!(node, Node::Chunkserver(_)) {
            self.diary = self.begin_diary().await;
        }
        let name = node.name();
        self.note(format_args!("the disks of {name} keep nothing from now on"));
        self.hurts(&name, false);
        self.media.of(&name).iter().for_each(|m| m.falls_ill(Ill::Lies, 0));
    }

    /// The power of a node fails whose disks lied.
    pub(super) async fn lie_comes_out(&mut self, node: Node) -> Result<()> {
        let name = node.name();
        if matches!(node, Node::Chunkserver(_)) {
            // What the liar has alone no filesystem gives back.
            self.whole(WHOLE_AGAIN, false).await.context("before a disk that lies loses power")?;
            self.stage.calm.end();
        }
        let all = self.rare.as_ref().is_some_and(|rare| rare.pick(2) == 0);
        let what = if all { "all" } else { "some" };
        self.note(format_args!("{name}: power fails, and {what} that its disks only said they had is gone"));
        let media = self.media.of(&name);
        let felt: usize = media.iter().map(|m| m.felt().len()).sum();
        self.stage.ills_felt.fetch_add(felt as u64, Relaxed);
        for medium in &media {
            if all {
                medium.forget();
            }
            medium.crash(&self.rng);
            medium.recovers();
        }
        self.hurts(&name, true);
        self.kill(node).await;
        self.stage.rolled_back.fetch_add(1, Relaxed);
        match node {
            Node::Master(at) => self.old_master_starts(at, &media).await,
            Node::Chunkserver(at) => self.liar_is_replaced(at, &media).await,
        }
    }

    /// A master starts on what its disk has kept. One that refuses gets an empty one.
    async fn old_master_starts(&mut self, at: usize, media: &[SimMedium]) -> Result<()> {
        let name = Node::Master(at).name();
        self.down.remove(&Node::Master(at));
        if let Err(e) = self.cluster.start_master(at).await {
            self.note(format_args!("{name} does not start on what is left, and gets an empty disk: {e}"));
            media.iter().for_each(SimMedium::wipe);
            self.cluster.start_master(at).await.with_context(|| format!("{name} has an empty disk"))?;
        }
        self.whole(WHOLE_AGAIN, false)
            .await
            .with_context(|| format!("{name} has less than it said"))
            .map(drop)
    }

    /// A chunkserver whose disks lied is looked at behind a wall, and gets empty ones. Errors: what it has left is
    /// neither right nor known to be wrong, or the others do not make up for it.
    async fn liar_is_replaced(&mut self, at: usize, media: &[SimMedium]) -> Result<()> {
        let name = Node::Chunkserver(at).name();
        self.stage.weather.wall(Wall::Only(name.clone(), SCRUBBER.into()));
        match self.cluster.start_chunkserver(at).await {
            Err(e) => self.note(format_args!("{name} does not start on what is left: {e}")),
            Ok(()) => self.look_at_liar(&name).await?,
        }
        media.iter().for_each(SimMedium::wipe);
        self.cluster.kill_chunkserver(at);
        self.stage.weather.clear();
        self.down.remove(&Node::Chunkserver(at));
        self.note(format_args!("{name} has empty disks"));
        self.cluster.start_chunkserver(at).await.with_context(|| format!("{name} has empty disks"))?;
        self.whole(WHOLE_AGAIN, false).await.with_context(|| format!("{name} had lied")).map(drop)
    }

    /// Reads all that a liar has left. How many of its replicas are older and do not know is noted.
    async fn look_at_liar(&self, name: &str) -> Result<()> {
        let look = async {
            let damaged = replicas::damage(&self.cluster, name).await?;
            let (good, older) = replicas::differing(&self.cluster, name, NODES).await?;
            anyhow::Ok((damaged.len(), good, older))
        };
        match tokio::time::timeout(LOOK, look).await.with_context(|| format!("{name} does not answer"))? {
            Ok((damaged, good, older)) => {
                self.note(format_args!(
                    "{name} has {good} good replicas, {damaged} damaged ones, {older} that are older and do not know"
                ));
                Ok(())
            }
            Err(e) if replicas::has_moved(&e) => Ok(()),
            Err(e) => Err(e).with_context(|| format!("what {name} has left")),
        }
    }
}
