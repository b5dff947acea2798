//! Disks that are ill: full, failing, going astray, rotting. Damage is done to the data of one chunkserver
//! at a time, until the others have made up for it: two replicas of a chunk are what it has.

use super::{NODES, Node, Troublemaker};
use crate::{
    disk::{CHUNKS, Ill, SimMedium},
    replicas::{self, has_moved},
};
use anyhow::{Context as _, Result, bail, ensure};
use mooseng_core::{ids::ChunkRef, seam::Rng as _};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// A master whose disk has failed is stopped within this.
const FAILS: Duration = Duration::from_secs(10);
/// Files of a master that must be as it wrote them.
const VITAL: [&str; 4] = ["raft/log", "raft/starts", "raft/vote", "state.redb"];
/// Damage that was read is mended within this.
const MENDED: Duration = Duration::from_secs(30);
/// Bits that flip at once, at most.
const BITS_MAX: u64 = 8;

/// A node whose disk is ill.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sick {
    pub node: Node,
    /// Which of its disks; all when there are fewer.
    pub disk: usize,
    pub ill: Ill,
}

impl Ill {
    /// Whether data may be lost by it.
    pub(super) fn is_damage(self) -> bool {
        matches!(self, Self::Writes(_) | Self::Syncs(_) | Self::Strays(_))
    }
}

impl Troublemaker {
    /// The chunkserver whose data may be damaged now.
    fn patient(&self) -> usize {
        self.sick.unwrap_or_else(|| self.pick(NODES as u64) as usize)
    }

    /// An illness of a chunkserver.
    pub(super) fn sick_chunkserver(&self) -> Sick {
        let often = 1 + self.pick(8);
        let ill = match self.pick(6) {
            0 | 1 => Ill::Full,
            2 => Ill::Reads(often),
            3 => Ill::Writes(often),
            4 => Ill::Syncs(often),
            _ => Ill::Strays(often),
        };
        let at = if ill.is_damage() { self.patient() } else { self.pick(NODES as u64) as usize };
        Sick { node: Node::Chunkserver(at), disk: self.pick(3) as usize, ill }
    }

    /// An illness of a master.
    pub(super) fn sick_master(&self) -> Sick {
        let at = match self.pick(2) {
            0 => self.cluster.leader().unwrap_or(0),
            _ => self.pick(NODES as u64) as usize,
        };
        let often = 1 + self.pick(20);
        let ill = match self.pick(4) {
            0 => Ill::Full,
            1 => Ill::Reads(often),
            2 => Ill::Writes(often),
            _ => Ill::Syncs(often),
        };
        Sick { node: Node::Master(at), disk: 0, ill }
    }

    pub(super) fn falls_ill(&mut self, sick: Sick) {
        let name = sick.node.name();
        self.note(format_args!("{name} has an ill disk: {sick:?}"));
        if let Node::Chunkserver(at) = sick.node {
            self.hurts(&name, sick.ill.is_damage());
            if sick.ill.is_damage() {
                self.sick = Some(at);
            }
        }
        let media = self.media.of(&name);
        for (n, medium) in media.iter().enumerate() {
            if sick.disk >= media.len() || sick.disk == n {
                medium.falls_ill(sick.ill, self.rng.next_u64());
            }
        }
    }

    /// It is well again, or another disk with the same content. A process whose disk has failed is started
    /// anew, as an operator does. Errors: a master works on although its disk has failed.
    pub(super) async fn recovers(&mut self, sick: Sick) -> Result<()> {
        let name = sick.node.name();
        let begin = Instant::now();
        let has_failed = |t: &Self| match sick.node {
            Node::Master(at) => t.cluster.master(at).is_some_and(|m| m.status().raft.failed.is_some()),
            Node::Chunkserver(_) => true,
        };
        let felt: Vec<String> = self.media.of(&name).iter().flat_map(SimMedium::felt).collect();
        // A snapshot that could not be stored is nothing yet.
        let vital = |f: &String| VITAL.iter().any(|v| f.starts_with(v));
        let is_vital = felt.iter().any(vital);
        let ends = matches!(sick.ill, Ill::Writes(_) | Ill::Syncs(_)) && is_vital;
        // What a read of its state met may end a master with its next durable commit.
        let may_end = matches!(sick.node, Node::Master(_)) && matches!(sick.ill, Ill::Reads(_)) && is_vital;
        while (ends || may_end) && !has_failed(self) && begin.elapsed() < FAILS {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        ensure!(!ends || has_failed(self), "{name} works on, though its disk failed in {felt:?}");
        self.media.of(&name).iter().for_each(SimMedium::recovers);
        self.note(format_args!("{name} is well again, it was felt in {felt:?}"));
        self.stage.ills_felt.fetch_add(felt.len() as u64, std::sync::atomic::Ordering::Relaxed);
        let anew = match sick.node {
            Node::Master(_) => has_failed(self),
            Node::Chunkserver(_) => sick.ill != Ill::Full && !felt.is_empty(),
        };
        if anew {
            self.media.of(&name).iter().for_each(SimMedium::kill);
            self.kill(sick.node).await;
        }
        Ok(())
    }

    /// Bits of a chunkserver's data flip. Nobody knows before they are read.
    pub(super) fn rots(&mut self) {
        let at = self.patient();
        let name = Node::Chunkserver(at).name();
        self.hurts(&name, false);
        self.sick = Some(at);
        for medium in self.media.of(&name) {
            for _ in 0..=self.pick(BITS_MAX) {
                if let Some((file, bit)) = medium.rots(&self.rng, |n| n.starts_with(CHUNKS), 0) {
                    self.note(format_args!("{name}: bit {bit} of {file} flips"));
                }
            }
        }
    }

    /// The chunkserver whose data was damaged is to be started anew.
    pub(super) async fn patient_restarts(&mut self) {
        let Some(at) = self.sick else { return };
        self.media.of(&Node::Chunkserver(at).name()).iter().for_each(SimMedium::kill);
        self.kill(Node::Chunkserver(at)).await;
    }

    /// Damage in copies of chunks that files have; others wait in quarantine.
    async fn damage(&self, server: &str) -> Result<BTreeMap<ChunkRef, u64>> {
        let mut found = replicas::damage(&self.cluster, server).await?;
        let named = replicas::named(&self.cluster).await?;
        found.retain(|chunk, _| named.contains(&chunk.id));
        Ok(found)
    }

    /// Somebody reads all replicas of the chunkserver whose data was damaged, as a scrub would. It is started
    /// anew before, so that it believes what is on its disk and nothing else. Errors: damage is there still.
    pub(super) async fn scrub(&mut self) -> Result<()> {
        let Some(at) = self.sick else { return Ok(()) };
        let server = Node::Chunkserver(at).name();
        let begin = Instant::now();
        loop {
            let found = self.damage(&server).await;
            let is_over = begin.elapsed() > MENDED;
            match found {
                Ok(found) if found.is_empty() => break,
                Ok(found) if is_over && !self.stage.is_lossy() => {
                    bail!("{server} has damage still: {found:?}")
                }
                Err(e) if is_over && !has_moved(&e) => return Err(e).context("a scrub"),
                _ if is_over => break,
                _ => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        }
        self.note(format_args!("all of {server} was read after {:?}", begin.elapsed()));
        self.sick = None;
        Ok(())
    }
}
