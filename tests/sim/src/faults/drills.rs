//! Situations that chance brings about too rarely, each begun at a moment of the weather's choice: a
//! client that is ended while it still reaches the head of a chain, and a leader that is deposed while a
//! client still reaches it alone.

use super::{NODES, Troublemaker};
use crate::weather::Wall;
use anyhow::{Context as _, Result, ensure};
use mooseng_client::{Client, File, Filesystem, OpenFlags};
use mooseng_core::{
    error::Errno,
    ids::{ChunkIndex, SessionId},
    limits::SESSION_LIFETIME_SECS,
    meta::GetLayout,
};
use std::{future::Future, time::Duration};
use tokio::time::{Instant, timeout};

/// Clients that only take part in drills, by their names on the network.
pub struct Extras {
    /// Is cut off from the masters, and writes on.
    pub ghost: Client,
    /// Takes over from it.
    pub heir: Client,
    /// Reaches one master only.
    pub asker: Client,
}

/// Their names.
pub const EXTRAS: [&str; 3] = ["ghost", "heir", "asker"];

/// Where values are written: past what is kept inline.
pub(super) const AT: u64 = 16 << 10;
/// Bytes of a value.
pub(super) const VALUE: usize = 3000;
/// Between two writes of the ghost.
const PACE: Duration = Duration::from_millis(150);
/// The leader is cut off from the chain's head so long before the ghost's session ends: not long enough
/// to be taken for dead.
const BEFORE_THE_END: Duration = Duration::from_millis(1500);

/// What a client wrote as number `n`: never zeros.
pub(super) fn value(n: u64) -> Vec<u8> {
    n.to_le_bytes().iter().map(|b| b | 0x80).cycle().take(VALUE).collect()
}

/// A step that may fail or take long, for there are faults: `None` then.
pub(super) async fn try_for<T>(
    within: Duration,
    work: impl Future<Output = mooseng_client::Result<T>>,
) -> Option<T> {
    timeout(within, work).await.ok()?.ok()
}

fn written(create: bool) -> OpenFlags {
    OpenFlags { read: true, write: true, create, ..OpenFlags::default() }
}

pub(super) async fn open(fs: &Filesystem, path: &str, create: bool) -> Option<File> {
    try_for(Duration::from_secs(10), fs.open_with(path, written(create), 0o644)).await
}

impl Troublemaker {
    fn others(&self, leader: usize) -> Vec<String> {
        (0..NODES).filter(|n| *n != leader).map(|n| format!("master-{}", n + 1)).collect()
    }

    /// A client that reaches a deposed leader alone must not be told what was before. Errors: it was.
    pub(super) async fn depose(&mut self) -> Result<()> {
        let Some(leader) = self.cluster.leader() else { return Ok(()) };
        let (old, asker) = (format!("master-{}", leader + 1), EXTRAS[2]);
        let fs = self.extras.asker.filesystem();
        // So that it talks to this master.
        if try_for(Duration::from_secs(5), fs.metadata("/")).await.is_none() {
            return Ok(());
        }
        self.note(format_args!("{old} leads, reaches no other master, and is all that {asker} reaches"));
        for other in self.others(leader) {
            self.stage.weather.wall(Wall::Between(old.clone(), other.clone()));
            self.stage.weather.wall(Wall::Between(asker.into(), other));
        }
        let path = format!("/deposed-{}", self.pick(1 << 40));
        let made = try_for(Duration::from_secs(20), self.admin.filesystem().create_dir(&path)).await;
        if made.is_none() {
            return Ok(());
        }
        self.note(format_args!("{path} is there"));
        for _ in 0..10 {
            if let Ok(Err(e)) = timeout(Duration::from_secs(2), fs.metadata(&path)).await {
                let stale = e.errno() == Errno::ENOENT;
                ensure!(!stale, "{asker} was told by {old} that {path} is not there, after it was made");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// A client whose session ended while it reaches the head of its chain, which the leader does not:
    /// once another has taken over, nothing of it arrives. Errors: something did.
    pub(super) async fn haunt(&mut self) -> Result<()> {
        let path = format!("/haunted-{}", self.pick(1 << 40));
        let (ghost, heir) = (self.extras.ghost.clone(), self.extras.heir.clone());
        let Some(file) = open(&ghost.filesystem(), &path, true).await else { return Ok(()) };
        let long = Duration::from_secs(10);
        let first = async {
            file.write_at(AT, value(0)).await?;
            file.sync_all().await?;
            let at = GetLayout { inode: file.attr().inode, from: ChunkIndex(0), count: 1 };
            Ok((ghost.sessions().await?, ghost.request(at).await?))
        };
        let Some((sessions, layout)) = try_for(long, first).await else { return Ok(()) };
        let Some(last) = sessions.iter().filter(|s| s.client == EXTRAS[0]).map(|s| s.stamp.id).max() else {
            return Ok(());
        };
        let head = layout.chunks.first().and_then(|c| c.chain.first()).context("a chunk without a head")?;
        let head = head.addr.clone();
        self.note(format_args!("ghost reaches no master; {head} heads what it writes"));
        for n in 1..=NODES {
            self.stage.weather.wall(Wall::Between(EXTRAS[0].into(), format!("master-{n}")));
        }
        let ends = Instant::now() + Duration::from_secs(SESSION_LIFETIME_SECS);
        let writing = tokio::spawn(write_on(file));
        let outcome = self.take_over(&heir, (&path, &head), ends, last).await;
        writing.abort();
        outcome
    }

    async fn take_over(
        &mut self,
        heir: &Client,
        (path, head): (&str, &str),
        ends: Instant,
        session: SessionId,
    ) -> Result<()> {
        tokio::time::sleep_until(ends - BEFORE_THE_END).await;
        let Some(leader) = self.cluster.leader() else { return Ok(()) };
        self.hurts(head, false);
        self.stage.weather.wall(Wall::Between(format!("master-{}", leader + 1), head.into()));
        let has_ended = async {
            loop {
                if let Ok(Ok(now)) = timeout(Duration::from_secs(2), heir.sessions()).await
                    && !now.iter().any(|s| s.stamp.id == session)
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        if timeout(Duration::from_secs(15), has_ended).await.is_err() {
            return Ok(());
        }
        self.note("the ghost's session has ended");
        let age = self.age();
        let Some(file) = open(&heir.filesystem(), path, false).await else { return Ok(()) };
        let taken = async {
            file.write_at(AT, value(1)).await?;
            file.sync_all().await
        };
        if try_for(Duration::from_secs(20), taken).await.is_none() {
            return Ok(());
        }
        self.note("another has taken over");
        self.stage.fenced.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        for _ in 0..10 {
            tokio::time::sleep(PACE).await;
            let Some(again) = open(&heir.filesystem(), path, false).await else { return Ok(()) };
            let read = try_for(Duration::from_secs(10), again.read_at(AT, VALUE as u64)).await;
            if let Some(read) = read.filter(|_| self.age() == age) {
                ensure!(read == value(1), "{path} shows what a client wrote whose session had ended before");
            }
        }
        Ok(())
    }
}

/// Writes for ever; what becomes of it is told to nobody.
async fn write_on(file: File) {
    for n in 2.. {
        let _ = file.write_at(AT, value(n)).await;
        let _ = timeout(PACE, file.flush_all()).await;
        tokio::time::sleep(PACE).await;
    }
}
