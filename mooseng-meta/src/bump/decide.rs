//! What is to be done about a chunk. Pure.

use super::Past;
use crate::{
    placement::Candidate,
    repair::{Found, Plan, mend_from_left_out, plan},
    store::{ChunkRec, PendingBump},
};
use mooseng_core::{
    chunk::ControlReply,
    error::ChunkError,
    ids::{ChunkId, ServerId},
    meta::ReplicaState,
};
use std::collections::BTreeSet;

/// A server that was given up is waited for by so much less.
const HURRY: u32 = 8;
/// The same of one that somebody who waits did not hear: by now it was silent for longer than that to them.
const HURRY_DOUBTED: u32 = 5;
/// A member that failed in so many bumps leaves its place to another server, where there is one.
const FAILURES_MAX: u8 = 2;

/// One look at a chunk, which may take several bumps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// A version is made even when all replicas seem good.
    pub force: bool,
    /// This look has begun a bump.
    pub begun: bool,
}

impl Look {
    /// The bump under way that is to be carried out: only one that this look has begun. Another is somebody else's, who
    /// gave it up. Its commands may still be under way: a copy that is made late would undo what is written to the
    /// version once it is open. So it never opens.
    pub fn carries_out<'a>(&mut self, rec: &'a ChunkRec) -> Option<&'a PendingBump> {
        let bump = rec.pending.as_ref()?;
        let is_mine = std::mem::take(&mut self.begun);
        self.force |= !is_mine;
        is_mine.then_some(bump)
    }
}

/// Whom to ask what they have of a chunk: the members of the open set, and who was filled from them by a bump under
/// way. Those that a bump before that one has filled are its survivors.
pub fn asked(rec: &ChunkRec) -> impl Iterator<Item = ServerId> {
    let filled = rec.pending.iter().flat_map(|b| b.joining.iter().chain(&b.survivors));
    let filled = filled.filter(|s| !rec.members.contains(s));
    rec.members.iter().chain(filled).copied()
}

/// How much less than others a server is waited for. One that is given up answers at once or not at all, and
/// there may be many chunks to ask for. One that a writer does not hear is not waited for as long as one that
/// only this master asks, when another server can take its place: then it costs a copy if it lives.
pub fn hurry(rec: &ChunkRec, candidates: &[Candidate], is_long_dead: bool, is_doubted: bool) -> u32 {
    let is_replaced = || candidates.iter().any(|c| !rec.members.contains(&c.server));
    match (is_long_dead, is_doubted) {
        (true, _) => HURRY,
        (false, true) if is_replaced() => HURRY_DOUBTED,
        (false, _) => 1,
    }
}

impl Found {
    /// What a server has, by its answer to `Stat`. A replica at a version that is being made has all that the open
    /// one has. `is_damaged`: that was reported, and is believed until the replica was mended.
    pub fn told(
        rec: &ChunkRec,
        server: ServerId,
        told: &Result<ControlReply, ChunkError>,
        is_damaged: bool,
    ) -> Self {
        let report = match told {
            Ok(ControlReply::Done(stat)) => stat.report,
            Ok(_) => return Self::Other,
            Err(ChunkError::NotFound(_)) => return Self::Nothing,
            Err(_) => return Self::Silent,
        };
        let (version, is_new) = (report.chunk.version, !rec.members.contains(&server));
        if version > rec.newest() || version < rec.version || (is_new && version == rec.version) {
            return Self::Other;
        }
        Self::Current(if is_damaged { ReplicaState::Damaged } else { report.state })
    }

    /// Who is not a member counts only when it was filled.
    pub fn counts(self, rec: &ChunkRec, server: ServerId) -> bool {
        rec.members.contains(&server) || self == Self::Current(ReplicaState::Good)
    }
}

/// What a leader knows of its servers that a decision about a chunk depends on.
#[derive(Debug)]
pub struct Known<'a> {
    /// Living servers that are not being emptied.
    pub candidates: Vec<Candidate>,
    /// Servers that failed to take a copy lately.
    pub avoided: BTreeSet<ServerId>,
    /// Servers that are being emptied.
    pub leaving: BTreeSet<ServerId>,
    /// Servers on whose disks writers of the chunk found no room.
    pub full: BTreeSet<ServerId>,
    /// Servers that somebody who waits did not hear.
    pub doubted: BTreeSet<ServerId>,
    /// Servers that were silent for so long that they are not waited for.
    pub long_dead: BTreeSet<ServerId>,
    /// Living servers with copies that the set does not name.
    pub left_out: Vec<ServerId>,
    /// Those that damaged members were to be mended from.
    pub tried: BTreeSet<ServerId>,
    /// Those that have a copy ahead of this bump.
    pub made: &'a BTreeSet<ServerId>,
    /// What bumps of this chunk have met.
    pub past: &'a Past,
}

/// What is to be done, and what a leader is to remember of it.
#[derive(PartialEq, Eq, Debug)]
pub struct Decision {
    /// What is to be done, the survivors in the order of their chain.
    pub plan: Plan,
    /// Nobody waits for these new members: they are copied to before the bump.
    pub ahead: Vec<ServerId>,
    /// Those that did not answer are not asked to take copies for a while.
    pub avoid: Vec<ServerId>,
    /// Every member is damaged, and is to be mended from these, which were left out: once is enough.
    pub tried: Vec<ServerId>,
}

/// Decides about a chunk, by what its servers have: `found` is in chain order. A bump that none of its survivors can
/// carry on is planned anew: every replica of the open set has all that was acknowledged, whatever version was made of
/// it since, because none of those versions has opened.
pub fn decide(
    id: ChunkId,
    rec: &ChunkRec,
    mut found: Vec<(ServerId, Found)>,
    mut known: Known<'_>,
    force: bool,
) -> Decision {
    let is_refused = |s: &ServerId| known.past.uncopied.contains(s);
    // A suspect that could not be settled is the truth when no other is left.
    found.sort_by_key(|(s, f)| *f == Found::Current(ReplicaState::Suspect) && is_refused(s));
    let is_silent = |f: &Found| *f == Found::Silent;
    // A member that may still come back is waited for, however long this master leads.
    let all_heard = found.iter().all(|(s, f)| !is_silent(f) || known.long_dead.contains(s));
    replace_unfilled(known.past, &mut found);
    let avoid: Vec<_> = found.iter().filter(|(_, f)| is_silent(f)).map(|(s, _)| *s).collect();
    // Who has made a copy takes part, whatever else it could not do meanwhile, but once.
    let made = |s: &ServerId| known.made.contains(s) && !known.past.unfilled.contains_key(s);
    let fails = |s: &ServerId| known.avoided.contains(s) || avoid.contains(s);
    known.candidates.retain(|c| (!fails(&c.server) || made(&c.server)) && !known.full.contains(&c.server));
    let places = (&known.candidates[..], &known.leaving, &known.full);
    let mut plan = plan(id, rec, &found, places, all_heard, force || rec.cut_to.is_some());
    let mut tried = vec![];
    if plan == Plan::Wait
        && rec.committed
        && rec.pending.is_none()
        && known.left_out.iter().any(|s| !known.tried.contains(s))
    {
        plan = mend_from_left_out(id, &found, &known.candidates, all_heard);
        if plan != Plan::Wait {
            tried = std::mem::take(&mut known.left_out);
        }
    }
    let mut ahead = vec![];
    if let Plan::Bump { survivors, settles, joining } = &mut plan {
        if !*settles {
            put_in_order(&found, &known, (force, joining.is_empty()), survivors);
        }
        if !force {
            ahead = to_copy_ahead(rec, &found, survivors, joining);
            ahead.retain(|s| !known.made.contains(s));
        }
    }
    Decision { plan, ahead, avoid, tried }
}

/// Members that could not take part in the last bumps leave their places to others, as if they were silent, while
/// one is there that could.
fn replace_unfilled(past: &Past, found: &mut [(ServerId, Found)]) {
    let failed = |s: &ServerId| past.unfilled.get(s).is_some_and(|n| *n >= FAILURES_MAX);
    let good = |f: &Found| *f == Found::Current(ReplicaState::Good);
    if found.iter().any(|(s, f)| good(f) && !failed(s)) {
        found.iter_mut().filter(|(s, _)| failed(s)).for_each(|(_, f)| *f = Found::Silent);
    }
}

/// The order of a chain. Whom the others could not be made equal to last time is tried last, but for one whose disk
/// fails. So is one that lives and whom somebody who waits does not hear: others may hear it from there. One without
/// room comes last when another takes its place; else it refuses what is written before anybody has applied it.
fn put_in_order(
    found: &[(ServerId, Found)],
    known: &Known<'_>,
    (force, none_joins): (bool, bool),
    survivors: &mut [ServerId],
) {
    survivors.sort_by_key(|s| {
        let aside = found.contains(&(*s, Found::Current(ReplicaState::Leaving)));
        let is_doubted = force && known.doubted.contains(s);
        (aside, known.past.uncopied.contains(s), known.full.contains(s) != none_joins, is_doubted)
    });
}

/// New members that can be copied to while the open version serves: not those that are to be mended, whose copy is
/// read and written as far as it goes. Without a good member, and for what was never committed, nothing is gained.
fn to_copy_ahead(
    rec: &ChunkRec,
    found: &[(ServerId, Found)],
    survivors: &[ServerId],
    joining: &[ServerId],
) -> Vec<ServerId> {
    let of = |server: &ServerId| found.iter().find(|(s, _)| s == server).map(|(_, f)| *f);
    let source =
        |s: &ServerId| matches!(of(s), Some(Found::Current(ReplicaState::Good | ReplicaState::Leaving)));
    if rec.pending.is_some() || rec.cut_to.is_some() || !rec.committed || !survivors.iter().any(source) {
        return vec![];
    }
    joining.iter().filter(|s| matches!(of(s), None | Some(Found::Nothing))).copied().collect()
}
