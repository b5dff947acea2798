//! What to do about a chunk, given what its servers have. Pure: the driver in `service` asks the
//! servers, this decides, the driver acts.

use crate::{
    placement::{Candidate, ROOM_BYTES_MIN, place, seed_of},
    store::ChunkRec,
};
use mooseng_core::{
    ids::{ChunkId, ServerId},
    meta::ReplicaState,
};
use std::collections::BTreeSet;

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
    /// Bump to these members.
    Bump {
        /// Good members, in chain order.
        survivors: Vec<ServerId>,
        /// There is none: the one survivor is the first suspect, which becomes good as it is.
        settles: bool,
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

/// The same of a chunk with so many good copies, and so many that can be copied from: those on disks set
/// aside are of the latter only.
pub fn risk_of((good, sources): (usize, usize), wanted: usize) -> Option<Risk> {
    if good == 0 && sources > 0 { Some(Risk::Endangered) } else { risk(good, wanted) }
}

/// An fsync wants the data on so many disks, where the file is to have as many copies: while there are fewer, a bump
/// waits for a new one.
pub const SYNCED_MIN: usize = 2;

/// Decides about a chunk.
///
/// `found` is in chain order, one for each member of the open set; behind them who was filled by the
/// bump under way.
/// `leaving`: servers that are being emptied. Their copies do not count, as those on disks set aside do not,
/// and are kept as sources until there are enough others.
/// `all_heard`: no member that is silent may come back with something better (it was waited for).
/// `force` makes a bump even when the set is as it should be: a client could not write through it. It waits, so
/// nobody gets a whole copy then but what an fsync needs ([`SYNCED_MIN`]): the rest joins with the next bump, and
/// is copied before that begins. For the same reason copies on disks set aside are left out where others suffice.
/// `full`: servers whose disk has no room for what is written to this chunk. Theirs are sources like the others, and
/// not let go before another server has the copy that takes its place; where nobody can, they stay members.
pub fn plan(
    id: ChunkId,
    rec: &ChunkRec,
    found: &[(ServerId, Found)],
    (candidates, leaving, full): (&[Candidate], &BTreeSet<ServerId>, &BTreeSet<ServerId>),
    all_heard: bool,
    force: bool,
) -> Plan {
    let wanted = usize::from(rec.wanted);
    let is = |f: &dyn Fn(Found) -> bool| -> Vec<ServerId> {
        found.iter().filter(|(_, x)| f(*x)).map(|(s, _)| *s).collect()
    };
    // What was never written has nothing to lose: an empty place is as good as a replica.
    let mut survivors = is(&|f| match f {
        Found::Current(ReplicaState::Good | ReplicaState::Leaving) => true,
        Found::Nothing => !rec.committed,
        _ => false,
    });
    let mut mend = is(&|f| match f {
        Found::Current(state) => !matches!(state, ReplicaState::Good | ReplicaState::Leaving),
        Found::Other => true,
        Found::Nothing | Found::Silent => false,
    });
    let mut empty = if rec.committed { is(&|f| f == Found::Nothing) } else { vec![] };
    let silent_member = found.iter().any(|(_, f)| *f == Found::Silent);
    let settles = survivors.is_empty();
    if settles {
        let suspects = is(&|f| f == Found::Current(ReplicaState::Suspect));
        match suspects.first() {
            Some(winner) if !silent_member || all_heard => {
                mend.retain(|s| s != winner);
                survivors.push(*winner);
            }
            None if !rec.committed && all_heard => return fresh_set(id, rec, candidates),
            None if !silent_member || all_heard => return joined(id, rec, found, candidates, force),
            _ => return Plan::Wait,
        }
    }
    let aside = is(&|f| f == Found::Current(ReplicaState::Leaving));
    let stays = |s: &&ServerId| !leaving.contains(*s) && !aside.contains(*s) && !full.contains(*s);
    let (mut stay, go): (Vec<ServerId>, Vec<_>) = survivors.iter().partition(stays);
    let whole = stay.len() >= wanted.max(1);
    // One that is not good is let go when there are enough without it.
    // So is a full one that others have replaced already, though they may be full, too.
    let full_go = go.iter().filter(|s| full.contains(s)).skip(wanted.max(1).saturating_sub(stay.len()));
    let replaced: Vec<_> = full_go.copied().collect();
    let over = stay.len() > wanted || (whole && !(go.is_empty() && mend.is_empty())) || !replaced.is_empty();
    stay.truncate(wanted.max(1));
    let taken: Vec<_> = found.iter().map(|(s, _)| *s).collect();
    let is_room = !place(seed_of(id), 1, candidates, &taken).is_empty();
    let now = if force { wanted.min(SYNCED_MIN) } else { wanted };
    let fails = |s: &ServerId| aside.contains(s) || (is_room && full.contains(s));
    let fails = |s: &ServerId| force && stay.len() >= now.max(1) && fails(s);
    survivors
        .retain(|s| stay.contains(s) || (!whole && go.contains(s) && !replaced.contains(s) && !fails(s)));
    // Those that are emptied are on disk as well as any, as long as they are there.
    let goes_on = |s: &&ServerId| !stay.contains(s) && !aside.contains(s) && !full.contains(s);
    let go_on = if force { survivors.iter().filter(goes_on).count() } else { 0 };
    // What has no room is filled where nothing else can be.
    let (full_mend, full_empty) = (without(&mut mend, full), without(&mut empty, full));
    mend.retain(|s| !leaving.contains(s));
    mend.truncate(wanted.saturating_sub(stay.len()));
    empty.retain(|s| !leaving.contains(s));
    empty.truncate(now.saturating_sub(stay.len() + mend.len() + go_on));
    let have = stay.len() + mend.len() + empty.len() + go_on;
    let mut joining = mend;
    joining.extend(empty);
    joining.extend(place(seed_of(id), now.saturating_sub(have), candidates, &taken));
    let last = full_mend.into_iter().chain(full_empty).filter(|s| !leaving.contains(s));
    joining.extend(last.take(now.saturating_sub(stay.len() + joining.len() + go_on)));
    // A server with a disk set aside may have another: better there than nowhere.
    if !stay.is_empty() {
        let room = |s: &ServerId| candidates.iter().any(|c| c.server == *s && c.free_bytes >= ROOM_BYTES_MIN);
        let again = aside.iter().filter(|s| !leaving.contains(*s) && room(s)).copied();
        let again: Vec<_> = again.take(now.saturating_sub(stay.len() + joining.len())).collect();
        survivors.retain(|s| !again.contains(s));
        joining.extend(again);
    }
    if joining.is_empty() && !over && !force && !silent_member && !settles {
        return Plan::Leave;
    }
    // A member that only missed a question keeps its place, while nobody waits to write.
    if silent_member && !over && !force && !all_heard {
        return Plan::Wait;
    }
    Plan::Bump { survivors, settles, joining }
}

/// Takes those of a set out of a list, and answers them.
fn without(all: &mut Vec<ServerId>, set: &BTreeSet<ServerId>) -> Vec<ServerId> {
    let (out, rest) = all.iter().partition(|s| set.contains(s));
    *all = rest;
    out
}

/// Damaged members of a set that is too small get one that is not: what they lack may be in a copy that does not
/// count any more, and a new member takes it from there. With `force` they go on alone: what is damaged is
/// damaged everywhere, and is whole again once it is written.
fn joined(
    id: ChunkId,
    rec: &ChunkRec,
    found: &[(ServerId, Found)],
    candidates: &[Candidate],
    force: bool,
) -> Plan {
    let is_damaged = |f: Found| f == Found::Current(ReplicaState::Damaged);
    let survivors: Vec<_> = found.iter().filter(|(_, f)| is_damaged(*f)).map(|(s, _)| *s).collect();
    let taken: Vec<_> = found.iter().map(|(s, _)| *s).collect();
    let joining = place(seed_of(id), usize::from(rec.wanted).saturating_sub(taken.len()), candidates, &taken);
    if survivors.is_empty() || (joining.is_empty() && !force) {
        return Plan::Wait;
    }
    Plan::Bump { survivors, settles: false, joining }
}

/// What to do about a set that has no good member, only damaged ones, when a copy that it does not name may have what
/// they lack: all that are but the first are filled, and take it from there. Where there is only one, another joins,
/// and is the one copy too many until the damaged one is let go.
pub fn mend_from_left_out(
    id: ChunkId,
    found: &[(ServerId, Found)],
    candidates: &[Candidate],
    all_heard: bool,
) -> Plan {
    let may_be_better = |f: Found| match f {
        Found::Current(state) => state != ReplicaState::Damaged,
        Found::Silent => !all_heard,
        Found::Other | Found::Nothing => false,
    };
    let is_damaged = |f: Found| f == Found::Current(ReplicaState::Damaged);
    let survivors: Vec<_> = found.iter().filter(|(_, f)| is_damaged(*f)).map(|(s, _)| *s).collect();
    if survivors.is_empty() || found.iter().any(|(_, f)| may_be_better(*f)) {
        return Plan::Wait;
    }
    let taken: Vec<_> = found.iter().map(|(s, _)| *s).collect();
    let joining = place(seed_of(id), 2usize.saturating_sub(survivors.len()), candidates, &taken);
    if survivors.len() + joining.len() < 2 {
        return Plan::Wait;
    }
    Plan::Bump { survivors, settles: false, joining }
}

/// A set for a chunk that was never written and whose servers are gone.
fn fresh_set(id: ChunkId, rec: &ChunkRec, candidates: &[Candidate]) -> Plan {
    let joining = place(seed_of(id), usize::from(rec.wanted), candidates, &[]);
    let (survivors, settles) = (vec![], false);
    if joining.is_empty() { Plan::Wait } else { Plan::Bump { survivors, settles, joining } }
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
        plan(
            ChunkId(1),
            &rec(true),
            &[(S[0], a), (S[1], b)],
            (&candidates(), &BTreeSet::new(), &BTreeSet::new()),
            heard,
            false,
        )
    }
    fn bump(survivors: &[ServerId], joining: &[ServerId]) -> Plan {
        Plan::Bump { survivors: survivors.to_vec(), settles: false, joining: joining.to_vec() }
    }
    fn settled(winner: ServerId, joining: &[ServerId]) -> Plan {
        Plan::Bump { survivors: vec![winner], settles: true, joining: joining.to_vec() }
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
        assert_eq!(decide(SUSPECT, SUSPECT, false), settled(S[0], &[S[1]]), "the first in chain order wins");
        assert_eq!(decide(SUSPECT, Found::Silent, false), Plan::Wait, "the other may be good");
        assert_eq!(decide(SUSPECT, Found::Silent, true), settled(S[0], &[S[2]]));
        assert_eq!(decide(Found::Current(ReplicaState::Damaged), SUSPECT, true), settled(S[1], &[S[0]]));
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
        let decide = |found| {
            plan(
                ChunkId(1),
                &one,
                &[(S[0], found)],
                (&candidates()[..2], &BTreeSet::new(), &BTreeSet::new()),
                true,
                false,
            )
        };
        assert_eq!(decide(damaged), bump(&[S[0]], &[S[1]]));
        assert_eq!(decide(Found::Other), Plan::Wait);
        let both = [(S[0], damaged), (S[1], damaged)];
        let both = |force| {
            plan(
                ChunkId(1),
                &rec(true),
                &both,
                (&candidates(), &BTreeSet::new(), &BTreeSet::new()),
                true,
                force,
            )
        };
        assert_eq!(both(false), Plan::Wait);
        assert_eq!(both(true), bump(&S[..2], &[]), "somebody waits to write it");
    }

    #[test]
    fn who_waits_waits_for_no_copy_but_the_second() {
        const ASIDE: Found = Found::Current(ReplicaState::Leaving);
        let ask = |wanted, found: &[Found], force| {
            let found: Vec<_> = S.iter().copied().zip(found.iter().copied()).collect();
            let members = found.iter().map(|(s, _)| *s).collect();
            let r = ChunkRec { members, wanted, ..rec(true) };
            let all: Vec<_> = S.iter().map(|s| Candidate { server: *s, free_bytes: 1 << 40 }).collect();
            plan(ChunkId(1), &r, &found, (&all, &BTreeSet::new(), &BTreeSet::new()), true, force)
        };
        let three = [GOOD, GOOD, Found::Silent];
        assert_eq!(ask(3, &three, false), bump(&S[..2], &[S[3]]));
        assert_eq!(ask(3, &three, true), bump(&S[..2], &[]), "the third joins with the next bump");
        assert_eq!(ask(3, &[GOOD, GOOD, Found::Nothing], true), bump(&S[..2], &[]), "it has all to copy");
        assert_eq!(ask(3, &[GOOD, GOOD, SUSPECT], true), bump(&S[..2], &[S[2]]), "it has most of it");
        assert_eq!(ask(3, &[GOOD, GOOD, ASIDE], true), bump(&S[..2], &[]), "its disk may be what failed");
        let Plan::Bump { survivors, joining, .. } = ask(3, &[GOOD, Found::Silent, Found::Silent], true)
        else {
            panic!("a bump is expected");
        };
        assert_eq!((survivors, joining.len()), (vec![S[0]], 1), "an fsync wants two disks");
        assert_eq!(ask(1, &[Found::Silent, GOOD], true), bump(&[S[1]], &[]), "or as many as are wanted");
    }

    #[test]
    fn too_many_copies_are_cut_down() {
        let found = [(S[0], GOOD), (S[1], GOOD), (S[2], GOOD)];
        let r = ChunkRec { members: S[..3].to_vec(), ..rec(true) };
        assert_eq!(
            plan(ChunkId(1), &r, &found, (&candidates(), &BTreeSet::new(), &BTreeSet::new()), true, false),
            bump(&[S[0], S[1]], &[])
        );
    }

    #[test]
    fn what_was_never_written_moves_freely() {
        let r = rec(false);
        let found = [(S[0], Found::Nothing), (S[1], Found::Silent)];
        assert_eq!(
            plan(ChunkId(1), &r, &found, (&candidates(), &BTreeSet::new(), &BTreeSet::new()), true, false),
            bump(&[S[0]], &[S[2]])
        );
        let found = [(S[0], Found::Silent), (S[1], Found::Silent)];
        let Plan::Bump { survivors, joining, .. } =
            plan(ChunkId(1), &r, &found, (&candidates(), &BTreeSet::new(), &BTreeSet::new()), true, false)
        else {
            panic!("a new set is expected");
        };
        assert!(survivors.is_empty() && joining.len() == 2);
    }

    #[test]
    fn a_server_that_is_emptied_is_a_source_until_there_are_enough_others() {
        let leaving = BTreeSet::from([S[0]]);
        let ask = |members: &[ServerId], found: &[(ServerId, Found)], candidates: &[Candidate]| {
            let r = ChunkRec { members: members.to_vec(), ..rec(true) };
            plan(ChunkId(1), &r, found, (candidates, &leaving, &BTreeSet::new()), true, false)
        };
        let others: Vec<_> = candidates().into_iter().filter(|c| !leaving.contains(&c.server)).collect();
        let both = [(S[0], GOOD), (S[1], GOOD)];
        assert_eq!(ask(&S[..2], &both, &others), bump(&[S[0], S[1]], &[S[2]]), "another copy is made first");
        let three = [(S[0], GOOD), (S[1], GOOD), (S[2], GOOD)];
        assert_eq!(ask(&S[..3], &three, &others), bump(&[S[1], S[2]], &[]), "then it goes");
        assert_eq!(ask(&S[..2], &both, &[]), Plan::Leave, "nobody can take its place");
        let alone = [(S[0], GOOD), (S[1], Found::Nothing)];
        assert_eq!(ask(&S[..2], &alone, &[]), bump(&[S[0]], &[S[1]]));
        let stale = [(S[0], Found::Other), (S[1], GOOD)];
        assert_eq!(ask(&S[..2], &stale, &others), bump(&[S[1]], &[S[2]]), "it is not mended");
    }

    #[test]
    fn a_copy_on_a_disk_set_aside_is_a_source_and_its_server_may_take_another() {
        const ASIDE: Found = Found::Current(ReplicaState::Leaving);
        assert_eq!(decide(ASIDE, GOOD, true), bump(&[S[0], S[1]], &[S[2]]));
        let ask = |found: &[(ServerId, Found)], candidates: &[Candidate]| {
            let r = ChunkRec { members: found.iter().map(|(s, _)| *s).collect(), ..rec(true) };
            plan(ChunkId(1), &r, found, (candidates, &BTreeSet::new(), &BTreeSet::new()), true, false)
        };
        let three = [(S[0], ASIDE), (S[1], GOOD), (S[2], GOOD)];
        assert_eq!(ask(&three, &candidates()), bump(&[S[1], S[2]], &[]));
        let two = &candidates()[..2];
        assert_eq!(ask(&three[..2], two), bump(&[S[1]], &[S[0]]), "on another disk of the same server");
        assert_eq!(ask(&[(S[0], ASIDE)], two), bump(&[S[0]], &[S[1]]), "the only copy stays a source");
        assert_eq!(ask(&[(S[0], ASIDE)], &two[..1]), Plan::Leave, "there is nothing to fill it from");
        let full = [Candidate { server: S[0], free_bytes: 0 }];
        assert_eq!(ask(&three[..2], &full), Plan::Leave);
    }

    #[test]
    fn a_full_member_gives_its_place_to_another_with_room() {
        let ask = |wanted, found: &[Found], full: &[usize], servers: usize, force| {
            let found: Vec<_> = S.iter().copied().zip(found.iter().copied()).collect();
            let members = found.iter().map(|(s, _)| *s).collect();
            let r = ChunkRec { members, wanted, ..rec(true) };
            let full: BTreeSet<_> = full.iter().map(|n| S[*n]).collect();
            let room = S[..servers].iter().filter(|s| !full.contains(s));
            let room: Vec<_> = room.map(|s| Candidate { server: *s, free_bytes: 1 << 40 }).collect();
            plan(ChunkId(1), &r, &found, (&room, &BTreeSet::new(), &full), true, force)
        };
        let two = [GOOD, GOOD];
        for force in [true, false] {
            assert_eq!(ask(2, &two, &[0], 3, force), bump(&S[..2], &[S[2]]), "it is a source meanwhile");
            assert_eq!(ask(2, &[GOOD; 3], &[0], 3, force), bump(&S[1..3], &[]), "then it goes");
            assert_eq!(ask(1, &[GOOD], &[0], 2, force), bump(&[S[0]], &[S[1]]));
            assert_eq!(ask(1, &two, &[0], 2, force), bump(&[S[1]], &[]));
        }
        assert_eq!(ask(2, &two, &[1], 2, false), Plan::Leave, "nobody can take its place");
        assert_eq!(ask(2, &two, &[1], 2, true), bump(&S[..2], &[]));
        assert_eq!(ask(3, &[GOOD; 3], &[2], 3, true), bump(&S[..3], &[]), "nor with three copies");
        assert_eq!(ask(3, &[GOOD; 3], &[2], 4, true), bump(&S[..2], &[]), "the third is copied ahead");
        // More are full than can be replaced: none is let go that is not.
        assert_eq!(ask(2, &two, &[0, 1], 3, true), bump(&S[..2], &[S[2]]));
        assert_eq!(ask(2, &[GOOD; 3], &[0, 1], 3, false), bump(&[S[0], S[2]], &[]));
        assert_eq!(ask(2, &[GOOD, GOOD], &[0], 2, false), Plan::Leave, "and that is all");
        // One that could not be made equal for lack of room is not filled again where another can be.
        for found in [SUSPECT, Found::Other, Found::Nothing] {
            assert_eq!(ask(2, &[GOOD, found], &[1], 3, true), bump(&[S[0]], &[S[2]]));
            assert_eq!(ask(2, &[GOOD, found], &[1], 2, true), bump(&[S[0]], &[S[1]]));
        }
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
