//! What a leader keeps in memory for its term: who was heard of, what is open, which replicas are
//! not as they should be. All of it is rebuilt by the next leader from what it hears.

use super::{
    clocks::Ahead,
    progress::Progress,
    quarantine::{Removed, Unknown},
};
use crate::{bump::Past, placement::Candidate, store::ChunkRec};
use mooseng_core::{
    attr::{Access, Timestamp},
    error::MetaError,
    ids::*,
    limits::OPEN_FILES_MAX,
    meta::{DiskReport, DiskScrub, ReplicaState, ServerLoad},
    net::CertHash,
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
    /// When it registered.
    pub came: Duration,
    pub heard: Duration,
    /// How far its clock is from this one's.
    pub clock: Ahead,
    pub disks: Vec<DiskReport>,
    /// When its report of chunks was complete.
    pub reported: Option<Duration>,
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

/// A copy that its chunk's set does not name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Surplus {
    /// As it was told, or was last given to it.
    pub version: ChunkVersion,
    /// It is below the version that is open: a bump left it out, or it was never part of a set.
    pub older: bool,
}

/// An inode that a session has open, or is opening.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct OpenFile {
    /// With which rights; `None` when no open has succeeded yet.
    pub open: Option<Access>,
    /// Opens that are being judged.
    pub opening: u32,
}

/// A leader's memory.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub servers: BTreeMap<ServerId, Server>,
    /// Members that are not as their record says.
    pub odd: BTreeMap<(ChunkId, ServerId), Odd>,
    /// Copies that their chunk's record does not name.
    pub surplus: BTreeMap<(ChunkId, ServerId), Surplus>,
    /// Those of them that damaged members were to be mended from: once is enough.
    pub tried: BTreeSet<(ChunkId, ServerId)>,
    /// What bumps of chunks that are not in order yet have met.
    pub past: BTreeMap<ChunkId, Past>,
    /// Copies of chunks that no record names.
    pub unknown: BTreeMap<(ServerId, ChunkId), Unknown>,
    /// Somebody has what these masters never made: a chunk that they did not give out, or a version of one that they
    /// have not begun. They may be an old backup.
    pub behind: bool,
    /// What was removed of these lately, and may be.
    pub removed: BTreeMap<ServerId, Removed>,
    /// Servers that are being emptied, since when.
    pub draining: BTreeMap<ServerId, Timestamp>,
    /// Disks that are being emptied, since when.
    pub disk_drains: BTreeMap<(ServerId, DiskId), Timestamp>,
    /// Chunks that the sets of these still name, at the last look at all.
    pub drain_left: BTreeMap<ServerId, u64>,
    /// How fast copies are made.
    pub progress: Progress,
    /// How the scrubs of each server stand.
    pub scrubs: BTreeMap<ServerId, Vec<DiskScrub>>,
    /// What each server has served, as it last told.
    pub loads: BTreeMap<ServerId, ServerLoad>,
    /// When an operator last asked for a scrub now.
    pub scrub_asked: Option<Timestamp>,
    /// Open files by inode and session.
    pub open: BTreeMap<(InodeId, SessionId), OpenFile>,
    /// How many each session has.
    pub opens: BTreeMap<SessionId, usize>,
    /// Sessions that are being opened, by certificate.
    pub opening: BTreeMap<CertHash, usize>,
    /// Inodes being removed now: an open waits.
    pub removing: BTreeMap<InodeId, u32>,
    /// When each session was last heard of.
    pub contacts: BTreeMap<SessionId, Duration>,
    /// How many calls of each were answered.
    pub calls: BTreeMap<SessionId, u64>,
    /// Sessions whose end is under way.
    pub ending: BTreeSet<SessionId>,
    /// Sessions that have told this leader what they have open.
    pub asserted: BTreeSet<SessionId>,
    /// Chunks with damage that was met: somebody may read it again.
    pub hurt: BTreeSet<ChunkId>,
    /// Chunks that somebody wants looked at, and whether a bump is wanted in any case.
    pub wanted: BTreeMap<ChunkId, bool>,
    /// All chunks want a look.
    pub look_at_all: bool,
    /// Chunks that could not be settled: how often in a row, and when they are tried again.
    pub retry: BTreeMap<ChunkId, (u32, Duration)>,
    /// Servers that did not take a copy: until when nobody asks them to.
    pub avoid: BTreeMap<ServerId, Duration>,
    /// How often in a row they did not, each time when they were asked again.
    pub refusals: BTreeMap<ServerId, u8>,
    /// Servers that a client or a chain neighbour did not hear, and that were not heard since: when.
    pub doubted: BTreeMap<ServerId, Duration>,
    /// Members whose disk had no room for a write, as its writer said: until when that counts.
    pub full: BTreeMap<(ChunkId, ServerId), Duration>,
}

/// First and longest wait before a chunk that could not be settled is tried again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// How long a server that did not take a copy is not asked to.
const AVOID: Duration = Duration::from_secs(15);
/// Who did not take a copy so often in a row is waited for by nobody.
const REFUSALS_MAX: u8 = 2;
/// How long a report of a full disk counts: for longer than the copy that takes its place needs.
const FULL: Duration = Duration::from_secs(300);
/// How long a report of a silent server counts.
const DOUBT: Duration = Duration::from_secs(5);

impl Memory {
    /// Servers that may take copies: not those that are being emptied.
    pub fn candidates(&self, now: Duration, dead_after: Duration) -> Vec<Candidate> {
        let alive = self.servers.iter().filter(|(_, s)| now.saturating_sub(s.heard) < dead_after);
        alive
            .filter(|(id, _)| !self.draining.contains_key(id))
            .map(|(id, s)| {
                let drains = |d: &DiskReport| self.disk_drains.contains_key(&(*id, d.disk));
                let usable = s.disks.iter().filter(|d| d.error.is_none() && !drains(d));
                Candidate {
                    server: *id,
                    free_bytes: usable.map(|d| d.free_bytes).fold(0, u64::saturating_add),
                }
            })
            .collect()
    }

    /// Whether something is being emptied.
    pub fn empties(&self) -> bool {
        !self.draining.is_empty() || !self.disk_drains.is_empty()
    }

    /// Disks of a server that are to be emptied.
    pub fn drains_of(&self, server: ServerId) -> Vec<DiskId> {
        let all = self.disk_drains.range((server, DiskId(0))..=(server, DiskId(u64::MAX)));
        all.map(|((_, disk), _)| *disk).collect()
    }

    /// Whether somebody said that copies at a server go: all of them, or those of a disk.
    pub fn is_emptied(&self, server: ServerId) -> bool {
        self.draining.contains_key(&server) || !self.drains_of(server).is_empty()
    }

    /// Whether a copy is on a disk that was set aside or is being emptied, as its server told.
    pub fn is_leaving(&self, id: ChunkId, server: ServerId) -> bool {
        self.odd.get(&(id, server)) == Some(&Odd::State(ReplicaState::Leaving))
    }

    /// Servers that may join a set: not those that failed to lately.
    pub fn joiners(&self, now: Duration, dead_after: Duration) -> Vec<Candidate> {
        let mut all = self.candidates(now, dead_after);
        all.retain(|c| !self.is_avoided(c.server, now));
        all
    }

    pub fn is_avoided(&self, server: ServerId, now: Duration) -> bool {
        self.avoid.get(&server).is_some_and(|until| *until > now)
    }

    /// Servers for a new set: those that failed lately only where there are too few others.
    pub fn places(&self, copies: usize, now: Duration, dead_after: Duration) -> Vec<Candidate> {
        let (all, good) = (self.candidates(now, dead_after), self.joiners(now, dead_after));
        if good.len() < copies.min(all.len()) { all } else { good }
    }

    /// A server was asked and did not do it. One that came after it was asked is another by now.
    pub fn avoid(&mut self, server: ServerId, asked: Duration, now: Duration) {
        if self.servers.get(&server).is_some_and(|s| s.came > asked) {
            return;
        }
        if !self.is_avoided(server, now) {
            let refusals = self.refusals.entry(server).or_default();
            *refusals = refusals.saturating_add(1);
        }
        self.avoid.insert(server, now + AVOID);
    }

    /// A server took a copy.
    pub fn took(&mut self, server: ServerId) {
        self.refusals.remove(&server);
    }

    /// Of these servers those that are not asked to take a copy now: they did not take one lately, or did not take the
    /// last one and another, by `is_other`, is there that did.
    pub fn avoided(
        &self,
        of: &[Candidate],
        is_other: impl Fn(&ServerId) -> bool,
        now: Duration,
    ) -> BTreeSet<ServerId> {
        let refuses = |s: &ServerId| self.is_avoided(*s, now) || self.refusals.contains_key(s);
        let has_other = of.iter().any(|c| is_other(&c.server) && !refuses(&c.server));
        let is_out = |s: &ServerId| if has_other { refuses(s) } else { self.is_avoided(*s, now) };
        of.iter().map(|c| c.server).filter(is_out).collect()
    }

    /// Servers that may take a copy that is lacking, if not at once: one failure is no proof against a server.
    pub fn able(&self, now: Duration, dead_after: Duration) -> Vec<Candidate> {
        let mut all = self.candidates(now, dead_after);
        all.retain(|c| self.refusals.get(&c.server).is_none_or(|n| *n < REFUSALS_MAX));
        all
    }

    /// Whether somebody who waits did not hear a server lately, and nobody has heard it since.
    pub fn is_doubted(&self, server: ServerId, now: Duration) -> bool {
        self.doubted.get(&server).is_some_and(|at| now.saturating_sub(*at) < DOUBT)
    }

    /// A writer found no room on a member's disk.
    pub fn note_full(&mut self, id: ChunkId, server: ServerId, now: Duration) {
        self.full.insert((id, server), now + FULL);
    }

    /// Servers on whose disks writers of a chunk found no room lately.
    pub fn full(&self, id: ChunkId, now: Duration) -> BTreeSet<ServerId> {
        let told = self.full.range((id, ServerId(0))..=(id, ServerId(u64::MAX)));
        told.filter(|(_, until)| **until > now).map(|((_, server), _)| *server).collect()
    }

    /// Servers that are avoided no longer may be asked again: what failed without them may be done now.
    pub fn forgive(&mut self, now: Duration) {
        self.full.retain(|_, until| *until > now);
        let before = self.avoid.len();
        self.avoid.retain(|_, until| *until > now);
        if self.avoid.len() < before {
            self.retry.clear();
            self.look_at_all = true;
        }
    }

    /// A chunk could not be settled.
    pub fn back_off(&mut self, chunk: ChunkId, now: Duration) {
        let (tries, again) = self.retry.entry(chunk).or_default();
        *again = now + (BACK_OFF.0 * 2u32.saturating_pow(*tries)).min(BACK_OFF.1);
        *tries = tries.saturating_add(1).min(16);
    }

    /// Whether a chunk is not to be tried again yet.
    pub fn is_early(&self, chunk: ChunkId, now: Duration) -> bool {
        self.retry.get(&chunk).is_some_and(|(_, again)| now < *again)
    }

    /// A server has a copy that the set, open at version `open` or above, does not name.
    pub fn note_surplus(&mut self, id: ChunkId, server: ServerId, version: ChunkVersion, open: ChunkVersion) {
        self.surplus.insert((id, server), Surplus { version, older: version < open });
    }

    /// A chunk is as it should be, with these members.
    pub fn in_order(&mut self, id: ChunkId, members: &[ServerId]) {
        let odd: Vec<_> =
            self.odd.range((id, ServerId(0))..=(id, ServerId(u64::MAX))).map(|(k, _)| *k).collect();
        for k in odd {
            // What is leaving its disk is there still, until a look says otherwise.
            if !self.is_leaving(k.0, k.1) || !members.contains(&k.1) {
                self.odd.remove(&k);
            }
        }
        for server in members {
            self.surplus.remove(&(id, *server));
        }
        self.past.remove(&id);
    }

    /// Whether every member is known to be damaged.
    pub fn is_damaged(&self, id: ChunkId, rec: &ChunkRec) -> bool {
        let damaged = Odd::State(ReplicaState::Damaged);
        rec.members.iter().all(|s| self.odd.get(&(id, *s)) == Some(&damaged))
    }

    /// A server told whether its copy is on a disk that was set aside or is being emptied.
    pub fn is_aside(&mut self, id: ChunkId, server: ServerId, is: bool) {
        let aside = Odd::State(ReplicaState::Leaving);
        let noted = self.odd.get(&(id, server)).copied();
        if is && noted.is_none() {
            self.odd.insert((id, server), aside);
        } else if !is && noted == Some(aside) {
            self.odd.remove(&(id, server));
        }
    }

    /// Copies of a chunk's set: those that are as they should be, and those that can be copied from.
    pub fn copies(
        &self,
        id: ChunkId,
        members: &[ServerId],
        is_there: impl Fn(&ServerId) -> bool,
    ) -> (usize, usize) {
        let odd = |s: &ServerId| self.odd.get(&(id, *s));
        let good = |s: &&ServerId| odd(s).is_none();
        let source = |s: &&ServerId| odd(s).is_none() || self.is_leaving(id, **s);
        let there = || members.iter().filter(|s| is_there(s));
        (there().filter(good).count(), there().filter(source).count())
    }

    /// A call of a session was answered.
    pub fn answered(&mut self, session: SessionId, now: Duration) {
        if let Some(heard) = self.contacts.get_mut(&session) {
            *heard = now;
            *self.calls.entry(session).or_default() += 1;
        }
    }

    /// A server came, or came back: what failed without it may be done now.
    pub fn came(&mut self, server: ServerId) {
        self.avoid.remove(&server);
        self.refusals.remove(&server);
        self.doubted.remove(&server);
        self.retry.clear();
    }

    pub fn is_alive(&self, server: ServerId, now: Duration, dead_after: Duration) -> bool {
        self.servers.get(&server).is_some_and(|s| now.saturating_sub(s.heard) < dead_after)
    }

    /// Whether a server was heard of and has been silent since.
    pub fn is_dead(&self, server: ServerId, now: Duration, dead_after: Duration) -> bool {
        self.servers.contains_key(&server) && !self.is_alive(server, now, dead_after)
    }

    /// Sum of all disks: (total, free).
    pub fn space(&self) -> (u64, u64) {
        let disks = self.servers.values().flat_map(|s| &s.disks);
        disks
            .fold((0u64, 0u64), |(t, f), d| (t.saturating_add(d.total_bytes), f.saturating_add(d.free_bytes)))
    }

    /// Sessions that may have an inode open: those that said so, and those that have said nothing
    /// to this leader yet.
    pub fn holders(&self, inode: InodeId, sessions: &[SessionId]) -> Vec<SessionId> {
        let opened = self.open.range((inode, SessionId(0))..=(inode, SessionId(u64::MAX)));
        let mut holders: BTreeSet<_> = opened.map(|((_, s), _)| *s).collect();
        holders.extend(sessions.iter().filter(|s| !self.asserted.contains(s)));
        holders.into_iter().collect()
    }

    /// An inode that a session has open, or is opening.
    fn file(&mut self, inode: InodeId, session: SessionId) -> &mut OpenFile {
        self.open.entry((inode, session)).or_insert_with(|| {
            *self.opens.entry(session).or_default() += 1;
            OpenFile::default()
        })
    }

    fn close(&mut self, inode: InodeId, session: SessionId) {
        if self.open.remove(&(inode, session)).is_some() {
            less(&mut self.opens, session);
        }
    }

    /// Errors: the session has as many files open as it may, and these are not among them.
    pub fn may_open(
        &self,
        session: SessionId,
        mut inodes: impl Iterator<Item = Option<InodeId>>,
    ) -> Result<(), MetaError> {
        let mut count = self.opens.get(&session).copied().unwrap_or_default();
        let more = inodes.any(|inode| {
            count += usize::from(inode.is_none_or(|i| !self.open.contains_key(&(i, session))));
            count > OPEN_FILES_MAX
        });
        let (what, limit) = ("open files of one session".into(), OPEN_FILES_MAX as u64);
        let cure = "close some of them, or use another session (another mount)".into();
        if more { Err(MetaError::Limit { what, limit, cure }) } else { Ok(()) }
    }

    /// The session has the inode open with these rights, and those it had before.
    pub fn opened(&mut self, inode: InodeId, session: SessionId, access: Access) {
        let file = self.file(inode, session);
        file.open = Some(file.open.unwrap_or(Access(0)).and(access));
    }

    /// An open begins to be judged: until it is, the session counts as a holder.
    pub fn begin_open(&mut self, inode: InodeId, session: SessionId) {
        self.file(inode, session).opening += 1;
    }

    /// It was judged; [`Self::opened`] says so when it succeeded.
    pub fn end_open(&mut self, inode: InodeId, session: SessionId) {
        if let Some(file) = self.open.get_mut(&(inode, session)) {
            file.opening = file.opening.saturating_sub(1);
            if file.opening == 0 && file.open.is_none() {
                self.close(inode, session);
            }
        }
    }

    /// The session has closed the inode for the last time; whether it does not hold it any more.
    pub fn released(&mut self, inode: InodeId, session: SessionId) -> bool {
        match self.open.get_mut(&(inode, session)) {
            Some(file) if file.opening > 0 => {
                file.open = None;
                false
            }
            _ => {
                self.close(inode, session);
                true
            }
        }
    }

    /// Whether a session has an inode open with a right.
    pub fn has_open(&self, inode: InodeId, session: SessionId, access: Access) -> bool {
        self.open.get(&(inode, session)).and_then(|f| f.open).is_some_and(|a| a.has(access))
    }

    /// Forgets a session.
    pub fn forget(&mut self, session: SessionId) {
        self.open.retain(|(_, s), _| *s != session);
        self.opens.remove(&session);
        self.contacts.remove(&session);
        self.calls.remove(&session);
        self.asserted.remove(&session);
    }
}

/// Counts one down; what is at nothing is not kept.
pub(super) fn less<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_so_many_files_open_and_others_theirs() {
        let (mut m, one, other) = (Memory::default(), SessionId(1), SessionId(2));
        let may = |m: &Memory, s, inode| m.may_open(s, [inode].into_iter());
        for n in 1..=OPEN_FILES_MAX as u64 {
            may(&m, one, Some(InodeId(n))).unwrap();
            m.opened(InodeId(n), one, Access::READ);
        }
        may(&m, one, Some(InodeId(5))).unwrap();
        for inode in [Some(InodeId(OPEN_FILES_MAX as u64 + 1)), None] {
            let e = may(&m, one, inode).unwrap_err();
            assert!(matches!(&e, MetaError::Limit { limit, .. } if *limit == OPEN_FILES_MAX as u64), "{e}");
            may(&m, other, inode).unwrap();
        }
        assert!(m.released(InodeId(5), one));
        may(&m, one, None).unwrap();
        let two = (0..2).map(|n| Some(InodeId(u64::MAX - n)));
        assert!(m.may_open(one, two).is_err(), "one of two");
        m.forget(one);
        assert!(m.opens.is_empty() && m.open.is_empty());
    }

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
    fn a_session_has_an_inode_open_or_not_however_often_it_said_so() {
        let (mut m, inode, session) = (Memory::default(), InodeId(5), SessionId(2));
        m.begin_open(inode, session);
        m.opened(inode, session, Access::READ);
        m.end_open(inode, session);
        m.opened(inode, session, Access::WRITE);
        assert!(m.has_open(inode, session, Access::READ.and(Access::WRITE)));
        // An open that fails takes nothing away from those before it.
        m.begin_open(inode, session);
        m.end_open(inode, session);
        assert!(m.has_open(inode, session, Access::READ));
        assert!(m.released(inode, session) && m.open.is_empty());
        assert!(m.released(inode, session), "a repeat does nothing");
    }

    #[test]
    fn what_is_being_opened_is_held() {
        let (mut m, inode, session) = (Memory::default(), InodeId(5), SessionId(2));
        m.asserted.insert(session);
        m.begin_open(inode, session);
        assert!(!m.released(inode, session));
        assert_eq!(m.holders(inode, &[session]), [session]);
        m.end_open(inode, session);
        assert!(m.holders(inode, &[session]).is_empty());
    }

    #[test]
    fn what_failed_is_tried_again_later_and_later() {
        let (mut m, chunk) = (Memory::default(), ChunkId(1));
        let mut now = Duration::ZERO;
        let mut waits = Vec::new();
        for _ in 0..12 {
            m.back_off(chunk, now);
            let begin = now;
            while m.is_early(chunk, now) {
                now += Duration::from_millis(50);
            }
            waits.push(now - begin);
        }
        assert!(waits.is_sorted() && waits[0] <= BACK_OFF.0 && waits[11] == BACK_OFF.1, "{waits:?}");
        m.back_off(chunk, now);
        m.came(ServerId(1));
        assert!(!m.is_early(chunk, now), "a server that comes may be what was missing");
        m.avoid(ServerId(1), now, now);
        m.back_off(chunk, now);
        m.forgive(now + AVOID / 2);
        assert!(m.is_early(chunk, now) && !m.look_at_all, "it is still avoided");
        m.forgive(now + AVOID);
        assert!(!m.is_early(chunk, now) && m.look_at_all, "it may be what was missing");
    }

    #[test]
    fn one_refusal_is_no_proof_and_who_did_not_refuse_is_asked_first() {
        let (mut m, mut now) = (Memory::default(), Duration::ZERO);
        let all = [1, 2].map(|s| Candidate { server: ServerId(s), free_bytes: 1 });
        let refused = |m: &Memory| m.refusals.get(&ServerId(1)).copied().unwrap_or_default();
        let avoided = |m: &Memory, other: u64, now| m.avoided(&all, |s| *s == ServerId(other), now);
        m.avoid(ServerId(1), now, now);
        m.avoid(ServerId(1), now, now + AVOID / 2);
        assert_eq!(refused(&m), 1, "several at once count as one");
        assert!(avoided(&m, 1, now).contains(&ServerId(1)));
        now += AVOID * 2;
        assert_eq!(avoided(&m, 2, now), BTreeSet::from([ServerId(1)]), "2 may join and did not refuse");
        assert!(avoided(&m, 1, now).is_empty(), "there is no other");
        m.avoid(ServerId(1), now, now);
        assert_eq!(refused(&m), REFUSALS_MAX, "nobody waits for it any more");
        m.took(ServerId(1));
        assert!(refused(&m) == 0 && avoided(&m, 2, now + AVOID).is_empty());
    }
}
