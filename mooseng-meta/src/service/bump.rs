//! Driving one chunk's bump: ask its servers, decide, act. Each step is idempotent; what another task or
//! leader left is replaced by a bump to the version after (PROTOCOL §4).

use super::{
    Inner, Lead,
    ahead::{CopyAhead, to_copy_ahead},
    internal,
    lead::{Memory, Odd},
};
use crate::{
    namespace,
    repair::{Found, Plan, SYNCED_MIN, mend_from_left_out, plan},
    store::{ChunkRec, PendingBump},
};
use futures::future::join_all;
use mooseng_core::{
    chunk::{Control, ControlReply},
    error::{ChunkError, MetaError, NetError},
    ids::*,
    meta::*,
    planted::{self, Bug},
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// Time for one entry of a bump to pass the log.
const COMMIT: Duration = Duration::from_secs(10);
/// A server that was given up is waited for by so much less.
const HURRY: u32 = 8;
/// The same of one that somebody who waits did not hear: by now it was silent for longer than that to them.
const HURRY_DOUBTED: u32 = 5;
/// Steps of one look at a chunk: bumps until one opens, two for each, what it leaves to be mended, a last look.
const STEPS_MAX: usize = 12;
/// How often a version that would open with fewer members than an fsync wants is made anew instead.
const SHORT_MAX: u8 = 4;
/// And for how long, while somebody may wait.
const SHORT_TIME: Duration = Duration::from_secs(10);
/// A member that failed in so many of them leaves its place to another server, where there is one.
const FAILURES_MAX: u8 = 2;

/// What servers said to a chunk's new version.
#[derive(Default)]
struct Taken {
    /// Who took it.
    ready: Vec<ServerId>,
    /// Who of them is not damaged and stays where it is.
    good: Vec<ServerId>,
    /// Who has nothing of the chunk.
    empty: Vec<ServerId>,
    /// Whether one of those who took it is not damaged.
    whole: bool,
    /// Whether one did not answer.
    silent: bool,
}

/// What became of a bump.
enum Carried {
    /// It is decided, by this or another leader.
    Decided,
    /// Another one may have what this one lacked, and is made at once.
    Again,
    /// None of its survivors goes on.
    Stuck,
}

/// Forgets that a chunk is being driven when it is dropped.
struct Driving {
    lead: Arc<Lead>,
    chunk: ChunkId,
}

impl Drop for Driving {
    fn drop(&mut self) {
        self.lead.bumping.lock().remove(&self.chunk);
        self.lead.bumped.notify_waiters();
    }
}

impl Inner {
    /// Looks at a chunk that somebody waits for, and does what is to be done at once. Returns when another task
    /// does so. `force` makes a new version even when all replicas seem good.
    pub(super) async fn settle(
        self: &Arc<Self>,
        lead: &Arc<Lead>,
        id: ChunkId,
        force: bool,
    ) -> Result<(), MetaError> {
        self.advance(lead, id, force, None).await.map(drop)
    }

    /// The same. New members that nobody waits for are answered when they are not among those that have a copy
    /// `ahead`; without that they are left to the repairs.
    pub(super) async fn advance(
        self: &Arc<Self>,
        lead: &Arc<Lead>,
        id: ChunkId,
        force: bool,
        ahead: Option<&BTreeSet<ServerId>>,
    ) -> Result<Option<CopyAhead>, MetaError> {
        if !lead.bumping.lock().insert(id) {
            return Ok(None);
        }
        let _driving = Driving { lead: lead.clone(), chunk: id };
        let mut force = force;
        let mut begun = false;
        for _ in 0..STEPS_MAX {
            let Some(rec) = namespace::chunk(&self.view()?, id).map_err(internal)? else {
                self.in_order(lead, id, &[]);
                return Ok(None);
            };
            match rec.pending.clone() {
                Some(bump) if begun => {
                    begun = false;
                    match self.carry_out(lead, id, &rec, bump).await? {
                        Carried::Decided => {
                            force = false;
                            continue;
                        }
                        Carried::Again => force = true,
                        // The next round looks again.
                        Carried::Stuck => return Err(MetaError::ChunkBusy(id)),
                    }
                }
                // Somebody else's, who gave it up. Its commands may still be under way: a copy that is made
                // late would undo what is written to the version once it is open. So it never opens.
                Some(_) => force = true,
                None => {}
            }
            let (plan, found) = self.decide_about(lead, id, &rec, (force, ahead)).await?;
            match plan {
                Plan::Leave => {
                    self.in_order(lead, id, &rec.members);
                    lead.memory.lock().retry.remove(&id);
                    return Ok(None);
                }
                Plan::Wait if rec.pending.is_some() => return Err(MetaError::ChunkBusy(id)),
                Plan::Wait => return Ok(None),
                Plan::Bump { mut survivors, settles, joining } => {
                    if !settles {
                        self.put_in_order(lead, id, &found, (force, joining.is_empty()), &mut survivors);
                    }
                    let to = if force { vec![] } else { to_copy_ahead(&rec, &found, &survivors, &joining) };
                    let to: Vec<_> =
                        to.into_iter().filter(|s| ahead.is_none_or(|made| !made.contains(s))).collect();
                    if !to.is_empty() {
                        return Ok(self.leave_to_repairs(lead, (id, &rec), survivors, to, ahead.is_some()));
                    }
                    if settles {
                        let winner = &survivors[0];
                        tracing::warn!(%id, %winner, "every replica was dirty at an unclean stop: the first in the chain wins");
                    }
                    if !self.begin(lead, id, &rec, (survivors, settles), joining).await? {
                        return Ok(None);
                    }
                    begun = true;
                }
            }
        }
        Ok(None)
    }

    /// Nobody waits for these copies: they are made before the bump. `now`: by the caller, when no other task does.
    fn leave_to_repairs(
        &self,
        lead: &Lead,
        (id, rec): (ChunkId, &ChunkRec),
        from: Vec<ServerId>,
        to: Vec<ServerId>,
        now: bool,
    ) -> Option<CopyAhead> {
        if lead.ahead.lock().contains_key(&id) {
            return None;
        }
        if !now {
            lead.memory.lock().wanted.entry(id).or_insert(false);
            lead.wake.notify_one();
            return None;
        }
        Some(CopyAhead { chunk: ChunkRef { id, version: rec.version }, from, to })
    }

    /// What is to be done, by what the servers say. A bump that none of its survivors can carry on
    /// is planned anew: every replica of the open set has all that was acknowledged, whatever version
    /// was made of it since, because none of those versions has opened.
    async fn decide_about(
        &self,
        lead: &Lead,
        id: ChunkId,
        rec: &ChunkRec,
        (force, ahead): (bool, Option<&BTreeSet<ServerId>>),
    ) -> Result<(Plan, Vec<(ServerId, Found)>), MetaError> {
        let mut found = self.look_at(lead, id, rec).await?;
        {
            // A suspect that could not be settled is the truth when no other is left.
            let m = lead.memory.lock();
            let refused = |s: &ServerId| m.uncopied.contains(&(id, *s));
            found.sort_by_key(|(s, f)| *f == Found::Current(ReplicaState::Suspect) && refused(s));
        }
        // A member that may still come back is waited for, however long this master leads.
        let all_heard = found.iter().all(|(s, f)| *f != Found::Silent || self.long_dead(lead, *s));
        self.replace_unfilled(lead, id, &mut found);
        let (candidates, leaving, full) = {
            let mut m = lead.memory.lock();
            for (server, _) in found.iter().filter(|(_, f)| *f == Found::Silent) {
                m.avoid(*server, self.now());
            }
            let (leaving, full) = (m.draining.keys().copied().collect(), m.full(id, self.now()));
            let mut candidates = m.candidates(self.now(), self.timings.server_dead);
            // Who has made a copy takes part, whatever else it could not do meanwhile, but once.
            candidates.retain(|c| {
                let made = ahead.is_some_and(|made| made.contains(&c.server));
                !m.is_avoided(c.server, self.now()) || (made && !m.unfilled.contains_key(&(id, c.server)))
            });
            candidates.retain(|c| !full.contains(&c.server));
            (candidates, leaving, full)
        };
        let force = force || rec.cut_to.is_some();
        let plan = plan(id, rec, &found, (&candidates, &leaving, &full), all_heard, force);
        if plan == Plan::Wait && rec.committed && rec.pending.is_none() {
            let mut m = lead.memory.lock();
            let left_out = self.left_out(&m, id, rec);
            if left_out.iter().any(|s| !m.tried.contains(&(id, *s))) {
                let plan = mend_from_left_out(id, &found, &candidates, all_heard);
                if plan != Plan::Wait {
                    tracing::warn!(%id, ?left_out, "every member is damaged: a copy that was left out may have what they lack");
                    m.tried.extend(left_out.into_iter().map(|s| (id, s)));
                }
                return Ok((plan, found));
            }
        }
        Ok((plan, found))
    }

    /// The order of a chain. Whom the others could not be made equal to last time is tried last, but for one whose disk
    /// fails. So is one that lives and whom somebody who waits does not hear: others may hear it from there. One without
    /// room comes last when another takes its place; else it refuses what is written before anybody has applied it.
    fn put_in_order(
        &self,
        lead: &Lead,
        id: ChunkId,
        found: &[(ServerId, Found)],
        (force, none_joins): (bool, bool),
        survivors: &mut [ServerId],
    ) {
        let (m, now) = (lead.memory.lock(), self.now());
        let full = m.full(id, now);
        survivors.sort_by_key(|s| {
            let aside = found.contains(&(*s, Found::Current(ReplicaState::Leaving)));
            let is_doubted = force && m.is_doubted(*s, now);
            (aside, m.uncopied.contains(&(id, *s)), full.contains(s) != none_joins, is_doubted)
        });
    }

    /// Members that could not take part in the last bumps leave their places to others, as if they were silent, while
    /// one is there that could.
    fn replace_unfilled(&self, lead: &Lead, id: ChunkId, found: &mut [(ServerId, Found)]) {
        let m = lead.memory.lock();
        let failed = |s: ServerId| m.unfilled.get(&(id, s)).is_some_and(|n| *n >= FAILURES_MAX);
        let good = |f: Found| f == Found::Current(ReplicaState::Good);
        if found.iter().any(|(s, f)| good(*f) && !failed(*s)) {
            found.iter_mut().filter(|(s, _)| failed(*s)).for_each(|(_, f)| *f = Found::Silent);
        }
    }

    fn long_dead(&self, lead: &Lead, server: ServerId) -> bool {
        let patience = self.timings.server_dead + self.timings.repair_after;
        let m = lead.memory.lock();
        let heard = m.servers.get(&server).map_or(lead.since, |s| s.heard);
        self.now().saturating_sub(heard) > patience
    }

    /// Step 1: the bump is committed, in the place of one that could not go on.
    async fn begin(
        &self,
        lead: &Lead,
        id: ChunkId,
        rec: &ChunkRec,
        (survivors, settles): (Vec<ServerId>, bool),
        joining: Vec<ServerId>,
    ) -> Result<bool, MetaError> {
        let from = ChunkRef { id, version: rec.version };
        let replaces = rec.pending.as_ref().map(|b| b.version);
        let version = rec.newest().next();
        tracing::info!(%id, %version, ?replaces, ?survivors, ?joining, cut_to = ?rec.cut_to, "bump");
        let given_up = rec.pending.iter().flat_map(|b| &b.joining).filter(|s| !joining.contains(s));
        let given_up: Vec<_> = given_up.copied().collect();
        // What is copied ahead now is of no use for this version but as far as it got.
        if let Some(stop) = lead.ahead.lock().get(&id) {
            stop.cancel();
        }
        let command = Command::BumpStart { from, replaces, survivors, settles, joining, cut_to: rec.cut_to };
        if self.propose(command, COMMIT).await? != Applied::Done(true) {
            return Ok(false);
        }
        let mut m = lead.memory.lock();
        for server in given_up {
            m.note_surplus(id, server, rec.newest(), version);
        }
        Ok(true)
    }

    /// Tells servers a chunk's new version, and answers what they said.
    async fn set_version(
        &self,
        lead: &Lead,
        id: ChunkId,
        bump: &PendingBump,
        servers: &[ServerId],
        create: bool,
    ) -> Taken {
        let members: Vec<_> = bump.survivors.iter().chain(&bump.joining).copied().collect();
        // A set without a survivor begins with nothing, whatever an old copy has.
        let cut_to = if bump.survivors.is_empty() { Some(0) } else { bump.cut_to };
        let set = |server: ServerId| {
            let (members, to, settle, term) = (members.clone(), bump.version, bump.settles, lead.term);
            let op = Control::SetVersion { chunk: id, to, members, cut_to, create, settle, term };
            async move { (server, self.command(server, op, self.timings.control).await) }
        };
        let mut taken = Taken::default();
        for (server, done) in join_all(servers.iter().map(|s| set(*s))).await {
            match done {
                Ok(reply) => {
                    taken.ready.push(server);
                    let is = |state| matches!(&reply, ControlReply::Done(stat) if stat.report.state == state);
                    taken.whole |= !is(ReplicaState::Damaged);
                    if is(ReplicaState::Good) {
                        taken.good.push(server);
                    }
                }
                Err(ChunkError::NotFound(_)) => taken.empty.push(server),
                Err(e) => {
                    taken.silent |= matches!(e, ChunkError::Net(_) | ChunkError::Busy(_));
                    tracing::warn!(%id, %server, error = %e, "a member did not take the new version");
                }
            }
        }
        taken
    }

    /// Steps 2 to 4: the survivors take the version, everybody else is filled from them, the version
    /// opens. Never with fewer members than an fsync wants ([`SYNCED_MIN`]) because one failed that may not fail
    /// again, or whose place another server can take.
    async fn carry_out(
        self: &Arc<Self>,
        lead: &Arc<Lead>,
        id: ChunkId,
        rec: &ChunkRec,
        bump: PendingBump,
    ) -> Result<Carried, MetaError> {
        let anew = bump.survivors.is_empty();
        let first = if anew { &bump.joining } else { &bump.survivors };
        let taken = self.set_version(lead, id, &bump, first, anew).await;
        let Taken { mut ready, good, empty, whole, silent } = taken;
        if !anew && !ready.is_empty() && !whole && silent {
            // Who did not answer may have what all others lack, and would be left behind.
            tracing::warn!(%id, ?ready, "all that took the new version are damaged: the others are waited for");
            return Ok(Carried::Stuck);
        }
        if ready.is_empty() && !rec.committed {
            // Never written anywhere: empty replicas keep a late first write to the old version out.
            ready = self.set_version(lead, id, &bump, &empty, true).await.ready;
        }
        if ready.is_empty() {
            if let Some(winner) = bump.survivors.first().filter(|_| bump.settles) {
                lead.memory.lock().uncopied.insert((id, *winner));
            }
            return Ok(Carried::Stuck);
        }
        let mut fill = if planted::is(Bug::CopyUncompared) { vec![] } else { ready[1..].to_vec() };
        fill.extend(empty.into_iter().filter(|s| !ready.contains(s) && !rec.committed));
        fill.extend(bump.joining.iter().copied().filter(|s| !ready.contains(s)));
        let chunk = ChunkRef { id, version: bump.version };
        let members = self.equalise(lead, rec, chunk, ready.clone(), fill).await?;
        let named: BTreeSet<_> = bump.survivors.iter().chain(&bump.joining).copied().collect();
        if members.len() < usize::from(rec.wanted).min(SYNCED_MIN) && members.len() < named.len() {
            let mut m = lead.memory.lock();
            if members.len() == 1 && good.len() > 1 && good.iter().any(|s| !m.uncopied.contains(&(id, *s))) {
                // It may have ended meanwhile, and the others have what it has: each is the first once.
                m.uncopied.insert((id, ready[0]));
            }
            let now = self.now();
            let (short, since) = m.short.entry(id).or_insert((0, now));
            if *short < SHORT_MAX && now.saturating_sub(*since) < SHORT_TIME {
                *short += 1;
                for server in named.iter().filter(|s| !members.contains(s)) {
                    *m.unfilled.entry((id, *server)).or_default() += 1;
                    if anew {
                        m.avoid(*server, self.now());
                    }
                }
                tracing::warn!(%id, ?members, ?named, "too few members would be left: another version is made");
                return Ok(Carried::Again);
            }
        }
        if let [only] = members[..]
            && !anew
            && (rec.members.len() > 1 || named.len() > 1)
            && !self.has_version(only, chunk).await
        {
            tracing::warn!(%id, %only, "the only one that made the version does not answer any more");
            return Ok(Carried::Stuck);
        }
        let command = Command::BumpOpen { chunk, members: members.clone() };
        if self.propose(command, COMMIT).await? == Applied::Done(true) {
            let was_short = lead.memory.lock().short.contains_key(&id);
            self.in_order(lead, id, &members);
            let mut m = lead.memory.lock();
            for server in rec.members.iter().chain(&named).filter(|s| !members.contains(s)) {
                m.note_surplus(id, *server, rec.version, bump.version);
            }
            if members.len() < usize::from(rec.wanted) {
                m.wanted.entry(id).or_insert(false);
            }
            // A set is looked at again, but not at once when somebody failed, who may fail again.
            if !was_short && named.iter().all(|s| members.contains(s)) {
                m.retry.remove(&id);
            } else {
                m.back_off(id, self.now());
            }
        }
        Ok(Carried::Decided)
    }

    /// Whether a server lives, and has had a version without a restart since.
    async fn has_version(&self, server: ServerId, chunk: ChunkRef) -> bool {
        match self.command(server, Control::Stat { chunk: chunk.id }, self.timings.control).await {
            Ok(ControlReply::Done(stat)) => {
                stat.report.chunk == chunk && stat.report.state != ReplicaState::Suspect
            }
            _ => false,
        }
    }

    /// Makes the servers of `fill` equal to the first of `ready`. Answers who is a good member then.
    async fn equalise(
        &self,
        lead: &Lead,
        rec: &ChunkRec,
        chunk: ChunkRef,
        ready: Vec<ServerId>,
        fill: Vec<ServerId>,
    ) -> Result<Vec<ServerId>, MetaError> {
        let view = self.view()?;
        let others = self.other_copies(lead, chunk.id, &ready);
        let from = ready.iter().chain(&others);
        let sources = from.map(|s| self.replica(&view, *s)).collect::<Result<Vec<_>, _>>()?;
        drop(view);
        let pull = |server: ServerId| {
            let from: Vec<_> = sources.iter().filter(|r| r.server != server).cloned().collect();
            let member_of = rec.members.contains(&server).then_some(rec.version);
            let op = Control::Pull { chunk, from, ahead: false, member_of, term: lead.term };
            async move { (server, self.command(server, op, self.timings.pull).await) }
        };
        let mut members = ready.clone();
        for (server, done) in join_all(fill.into_iter().map(pull)).await {
            match done {
                Ok(_) if !members.contains(&server) => members.push(server),
                Ok(_) => {}
                Err(e) => {
                    tracing::warn!(id = %chunk.id, %server, error = %e, "a member could not be made equal");
                    members.retain(|m| *m != server);
                    lead.memory.lock().avoid(server, self.now());
                }
            }
        }
        Ok(members)
    }

    /// Living servers with copies that do not count any more. A block that is damaged in all that do may be
    /// whole there.
    fn other_copies(&self, lead: &Lead, id: ChunkId, ready: &[ServerId]) -> Vec<ServerId> {
        let Some(rec) = self.record(id) else { return vec![] };
        let m = lead.memory.lock();
        let all: BTreeSet<_> = rec.members.iter().copied().chain(self.left_out(&m, id, &rec)).collect();
        let lives = |s: &ServerId| m.is_alive(*s, self.now(), self.timings.server_dead);
        all.into_iter().filter(|s| !ready.contains(s) && lives(s)).collect()
    }

    /// Living servers with copies that the set does not name.
    fn left_out(&self, m: &Memory, id: ChunkId, rec: &ChunkRec) -> Vec<ServerId> {
        let surplus = m.surplus.range((id, ServerId(0))..=(id, ServerId(u64::MAX))).map(|((_, s), _)| *s);
        let lives = |s: &ServerId| m.is_alive(*s, self.now(), self.timings.server_dead);
        surplus.filter(|s| !rec.members.contains(s) && lives(s)).collect()
    }

    fn in_order(&self, lead: &Lead, id: ChunkId, members: &[ServerId]) {
        let mut m = lead.memory.lock();
        let odd: Vec<_> =
            m.odd.range((id, ServerId(0))..=(id, ServerId(u64::MAX))).map(|(k, _)| *k).collect();
        for k in odd {
            // What is leaving its disk is there still, until a look says otherwise.
            if !m.is_leaving(k.0, k.1) || !members.contains(&k.1) {
                m.odd.remove(&k);
            }
        }
        for server in members {
            m.surplus.remove(&(id, *server));
        }
        m.uncopied.retain(|(chunk, _)| *chunk != id);
        m.unfilled.retain(|(chunk, _), _| *chunk != id);
        m.short.remove(&id);
    }

    /// How much less than others a server is waited for. One that is given up answers at once or not at all, and
    /// there may be many chunks to ask for. One that a writer does not hear is not waited for as long as one that
    /// only this master asks, when another server can take its place: then it costs a copy if it lives.
    fn hurry(&self, lead: &Lead, rec: &ChunkRec, server: ServerId) -> u32 {
        if self.long_dead(lead, server) {
            return HURRY;
        }
        let (m, now) = (lead.memory.lock(), self.now());
        let candidates = m.joiners(now, self.timings.server_dead);
        let is_replaced = candidates.iter().any(|c| !rec.members.contains(&c.server));
        if is_replaced && m.is_doubted(server, now) { HURRY_DOUBTED } else { 1 }
    }

    /// Asks servers what they have of a chunk: the members of the open set, and who was filled from
    /// them by a bump under way. A replica at a version that is being made has all that the open one
    /// has.
    pub(super) async fn look_at(
        &self,
        lead: &Lead,
        id: ChunkId,
        rec: &ChunkRec,
    ) -> Result<Vec<(ServerId, Found)>, MetaError> {
        let noted = |s: ServerId| lead.memory.lock().odd.get(&(id, s)).copied();
        let ask = |server: ServerId| async move {
            let budget = self.timings.control / self.hurry(lead, rec, server);
            let stat = || self.command(server, Control::Stat { chunk: id }, budget);
            let mut told = stat().await;
            if matches!(told, Err(ChunkError::Net(NetError::Closed { .. }))) {
                // The connection broke, or was one to a start before: another one may do.
                told = stat().await;
            }
            let found = match told {
                Ok(ControlReply::Done(stat)) => {
                    let (version, state) = (stat.report.chunk.version, stat.report.state);
                    lead.memory.lock().is_aside(id, server, state == ReplicaState::Leaving);
                    let member = rec.members.contains(&server);
                    match noted(server) {
                        _ if version > rec.newest() || version < rec.version => Found::Other,
                        _ if !member && version == rec.version => Found::Other,
                        // Damage that was reported is believed until the replica was mended.
                        Some(Odd::State(ReplicaState::Damaged)) => Found::Current(ReplicaState::Damaged),
                        _ => Found::Current(state),
                    }
                }
                Ok(_) => Found::Other,
                Err(ChunkError::NotFound(_)) => Found::Nothing,
                Err(_) => Found::Silent,
            };
            (server, found)
        };
        // Those that a bump before the one under way has filled are its survivors.
        let filled = rec.pending.iter().flat_map(|b| b.joining.iter().chain(&b.survivors));
        let filled = filled.filter(|s| !rec.members.contains(s));
        let mut found = join_all(rec.members.iter().chain(filled).map(|s| ask(*s))).await;
        // Who is not a member counts only when it was filled.
        let good = |f: &Found| *f == Found::Current(ReplicaState::Good);
        found.retain(|(s, f)| rec.members.contains(s) || good(f));
        Ok(found)
    }

    pub(super) async fn command(
        &self,
        server: ServerId,
        op: Control,
        budget: Duration,
    ) -> Result<ControlReply, ChunkError> {
        if !self.raft.leads_surely() {
            return Err(ChunkError::Busy("this master is not sure to lead".into()));
        }
        let place = self.view().and_then(|v| self.replica(&v, server));
        let place = place.map_err(|e| ChunkError::Busy(e.to_string()))?;
        self.peers.control(&place.addr, op, budget).await
    }
}
