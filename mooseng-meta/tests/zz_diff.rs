#![allow(warnings, clippy::all)]
use mooseng_core::{chunk::*, error::*, ids::*, meta::*};
use mooseng_meta::{bump::{Opened, *}, placement::Candidate, repair::*, store::*};
use std::{collections::*, time::Duration};

struct R(u64);
impl R {
    fn n(&mut self, n: u64) -> u64 { self.0 ^= self.0 << 13; self.0 ^= self.0 >> 7; self.0 ^= self.0 << 17; (self.0 >> 11) % n }
    fn b(&mut self, n: u64) -> bool { self.n(n) == 0 }
    fn set(&mut self, n: u64) -> BTreeSet<ServerId> { (1..=5).filter(|_| self.b(n)).map(ServerId).collect() }
    fn list(&mut self) -> Vec<ServerId> { let mut v: Vec<_> = (1..=5).map(ServerId).collect(); for i in 0..5 { let j = self.n(5) as usize; v.swap(i, j); } v }
    fn state(&mut self) -> ReplicaState { use ReplicaState::*; [Good, Good, Good, Suspect, Damaged, Leaving][self.n(6) as usize] }
    fn found(&mut self) -> Found { match self.n(8) { 0 => Found::Other, 1 => Found::Nothing, 2 => Found::Silent, _ => Found::Current(self.state()) } }
    fn told(&mut self) -> Result<ControlReply, ChunkError> {
        match self.n(10) {
            0 => Err(ChunkError::NotFound(ChunkId(1))), 1 => Err(ChunkError::Busy("x".into())),
            2 => Err(ChunkError::Suspect(ChunkId(1))), 3 => Ok(ControlReply::Gone),
            4 => Err(ChunkError::Net(NetError::Deadline { peer: "x".into(), millis: 1 })),
            _ => Ok(ControlReply::Done(ChunkStat { report: ChunkReport { chunk: ChunkRef { id: ChunkId(1), version: ChunkVersion(2 + self.n(5)) }, length: 1, state: self.state() }, server: ServerId(1), incarnation: Incarnation(1), dirty: false })),
        }
    }
    fn rec(&mut self) -> ChunkRec {
        let l = self.list(); let k = 1 + self.n(3) as usize;
        let pending = self.b(2).then(|| self.bump());
        ChunkRec { version: ChunkVersion(3), members: l[..k].to_vec(), wanted: 1 + self.n(3) as u8, inode: InodeId(9), index: ChunkIndex(0), committed: !self.b(4), since: ChunkVersion(1), pending, cut_to: self.b(6).then_some(5), mover: None }
    }
    fn bump(&mut self) -> PendingBump {
        let l = self.list(); let (a, b) = (self.n(4) as usize, self.n(3) as usize);
        let b = if a == 0 { b.max(1) } else { b }.min(5 - a);
        PendingBump { version: ChunkVersion(4 + self.n(2)), survivors: l[..a].to_vec(), settles: a == 1 && self.b(2), joining: l[a..a + b].to_vec(), cut_to: self.b(4).then_some(3) }
    }
}
const ID: ChunkId = ChunkId(1);
#[derive(Clone)]
struct Mem { candidates: Vec<Candidate>, avoid: BTreeSet<ServerId>, draining: BTreeSet<ServerId>, full: BTreeSet<ServerId>, doubted: BTreeSet<ServerId>, long_dead: BTreeSet<ServerId>, left_out: Vec<ServerId>, tried: BTreeSet<ServerId>, uncopied: BTreeSet<ServerId>, unfilled: BTreeMap<ServerId, u8>, short: Option<(u8, Duration)> }

fn old_to_copy_ahead(rec: &ChunkRec, found: &[(ServerId, Found)], survivors: &[ServerId], joining: &[ServerId]) -> Vec<ServerId> {
    let of = |server: &ServerId| found.iter().find(|(s, _)| s == server).map(|(_, f)| *f);
    let source = |s: &ServerId| matches!(of(s), Some(Found::Current(ReplicaState::Good | ReplicaState::Leaving)));
    if rec.pending.is_some() || rec.cut_to.is_some() || !rec.committed || !survivors.iter().any(source) { return vec![]; }
    joining.iter().filter(|s| matches!(of(s), None | Some(Found::Nothing))).copied().collect()
}
fn old_replace(m: &Mem, found: &mut [(ServerId, Found)]) {
    let failed = |s: ServerId| m.unfilled.get(&s).is_some_and(|n| *n >= 2);
    let good = |f: Found| f == Found::Current(ReplicaState::Good);
    if found.iter().any(|(s, f)| good(*f) && !failed(*s)) {
        found.iter_mut().filter(|(s, _)| failed(*s)).for_each(|(_, f)| *f = Found::Silent);
    }
}
fn old_decide(m: &mut Mem, id: ChunkId, rec: &ChunkRec, mut found: Vec<(ServerId, Found)>, (force, ahead): (bool, Option<&BTreeSet<ServerId>>)) -> (Plan, Vec<(ServerId, Found)>) {
    { let refused = |s: &ServerId| m.uncopied.contains(s);
      found.sort_by_key(|(s, f)| *f == Found::Current(ReplicaState::Suspect) && refused(s)); }
    let all_heard = found.iter().all(|(s, f)| *f != Found::Silent || m.long_dead.contains(s));
    old_replace(m, &mut found);
    let (candidates, leaving, full) = {
        for (server, _) in found.iter().filter(|(_, f)| *f == Found::Silent) { m.avoid.insert(*server); }
        let (leaving, full) = (m.draining.clone(), m.full.clone());
        let mut candidates = m.candidates.clone();
        candidates.retain(|c| { let made = ahead.is_some_and(|made| made.contains(&c.server)); !m.avoid.contains(&c.server) || (made && !m.unfilled.contains_key(&c.server)) });
        candidates.retain(|c| !full.contains(&c.server));
        (candidates, leaving, full)
    };
    let force = force || rec.cut_to.is_some();
    let plan = plan(id, rec, &found, (&candidates, &leaving, &full), all_heard, force);
    if plan == Plan::Wait && rec.committed && rec.pending.is_none() {
        let left_out = m.left_out.clone();
        if left_out.iter().any(|s| !m.tried.contains(s)) {
            let plan = mend_from_left_out(id, &found, &candidates, all_heard);
            if plan != Plan::Wait { m.tried.extend(left_out); }
            return (plan, found);
        }
    }
    (plan, found)
}
fn old_order(m: &Mem, found: &[(ServerId, Found)], (force, none_joins): (bool, bool), survivors: &mut [ServerId]) {
    let full = m.full.clone();
    survivors.sort_by_key(|s| {
        let aside = found.contains(&(*s, Found::Current(ReplicaState::Leaving)));
        let is_doubted = force && m.doubted.contains(s);
        (aside, m.uncopied.contains(s), full.contains(s) != none_joins, is_doubted)
    });
}
fn mem(r: &mut R) -> Mem {
    Mem { candidates: r.set(2).into_iter().map(|server| Candidate { server, free_bytes: 1 << 40 }).collect(), avoid: r.set(6), draining: r.set(8), full: r.set(6), doubted: r.set(4), long_dead: r.set(2), left_out: r.set(3).into_iter().collect(), tried: r.set(3), uncopied: r.set(3), unfilled: r.set(3).into_iter().map(|s| (s, 1 + s.get() as u8 % 3)).collect(), short: r.b(2).then(|| (r.n(6) as u8, Duration::from_secs(r.n(20)))) }
}

#[test]
fn decisions() {
    let mut r = R(0x1234_5678_9abc);
    let mut kinds = BTreeMap::<String, u32>::new();
    for _ in 0..2_000_000 {
        let (mut m, rec) = (mem(&mut r), r.rec());
        let bad = r.b(5);
        let mut found: Vec<_> = rec.members.iter().map(|s| (*s, if bad { Found::Current([ReplicaState::Damaged, ReplicaState::Suspect][r.n(2) as usize]) } else { r.found() })).collect();
        for s in r.list() { if !rec.members.contains(&s) && r.b(6) { found.push((s, Found::Current(ReplicaState::Good))); } }
        if r.b(6) { for f in &mut found { f.1 = Found::Current(ReplicaState::Damaged); } }
        let (force, made) = (r.b(2), r.b(2).then(|| r.set(3)));
        let past = Past { uncopied: m.uncopied.clone(), unfilled: m.unfilled.clone(), short: m.short };
        let none = BTreeSet::new();
        let known = Known { candidates: m.candidates.clone(), avoided: m.avoid.clone(), leaving: m.draining.clone(), full: m.full.clone(), doubted: m.doubted.clone(), long_dead: m.long_dead.clone(), left_out: m.left_out.clone(), tried: m.tried.clone(), made: made.as_ref().unwrap_or(&none), past: &past };
        let new = decide(ID, &rec, found.clone(), known, force);
        let before = m.clone();
        let (mut plan, found) = old_decide(&mut m, ID, &rec, found, (force, made.as_ref()));
        let mut to = vec![];
        if let Plan::Bump { survivors, settles, joining } = &mut plan {
            if !*settles { old_order(&m, &found, (force, joining.is_empty()), survivors); }
            let t = if force { vec![] } else { old_to_copy_ahead(&rec, &found, survivors, joining) };
            to = t.into_iter().filter(|s| made.as_ref().is_none_or(|made| !made.contains(s))).collect();
        }
        assert_eq!(new.plan, plan);
        if let Plan::Bump { survivors, joining, .. } = &plan { let all: BTreeSet<_> = survivors.iter().chain(joining).collect(); assert_eq!(all.len(), survivors.len() + joining.len()); }
        assert_eq!(new.ahead, to);
        let mut avoid = before.avoid.clone(); avoid.extend(&new.avoid);
        assert_eq!(avoid, m.avoid);
        let mut tried = before.tried.clone(); tried.extend(&new.tried);
        assert_eq!(tried, m.tried);
        let k = match &plan { Plan::Leave => "leave".into(), Plan::Wait => "wait".into(), Plan::Bump { survivors, settles, .. } => format!("bump {} {settles} ahead {} tried {}", survivors.len(), !to.is_empty(), !new.tried.is_empty()) };
        *kinds.entry(k).or_default() += 1;
    }
    eprintln!("{kinds:#?}");
}

#[test]
fn answers() {
    let mut r = R(0x777_1234);
    for _ in 0..500_000 {
        let rec = r.rec();
        let asked: Vec<_> = asked(&rec).collect();
        let filled = rec.pending.iter().flat_map(|b| b.joining.iter().chain(&b.survivors));
        let filled = filled.filter(|s| !rec.members.contains(s));
        assert_eq!(asked, rec.members.iter().chain(filled).copied().collect::<Vec<_>>());
        let (server, told, damaged) = (ServerId(1 + r.n(5)), r.told(), r.b(3));
        let old = match &told {
            Ok(ControlReply::Done(stat)) => {
                let (version, state) = (stat.report.chunk.version, stat.report.state);
                let member = rec.members.contains(&server);
                match damaged {
                    _ if version > rec.newest() || version < rec.version => Found::Other,
                    _ if !member && version == rec.version => Found::Other,
                    true => Found::Current(ReplicaState::Damaged),
                    _ => Found::Current(state),
                }
            }
            Ok(_) => Found::Other,
            Err(ChunkError::NotFound(_)) => Found::Nothing,
            Err(_) => Found::Silent,
        };
        assert_eq!(Found::told(&rec, server, &told, damaged), old);
        let c: Vec<_> = r.set(2).into_iter().map(|server| Candidate { server, free_bytes: 1 }).collect();
        let (dead, doubted) = (r.b(2), r.b(2));
        let is_replaced = c.iter().any(|c| !rec.members.contains(&c.server));
        let h = if dead { 8 } else if is_replaced && doubted { 5 } else { 1 };
        assert_eq!(hurry(&rec, &c, dead, doubted), h);
    }
}

#[test]
fn carrying() {
    let mut r = R(0x4242_4242);
    let mut kinds = BTreeMap::<&str, u32>::new();
    for _ in 0..2_000_000 {
        let (mut rec, bump, m) = (r.rec(), r.bump(), mem(&mut r));
        rec.pending = Some(bump.clone());
        let now = Duration::from_secs(20 + r.n(3));
        let told: BTreeMap<_, _> = (1..=5).map(|s| (ServerId(s), r.told())).collect();
        let made: BTreeMap<_, _> = (1..=5).map(|s| (ServerId(s), r.b(2))).collect();
        let equal: BTreeMap<_, _> = (1..=5).map(|s| (ServerId(s), !r.b(3))).collect();
        let stat = r.told();
        let chunk = ChunkRef { id: ID, version: bump.version };
        // old
        let (mut log, mut om) = (String::new(), m.clone());
        let old = 'o: {
            let anew = bump.survivors.is_empty();
            let first = if anew { &bump.joining } else { &bump.survivors };
            let (mut ready, mut good, mut empty, mut whole, mut silent) = (vec![], vec![], vec![], false, false);
            for server in first {
                match &told[server] {
                    Ok(reply) => {
                        ready.push(*server);
                        let is = |state| matches!(&reply, ControlReply::Done(stat) if stat.report.state == state);
                        whole |= !is(ReplicaState::Damaged);
                        if is(ReplicaState::Good) { good.push(*server); }
                    }
                    Err(ChunkError::NotFound(_)) => empty.push(*server),
                    Err(e) => silent |= matches!(e, ChunkError::Net(_) | ChunkError::Busy(_)),
                }
            }
            if !anew && !ready.is_empty() && !whole && silent { break 'o ("behind", vec![]) }
            if ready.is_empty() && !rec.committed { ready = empty.iter().copied().filter(|s| made[s]).collect(); }
            if ready.is_empty() {
                if let Some(winner) = bump.survivors.first().filter(|_| bump.settles) { om.uncopied.insert(*winner); }
                break 'o ("stuck", vec![]);
            }
            let mut fill = ready[1..].to_vec();
            fill.extend(empty.into_iter().filter(|s| !ready.contains(s) && !rec.committed));
            fill.extend(bump.joining.iter().copied().filter(|s| !ready.contains(s)));
            let mut members = ready.clone();
            for server in fill {
                match equal[&server] {
                    true if !members.contains(&server) => members.push(server),
                    true => {}
                    false => { members.retain(|m| *m != server); om.avoid.insert(server); }
                }
            }
            let named: BTreeSet<_> = bump.survivors.iter().chain(&bump.joining).copied().collect();
            if members.len() < usize::from(rec.wanted).min(SYNCED_MIN) && members.len() < named.len() {
                if members.len() == 1 && good.len() > 1 && good.iter().any(|s| !om.uncopied.contains(s)) { om.uncopied.insert(ready[0]); }
                let (short, since) = om.short.get_or_insert((0, now));
                if *short < 4 && now.saturating_sub(*since) < Duration::from_secs(10) {
                    *short += 1;
                    for server in named.iter().filter(|s| !members.contains(s)) {
                        *om.unfilled.entry(*server).or_default() += 1;
                        if anew { om.avoid.insert(*server); }
                    }
                    break 'o ("again", members);
                }
            }
            let has = match &stat { Ok(ControlReply::Done(stat)) => stat.report.chunk == chunk && stat.report.state != ReplicaState::Suspect, _ => false };
            if let [only] = members[..] && !anew && (rec.members.len() > 1 || named.len() > 1) && !has { break 'o ("gone", members) }
            let was_short = om.short.is_some();
            let surplus: BTreeSet<_> = rec.members.iter().chain(&named).filter(|s| !members.contains(s)).copied().collect();
            log = format!("{surplus:?} {} {}", members.len() < usize::from(rec.wanted), !(!was_short && named.iter().all(|s| members.contains(s))));
            ("open", members)
        };
        // new
        let (mut nlog, mut avoid) = (String::new(), m.avoid.clone());
        let mut past = Past { uncopied: m.uncopied.clone(), unfilled: m.unfilled.clone(), short: m.short };
        let new = 'n: {
            let mut taken = Taken::default();
            for s in bump.first() { taken.note(*s, &told[s]); }
            if taken.is_behind(&bump) { break 'n ("behind", vec![]) }
            if taken.is_unwritten(&rec) { taken.ready = taken.empty.iter().copied().filter(|s| made[s]).collect(); }
            let Some(fill) = taken.fill(&rec, &bump) else { past.uncopied.extend(bump.winner()); break 'n ("stuck", vec![]) };
            let mut members = taken.ready.clone();
            for s in fill { note_filled(&mut members, s, equal[&s]); if !equal[&s] { avoid.insert(s); } }
            if is_short(&rec, &bump, &members) && let Some(a) = past.again(&bump, &taken, &members, now) { avoid.extend(a); break 'n ("again", members) }
            if let Some(only) = asked_again(&rec, &bump, &members) && !has_version(&stat, chunk) { break 'n ("gone", members) }
            let o = Opened::with(&rec, &bump, &members, past.short.is_some());
            nlog = format!("{:?} {} {}", o.surplus, o.is_wanted, o.backs_off);
            ("open", members)
        };
        assert_eq!((&old, log), (&new, nlog));
        assert_eq!((om.avoid, om.uncopied, om.unfilled, om.short), (avoid, past.uncopied, past.unfilled, past.short));
        *kinds.entry(old.0).or_default() += 1;
    }
    eprintln!("{kinds:#?}");
}
