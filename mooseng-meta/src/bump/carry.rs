//! What becomes of a bump while it is carried out. Pure.

use super::Past;
use crate::{
    repair::SYNCED_MIN,
    store::{ChunkRec, PendingBump},
};
use mooseng_core::{
    chunk::ControlReply,
    error::ChunkError,
    ids::{ChunkRef, ServerId},
    meta::ReplicaState,
    planted::{self, Bug},
};
use std::{collections::BTreeSet, time::Duration};

/// How often a version that would open with fewer members than an fsync wants is made anew instead.
const SHORT_MAX: u8 = 4;
/// And for how long, while somebody may wait.
const SHORT_TIME: Duration = Duration::from_secs(10);

/// Those that were filled for a bump and that the one in its place does not fill: their copies are surplus.
pub fn given_up(rec: &ChunkRec, joining: &[ServerId]) -> Vec<ServerId> {
    let filled = rec.pending.iter().flat_map(|b| &b.joining);
    filled.filter(|s| !joining.contains(s)).copied().collect()
}

impl PendingBump {
    /// Whether it makes a set of a chunk that nobody has.
    pub fn is_anew(&self) -> bool {
        self.survivors.is_empty()
    }

    /// Its members, in chain order.
    pub fn named(&self) -> Vec<ServerId> {
        self.survivors.iter().chain(&self.joining).copied().collect()
    }

    /// Who is told the version; those of a new set make it.
    pub fn first(&self) -> &[ServerId] {
        if self.is_anew() { &self.joining } else { &self.survivors }
    }

    /// A set without a survivor begins with nothing, whatever an old copy has.
    pub fn cuts_to(&self) -> Option<u64> {
        if self.is_anew() { Some(0) } else { self.cut_to }
    }

    /// The suspect that becomes good as it is. When it does not, it is not the only truth that is tried.
    pub fn winner(&self) -> Option<ServerId> {
        self.survivors.first().copied().filter(|_| self.settles)
    }
}

/// What servers said to a chunk's new version.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Who took it.
    pub ready: Vec<ServerId>,
    /// Who of them is not damaged and stays where it is.
    pub good: Vec<ServerId>,
    /// Who has nothing of the chunk.
    pub empty: Vec<ServerId>,
    /// Whether one of those who took it is not damaged.
    pub whole: bool,
    /// Whether one did not answer.
    pub silent: bool,
}

impl Taken {
    /// One of them answered.
    pub fn note(&mut self, server: ServerId, told: &Result<ControlReply, ChunkError>) {
        match told {
            Ok(reply) => {
                self.ready.push(server);
                let is = |state| matches!(reply, ControlReply::Done(stat) if stat.report.state == state);
                self.whole |= !is(ReplicaState::Damaged);
                if is(ReplicaState::Good) {
                    self.good.push(server);
                }
            }
            Err(ChunkError::NotFound(_)) => self.empty.push(server),
            Err(e) => self.silent |= matches!(e, ChunkError::Net(_) | ChunkError::Busy(_)),
        }
    }

    /// All that took it are damaged, and who did not answer may have what they lack, and would be left behind.
    pub fn is_behind(&self, bump: &PendingBump) -> bool {
        !bump.is_anew() && !self.ready.is_empty() && !self.whole && self.silent
    }

    /// Never written anywhere: empty replicas keep a late first write to the old version out.
    pub fn is_unwritten(&self, rec: &ChunkRec) -> bool {
        self.ready.is_empty() && !rec.committed
    }

    /// Who is made equal to the first that took it; `None` when nobody did.
    pub fn fill(&self, rec: &ChunkRec, bump: &PendingBump) -> Option<Vec<ServerId>> {
        let (_, others) = self.ready.split_first()?;
        let mut fill = if planted::is(Bug::CopyUncompared) { vec![] } else { others.to_vec() };
        let empty = self.empty.iter().filter(|_| !rec.committed);
        fill.extend(empty.chain(&bump.joining).filter(|s| !self.ready.contains(s)));
        Some(fill)
    }
}

/// One that was to be made equal to the first answered: `members` are those that are.
pub fn note_filled(members: &mut Vec<ServerId>, server: ServerId, is_equal: bool) {
    if !is_equal {
        members.retain(|m| *m != server);
    } else if !members.contains(&server) {
        members.push(server);
    }
}

/// Whether a version would open with fewer members than an fsync wants ([`SYNCED_MIN`]), because one that was named
/// failed.
pub fn is_short(rec: &ChunkRec, bump: &PendingBump, members: &[ServerId]) -> bool {
    members.len() < usize::from(rec.wanted).min(SYNCED_MIN) && members.len() < bump.named().len()
}

impl Past {
    /// Whether another version is made at once instead of one that is short: who failed may not fail again, or another
    /// server can take its place. Answers whom no new set is made of for a while; `None`: these members have to do.
    pub fn again(
        &mut self,
        bump: &PendingBump,
        taken: &Taken,
        members: &[ServerId],
        now: Duration,
    ) -> Option<Vec<ServerId>> {
        let is_fresh = |s: &ServerId| !self.uncopied.contains(s);
        if let [only] = members
            && taken.good.len() > 1
            && taken.good.iter().any(is_fresh)
        {
            // It may have ended meanwhile, and the others have what it has: each is the first once.
            self.uncopied.insert(*only);
        }
        let (short, since) = self.short.get_or_insert((0, now));
        if *short >= SHORT_MAX || now.saturating_sub(*since) >= SHORT_TIME {
            return None;
        }
        *short += 1;
        let mut failed = bump.named();
        failed.retain(|s| !members.contains(s));
        for server in &failed {
            *self.unfilled.entry(*server).or_default() += 1;
        }
        Some(if bump.is_anew() { failed } else { vec![] })
    }
}

/// The only one that made a version is asked once more before it opens, where others were to have it, too.
pub fn asked_again(rec: &ChunkRec, bump: &PendingBump, members: &[ServerId]) -> Option<ServerId> {
    let [only] = members else { return None };
    let had_others = rec.members.len() > 1 || bump.named().len() > 1;
    (!bump.is_anew() && had_others).then_some(*only)
}

/// Whether a server lives, and has had a version without a restart since, by its answer to `Stat`.
pub fn has_version(told: &Result<ControlReply, ChunkError>, chunk: ChunkRef) -> bool {
    let Ok(ControlReply::Done(stat)) = told else { return false };
    stat.report.chunk == chunk && stat.report.state != ReplicaState::Suspect
}

/// What is to be remembered of a version that has opened.
#[derive(PartialEq, Eq, Debug)]
pub struct Opened {
    /// Servers whose copies it does not name.
    pub surplus: BTreeSet<ServerId>,
    /// It has fewer members than wanted: it is looked at again.
    pub is_wanted: bool,
    /// Not at once, for somebody failed, who may fail again.
    pub backs_off: bool,
}

impl Opened {
    /// A version has opened with these members. `was_short`: others before it were not opened.
    pub fn with(rec: &ChunkRec, bump: &PendingBump, members: &[ServerId], was_short: bool) -> Self {
        let named = bump.named();
        let is_out = |s: &&ServerId| !members.contains(s);
        Self {
            surplus: rec.members.iter().chain(&named).filter(is_out).copied().collect(),
            is_wanted: members.len() < usize::from(rec.wanted),
            backs_off: was_short || named.iter().any(|s| !members.contains(s)),
        }
    }
}
