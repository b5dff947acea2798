//! The model: its first state, its steps, what must hold.

use crate::{Config, state::*};
use stateright::{Model, Property};

/// A step. Those from [`Step::GiveUp`] on are failures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Locate(usize),
    Send(usize),
    Commit(usize),
    StartSync(usize),
    CheckSync(usize, usize),
    DoSync(usize, usize),
    Deliver(Frame),
    ApplyAtHead(usize),
    Restart(usize),
    Orders(usize),
    Heartbeat(usize),
    Heal(usize),
    CarryOn,
    /// `true`: what is silent has been so for long.
    Look(bool),
    Bless,
    Begin,
    SetVersion(usize),
    Pull(usize),
    Pulled(usize),
    PullDrops(usize),
    Open,
    Arrives(Late),
    CheckSurplus(usize),
    Delete,
    FenceAt(usize),
    EndSession,
    /// A client ends its stream: it waited long enough, or its connection broke.
    GiveUp(usize),
    /// A head gives up on those behind it.
    Stall(usize),
    /// With what was not synced; and with the note that it was dirty gone.
    Crash(usize, bool, bool),
    Wipe(usize),
    Cut(usize),
    SetVersionLate(usize),
    PullLate(usize),
    Abandon,
    /// Client 0 dies, or is silent for its session's lifetime.
    Fence,
}

impl Model for Config {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let members: Chain = (0..self.members).collect();
        let server = |s: usize| {
            let made = !self.fresh && members.has(s);
            Server {
                up: true,
                cut: false,
                incarnation: 1,
                ordered: true,
                fenced: false,
                made,
                version: u8::from(made),
                suspect: false,
                dirty: false,
                mark: false,
                mem: 0,
                disk: 0,
                numbers: [0; CLIENTS],
                kept: [0; CLIENTS],
                complete: false,
                broken: 0,
                out: None,
                pulling: None,
            }
        };
        let client = Client {
            version: u8::from(!self.fresh),
            chain: if self.fresh { Chain::default() } else { members },
            create: false,
            lost: false,
            issued: 0,
            acked: 0,
            synced: 0,
            flying: false,
            members: [0; SERVERS],
            sync: None,
            told: !self.fresh,
        };
        let rec = Rec { version: 1, members, pending: None, committed: !self.fresh, since: 1, force: false };
        let none = [0; CLIENTS * WRITES_MAX];
        let ghost = Ghost {
            before: none,
            acked: 0,
            promised: 0,
            had: none,
            let_in: 0,
            late_write: false,
            went_back: false,
        };
        vec![State {
            rec,
            driver: Driver::Idle,
            servers: [server(0), server(1), server(2)],
            clients: [client.clone(), client],
            frames: vec![],
            late: vec![],
            deleting: None,
            fence: Fence::Live,
            failures: 0,
            ghost,
        }]
    }

    fn actions(&self, s: &State, steps: &mut Vec<Step>) {
        for c in (0..CLIENTS).filter(|c| self.writes[*c] > 0) {
            steps.extend([Step::Locate(c), Step::Send(c), Step::Commit(c), Step::StartSync(c)]);
            if s.clients[c].sync.is_some() {
                for n in 0..SERVERS {
                    steps.extend([Step::CheckSync(c, n), Step::DoSync(c, n)]);
                }
            }
        }
        steps.extend(s.frames.iter().map(|f| Step::Deliver(*f)));
        steps.extend(s.late.iter().map(|l| Step::Arrives(*l)));
        steps.extend([
            Step::CarryOn,
            Step::Look(false),
            Step::Look(true),
            Step::Bless,
            Step::Begin,
            Step::Open,
            Step::Delete,
            Step::EndSession,
        ]);
        for n in 0..SERVERS {
            steps.extend([
                Step::ApplyAtHead(n),
                Step::Restart(n),
                Step::Orders(n),
                Step::Heartbeat(n),
                Step::Heal(n),
                Step::SetVersion(n),
                Step::Pull(n),
                Step::Pulled(n),
                Step::PullDrops(n),
                Step::CheckSurplus(n),
                Step::FenceAt(n),
            ]);
        }
        if s.failures < self.failures {
            let may = |kind: Failure| self.kinds.contains(&kind);
            for n in 0..SERVERS {
                if may(Failure::Crash) {
                    let each = [(false, false), (true, false), (false, true)];
                    steps.extend(each.map(|(lose, settled)| Step::Crash(n, lose, settled)));
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
                steps.extend((0..CLIENTS).map(Step::GiveUp));
            }
            if may(Failure::Abandon) {
                steps.push(Step::Abandon);
            }
            if may(Failure::Fence) {
                steps.push(Step::Fence);
            }
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut s = last.clone();
        self.step(&mut s, step).then_some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always("what was synced is on a disk", |_, s: &State| s.keeps_promises()),
            Property::always("what is served has what was synced", |_, s: &State| s.serves_promises()),
            Property::always("quiet replicas are equal", |_, s: &State| s.quiet_are_equal()),
            Property::always("a fenced writer's frame is not applied", |_, s: &State| !s.ghost.late_write),
            Property::always("versions do not go back", |_, s: &State| !s.ghost.went_back),
        ];
        all.retain(|p| p.name.contains(&self.only));
        if self.reach {
            all.push(Property::sometimes("back at goal after a loss", |cfg: &Config, s: &State| {
                s.is_at_goal(cfg)
            }));
            all.push(Property::sometimes("acknowledged after a bump", |_, s: &State| s.acked_after_bump()));
        }
        all
    }

    fn within_boundary(&self, s: &State) -> bool {
        s.rec.newest() <= self.versions
    }
}

/// Kinds of failures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    GiveUp,
    Stall,
    Crash,
    Wipe,
    Cut,
    Late,
    Abandon,
    Fence,
}

impl Config {
    /// When the steps are not fine, servers answer in order.
    pub fn is_later(&self, todo: Mask, server: usize) -> bool {
        !self.fine && todo & (bit(server) - 1) != 0
    }

    fn step(&self, s: &mut State, step: Step) -> bool {
        match step {
            Step::Locate(c) => s.locate(self, c),
            Step::Send(c) => s.send(self, c),
            Step::Commit(c) => s.commit(c),
            Step::StartSync(c) => s.start_sync(self, c),
            Step::CheckSync(c, n) => s.check_sync(self, c, n),
            Step::DoSync(c, n) => s.do_sync(c, n),
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
            Step::Heartbeat(n) => s.heartbeat(n),
            Step::Heal(n) => std::mem::replace(&mut s.servers[n].cut, false),
            Step::CarryOn => s.carry_on(self),
            Step::Look(heard) => s.look(self, heard),
            Step::Bless => s.bless_winner(),
            Step::Begin => s.begin(self),
            Step::SetVersion(n) => s.set(self, n, false),
            Step::Pull(n) => s.pull(self, n),
            Step::Pulled(n) => s.pulled(n),
            Step::PullDrops(n) => s.pull_drops(n),
            Step::Open => s.open(),
            Step::Arrives(l) => s.arrives(self, l),
            Step::CheckSurplus(n) => s.deleting.is_none() && s.check_surplus(self, n),
            Step::Delete => s.remove(),
            Step::FenceAt(n) => s.fence_at(self, n),
            Step::EndSession => s.end_session(),
            _ => {
                s.failures += 1;
                self.fail(s, step)
            }
        }
    }

    fn fail(&self, s: &mut State, failure: Step) -> bool {
        match failure {
            Step::GiveUp(c) => {
                let waits = s.clients[c].flying || s.clients[c].sync.is_some();
                if waits {
                    s.recover(c, true);
                }
                waits
            }
            Step::Stall(n) => s.stall(n),
            Step::Crash(n, lose, settled) => {
                let loses = !lose || s.servers[n].mem != s.servers[n].disk;
                let differs = s.servers[n].up && loses && (!settled || s.is_settled(self, n));
                if differs {
                    s.crash(n, lose, settled);
                    s.pull_died(n);
                }
                differs
            }
            Step::Wipe(n) => {
                let made = s.servers[n].up && s.servers[n].made;
                if made {
                    s.wipe(n);
                    s.pull_died(n);
                }
                made
            }
            Step::Cut(n) => s.servers[n].up && !std::mem::replace(&mut s.servers[n].cut, true),
            Step::SetVersionLate(n) => s.set(self, n, true),
            Step::PullLate(n) => s.pull_is_late(n),
            Step::Abandon => s.abandon(),
            Step::Fence => {
                let live = s.fence == Fence::Live;
                if live {
                    s.fence = Fence::Fenced { told: 0 };
                }
                live
            }
            _ => false,
        }
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
            !s.serves(self.rec.version)
                || s.pulling.is_some()
                || self.ghost.promises().all(|w| !self.ghost.is_older(s.mem, w))
        })
    }

    fn quiet_are_equal(&self) -> bool {
        let r = &self.rec;
        let all = |f: &dyn Fn(&Server) -> bool| r.members.iter().all(|n| f(&self.servers[n]));
        let under_way = self.frames.iter().any(|f| f.by != 0 && f.version == r.version);
        let quiet = r.pending.is_none()
            && self.driver == Driver::Idle
            && !r.force
            && !under_way
            && all(&|s| {
                s.serves(r.version) && !s.cut && s.pulling.is_none() && s.out.is_none() && s.broken != r.version
            });
        let first = r.members.head().map(|n| self.servers[n].mem);
        !quiet || all(&|s| Some(s.mem) == first)
    }

    fn is_at_goal(&self, cfg: &Config) -> bool {
        let r = &self.rec;
        self.failures == cfg.failures
            && r.version > 1
            && r.pending.is_none()
            && self.ghost.promised != 0
            && r.members.len() == usize::from(cfg.wanted)
            && r.members.iter().all(|n| self.servers[n].serves(r.version))
    }

    fn acked_after_bump(&self) -> bool {
        self.clients.iter().any(|c| c.version > 1 && c.acked > c.synced)
    }
}
