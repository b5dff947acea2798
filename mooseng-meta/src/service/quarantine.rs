//! Copies that no record names (PROTOCOL §4, Orphans), and the guard against bulk deletion. An empty or
//! restored master knows no chunks: what it does not know is kept for a day, what it cannot know for
//! ever, and when much is to go at once a person says so.
//!
//! Copies that bumps have left out, as in each outage of a server, need no word: see [`Memory::goes_freely`].
//!
//! All of it is in the leader's memory, from the chunkservers' reports: a new leader begins to count
//! anew, and deletes later, never sooner.

use super::{
    Inner, Lead, internal,
    lead::{Memory, Surplus},
};
use crate::{
    namespace::{get_number, meta_key},
    store::*,
};
use futures::{StreamExt as _, stream};
use mooseng_core::{chunk::Control, error::MetaError, ids::*, meta::*};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    ops::Range,
    time::Duration,
};

/// Unknown copies that are remembered. More of them are held anyway, and noted by a later report.
const UNKNOWN_MAX: usize = 65_536;
/// What may be removed from one server within [`WINDOW`] without an operator: a twentieth of its chunks,
/// or this many: a few chunks of a small server are no bulk.
const FREE_MIN: u64 = 16;
const FREE_SHARE: u64 = 20;
const WINDOW: Duration = Duration::from_secs(3600);
/// Unknown copies removed in one round, and at the same time.
const ROUND_MAX: (usize, usize) = (64, 8);

/// A copy that no record names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Unknown {
    /// As it was reported.
    pub version: ChunkVersion,
    /// When this leader first heard of it.
    pub since: Duration,
    /// These masters have never given out its id.
    pub ahead: bool,
}

/// Removals outside the deletion table at one server.
#[derive(Clone, Debug, Default)]
pub(super) struct Removed {
    /// When, those of the last hour.
    lately: VecDeque<Duration>,
    /// How many an operator has allowed.
    allowed: u64,
    /// It was told that they wait.
    told: bool,
}

/// How many copies that count for the guard may be removed from a server now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct May {
    pub surplus: u64,
    pub unknown: u64,
}

/// What an id is to the masters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Name {
    /// A record names it, or the deletion table does at this server.
    Known,
    /// A living session may yet name it.
    Pending,
    /// Nobody names it any more.
    Unknown,
    /// It was never given out.
    Ahead,
}

/// Ids of chunks that living sessions may yet name.
pub(super) fn pending(view: &(impl View + ?Sized)) -> io::Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    scan_recs(view, Table::Range, &[], &[], |_, r: IdRange| {
        if r.kind == IdKind::Chunk {
            ranges.push(r.first..r.first.saturating_add(r.count.into()));
        }
        true
    })?;
    Ok(ranges)
}

/// What an id at a server is, by the tables. Pure.
pub(super) fn name_of(
    view: &(impl View + ?Sized),
    pending: &[Range<u64>],
    id: ChunkId,
    server: ServerId,
) -> io::Result<Name> {
    let k = key(id.get());
    if view.get(Table::Chunk, &k)?.is_some() {
        return Ok(Name::Known);
    }
    let deleting: Option<DeletingRec> = load(view, Table::Deleting, &k)?;
    if deleting.is_some_and(|d| d.holders.contains(&server)) {
        return Ok(Name::Known);
    }
    if pending.iter().any(|r| r.contains(&id.get())) {
        return Ok(Name::Pending);
    }
    let next = get_number(view, meta_key::NEXT_CHUNK)?.max(1);
    Ok(if id.get() < next { Name::Unknown } else { Name::Ahead })
}

/// What of one page of a report no record names: id, version, whether the id was never given out.
pub(super) fn unknown_of(
    view: &RedbView,
    r: &Report,
    records: &[(ChunkId, ChunkRec)],
) -> io::Result<Vec<(ChunkRef, bool)>> {
    let named: BTreeSet<_> = records.iter().map(|(id, _)| *id).collect();
    let strange: Vec<_> = r.chunks.iter().map(|c| c.chunk).filter(|c| !named.contains(&c.id)).collect();
    if strange.is_empty() {
        return Ok(vec![]);
    }
    let (pending, mut unknown) = (pending(view)?, Vec::new());
    for chunk in strange {
        match name_of(view, &pending, chunk.id, r.server)? {
            Name::Known | Name::Pending => {}
            Name::Unknown => unknown.push((chunk, false)),
            Name::Ahead => unknown.push((chunk, true)),
        }
    }
    Ok(unknown)
}

/// How many of `due` removals at a server with so many copies may be done now, after those of the last
/// hour. All or none: the first of many are as bad as the last. Pure.
fn may_go(due: u64, lately: u64, copies: u64, allowed: u64) -> u64 {
    let free = (copies / FREE_SHARE).max(FREE_MIN);
    if lately + due <= free { due } else { due.min(allowed) }
}

impl Removed {
    fn within_the_hour(&self, now: Duration) -> u64 {
        self.lately.iter().filter(|at| now.saturating_sub(**at) <= WINDOW).count() as u64
    }

    fn forget(&mut self, now: Duration) {
        while self.lately.front().is_some_and(|at| now.saturating_sub(*at) > WINDOW) {
            self.lately.pop_front();
        }
    }
}

impl Memory {
    /// Takes one page of a server's report: what of it no record names, and what is not there any more.
    pub fn keep_apart(
        &mut self,
        server: ServerId,
        (from, to): (ChunkId, Option<ChunkId>),
        unknown: &[(ChunkRef, bool)],
        now: Duration,
    ) {
        let there: BTreeMap<_, _> = unknown.iter().map(|(c, ahead)| (c.id, (c.version, *ahead))).collect();
        let end = to.unwrap_or(ChunkId(u64::MAX));
        let gone = |id: &ChunkId, u: &Unknown| there.get(id) != Some(&(u.version, u.ahead));
        let page = self.unknown.range((server, from)..=(server, end));
        let gone: Vec<_> = page.filter(|((_, id), u)| gone(id, u)).map(|(k, _)| *k).collect();
        // The first of the next page is not of this one.
        for k in gone.into_iter().filter(|(_, id)| to != Some(*id)) {
            self.unknown.remove(&k);
        }
        let before = self.unknown.len();
        for (chunk, ahead) in unknown {
            self.note_unknown(server, *chunk, *ahead, now);
        }
        let new = self.unknown.len().saturating_sub(before);
        if new > 0 {
            tracing::warn!(%server, new, "no record names chunks that it has: they are kept in quarantine");
        }
    }

    pub fn note_unknown(&mut self, server: ServerId, chunk: ChunkRef, ahead: bool, now: Duration) {
        self.behind |= ahead;
        if self.unknown.len() < UNKNOWN_MAX {
            let new = Unknown { version: chunk.version, since: now, ahead };
            self.unknown.entry((server, chunk.id)).or_insert(new);
        }
    }

    fn unknown_at(&self, server: ServerId) -> impl Iterator<Item = (ChunkId, &Unknown)> {
        let all = self.unknown.range((server, ChunkId(0))..=(server, ChunkId(u64::MAX)));
        all.map(|((_, id), u)| (*id, u))
    }

    /// How each server stands.
    fn care(&self, now: Duration, quarantine: Duration) -> BTreeMap<ServerId, ServerCare> {
        let none =
            |server| ServerCare { server, unknown: 0, due: 0, ahead: 0, surplus: 0, removed: 0, held: false };
        let mut all: BTreeMap<_, _> = self.servers.keys().map(|s| (*s, none(*s))).collect();
        for (_, server) in self.surplus.keys() {
            if let Some(c) = all.get_mut(server) {
                c.surplus += 1;
            }
        }
        for ((server, _), u) in &self.unknown {
            match all.get_mut(server) {
                Some(c) if u.ahead => c.ahead += 1,
                Some(c) => {
                    c.unknown += 1;
                    c.due += u64::from(now.saturating_sub(u.since) >= quarantine);
                }
                None => {}
            }
        }
        let counted = self.counted(&all);
        for (server, c) in &mut all {
            let removed = self.removed.get(server);
            c.removed = removed.map_or(0, |r| r.within_the_hour(now));
            let (due, allowed) = (counted[server].1, removed.map_or(0, |r| r.allowed));
            c.held = may_go(due, c.removed, self.copies_at(*server), allowed) < due;
        }
        all
    }

    fn copies_at(&self, server: ServerId) -> u64 {
        self.servers.get(&server).map_or(0, |s| s.disks.iter().map(|d| d.chunks).fold(0, u64::saturating_add))
    }

    /// Whether a copy that its set does not name may go without counting for the guard. Whoever empties a server, or a
    /// disk of it, has said that its copies go. Otherwise it is older than the version that is open: the servers of
    /// the whole set are asked before it is removed, and the command names the version that its own server tells then.
    /// A master that was restored knows older versions than the copies have: where anything tells of that, or a
    /// server has not told yet what it has, all copies count.
    pub fn goes_freely(&self) -> impl Fn(ServerId, Surplus) -> bool + '_ {
        let told = !self.behind && self.servers.values().all(|s| s.reported.is_some());
        move |server, surplus| self.is_emptied(server) || (surplus.older && told)
    }

    /// Removals that are due at each server and count for the guard: surplus copies, and all.
    fn counted(&self, all: &BTreeMap<ServerId, ServerCare>) -> BTreeMap<ServerId, (u64, u64)> {
        let goes_freely = self.goes_freely();
        let mut counted: BTreeMap<_, _> = all.iter().map(|(s, c)| (*s, (0, c.due))).collect();
        for ((_, server), surplus) in &self.surplus {
            let free = goes_freely(*server, *surplus);
            if let Some((surplus, all)) = counted.get_mut(server).filter(|_| !free) {
                *surplus += 1;
                *all += 1;
            }
        }
        counted
    }

    /// How many copies may be removed from each server outside the deletion table now. Tells once of
    /// those that wait.
    pub fn removals(&mut self, now: Duration, quarantine: Duration) -> BTreeMap<ServerId, May> {
        let mut may = BTreeMap::new();
        let all = self.care(now, quarantine);
        let counted = self.counted(&all);
        for (server, c) in all {
            let ((surplus, due), copies) = (counted[&server], self.copies_at(server));
            let removed = self.removed.entry(server).or_default();
            removed.forget(now);
            if c.held && !removed.told {
                tracing::warn!(
                    %server, unknown = c.due, surplus, copies,
                    "more copies are to be removed than an hour may take: they wait for `mooseng gc --allow`"
                );
            }
            removed.told = c.held;
            let go = may_go(due, c.removed, copies, removed.allowed);
            let surplus = go.min(surplus);
            may.insert(server, May { surplus, unknown: go - surplus });
        }
        may
    }

    /// A copy was removed outside the deletion table. What an operator allowed is not counted besides.
    pub fn was_removed(&mut self, server: ServerId, now: Duration) {
        let removed = self.removed.entry(server).or_default();
        if removed.allowed > 0 {
            removed.allowed -= 1;
        } else {
            removed.lately.push_back(now);
        }
    }
}

impl Inner {
    pub(super) async fn care(&self, lead: &Lead, view: &RedbView) -> Result<Care, MetaError> {
        let (repairs, drains) = self.outlook(lead, view).await?;
        let (m, now, quarantine) = (lead.memory.lock(), self.now(), self.timings.quarantine);
        let servers = m.care(now, quarantine).into_values().collect();
        Ok(Care { quarantine_secs: quarantine.as_secs(), servers, drains, repairs, disks: m.disks_left() })
    }

    /// An operator allows what waits at a server now, and what is in quarantine there.
    pub(super) fn allow_removals(&self, lead: &Lead, server: ServerId) -> Result<u64, MetaError> {
        let mut m = lead.memory.lock();
        let Some(c) = m.care(self.now(), self.timings.quarantine).remove(&server) else {
            return Err(MetaError::Invalid(format!(
                "chunkserver {server} has not registered with this leader"
            )));
        };
        let unknown = c.unknown;
        let surplus =
            m.counted(&BTreeMap::from([(server, c)])).get(&server).map_or(0, |(surplus, _)| *surplus);
        let allowed = unknown + surplus;
        m.removed.entry(server).or_default().allowed = allowed;
        tracing::warn!(%server, allowed, "an operator allows copies to be removed");
        Ok(allowed)
    }

    /// Removes copies whose quarantine is over, as many as `may` be.
    pub(super) async fn delete_unknown(
        &self,
        lead: &Lead,
        may: &BTreeMap<ServerId, May>,
    ) -> Result<(), MetaError> {
        let (mut todo, now) = (Vec::new(), self.now());
        {
            let m = lead.memory.lock();
            for (server, may) in may.iter().filter(|(_, may)| may.unknown > 0) {
                if !m.is_alive(*server, now, self.timings.server_dead) {
                    continue;
                }
                let over = |u: &Unknown| now.saturating_sub(u.since) >= self.timings.quarantine && !u.ahead;
                let due = m.unknown_at(*server).filter(|(_, u)| over(u));
                let chunk = |(id, u): (ChunkId, &Unknown)| ChunkRef { id, version: u.version };
                let some = due.take((may.unknown as usize).min(ROUND_MAX.0));
                todo.extend(some.map(|due| (*server, chunk(due))));
            }
        }
        let remove = |(server, chunk): (ServerId, ChunkRef)| async move {
            if let Err(e) = self.remove_unknown(lead, server, chunk).await {
                tracing::warn!(id = %chunk.id, %server, error = %e, "an unknown copy could not be removed");
            }
        };
        stream::iter(todo).for_each_concurrent(ROUND_MAX.1, remove).await;
        Ok(())
    }

    async fn remove_unknown(&self, lead: &Lead, server: ServerId, chunk: ChunkRef) -> Result<(), MetaError> {
        let view = self.view()?;
        let name = name_of(&view, &pending(&view).map_err(internal)?, chunk.id, server).map_err(internal)?;
        drop(view);
        if name == Name::Unknown {
            tracing::warn!(id = %chunk.id, version = %chunk.version, %server, "an unknown chunk is removed");
            let op = Control::Delete { chunk, term: lead.term };
            // Whatever is refused is noted anew by the next report, as what it is then.
            let done = self.command(server, op, self.timings.control).await;
            let mut m = lead.memory.lock();
            m.unknown.remove(&(server, chunk.id));
            done.map_err(internal)?;
            m.was_removed(server, self.now());
        } else {
            lead.memory.lock().unknown.remove(&(server, chunk.id));
        }
        Ok(())
    }

    /// A copy too many of a chunk that has no record any more: it is unknown from now on, unless its
    /// deletion is under way.
    pub(super) fn surplus_without_record(
        &self,
        lead: &Lead,
        view: &RedbView,
        server: ServerId,
        chunk: ChunkRef,
    ) -> Result<(), MetaError> {
        let name = name_of(view, &pending(view).map_err(internal)?, chunk.id, server).map_err(internal)?;
        if name == Name::Unknown {
            lead.memory.lock().note_unknown(server, chunk, false, self.now());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: ServerId = ServerId(1);

    /// A memory that knows one server.
    fn memory() -> Memory {
        let mut m = Memory::default();
        let server = super::super::lead::Server {
            addr: String::new(),
            incarnation: Incarnation(1),
            came: Duration::ZERO,
            heard: Duration::ZERO,
            clock: Default::default(),
            disks: vec![],
            reported: None,
            report_at: None,
        };
        m.servers.insert(S, server);
        m
    }

    fn chunk(id: u64) -> ChunkRef {
        ChunkRef { id: ChunkId(id), version: ChunkVersion(1) }
    }

    #[test]
    fn a_server_that_counts_wrong_harms_nobody() {
        let mut m = memory();
        let disk = |chunks| DiskReport {
            disk: DiskId(chunks),
            path: String::new(),
            total_bytes: u64::MAX,
            free_bytes: u64::MAX,
            chunks,
            errors: 0,
            error: None,
            drains: false,
        };
        m.servers.get_mut(&S).unwrap().disks = vec![disk(u64::MAX), disk(1)];
        assert_eq!((m.copies_at(S), m.space()), (u64::MAX, (u64::MAX, u64::MAX)));
        assert_eq!(m.candidates(Duration::ZERO, Duration::from_secs(1))[0].free_bytes, u64::MAX);
        m.removals(Duration::ZERO, Duration::ZERO);
    }

    #[test]
    fn a_bulk_goes_whole_with_an_operator_or_not_at_all() {
        assert_eq!(may_go(FREE_MIN, 0, 0, 0), FREE_MIN);
        assert_eq!(may_go(FREE_MIN + 1, 0, 0, 0), 0, "the first of many are as bad as the last");
        assert_eq!(may_go(1, FREE_MIN, 0, 0), 0, "what went within the hour counts");
        assert_eq!(may_go(50, 0, 1000, 0), 50);
        assert_eq!(may_go(51, 0, 1000, 0), 0);
        assert_eq!(may_go(51, 0, 1000, 40), 40, "no more than the operator has seen");
    }

    #[test]
    fn what_is_removed_counts_for_an_hour() {
        let mut m = memory();
        let hour = |n: u64| Duration::from_secs(3600 * n);
        m.removed.entry(S).or_default().allowed = 1;
        m.was_removed(S, hour(0));
        m.was_removed(S, hour(0));
        assert_eq!(m.care(hour(1), hour(24))[&S].removed, 1, "the first one was allowed");
        assert_eq!(m.care(hour(1) + Duration::from_secs(1), hour(24))[&S].removed, 0);
    }

    #[test]
    fn quarantine_begins_with_the_first_report_and_ends_with_the_copy() {
        let mut m = memory();
        let at = Duration::from_secs;
        m.keep_apart(S, (ChunkId(0), Some(ChunkId(5))), &[(chunk(2), false), (chunk(4), true)], at(1));
        m.keep_apart(S, (ChunkId(5), None), &[(chunk(5), false)], at(1));
        m.keep_apart(ServerId(2), (ChunkId(0), None), &[(chunk(2), false)], at(1));
        m.keep_apart(S, (ChunkId(0), Some(ChunkId(5))), &[(chunk(2), false)], at(9));
        let here: Vec<_> = m.unknown_at(S).map(|(id, u)| (id.get(), u.since)).collect();
        assert_eq!(here, [(2, at(1)), (5, at(1))], "the next page's first stays, what is gone goes");
        let c = &m.care(at(11), at(10))[&S];
        assert_eq!((c.unknown, c.due, c.ahead), (2, 2, 0));
        // Another version is another copy.
        let newer = ChunkRef { version: ChunkVersion(2), ..chunk(2) };
        m.keep_apart(S, (ChunkId(0), Some(ChunkId(5))), &[(newer, false)], at(11));
        assert_eq!(m.care(at(11), at(10))[&S].due, 1);
    }

    #[test]
    fn ids_are_known_pending_unknown_or_ahead() {
        let mut store = MemoryStore::default();
        let tx: &mut dyn Tx = &mut store;
        crate::namespace::put_number(tx, meta_key::NEXT_CHUNK, 100).unwrap();
        let range = |kind, first| IdRange { kind, first, count: 10 };
        save(tx, Table::Range, &key2(1, 20), &range(IdKind::Chunk, 20)).unwrap();
        save(tx, Table::Range, &key2(1, 40), &range(IdKind::Inode, 40)).unwrap();
        let deleting = DeletingRec { version: ChunkVersion(1), holders: vec![S] };
        save(tx, Table::Deleting, &key(7), &deleting).unwrap();
        tx.put(Table::Chunk, &key(8), &[]).unwrap();
        let pending = pending(&store).unwrap();
        let name = |id, server| name_of(&store, &pending, ChunkId(id), server).unwrap();
        assert_eq!(name(7, S), Name::Known);
        assert_eq!(name(7, ServerId(2)), Name::Unknown, "the table waits for another server only");
        assert_eq!(name(8, S), Name::Known);
        assert_eq!((name(19, S), name(20, S), name(29, S)), (Name::Unknown, Name::Pending, Name::Pending));
        assert_eq!((name(30, S), name(41, S)), (Name::Unknown, Name::Unknown), "inodes' ids are others");
        assert_eq!((name(99, S), name(100, S)), (Name::Unknown, Name::Ahead));
    }
}
