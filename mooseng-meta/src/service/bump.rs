//! Driving one chunk's bump: ask its servers, act as the rules in [`crate::bump`] say. Each step is idempotent; what
//! another task or leader left is replaced by a bump to the version after (PROTOCOL §4).

use super::{
    Inner, Lead,
    ahead::CopyAhead,
    internal,
    lead::{Memory, Odd},
};
use crate::{
    bump::{
        Decision, Known, Look, Opened, Past, Taken, asked, asked_again, decide, given_up, has_version, hurry,
        is_short, note_filled,
    },
    namespace,
    repair::{Found, Plan},
    store::{ChunkRec, PendingBump},
};
use futures::future::join_all;
use mooseng_core::{
    chunk::{Control, ControlReply},
    error::{ChunkError, MetaError, NetError},
    ids::*,
    meta::*,
};
use std::{collections::BTreeSet, pin::pin, sync::Arc, time::Duration};

/// Time for one entry of a bump to pass the log.
const COMMIT: Duration = Duration::from_secs(10);
/// Steps of one look at a chunk: bumps until one opens, two for each, what it leaves to be mended, a last look.
const STEPS_MAX: usize = 12;

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

    /// The same. New members that nobody waits for are answered when they are not among those that have `made` a copy
    /// ahead; without that they are left to the repairs.
    pub(super) async fn advance(
        self: &Arc<Self>,
        lead: &Arc<Lead>,
        id: ChunkId,
        force: bool,
        made: Option<&BTreeSet<ServerId>>,
    ) -> Result<Option<CopyAhead>, MetaError> {
        if !lead.bumping.lock().insert(id) {
            return Ok(None);
        }
        let _driving = Driving { lead: lead.clone(), chunk: id };
        let mut look = Look { force, begun: false };
        for _ in 0..STEPS_MAX {
            let Some(rec) = namespace::chunk(&self.view()?, id).map_err(internal)? else {
                lead.memory.lock().in_order(id, &[]);
                return Ok(None);
            };
            if let Some(bump) = look.carries_out(&rec) {
                match self.carry_out(lead, id, &rec, bump).await? {
                    Carried::Decided => {
                        look.force = false;
                        continue;
                    }
                    Carried::Again => look.force = true,
                    // The next round looks again.
                    Carried::Stuck => return Err(MetaError::ChunkBusy(id)),
                }
            }
            let Decision { plan, ahead, .. } = self.decide_about(lead, id, &rec, look.force, made).await?;
            match plan {
                Plan::Leave => {
                    let mut m = lead.memory.lock();
                    m.in_order(id, &rec.members);
                    m.retry.remove(&id);
                    return Ok(None);
                }
                Plan::Wait if rec.pending.is_some() => return Err(MetaError::ChunkBusy(id)),
                Plan::Wait => return Ok(None),
                Plan::Bump { survivors, .. } if !ahead.is_empty() => {
                    return Ok(self.leave_to_repairs(lead, (id, &rec), survivors, ahead, made.is_some()));
                }
                Plan::Bump { survivors, settles, joining } => {
                    if settles {
                        let winner = &survivors[0];
                        tracing::warn!(%id, %winner, "every replica was dirty at an unclean stop: the first in the chain wins");
                    }
                    if !self.begin(lead, id, &rec, (survivors, settles), joining).await? {
                        return Ok(None);
                    }
                    look.begun = true;
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

    /// Asks a chunk's servers what is to be done, and remembers what that taught of them.
    async fn decide_about(
        &self,
        lead: &Lead,
        id: ChunkId,
        rec: &ChunkRec,
        force: bool,
        made: Option<&BTreeSet<ServerId>>,
    ) -> Result<Decision, MetaError> {
        let asked_at = self.now();
        let found = self.look_at(lead, id, rec).await?;
        let (mut m, now) = (lead.memory.lock(), self.now());
        let (nobody, nothing) = (BTreeSet::new(), Past::default());
        let long_dead = found.iter().map(|(s, _)| *s).filter(|s| self.is_long_dead(lead, &m, *s));
        let (candidates, full) = (m.candidates(now, self.timings.server_dead), m.full(id, now));
        let may_join = |s: &ServerId| !rec.members.contains(s) && !full.contains(s);
        let known = Known {
            avoided: m.avoided(&candidates, may_join, now),
            candidates,
            leaving: m.draining.keys().copied().collect(),
            full,
            doubted: m.doubted.keys().copied().filter(|s| m.is_doubted(*s, now)).collect(),
            long_dead: long_dead.collect(),
            left_out: self.left_out(&m, id, rec),
            tried: m.tried.range((id, ServerId(0))..=(id, ServerId(u64::MAX))).map(|(_, s)| *s).collect(),
            made: made.unwrap_or(&nobody),
            past: m.past.get(&id).unwrap_or(&nothing),
        };
        let decision = decide(id, rec, found, known, force);
        for server in &decision.avoid {
            m.avoid(*server, asked_at, now);
        }
        let left_out = &decision.tried;
        if !left_out.is_empty() {
            tracing::warn!(%id, ?left_out, "every member is damaged: a copy that was left out may have what they lack");
            m.tried.extend(left_out.iter().map(|s| (id, *s)));
        }
        Ok(decision)
    }

    fn is_long_dead(&self, lead: &Lead, m: &Memory, server: ServerId) -> bool {
        let patience = self.timings.server_dead + self.timings.repair_after;
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
        let given_up = given_up(rec, &joining);
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
        let (members, cut_to) = (bump.named(), bump.cuts_to());
        let set = |server: ServerId| {
            let (members, to, settle, term) = (members.clone(), bump.version, bump.settles, lead.term);
            let op = Control::SetVersion { chunk: id, to, members, cut_to, create, settle, term };
            async move { (server, self.command(server, op, self.timings.control).await) }
        };
        let mut taken = Taken::default();
        for (server, told) in join_all(servers.iter().map(|s| set(*s))).await {
            taken.note(server, &told);
            if let Err(e) = told
                && !matches!(e, ChunkError::NotFound(_))
            {
                tracing::warn!(%id, %server, error = %e, "a member did not take the new version");
            }
        }
        taken
    }

    /// Steps 2 to 4: the survivors take the version, everybody else is filled from them, the version opens.
    async fn carry_out(
        &self,
        lead: &Lead,
        id: ChunkId,
        rec: &ChunkRec,
        bump: &PendingBump,
    ) -> Result<Carried, MetaError> {
        let asked_at = self.now();
        let mut taken = self.set_version(lead, id, bump, bump.first(), bump.is_anew()).await;
        if taken.is_behind(bump) {
            let ready = &taken.ready;
            tracing::warn!(%id, ?ready, "all that took the new version are damaged: the others are waited for");
            return Ok(Carried::Stuck);
        }
        if taken.is_unwritten(rec) {
            taken.ready = self.set_version(lead, id, bump, &taken.empty, true).await.ready;
        }
        let Some(fill) = taken.fill(rec, bump) else {
            if let Some(winner) = bump.winner() {
                lead.memory.lock().past.entry(id).or_default().uncopied.insert(winner);
            }
            return Ok(Carried::Stuck);
        };
        let chunk = ChunkRef { id, version: bump.version };
        let members = self.equalise(lead, rec, chunk, &taken.ready, fill).await?;
        if is_short(rec, bump, &members) && self.is_made_again(lead, id, bump, &taken, &members, asked_at) {
            return Ok(Carried::Again);
        }
        if let Some(only) = asked_again(rec, bump, &members) {
            let told = self.command(only, Control::Stat { chunk: id }, self.timings.control).await;
            if !has_version(&told, chunk) {
                tracing::warn!(%id, %only, "the only one that made the version does not answer any more");
                return Ok(Carried::Stuck);
            }
        }
        self.open_version(lead, rec, bump, chunk, members).await?;
        Ok(Carried::Decided)
    }

    /// Whether a version with too few members is not opened, but another one made.
    fn is_made_again(
        &self,
        lead: &Lead,
        id: ChunkId,
        bump: &PendingBump,
        taken: &Taken,
        members: &[ServerId],
        asked_at: Duration,
    ) -> bool {
        let (mut m, now) = (lead.memory.lock(), self.now());
        let again = m.past.entry(id).or_default().again(bump, taken, members, now);
        for server in again.iter().flatten() {
            m.avoid(*server, asked_at, now);
        }
        if again.is_some() {
            let named = bump.named();
            tracing::warn!(%id, ?members, ?named, "too few members would be left: another version is made");
        }
        again.is_some()
    }

    /// Step 4: the version opens, if it is the one under way still.
    async fn open_version(
        &self,
        lead: &Lead,
        rec: &ChunkRec,
        bump: &PendingBump,
        chunk: ChunkRef,
        members: Vec<ServerId>,
    ) -> Result<(), MetaError> {
        let id = chunk.id;
        let command = Command::BumpOpen { chunk, members: members.clone() };
        if self.propose(command, COMMIT).await? != Applied::Done(true) {
            return Ok(());
        }
        let mut m = lead.memory.lock();
        let was_short = m.past.get(&id).is_some_and(|past| past.short.is_some());
        m.in_order(id, &members);
        let opened = Opened::with(rec, bump, &members, was_short);
        for server in opened.surplus {
            m.note_surplus(id, server, rec.version, bump.version);
        }
        if opened.is_wanted {
            m.wanted.entry(id).or_insert(false);
        }
        if opened.backs_off {
            m.back_off(id, self.now());
        } else {
            m.retry.remove(&id);
        }
        Ok(())
    }

    /// Makes the servers of `fill` equal to the first of `ready`. Answers who is a good member then.
    async fn equalise(
        &self,
        lead: &Lead,
        rec: &ChunkRec,
        chunk: ChunkRef,
        ready: &[ServerId],
        fill: Vec<ServerId>,
    ) -> Result<Vec<ServerId>, MetaError> {
        let view = self.view()?;
        let others = self.other_copies(lead, chunk.id, ready);
        let from = ready.iter().chain(&others);
        let sources = from.map(|s| self.replica(&view, *s)).collect::<Result<Vec<_>, _>>()?;
        drop(view);
        let pull = |server: ServerId| {
            let from: Vec<_> = sources.iter().filter(|r| r.server != server).cloned().collect();
            let member_of = rec.members.contains(&server).then_some(rec.version);
            let op = Control::Pull { chunk, from, ahead: false, member_of, term: lead.term };
            async move { (server, self.pull(lead, server, op).await) }
        };
        let (mut members, asked_at) = (ready.to_vec(), self.now());
        for (server, done) in join_all(fill.into_iter().map(pull)).await {
            note_filled(&mut members, server, done.is_ok());
            match done {
                Ok(_) => lead.memory.lock().took(server),
                Err(e) => {
                    tracing::warn!(id = %chunk.id, %server, error = %e, "a member could not be made equal");
                    lead.memory.lock().avoid(server, asked_at, self.now());
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

    /// Asks servers what they have of a chunk.
    pub(super) async fn look_at(
        &self,
        lead: &Lead,
        id: ChunkId,
        rec: &ChunkRec,
    ) -> Result<Vec<(ServerId, Found)>, MetaError> {
        let ask = |server: ServerId| async move {
            let budget = self.timings.control / self.hurry(lead, rec, server);
            let mut told = self.stat(id, server, budget).await;
            if matches!(told, Err(ChunkError::Net(NetError::Closed { .. }))) {
                // The connection broke, or was one to a start before: another one may do.
                told = self.stat(id, server, budget).await;
            }
            let mut m = lead.memory.lock();
            if let Ok(ControlReply::Done(stat)) = &told {
                m.is_aside(id, server, stat.report.state == ReplicaState::Leaving);
            }
            let is_damaged = m.odd.get(&(id, server)) == Some(&Odd::State(ReplicaState::Damaged));
            (server, Found::told(rec, server, &told, is_damaged))
        };
        let mut found = join_all(asked(rec).map(ask)).await;
        found.retain(|(s, f)| f.counts(rec, *s));
        Ok(found)
    }

    /// What a server says of a chunk. It is asked again when half of the time is over: one lost message is no reason to
    /// leave it out, and with it perhaps the better copy.
    async fn stat(
        &self,
        id: ChunkId,
        server: ServerId,
        budget: Duration,
    ) -> Result<ControlReply, ChunkError> {
        let ask = |budget| self.command(server, Control::Stat { chunk: id }, budget);
        let mut first = pin!(ask(budget));
        if let Ok(told) = tokio::time::timeout(budget / 2, &mut first).await {
            return told;
        }
        tokio::select! {
            biased;
            told = &mut first => told,
            told = ask(budget / 2) => match told {
                // It is no answer: the first may come still.
                Err(ChunkError::Net(_) | ChunkError::Busy(_)) => first.await,
                told => told,
            },
        }
    }

    fn hurry(&self, lead: &Lead, rec: &ChunkRec, server: ServerId) -> u32 {
        let (m, now) = (lead.memory.lock(), self.now());
        let candidates = m.joiners(now, self.timings.server_dead);
        hurry(rec, &candidates, self.is_long_dead(lead, &m, server), m.is_doubted(server, now))
    }

    /// A copy that a server makes. It takes its time; one that is not heard any more is not waited for, for others may
    /// do it.
    pub(super) async fn pull(
        &self,
        lead: &Lead,
        server: ServerId,
        op: Control,
    ) -> Result<ControlReply, ChunkError> {
        let falls_silent = async {
            while !lead.memory.lock().is_dead(server, self.now(), self.timings.server_dead) {
                tokio::time::sleep(self.timings.tick).await;
            }
        };
        tokio::select! {
            biased;
            done = self.command(server, op, self.timings.pull) => done,
            () = falls_silent => Err(ChunkError::Busy("it is not heard any more".into())),
        }
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
