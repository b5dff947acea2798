//! The rules of the bump, one by one: what servers answer, and what is done. No runtime, no server.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use mooseng_core::{
    chunk::{ChunkStat, ControlReply},
    error::{ChunkError, NetError},
    ids::*,
    meta::{ChunkReport, ReplicaState},
};
use mooseng_meta::{
    bump::*,
    placement::Candidate,
    repair::{Found, Plan},
    store::{ChunkRec, PendingBump},
};
use std::{collections::BTreeSet, time::Duration};

const ID: ChunkId = ChunkId(1);
const S: [ServerId; 5] = [ServerId(1), ServerId(2), ServerId(3), ServerId(4), ServerId(5)];
/// The version that is open; the one after is being made.
const OPEN: ChunkVersion = ChunkVersion(3);
const NEXT: ChunkVersion = ChunkVersion(4);

const GOOD: Found = Found::Current(ReplicaState::Good);
const SUSPECT: Found = Found::Current(ReplicaState::Suspect);
const DAMAGED: Found = Found::Current(ReplicaState::Damaged);
const ASIDE: Found = Found::Current(ReplicaState::Leaving);

type Told = Result<ControlReply, ChunkError>;

fn rec(members: &[ServerId]) -> ChunkRec {
    ChunkRec {
        version: OPEN,
        members: members.to_vec(),
        wanted: members.len() as u8,
        inode: InodeId(9),
        index: ChunkIndex(0),
        committed: true,
        since: ChunkVersion(1),
        pending: None,
        cut_to: None,
        mover: None,
    }
}
fn unwritten(members: &[ServerId]) -> ChunkRec {
    ChunkRec { committed: false, ..rec(members) }
}
fn bump(survivors: &[ServerId], joining: &[ServerId]) -> PendingBump {
    let (survivors, joining) = (survivors.to_vec(), joining.to_vec());
    PendingBump { version: NEXT, survivors, settles: false, joining, cut_to: None }
}
fn settling(winner: ServerId, joining: &[ServerId]) -> PendingBump {
    PendingBump { settles: true, ..bump(&[winner], joining) }
}
fn making(members: &[ServerId], bump: PendingBump) -> ChunkRec {
    ChunkRec { pending: Some(bump), ..rec(members) }
}
fn has(version: ChunkVersion, state: ReplicaState) -> Told {
    let report = ChunkReport { chunk: ChunkRef { id: ID, version }, length: 5, state };
    let (server, incarnation) = (S[0], Incarnation(1));
    Ok(ControlReply::Done(ChunkStat { report, server, incarnation, dirty: false }))
}
fn nothing() -> Told {
    Err(ChunkError::NotFound(ID))
}
fn silence() -> Told {
    Err(ChunkError::Net(NetError::Deadline { peer: "c".into(), millis: 5 }))
}
fn servers(all: &[ServerId]) -> Vec<Candidate> {
    all.iter().map(|s| Candidate { server: *s, free_bytes: 1 << 40 }).collect()
}
fn set(all: &[ServerId]) -> BTreeSet<ServerId> {
    all.iter().copied().collect()
}

/// What a test says of a leader's knowledge.
#[derive(Default)]
struct World {
    alive: Vec<ServerId>,
    avoided: Vec<ServerId>,
    full: Vec<ServerId>,
    doubted: Vec<ServerId>,
    long_dead: Vec<ServerId>,
    left_out: Vec<ServerId>,
    tried: Vec<ServerId>,
    made: BTreeSet<ServerId>,
    past: Past,
}

impl World {
    fn of(alive: &[ServerId]) -> Self {
        Self { alive: alive.to_vec(), ..Self::default() }
    }
    fn decide(&self, rec: &ChunkRec, found: &[(ServerId, Found)], force: bool) -> Decision {
        let known = Known {
            candidates: servers(&self.alive),
            avoided: set(&self.avoided),
            leaving: BTreeSet::new(),
            full: set(&self.full),
            doubted: set(&self.doubted),
            long_dead: set(&self.long_dead),
            left_out: self.left_out.clone(),
            tried: set(&self.tried),
            made: &self.made,
            past: &self.past,
        };
        decide(ID, rec, found.to_vec(), known, force)
    }
    fn plan(&self, found: &[(ServerId, Found)], force: bool) -> Plan {
        let members: Vec<_> = found.iter().map(|(s, _)| *s).collect();
        self.decide(&rec(&members), found, force).plan
    }
}
fn plan(survivors: &[ServerId], joining: &[ServerId]) -> Plan {
    Plan::Bump { survivors: survivors.to_vec(), settles: false, joining: joining.to_vec() }
}
fn settled(winner: ServerId, joining: &[ServerId]) -> Plan {
    Plan::Bump { survivors: vec![winner], settles: true, joining: joining.to_vec() }
}

#[test]
fn only_a_bump_of_this_look_is_carried_out() {
    let (idle, busy) = (rec(&S[..2]), making(&S[..2], bump(&S[..1], &S[2..3])));
    let mut look = Look { force: false, begun: true };
    assert_eq!((look.carries_out(&idle), look), (None, Look { force: false, begun: true }));
    assert_eq!(look.carries_out(&busy), busy.pending.as_ref());
    assert_eq!(look, Look { force: false, begun: false });
    assert_eq!(
        (look.carries_out(&busy), look.force),
        (None, true),
        "it is replaced, for copies may be under way"
    );
}

#[test]
fn those_are_asked_that_may_have_all_of_it() {
    let r = making(&S[..2], bump(&[S[1], S[2]], &S[3..4]));
    assert_eq!(asked(&r).collect::<Vec<_>>(), [S[0], S[1], S[3], S[2]]);
    assert_eq!(asked(&rec(&S[..2])).collect::<Vec<_>>(), S[..2]);
    for (found, counts) in [(GOOD, true), (ASIDE, false), (SUSPECT, false), (Found::Silent, false)] {
        assert!(found.counts(&r, S[0]));
        assert_eq!(found.counts(&r, S[3]), counts, "{found:?} of one that was to be filled");
    }
}

#[test]
fn an_answer_tells_what_a_server_has() {
    let (open, busy) = (rec(&S[..2]), making(&S[..2], bump(&S[..1], &S[2..3])));
    let good = |version| has(ChunkVersion(version), ReplicaState::Good);
    for (r, server, told, found) in [
        (&open, S[0], good(3), GOOD),
        (&open, S[0], good(2), Found::Other),
        (&open, S[0], good(4), Found::Other),
        (&open, S[0], has(OPEN, ReplicaState::Suspect), SUSPECT),
        (&open, S[0], has(OPEN, ReplicaState::Leaving), ASIDE),
        (&open, S[0], nothing(), Found::Nothing),
        (&open, S[0], silence(), Found::Silent),
        (&open, S[0], Err(ChunkError::Busy("no".into())), Found::Silent),
        (&open, S[0], Ok(ControlReply::Gone), Found::Other),
        (&busy, S[0], good(3), GOOD),
        (&busy, S[0], good(4), GOOD),
        (&busy, S[0], good(5), Found::Other),
        (&busy, S[2], good(4), GOOD),
        // It was a member once, or was copied to ahead: it may lack what was acknowledged.
        (&busy, S[2], good(3), Found::Other),
    ] {
        assert_eq!(Found::told(r, server, &told, false), found, "{server} {told:?}");
    }
    assert_eq!(Found::told(&open, S[0], &good(3), true), DAMAGED, "it was reported");
    assert_eq!(Found::told(&open, S[0], &good(2), true), Found::Other);
    assert_eq!(Found::told(&open, S[0], &silence(), true), Found::Silent);
}

#[test]
fn who_was_given_up_is_waited_for_for_less() {
    let (r, others, alone) = (rec(&S[..2]), servers(&S[..3]), servers(&S[..2]));
    assert_eq!(hurry(&r, &others, true, true), hurry(&r, &alone, true, false));
    assert!(hurry(&r, &others, true, true) > hurry(&r, &others, false, true));
    assert!(hurry(&r, &others, false, true) > 1);
    assert_eq!(hurry(&r, &alone, false, true), 1, "nobody can take its place");
    assert_eq!(hurry(&r, &others, false, false), 1);
}

#[test]
fn who_is_silent_is_waited_for_and_gets_no_copy_meanwhile() {
    let found = [(S[0], GOOD), (S[1], Found::Silent)];
    let mut w = World::of(&S[..3]);
    let d = w.decide(&rec(&S[..2]), &found, false);
    assert_eq!((d.plan, d.avoid), (Plan::Wait, vec![S[1]]));
    w.long_dead = vec![S[1]];
    let d = w.decide(&rec(&S[..2]), &found, false);
    assert_eq!((d.plan, d.ahead, d.avoid), (plan(&S[..1], &S[2..3]), vec![S[2]], vec![S[1]]));
    w.avoided = vec![S[2]];
    assert_eq!(w.plan(&found, false), plan(&S[..1], &[]), "one that failed lately is no place for it");
    w.avoided = vec![];
    w.full = vec![S[2]];
    assert_eq!(w.plan(&found, false), plan(&S[..1], &[]), "nor is one without room");
}

#[test]
fn who_waits_waits_for_no_copy_ahead() {
    let (mut w, r) = (World::of(&S[..3]), rec(&S[..2]));
    let found = [(S[0], GOOD), (S[1], Found::Nothing)];
    let ahead = |r: &ChunkRec, found: &[_], force| World::of(&S[..3]).decide(r, found, force).ahead;
    assert_eq!(w.decide(&r, &found, false).plan, plan(&S[..1], &S[1..2]));
    assert_eq!(ahead(&r, &found, false), [S[1]]);
    assert_eq!(ahead(&r, &found, true), []);
    assert_eq!(ahead(&ChunkRec { cut_to: Some(0), ..r.clone() }, &found, false), []);
    assert_eq!(ahead(&making(&S[..2], bump(&S[..1], &[])), &found, false), []);
    let two = [(S[0], GOOD), (S[1], GOOD)];
    assert_eq!(ahead(&ChunkRec { wanted: 3, ..r.clone() }, &two, false), [S[2]]);
    assert_eq!(ahead(&ChunkRec { wanted: 3, ..unwritten(&S[..2]) }, &two, false), []);
    assert_eq!(ahead(&r, &[(S[0], GOOD), (S[1], SUSPECT)], false), [], "a suspect is mended, not copied to");
    assert_eq!(ahead(&r, &[(S[0], SUSPECT), (S[1], Found::Nothing)], false), [], "there is no source");
    w.made = set(&S[1..2]);
    assert_eq!(w.decide(&r, &found, false).ahead, [], "it was made");
}

#[test]
fn who_has_made_a_copy_ahead_takes_part_whatever_else_it_failed_at_but_once() {
    let found = [(S[0], GOOD), (S[1], Found::Silent)];
    let mut w = World::of(&[S[0], S[2]]);
    (w.long_dead, w.avoided, w.made) = (vec![S[1]], vec![S[2]], set(&[S[2]]));
    let d = w.decide(&rec(&S[..2]), &found, false);
    assert_eq!((d.plan, d.ahead), (plan(&S[..1], &S[2..3]), vec![]));
    w.past.unfilled.insert(S[2], 1);
    assert_eq!(w.plan(&found, false), plan(&S[..1], &[]));
}

#[test]
fn a_suspect_that_could_not_be_settled_is_the_truth_when_no_other_is_left() {
    let found = [(S[0], SUSPECT), (S[1], SUSPECT)];
    let mut w = World::of(&S[..2]);
    assert_eq!(w.plan(&found, false), settled(S[0], &S[1..2]));
    w.past.uncopied.extend(settling(S[0], &S[1..2]).winner());
    assert_eq!(w.plan(&found, false), settled(S[1], &S[..1]));
    w.past.uncopied.insert(S[1]);
    assert_eq!(w.plan(&found, false), settled(S[0], &S[1..2]), "all have failed: the first has to do");
    w.past.uncopied.remove(&S[1]);
    let last = [(S[0], SUSPECT), (S[1], Found::Nothing)];
    assert_eq!(w.plan(&last, false), settled(S[0], &S[1..2]));
    assert_eq!(bump(&S[..1], &S[1..2]).winner(), None, "a good one that fails is not noted for that");
}

#[test]
fn one_that_failed_twice_leaves_its_place_to_another() {
    let two = [(S[0], GOOD), (S[1], GOOD)];
    let mut w = World::of(&S[..3]);
    w.past.unfilled.insert(S[1], 1);
    assert_eq!(w.plan(&two, true), plan(&S[..2], &[]), "once may be chance");
    w.past.unfilled.insert(S[1], 2);
    let d = w.decide(&rec(&S[..2]), &two, true);
    assert_eq!((d.plan, d.avoid), (plan(&S[..1], &S[2..3]), vec![S[1]]));
    assert_eq!(w.plan(&two, false), plan(&S[..1], &S[2..3]), "it was heard, and is not waited for");
    w.past.unfilled.insert(S[0], 2);
    assert_eq!(w.plan(&two, true), plan(&S[..2], &[]), "nobody is left who could");
    w.past.unfilled.remove(&S[1]);
    assert_eq!(
        w.plan(&[(S[0], GOOD), (S[1], SUSPECT)], true),
        plan(&S[..1], &S[1..2]),
        "nor is a suspect one"
    );
}

#[test]
fn the_order_of_a_chain() {
    let found = |states: &[Found]| -> Vec<_> { S.iter().copied().zip(states.iter().copied()).collect() };
    let order = |w: &World, states: &[Found], force| match w.plan(&found(states), force) {
        Plan::Bump { survivors, .. } => survivors,
        other => panic!("{other:?}"),
    };
    let mut w = World::of(&S[..3]);
    let three = [GOOD; 3];
    assert_eq!(order(&w, &three, true), S[..3]);
    w.doubted = vec![S[0]];
    assert_eq!(order(&w, &three, true), [S[1], S[2], S[0]], "others may hear it from there");
    let cut = ChunkRec { cut_to: Some(5), ..rec(&S[..3]) };
    let Plan::Bump { survivors, .. } = w.decide(&cut, &found(&three), false).plan else { panic!() };
    assert_eq!(survivors, S[..3], "nobody says now that it is not heard");
    // Without room and with nobody to take its place it refuses first.
    w.full = vec![S[1]];
    assert_eq!(order(&w, &three, true), [S[1], S[2], S[0]]);
    w.full = vec![S[0]];
    assert_eq!(order(&w, &three, true), [S[0], S[1], S[2]], "more so than one that is not heard goes last");
    w.doubted = vec![];
    assert_eq!(w.plan(&found(&three[..2]), true), plan(&[S[1], S[0]], &S[2..3]), "another takes its place");
    w.full = vec![];
    w.past.uncopied = set(&S[..2]);
    assert_eq!(order(&w, &three, true), [S[2], S[0], S[1]]);
    // One that nobody could be made equal to comes before one whose disk fails.
    w.alive = vec![S[1]];
    w.past.uncopied = set(&[S[1]]);
    assert_eq!(order(&w, &[ASIDE, GOOD], true), [S[1], S[0]]);
}

#[test]
fn damaged_members_are_mended_once_from_a_copy_that_was_left_out() {
    let found = [(S[0], DAMAGED), (S[1], DAMAGED)];
    let mut w = World::of(&S[..2]);
    assert_eq!(w.plan(&found, false), Plan::Wait);
    w.left_out = vec![S[2], S[3]];
    let d = w.decide(&rec(&S[..2]), &found, false);
    assert_eq!((d.plan, d.ahead, d.tried), (plan(&S[..2], &[]), vec![], vec![S[2], S[3]]));
    w.tried = vec![S[2]];
    assert_eq!(w.decide(&rec(&S[..2]), &found, false).tried, [S[2], S[3]], "one of them is new");
    w.tried = vec![S[2], S[3]];
    let d = w.decide(&rec(&S[..2]), &found, false);
    assert_eq!((d.plan, d.tried), (Plan::Wait, vec![]));
    w.tried = vec![];
    let d = w.decide(&rec(&S[..2]), &[(S[0], DAMAGED), (S[1], Found::Silent)], false);
    assert_eq!((d.plan, d.tried), (Plan::Wait, vec![]), "who is silent may be whole, and is asked first");
    for r in [unwritten(&S[..2]), making(&S[..2], bump(&S[..2], &[]))] {
        assert_eq!(w.decide(&r, &found, false).tried, []);
    }
}

fn taken(told: &[(ServerId, Told)]) -> Taken {
    let mut taken = Taken::default();
    told.iter().for_each(|(server, told)| taken.note(*server, told));
    taken
}
fn took(state: ReplicaState) -> Told {
    has(NEXT, state)
}

#[test]
fn a_version_tells_its_members_who_they_are() {
    let b = PendingBump { cut_to: Some(7), ..bump(&S[..2], &S[2..3]) };
    assert_eq!((b.named(), b.first(), b.cuts_to(), b.is_anew()), (S[..3].to_vec(), &S[..2], Some(7), false));
    let anew = PendingBump { cut_to: Some(7), ..bump(&[], &S[2..4]) };
    assert_eq!((anew.named(), anew.first()), (S[2..4].to_vec(), &S[2..4]));
    assert_eq!((anew.cuts_to(), anew.is_anew()), (Some(0), true), "whatever an old copy has");
    let filled_before = making(&S[..2], bump(&S[..1], &S[2..4]));
    assert_eq!(given_up(&filled_before, &S[3..5]), S[2..3]);
    assert_eq!(given_up(&rec(&S[..2]), &S[2..3]), []);
}

#[test]
fn a_version_that_only_damaged_ones_took_waits_for_the_silent() {
    use ReplicaState::*;
    let is_behind = |told: &[(ServerId, Told)]| taken(told).is_behind(&bump(&S[..3], &[]));
    assert!(is_behind(&[(S[0], took(Damaged)), (S[1], silence())]));
    assert!(is_behind(&[(S[0], took(Damaged)), (S[1], Err(ChunkError::Busy("no".into())))]));
    for whole in [Good, Suspect, Leaving] {
        assert!(!is_behind(&[(S[0], took(Damaged)), (S[1], took(whole)), (S[2], silence())]), "{whole:?}");
    }
    assert!(!is_behind(&[(S[0], took(Damaged)), (S[1], nothing())]), "all were heard");
    assert!(!is_behind(&[(S[0], silence())]), "nobody took it: that is another rule");
    let anew = taken(&[(S[0], took(Damaged)), (S[1], silence())]);
    assert!(!anew.is_behind(&bump(&[], &S[..2])), "a new set has nothing to lose");
}

#[test]
fn who_is_filled() {
    use ReplicaState::*;
    let b = bump(&S[..3], &S[3..4]);
    let (written, unwritten) = (rec(&S[..3]), unwritten(&S[..3]));
    let all = taken(&[(S[0], silence()), (S[1], took(Good)), (S[2], took(Good))]);
    assert_eq!(all.fill(&written, &b), Some(vec![S[2], S[3]]), "all but the first that took it");
    assert!(!all.is_unwritten(&unwritten));
    let lost = taken(&[(S[0], nothing()), (S[1], took(Good)), (S[2], took(Leaving))]);
    assert_eq!(lost.fill(&written, &b), Some(vec![S[2], S[3]]), "one that lost its copy is no survivor");
    assert_eq!(lost.fill(&unwritten, &b), Some(vec![S[2], S[0], S[3]]));
    assert_eq!(lost.good, [S[1]]);
    let anew = taken(&[(S[0], took(Good)), (S[1], took(Good))]);
    assert_eq!(anew.fill(&unwritten, &bump(&[], &S[..3])), Some(vec![S[1], S[2]]));
}

#[test]
fn of_what_was_never_written_empty_replicas_are_made() {
    let b = bump(&S[..2], &S[2..3]);
    let mut nobody = taken(&[(S[0], nothing()), (S[1], nothing())]);
    assert_eq!(nobody.fill(&rec(&S[..2]), &b), None, "what was written is nowhere: it is stuck");
    assert!(!nobody.is_unwritten(&rec(&S[..2])));
    assert!(nobody.is_unwritten(&unwritten(&S[..2])));
    assert_eq!(nobody.empty, S[..2]);
    nobody.ready = vec![S[1]];
    assert_eq!(nobody.fill(&unwritten(&S[..2]), &b), Some(vec![S[0], S[2]]));
}

#[test]
fn members_are_those_that_are_equal() {
    let mut members = S[..2].to_vec();
    note_filled(&mut members, S[1], true);
    note_filled(&mut members, S[2], true);
    assert_eq!(members, S[..3]);
    note_filled(&mut members, S[1], false);
    note_filled(&mut members, S[3], false);
    assert_eq!(members, [S[0], S[2]]);
}

#[test]
fn a_set_of_one_by_chance_is_short() {
    let b = bump(&S[..2], &S[2..3]);
    for (wanted, members, short) in [(3, 1, true), (2, 1, true), (1, 1, false), (3, 2, false)] {
        let r = ChunkRec { wanted, ..rec(&S[..3]) };
        assert_eq!(is_short(&r, &b, &S[..members]), short, "{members} of {wanted}");
    }
    assert!(!is_short(&rec(&S[..2]), &bump(&S[..1], &[]), &S[..1]), "nobody else was found");
}

#[test]
fn another_version_is_made_four_times_or_for_ten_seconds() {
    let (b, one) = (bump(&S[..2], &[]), taken(&[(S[0], took(ReplicaState::Good))]));
    let at = Duration::from_millis;
    let mut past = Past::default();
    for n in 1..=4 {
        assert_eq!(past.again(&b, &one, &S[..1], at(5)), Some(vec![]));
        assert_eq!((past.short, past.unfilled.get(&S[1])), (Some((n, at(5))), Some(&n)));
    }
    assert_eq!(past.again(&b, &one, &S[..1], at(5)), None, "then one has to do");
    assert_eq!(past.unfilled.len(), 1, "who takes part has not failed");
    let mut past = Past::default();
    assert!(past.again(&b, &one, &S[..1], at(5)).is_some());
    assert!(past.again(&b, &one, &S[..1], at(10_004)).is_some());
    assert!(past.again(&b, &one, &S[..1], at(10_005)).is_none());
    assert_eq!(past.short, Some((2, at(5))));
}

#[test]
fn no_new_set_is_made_of_those_that_failed() {
    let one = taken(&[(S[0], took(ReplicaState::Good)), (S[1], silence())]);
    let again = Past::default().again(&bump(&[], &S[..2]), &one, &S[..1], Duration::ZERO);
    assert_eq!(again, Some(vec![S[1]]));
}

#[test]
fn each_good_member_is_the_first_once() {
    let b = bump(&S[..3], &[]);
    let both = taken(&[(S[0], took(ReplicaState::Good)), (S[1], took(ReplicaState::Good))]);
    let mut past = Past::default();
    let mut first = |only: ServerId| {
        past.again(&b, &both, &[only], Duration::ZERO).unwrap();
        past.uncopied.iter().copied().collect::<Vec<_>>()
    };
    assert_eq!(first(S[0]), S[..1]);
    assert_eq!(first(S[1]), S[..2]);
    assert_eq!(first(S[2]), S[..2], "all were the first, then the first in the chain has to do");
    for other in [took(ReplicaState::Damaged), took(ReplicaState::Leaving), silence()] {
        let mut past = Past::default();
        let one = taken(&[(S[0], took(ReplicaState::Good)), (S[1], other)]);
        past.again(&b, &one, &S[..1], Duration::ZERO).unwrap();
        assert_eq!(past.uncopied, set(&[]), "no other has what it has");
    }
}

#[test]
fn the_only_one_that_made_a_version_is_asked_once_more() {
    let (two, alone) = (rec(&S[..2]), rec(&S[..1]));
    assert_eq!(asked_again(&two, &bump(&S[..2], &[]), &S[1..2]), Some(S[1]));
    assert_eq!(asked_again(&two, &bump(&S[..1], &[]), &S[..1]), Some(S[0]), "also when the other was silent");
    assert_eq!(asked_again(&alone, &bump(&S[..1], &S[1..2]), &S[..1]), Some(S[0]));
    assert_eq!(asked_again(&alone, &bump(&S[..1], &[]), &S[..1]), None, "it never had others");
    assert_eq!(asked_again(&two, &bump(&S[..2], &[]), &S[..2]), None);
    assert_eq!(asked_again(&two, &bump(&[], &S[..2]), &S[..1]), None, "it has nothing to lose");
    let chunk = ChunkRef { id: ID, version: NEXT };
    for (told, is) in [
        (took(ReplicaState::Good), true),
        (took(ReplicaState::Damaged), true),
        (took(ReplicaState::Suspect), false),
        (has(OPEN, ReplicaState::Good), false),
        (nothing(), false),
        (silence(), false),
        (Ok(ControlReply::Gone), false),
    ] {
        assert_eq!(has_version(&told, chunk), is, "{told:?}");
    }
}

#[test]
fn what_is_remembered_of_a_version_that_opened() {
    let (r, b) = (rec(&S[..3]), bump(&S[..2], &S[3..5]));
    let with = |members: &[ServerId], was_short| Opened::with(&r, &b, members, was_short);
    let whole = with(&[S[0], S[1], S[3], S[4]], false);
    assert_eq!(whole, Opened { surplus: set(&S[2..3]), is_wanted: false, backs_off: false });
    assert!(with(&[S[0], S[1], S[3], S[4]], true).backs_off, "somebody failed before");
    let few = with(&S[1..2], false);
    let surplus = set(&[S[0], S[2], S[3], S[4]]);
    assert_eq!(few, Opened { surplus, is_wanted: true, backs_off: true });
    let small = Opened::with(&r, &bump(&S[..2], &[]), &S[..2], false);
    assert_eq!((small.is_wanted, small.backs_off), (true, false), "nobody failed: the third joins at once");
}
