//! What a leader keeps in memory for its term: who was heard of, what is open, which replicas are
//! not as they should be. All of it is rebuilt by the next leader from what it hears.

use crate::placement::Candidate;
use mooseng_core::{
    attr::Access,
    ids::*,
    meta::{DiskReport, ReplicaState},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// A chunkserver as heard of.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub addr: String,
    pub incarnation: Incarnation,
    pub heard: Duration,
    pub disks: Vec<DiskReport>,
    /// Whether its report of chunks is complete.
    pub reported: bool,
    /// Of a report that is coming in: the last id.
    pub report_at: Option<ChunkId>,
}

/// Why a replica needs a look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Odd {
    Missing,
    OtherVersion(ChunkVersion),
    State(ReplicaState),
}

/// Rights with which a session has an inode open, and how often.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenFile {
    pub count: u32,
    pub access: Access,
}

/// A leader's memory.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub servers: BTreeMap<ServerId, Server>,
    /// Members that are not as their record says.
    pub odd: BTreeMap<(ChunkId, ServerId), Odd>,
    /// Copies that no record names.
    pub surplus: BTreeMap<(ChunkId, ServerId), ChunkVersion>,
    /// Open files by inode and session.
    pub open: BTreeMap<(InodeId, SessionId), OpenFile>,
    /// Inodes being removed now: an open waits.
    pub removing: BTreeMap<InodeId, u32>,
    /// When each session was last heard of.
    pub contacts: BTreeMap<SessionId, Duration>,
    /// Sessions that have told this leader what they have open.
    pub asserted: BTreeSet<SessionId>,
    /// Chunks that somebody wants looked at, and whether a bump is wanted in any case.
    pub wanted: BTreeMap<ChunkId, bool>,
    /// All chunks want a look.
    pub look_at_all: bool,
}

impl Memory {
    /// Servers that may take copies.
    pub fn candidates(&self, now: Duration, dead_after: Duration) -> Vec<Candidate> {
        let alive = self.servers.iter().filter(|(_, s)| now.saturating_sub(s.heard) < dead_after);
        alive
            .map(|(id, s)| {
                let usable = s.disks.iter().filter(|d| d.error.is_none());
                Candidate { server: *id, free_bytes: usable.map(|d| d.free_bytes).sum() }
            })
            .collect()
    }

    pub fn is_alive(&self, server: ServerId, now: Duration, dead_after: Duration) -> bool {
        self.servers.get(&server).is_some_and(|s| now.saturating_sub(s.heard) < dead_after)
    }

    /// Sum of all disks: (total, free).
    pub fn space(&self) -> (u64, u64) {
        let disks = self.servers.values().flat_map(|s| &s.disks);
        disks.fold((0, 0), |(t, f), d| (t + d.total_bytes, f + d.free_bytes))
    }

    /// Sessions that may have an inode open: those that said so, and those that have said nothing
    /// to this leader yet.
    pub fn holders(&self, inode: InodeId, sessions: &[SessionId]) -> Vec<SessionId> {
        let opened = self.open.range((inode, SessionId(0))..=(inode, SessionId(u64::MAX)));
        let mut holders: BTreeSet<_> = opened.map(|((_, s), _)| *s).collect();
        holders.extend(sessions.iter().filter(|s| !self.asserted.contains(s)));
        holders.into_iter().collect()
    }

    pub fn opened(&mut self, inode: InodeId, session: SessionId, access: Access) {
        let file = self.open.entry((inode, session)).or_insert(OpenFile { count: 0, access: Access(0) });
        file.count += 1;
        file.access = file.access.and(access);
    }

    /// Ends one open; whether it was the session's last of this inode.
    pub fn released(&mut self, inode: InodeId, session: SessionId) -> bool {
        let Some(file) = self.open.get_mut(&(inode, session)) else { return true };
        file.count -= 1;
        if file.count == 0 {
            self.open.remove(&(inode, session));
            return true;
        }
        false
    }

    /// Forgets a session.
    pub fn forget(&mut self, session: SessionId) {
        self.open.retain(|(_, s), _| *s != session);
        self.contacts.remove(&session);
        self.asserted.remove(&session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_said_nothing_counts_as_a_holder() {
        let mut m = Memory::default();
        let sessions = [SessionId(1), SessionId(2), SessionId(3)];
        m.asserted.extend([SessionId(1), SessionId(2)]);
        m.opened(InodeId(5), SessionId(2), Access::READ);
        assert_eq!(m.holders(InodeId(5), &sessions), [SessionId(2), SessionId(3)]);
        assert!(m.released(InodeId(5), SessionId(2)));
        assert_eq!(m.holders(InodeId(5), &sessions), [SessionId(3)]);
    }

    #[test]
    fn opens_are_counted() {
        let mut m = Memory::default();
        m.opened(InodeId(5), SessionId(2), Access::READ);
        m.opened(InodeId(5), SessionId(2), Access::WRITE);
        assert!(!m.released(InodeId(5), SessionId(2)));
        assert!(m.released(InodeId(5), SessionId(2)));
    }
}
