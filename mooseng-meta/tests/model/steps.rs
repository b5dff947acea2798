//! The model: its first state, its steps, what must hold.

use crate::{Config, faults::Fault, state::*};
use stateright::{Model, Property};

/// What must be seen to happen.
pub const WHOLE: &str = "all is written and whole after the failures";

/// A step. Those from [`Step::GiveUp`] on are failures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Locate(usize),
    Send(usize),
    Commit(usize),
    Sync(usize),
    Close(usize),
    Deliver(Frame),
    ApplyAtHead(usize),
    Restart(usize),
    Orders(usize),
    Heal(usize),
    CarryOn,
    /// `true`: what is silent has been so for long.
    Look(bool),
    Begin,
    SetVersion,
    Fill,
    /// `true`: a copy that ends in the middle.
    Arrives(Late, bool),
    CopyAhead(usize),
    RemoveSurplus(usize),
    FenceAt(usize),
    EndSession,
    /// A client ends its stream: it waited long enough, or its connection broke. Some had done the sync.
    GiveUp(usize, Mask),
    /// The same, with a frame that has not arrived.
    SendAndGiveUp(usize),
    /// A head gives up on those behind it.
    Stall(usize),
    /// With what was not synced; and with the note that it was dirty gone.
    Crash(usize, bool, bool),
    /// While a client's sync was under way, and done by some.
    CrashInSync(usize, bool, usize, Mask),
    /// A clean one.
    Stop(usize),
    Wipe(usize),
    Cut(usize),
    SetVersionLate(usize),
    PullLate(usize),
    Abandon,
    OpenAbandoned,
    /// Client 0 dies, or is silent for its session's lifetime.
    Fence,
}

/// Kinds of failures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    GiveUp,
    Stall,
    Crash,
    Stop,
    Wipe,
    Cut,
    Late,
    Abandon,
    Fence,
}

impl Config {
    fn failures(&self, s: &State, steps: &mut Vec<Step>) {
        let may = |kind: Failure| self.kinds.contains(&kind);
        let syncing = || (0..CLIENTS).filter(|c| s.may_sync(*c));
        let parts = 1..1 << SERVERS as Mask;
        for n in (0..SERVERS).filter(|n| s.servers[*n].up) {
            if may(Failure::Crash) {
                let each = [(false, false), (true, false), (false, true)];
                steps.extend(each.map(|(lose, settled)| Step::Crash(n, lose, settled)));
                for c in syncing().filter(|c| s.clients[*c].chain.has(n)) {
                    let each = parts.clone().flat_map(|m| [(false, m), (true, m)]);
                    steps.extend(each.map(|(lose, m)| Step::CrashInSync(n, lose, c, m)));
                }
            }
            if may(Failure::Stop) {
                steps.push(Step::Stop(n));
            }
            if may(Failure::Wipe) {
                steps.push(Step::Wipe(n));
            }
            if may(Failure::Cut) {
                steps.push(Step::Cut(n));
            }
            if may(Failure::Stall) {
                steps.push(Step::Stall(n));
            }
            if may(Failure::Late) {
                steps.extend([Step::SetVersionLate(n), Step::PullLate(n)]);
            }
        }
        if may(Failure::GiveUp) {
            for c in 0..CLIENTS {
                steps.extend([Step::GiveUp(c, 0), Step::SendAndGiveUp(c)]);
            }
            for c in syncing() {
                steps.extend(parts.clone().map(|m| Step::GiveUp(c, m)));
            }
        }
        if may(Failure::Abandon) {
            steps.extend([Step::Abandon, Step::OpenAbandoned]);
        }
        if may(Failure::Fence) {
            steps.push(Step::Fence);
        }
    }

    fn step(&self, s: &mut State, step: Step) -> bool {
        match step {
            Step::Locate(c) => s.locate(self, c),
            Step::Send(c) => s.send(self, c, false),
            Step::Commit(c) => s.commit(self, c),
            Step::Sync(c) => s.sync(self, c),
            Step::Close(c) => s.close(self, c),
            Step::Deliver(f) => s.deliver(self, f),
            Step::ApplyAtHead(n) => s.apply_at_head(self, n),
            Step::Restart(n) => {
                let down = !s.servers[n].up;
                if down {
                    s.restart(self, n);
                }
                down
            }
            Step::Orders(n) => s.orders(n),
            Step::Heal(n) => std::mem::replace(&mut s.servers[n].cut, false),
            Step::CarryOn => s.carry_on(self),
            Step::Look(heard) => s.look(self, heard),
            Step::Begin => s.begin(self),
            Step::SetVersion => s.set(self, None),
            Step::Fill => s.fill(None, false),
            Step::Arrives(l, half) => s.arrives(self, l, half),
            Step::CopyAhead(n) => s.copy_ahead(n),
            Step::RemoveSurplus(n) => s.remove_surplus(self, n),
            Step::FenceAt(n) => s.fence_at(n),
            Step::EndSession => s.end_session(self),
            _ => {
                s.failures += 1;
                self.fail(s, step)
            }
        }
    }

    fn fail(&self, s: &mut State, failure: Step) -> bool {
        match failure {
            Step::GiveUp(c, 0) => {
                let waits = s.clients[c].flying;
                if waits {
                    s.recover(c, true);
                }
                waits
            }
            Step::GiveUp(c, members) => {
                let some = s.sync_in_part(self, c, members);
                if some {
                    s.recover(c, true);
                }
                some
            }
            Step::SendAndGiveUp(c) => s.send(self, c, true),
            Step::Stall(n) => s.stall(n),
            Step::Crash(n, lose, settled) => {
                let loses = !lose || s.servers[n].loses();
                let differs = loses && (!settled || s.is_settled(self, n));
                if differs {
                    s.crash(self, n, lose, settled);
                }
                differs
            }
            Step::CrashInSync(n, lose, c, members) => {
                if !s.sync_in_part(self, c, members) || lose && !s.servers[n].loses() {
                    return false;
                }
                s.crash(self, n, lose, false);
                s.recover(c, true);
                true
            }
            Step::Stop(n) => {
                // Where nothing is clean because of it, it is a crash that loses nothing.
                let differs = s.servers[n].dirty;
                if differs {
                    s.stop(self, n);
                }
                differs
            }
            Step::Wipe(n) => {
                let made = s.servers[n].made;
                if made {
                    s.wipe(self, n);
                }
                made
            }
            Step::Cut(n) => !std::mem::replace(&mut s.servers[n].cut, true),
            Step::SetVersionLate(n) => s.set(self, Some(n)),
            Step::PullLate(n) => s.fill(Some(n), false),
            Step::Abandon => s.abandon(),
            Step::OpenAbandoned => s.fill(None, true),
            Step::Fence => {
                let live = s.fence == Fence::Live;
                if live {
                    s.fence = Fence::Fenced;
                }
                live
            }
            _ => false,
        }
    }
}

impl Model for Config {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::first(self.copies, self.fresh)]
    }

    fn actions(&self, s: &State, steps: &mut Vec<Step>) {
        for c in (0..CLIENTS).filter(|c| self.writes[*c] > 0) {
            steps.extend([Step::Locate(c), Step::Send(c), Step::Commit(c), Step::Sync(c)]);
            if self.closes {
                steps.push(Step::Close(c));
            }
        }
        steps.extend(s.frames.iter().map(|f| Step::Deliver(*f)));
        steps.extend(s.late.iter().flat_map(|l| [Step::Arrives(*l, false), Step::Arrives(*l, true)]));
        match s.driver {
            Driver::Idle | Driver::Again | Driver::Anew => {
                steps.extend([Step::CarryOn, Step::Look(false), Step::Look(true)]);
            }
            Driver::Begin { .. } => steps.push(Step::Begin),
            Driver::Setting { .. } => steps.push(Step::SetVersion),
            Driver::Filling { .. } => steps.push(Step::Fill),
        }
        for n in 0..SERVERS {
            match s.servers[n].up {
                true => steps.extend([Step::ApplyAtHead(n), Step::RemoveSurplus(n), Step::CopyAhead(n)]),
                false => steps.push(Step::Restart(n)),
            }
            if s.servers[n].cut {
                steps.push(Step::Heal(n));
            }
            if self.kinds.contains(&Failure::Fence) {
                steps.extend([Step::Orders(n), Step::FenceAt(n)]);
            }
        }
        if s.fence == Fence::Fenced {
            steps.push(Step::EndSession);
        }
        if s.failures < self.failures {
            self.failures(s, steps);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut s = last.clone();
        let done = self.step(&mut s, step);
        if done {
            s.forget_what_cannot_matter(self);
        }
        done.then_some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what was synced is on a disk", |_, s: &State| s.keeps_promises()),
            Property::always("what is served has what was synced", |_, s: &State| s.serves_promises()),
            Property::always("quiet replicas are equal", |_, s: &State| s.quiet_are_equal()),
            Property::always("a fenced writer's frame is not applied", |_, s: &State| !s.ghost.late_write),
            Property::always("versions do not go back", |_, s: &State| !s.ghost.went_back),
            Property::sometimes(WHOLE, |cfg: &Config, s: &State| s.is_at_goal(cfg)),
        ]
    }
}

impl State {
    /// A synced write is on somebody's disk, while one of those that had it has its disk. A copy that no
    /// record names counts: it is kept, for an operator, while no member can be read.
    fn keeps_promises(&self) -> bool {
        let has = |w: Write| {
            (0..SERVERS).any(|n| {
                let s = &self.servers[n];
                s.made && !self.ghost.is_older(s.disk, w)
            })
        };
        self.ghost.promises().all(has)
    }

    /// A member of the open version that answers reads has nothing older than what was synced.
    fn serves_promises(&self) -> bool {
        self.rec.members.iter().map(|n| &self.servers[n]).all(|s| {
            !s.serves(self.rec.version) || self.ghost.promises().all(|w| !self.ghost.is_older(s.mem, w))
        })
    }

    fn quiet_are_equal(&self) -> bool {
        let r = &self.rec;
        let all = |f: &dyn Fn(&Server) -> bool| r.members.iter().all(|n| f(&self.servers[n]));
        let under_way = self.frames.iter().any(|f| f.by != Start::Nobody && f.version == r.version);
        let quiet = r.pending.is_none()
            && self.driver == Driver::Idle
            && !r.force
            && !under_way
            && all(&|s| s.serves(r.version) && !s.cut && s.out.is_none() && s.broken != r.version);
        let first = r.members.head().map(|n| self.servers[n].mem);
        !quiet || all(&|s| Some(s.mem) == first)
    }

    /// All failures were met, all that was to be written is on disk, and the set is whole.
    fn is_at_goal(&self, cfg: &Config) -> bool {
        let r = &self.rec;
        let all = self.clients.iter().zip(cfg.writes).all(|(c, writes)| writes == 0 || c.is_done(writes));
        let whole = r.pending.is_none() && r.members.len() == cfg.copies;
        self.failures == cfg.failures
            && all
            && whole
            && r.members.iter().all(|n| self.servers[n].serves(r.version))
    }

    /// Two states that differ in this only do not differ in anything that can come.
    fn forget_what_cannot_matter(&mut self, cfg: &Config) {
        for s in &mut self.servers {
            // Of an older version it keeps nothing out: that is refused as such.
            if s.broken < s.version {
                s.broken = 0;
            }
        }
        let fenced = self.fence != Fence::Live;
        for (n, (c, writes)) in self.clients.iter_mut().zip(cfg.writes).enumerate() {
            // It is at its end, and asks for nothing more; or is told nothing more.
            if c.is_done(writes) || n == 0 && fenced && c.lost {
                (c.version, c.chain, c.fresh, c.create, c.lost) = (0, Chain::default(), false, 0, true);
                (c.members, c.moved) = ([Start::Nobody; SERVERS], false);
            }
        }
        let unchecked = cfg.has(Fault::VersionUnchecked);
        let servers = &self.servers;
        // A version does not come back: who has a newer one refuses what was of this, and nobody waits for
        // the answer.
        let refused = |to: usize, version: u8| servers[to].made && servers[to].version > version;
        let nowhere =
            |f: &Frame| !servers[f.to].made && f.create & bit(f.to) == 0 || refused(f.to, f.version);
        self.frames.retain(|f| f.by == Start::Now || unchecked || !nowhere(f));
        self.frames.sort_unstable();
        self.frames.dedup();
        let newest = self.rec.newest();
        self.late.retain(|l| match l {
            Late::SetVersion { server, version, winner, .. } => {
                !refused(*server, *version) && (*winner || servers[*server].version != *version)
            }
            Late::Pull { server, version, .. } => !refused(*server, *version),
            Late::Open { version, .. } => self.rec.pending.is_some() && *version == newest,
        });
        if self.clients.iter().all(|c| c.version == 0 || c.version >= self.ghost.settled) {
            self.ghost.settled = 0;
        }
        self.count_versions_anew();
    }

    /// Versions are only compared: those in use are counted through.
    fn count_versions_anew(&mut self) {
        let mut used = 1u32;
        self.each_version(|v| used |= 1 << *v);
        if used & (used + 1) == 0 {
            return;
        }
        self.each_version(|v| {
            if *v != 0 {
                *v = (used & ((1 << *v) - 1)).count_ones() as u8;
            }
        });
        self.frames.sort_unstable();
        self.late.sort_unstable();
    }

    fn each_version(&mut self, mut of: impl FnMut(&mut u8)) {
        of(&mut self.rec.version);
        of(&mut self.rec.since);
        self.rec.pending.iter_mut().for_each(|b| of(&mut b.version));
        for s in &mut self.servers {
            of(&mut s.version);
            of(&mut s.broken);
            of(&mut s.gone);
            s.out.iter_mut().for_each(|o| of(&mut o.version));
        }
        self.clients.iter_mut().for_each(|c| of(&mut c.version));
        self.frames.iter_mut().for_each(|f| of(&mut f.version));
        for l in &mut self.late {
            match l {
                Late::SetVersion { version, .. }
                | Late::Pull { version, .. }
                | Late::Open { version, .. } => {
                    of(version);
                }
            }
        }
        of(&mut self.ghost.let_in);
        of(&mut self.ghost.settled);
    }
}
