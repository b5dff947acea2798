//! What to do about a chunk, given what its servers have. Pure: the driver in `service` asks the
//! servers, this decides, the driver acts.

use crate::{
    placement::{Candidate, place, seed_of},
    store::ChunkRec,
};
use mooseng_core::{
    ids::{ChunkId, ServerId},
    meta::ReplicaState,
};

/// What one server has of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// A replica at the version that is open, or at one being made of it.
    Current(ReplicaState),
    /// A replica at another version.
    Other,
    /// Nothing.
    Nothing,
    /// No answer.
    Silent,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Plan {
    /// Nothing: the set is as it should be.
    Leave,
    /// Nothing now: nobody who answers has it, or not all were heard who may have a better copy.
    Wait,
    /// Declare this suspect the winner, then plan again.
    Bless(ServerId),
    /// Bump to these members.
    Bump {
        /// Good members, in chain order.
        survivors: Vec<ServerId>,
        /// To be filled.
        joining: Vec<ServerId>,
    },
}

/// How urgent a chunk is; larger is worse.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Risk {
    /// More copies than wanted.
    Overgoal,
    /// Fewer copies than wanted, more than one.
    Undergoal,
    /// One copy where more are wanted.
    Endangered,
    /// No copy.
    Missing,
}

/// The risk of a chunk with so many good copies; `None` when it has what it wants.
pub fn risk(good: usize, wanted: usize) -> Option<Risk> {
    match good {
        0 => Some(Risk::Missing),
        1 if wanted > 1 => Some(Risk::Endangered),
        n if n < wanted => Some(Risk::Undergoal),
        n if n > wanted => Some(Risk::Overgoal),
        _ => None,
    }
}

/// Decides about a chunk.
///
/// `found` is in chain order, one for each member of the open set; behind them who was filled by the
/// bump under way.
/// `all_heard`: no member that is silent may come back with something better (it was waited for).
/// `force` makes a bump even when the set is as it should be: a client could not write through it.
pub fn plan(
    id: ChunkId,
    rec: &ChunkRec,
    found: &[(ServerId, Found)],
    candidates: &[Candidate],
    all_heard: bool,
    force: bool,
) -> Plan {
    let wanted = usize::from(rec.wanted);
    let is = |f: &dyn Fn(Found) -> bool| -> Vec<ServerId> {
        found.iter().filter(|(_, x)| f(*x)).map(|(s, _)| *s).collect()
    };
    // What was never written has nothing to lose: an empty place is as good as a replica.
    let mut survivors = is(&|f| match f {
        Found::Current(ReplicaState::Good) => true,
        Found::Nothing => !rec.committed,
        _ => false,
    });
    let mut mend = is(&|f| match f {
        Found::Current(state) => state != ReplicaState::Good,
        Found::Other => true,
        Found::Nothing => rec.committed,
        Found::Silent => false,
    });
    if survivors.is_empty() {
        let suspects = is(&|f| f == Found::Current(ReplicaState::Suspect));
        let silent = found.iter().any(|(_, f)| *f == Found::Silent);
        let heard = !silent || all_heard;
        return match suspects.first() {
            Some(winner) if heard => Plan::Bless(*winner),
            None if !rec.committed && all_heard => fresh_set(id, rec, candidates),
            None if heard => joined(id, rec, found, candidates),
            _ => Plan::Wait,
        };
    }
    let over = survivors.len() > wanted;
    survivors.truncate(wanted.max(1));
    mend.truncate(wanted.saturating_sub(survivors.len()));
    let have = survivors.len() + mend.len();
    let taken: Vec<_> = found.iter().map(|(s, _)| *s).collect();
    let fresh = place(seed_of(id), wanted.saturating_sub(have), candidates, &taken);
    let mut joining = mend;
    joining.extend(fresh);
    let silent_member = found.iter().any(|(_, f)| *f == Found::Silent);
    if joining.is_empty() && !over && !force && !silent_member {
        return Plan::Leave;
    }
    // A member that only missed a question keeps its place, while nobody waits to write.
    if silent_member && !over && !force && !all_heard {
        return Plan::Wait;
    }
    Plan::Bump { survivors, joining }
}

/// Damaged members of a set that is too small get one that is not: what they lack may be in a copy that does not
/// count any more, and a new member takes it from there.
fn joined(id: ChunkId, rec: &ChunkRec, found: &[(ServerId, Found)], candidates: &[Candidate]) -> Plan {
    let is_damaged = |f: Found| f == Found::Current(ReplicaState::Damaged);
    let survivors: Vec<_> = found.iter().filter(|(_, f)| is_damaged(*f)).map(|(s, _)| *s).collect();
    let taken: Vec<_> = found.iter().map(|(s, _)| *s).collect();
    let joining = place(seed_of(id), usize::from(rec.wanted).saturating_sub(taken.len()), candidates, &taken);
    if survivors.is_empty() || joining.is_empty() { Plan::Wait } else { Plan::Bump { survivors, joining } }
}

/// A set for a chunk that was never written and whose servers are gone.
fn fresh_set(id: ChunkId, rec: &ChunkRec, candidates: &[Candidate]) -> Plan {
    let joining = place(seed_of(id), usize::from(rec.wanted), candidates, &[]);
    if joining.is_empty() { Plan::Wait } else { Plan::Bump { survivors: vec![], joining } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_core::ids::{ChunkIndex, ChunkVersion, InodeId};

    const S: [ServerId; 4] = [ServerId(1), ServerId(2), ServerId(3), ServerId(4)];
    const GOOD: Found = Found::Current(ReplicaState::Good);
    const SUSPECT: Found = Found::Current(ReplicaState::Suspect);

    fn rec(committed: bool) -> ChunkRec {
        ChunkRec {
            version: ChunkVersion(3),
            members: vec![S[0], S[1]],
            wanted: 2,
            inode: InodeId(9),
            index: ChunkIndex(0),
            committed,
            since: ChunkVersion(1),
            pending: None,
            cut_to: None,
            mover: None,
        }
    }
    fn candidates() -> Vec<Candidate> {
        S[..3].iter().map(|s| Candidate { server: *s, free_bytes: 1 << 40 }).collect()
    }
    fn decide(a: Found, b: Found, heard: bool) -> Plan {
        plan(ChunkId(1), &rec(true), &[(S[0], a), (S[1], b)], &candidates(), heard, false)
    }
    fn bump(survivors: &[ServerId], joining: &[ServerId]) -> Plan {
        Plan::Bump { survivors: survivors.to_vec(), joining: joining.to_vec() }
    }

    #[test]
    fn decisions_by_what_is_found() {
        assert_eq!(decide(GOOD, GOOD, true), Plan::Leave);
        assert_eq!(decide(GOOD, Found::Silent, true), bump(&[S[0]], &[S[2]]), "a lost server is replaced");
        assert_eq!(decide(GOOD, Found::Silent, false), Plan::Wait, "one that may come back is waited for");
        assert_eq!(
            decide(GOOD, SUSPECT, true),
            bump(&[S[0]], &[S[1]]),
            "a suspect is filled from the good one"
        );
        assert_eq!(decide(GOOD, Found::Other, true), bump(&[S[0]], &[S[1]]));
        assert_eq!(decide(GOOD, Found::Nothing, true), bump(&[S[0]], &[S[1]]));
        assert_eq!(decide(Found::Current(ReplicaState::Damaged), GOOD, true), bump(&[S[1]], &[S[0]]));
        assert_eq!(decide(SUSPECT, SUSPECT, false), Plan::Bless(S[0]), "the first in chain order wins");
        assert_eq!(decide(SUSPECT, Found::Silent, false), Plan::Wait, "the other may be good");
        assert_eq!(decide(SUSPECT, Found::Silent, true), Plan::Bless(S[0]));
        assert_eq!(decide(Found::Silent, Found::Silent, true), Plan::Wait);
        assert_eq!(
            decide(Found::Other, Found::Nothing, true),
            Plan::Wait,
            "an old copy is never made the truth"
        );
    }

    #[test]
    fn a_damaged_member_that_is_alone_gets_another() {
        let damaged = Found::Current(ReplicaState::Damaged);
        let one = ChunkRec { members: vec![S[0]], ..rec(true) };
        let decide = |found| plan(ChunkId(1), &one, &[(S[0], found)], &candidates()[..2], true, false);
        assert_eq!(decide(damaged), bump(&[S[0]], &[S[1]]));
        assert_eq!(decide(Found::Other), Plan::Wait);
        let both = [(S[0], damaged), (S[1], damaged)];
        assert_eq!(plan(ChunkId(1), &rec(true), &both, &candidates(), true, false), Plan::Wait);
    }

    #[test]
    fn too_many_copies_are_cut_down() {
        let found = [(S[0], GOOD), (S[1], GOOD), (S[2], GOOD)];
        let r = ChunkRec { members: S[..3].to_vec(), ..rec(true) };
        assert_eq!(plan(ChunkId(1), &r, &found, &candidates(), true, false), bump(&[S[0], S[1]], &[]));
    }

    #[test]
    fn what_was_never_written_moves_freely() {
        let r = rec(false);
        let found = [(S[0], Found::Nothing), (S[1], Found::Silent)];
        assert_eq!(plan(ChunkId(1), &r, &found, &candidates(), true, false), bump(&[S[0]], &[S[2]]));
        let found = [(S[0], Found::Silent), (S[1], Found::Silent)];
        let Plan::Bump { survivors, joining } = plan(ChunkId(1), &r, &found, &candidates(), true, false)
        else {
            panic!("a new set is expected");
        };
        assert!(survivors.is_empty() && joining.len() == 2);
    }

    #[test]
    fn risks() {
        assert_eq!(risk(2, 2), None);
        assert_eq!(risk(1, 1), None);
        assert_eq!(risk(0, 1), Some(Risk::Missing));
        assert_eq!(risk(1, 2), Some(Risk::Endangered));
        assert_eq!(risk(2, 3), Some(Risk::Undergoal));
        assert_eq!(risk(3, 2), Some(Risk::Overgoal));
        assert!(Risk::Missing > Risk::Endangered);
    }
}
