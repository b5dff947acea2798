//! What the leading master does about the chunk: `service/bump.rs`, `service/deleting.rs`,
//! `service/sessions.rs`. What is to be done is decided by the real [`plan`].

use crate::{Config, Cure, Plant, state::*};
use mooseng_core::{
    ids::{ChunkId, ChunkIndex, ChunkVersion, InodeId, ServerId},
    meta::ReplicaState,
};
use mooseng_meta::{
    placement::Candidate,
    repair::{Found, Plan, plan},
    store::{ChunkRec, PendingBump},
};

fn ids(servers: impl Iterator<Item = usize>) -> Vec<ServerId> {
    servers.map(|s| ServerId(s as u64)).collect()
}
fn chain(servers: &[ServerId]) -> Chain {
    servers.iter().map(|s| s.get() as usize).collect()
}

impl State {
    fn record(&self, cfg: &Config) -> ChunkRec {
        let r = &self.rec;
        let pending = r.pending.map(|b| PendingBump {
            version: ChunkVersion(b.version.into()),
            survivors: ids(b.survivors.iter()),
            joining: ids(b.joining.iter()),
            cut_to: None,
        });
        ChunkRec {
            version: ChunkVersion(r.version.into()),
            members: ids(r.members.iter()),
            wanted: cfg.wanted,
            inode: InodeId(1),
            index: ChunkIndex(0),
            committed: r.committed,
            since: ChunkVersion(r.since.into()),
            pending,
            cut_to: None,
            mover: None,
        }
    }

    /// `Inner::look_at`.
    fn look_at(&self) -> Vec<(ServerId, Found)> {
        let r = &self.rec;
        let filled = r.pending.iter().flat_map(|b| b.joining.iter()).filter(|s| !r.members.has(*s));
        let filled: Vec<_> = filled.collect();
        let mut all = Vec::new();
        for s in r.members.iter().chain(filled) {
            let (server, member) = (&self.servers[s], r.members.has(s));
            let found = match server {
                s if !s.reachable() => Found::Silent,
                s if !s.made => Found::Nothing,
                s if s.version > r.newest() || s.version < r.version => Found::Other,
                s if !member && s.version == r.version => Found::Other,
                s if s.suspect => Found::Current(ReplicaState::Suspect),
                _ => Found::Current(ReplicaState::Good),
            };
            if member || found == Found::Current(ReplicaState::Good) {
                all.push((ServerId(s as u64), found));
            }
        }
        all
    }

    /// Whether something is to be done: what reports, heartbeats and looks at all chunks find.
    fn is_odd(&self, cfg: &Config) -> bool {
        let r = &self.rec;
        let odd = |s: usize| match &self.servers[s] {
            s if !s.reachable() => true,
            s if !s.made => r.committed,
            s => s.suspect || s.version != r.version,
        };
        r.force || r.members.len() != usize::from(cfg.wanted) || r.members.iter().any(odd)
    }

    /// `Inner::settle` from its beginning: a pending bump is carried on.
    pub fn carry_on(&mut self, cfg: &Config) -> bool {
        let may = matches!(self.driver, Driver::Idle | Driver::Again) && self.rec.pending.is_some();
        if may && cfg.cures.contains(&Cure::BeginAnew) {
            self.driver = Driver::Anew;
            self.rec.force = true;
        } else if may {
            self.carry_out();
        }
        may
    }

    /// `carry_out` up to the first command.
    fn carry_out(&mut self) {
        let Some(bump) = self.rec.pending else { return };
        let anew = bump.survivors.len() == 0;
        let first = if anew { bump.joining } else { bump.survivors };
        let committed = self.rec.committed;
        self.driver = Driver::Setting { todo: first.mask(), ready: 0, empty: 0, create: anew, committed };
    }

    /// `decide_about`. `heard`: members that are silent have been so for long.
    pub fn look(&mut self, cfg: &Config, heard: bool) -> bool {
        let idle = self.driver == Driver::Idle && self.rec.pending.is_none() && self.is_odd(cfg);
        let again = self.driver == Driver::Again && self.rec.pending.is_none();
        if !idle && !again && self.driver != Driver::Anew {
            return false;
        }
        let found = self.look_at();
        let silent = found.iter().any(|(_, f)| *f == Found::Silent);
        if heard && !silent {
            return false;
        }
        let all_heard = heard || !silent;
        let usable = (0..SERVERS).filter(|s| self.servers[*s].reachable());
        let candidates: Vec<_> =
            usable.map(|s| Candidate { server: ServerId(s as u64), free_bytes: 1 << 40 }).collect();
        let force = self.rec.force || (self.rec.pending.is_some() && all_heard);
        self.driver = match plan(ChunkId(1), &self.record(cfg), &found, &candidates, all_heard, force) {
            Plan::Leave => {
                self.rec.force = false;
                Driver::Idle
            }
            Plan::Wait => Driver::Idle,
            Plan::Bless(winner) if cfg.cures.contains(&Cure::BlessAtVersion) => {
                let winner = winner.get() as usize;
                let others = found.iter().filter(|(_, f)| *f != Found::Silent).map(|(s, _)| s.get() as usize);
                let joining = others.filter(|s| *s != winner).collect();
                Driver::Begin { survivors: [winner].into_iter().collect(), joining, bless: true }
            }
            Plan::Bless(winner) => Driver::Bless(winner.get() as usize),
            Plan::Bump { survivors, joining } => {
                Driver::Begin { survivors: chain(&survivors), joining: chain(&joining), bless: false }
            }
        };
        // Between the two only a size commit matters.
        if !cfg.fine && !cfg.fresh {
            self.begin(cfg);
        }
        true
    }

    pub fn bless_winner(&mut self) -> bool {
        let Driver::Bless(winner) = self.driver else { return false };
        if self.servers[winner].pulling.is_some() {
            return false;
        }
        if self.servers[winner].reachable() {
            self.bless(winner);
        }
        // The loop of `settle` looks again.
        self.driver = Driver::Again;
        true
    }

    fn log_is_clear(&self) -> bool {
        !self.late.iter().any(|l| matches!(l, Late::Open { .. }))
    }

    /// `BumpStart` is committed.
    pub fn begin(&mut self, _cfg: &Config) -> bool {
        let Driver::Begin { survivors, joining, bless } = self.driver else { return false };
        if !self.log_is_clear() {
            return false;
        }
        self.driver = Driver::Idle;
        let r = &mut self.rec;
        let filled = r.pending.map_or(0, |b| b.joining.mask());
        let known = survivors.mask() & !(r.members.mask() | filled) == 0;
        if known && !(survivors.len() == 0 && r.committed) {
            r.pending = Some(Bump { version: r.newest() + 1, survivors, joining, bless });
            r.force = false;
            self.carry_out();
        }
        true
    }

    /// `SetVersion` is carried out by one server. `late`: nobody hears of it in time.
    pub fn set(&mut self, cfg: &Config, server: usize, is_late: bool) -> bool {
        let Driver::Setting { todo, mut ready, mut empty, create, committed } = self.driver else {
            return false;
        };
        let Some(bump) = self.rec.pending else { return false };
        if todo & bit(server) == 0 || cfg.is_later(todo, server) {
            return false;
        }
        let anew = bump.survivors.len() == 0;
        let s = &self.servers[server];
        if is_late {
            if !s.reachable() {
                return false;
            }
            self.put_late(Late::SetVersion { server, version: bump.version, anew, create });
        } else if s.reachable() {
            if s.pulling.is_some() {
                return false;
            }
            if bump.bless {
                self.servers[server].suspect = false;
            }
            match self.set_version(cfg, server, bump.version, anew, create) {
                Ok(()) => ready |= bit(server),
                Err(true) => empty |= bit(server),
                Err(false) => {}
            }
        }
        let todo = todo & !bit(server);
        self.driver = Driver::Setting { todo, ready, empty, create, committed };
        if todo == 0 {
            self.all_set(bump, (ready, empty), create, committed);
        }
        true
    }

    fn all_set(&mut self, bump: Bump, (ready, empty): (Mask, Mask), create: bool, committed: bool) {
        if ready == 0 && !committed && !create && empty != 0 {
            self.driver = Driver::Setting { todo: empty, ready: 0, empty, create: true, committed };
            return;
        }
        if ready == 0 {
            self.driver = Driver::Anew;
            return;
        }
        let first = if bump.survivors.len() == 0 { bump.joining } else { bump.survivors };
        let is_ready = |s: &usize| ready & bit(*s) != 0;
        let ready: Chain = first.iter().filter(is_ready).collect();
        let not_ready = |s: &usize| !ready.has(*s);
        let more = first.iter().filter(|s| empty & bit(*s) != 0 && not_ready(s) && !committed);
        let fill: Chain =
            ready.iter().skip(1).chain(more).chain(bump.joining.iter().filter(not_ready)).collect();
        self.driver = Driver::Filling { ready, fill, todo: fill.mask(), bad: 0 };
        self.filled(0, true);
    }

    /// `Pull` arrives at a server.
    pub fn pull(&mut self, cfg: &Config, server: usize) -> bool {
        let Driver::Filling { ready, todo, .. } = self.driver else { return false };
        let Some(bump) = self.rec.pending else { return false };
        let s = &self.servers[server];
        if todo & bit(server) == 0 || s.pulling.is_some() || cfg.is_later(todo, server) {
            return false;
        }
        if !s.reachable() || !self.pull_begin(server, bump.version, ready, false) {
            self.filled(bit(server), false);
        } else if !cfg.fine {
            self.pulled(server);
        }
        true
    }

    /// A copy ends.
    pub fn pulled(&mut self, server: usize) -> bool {
        let Some(p) = self.servers[server].pulling else { return false };
        let done = self.pull_end(server);
        if !p.orphan {
            self.filled(bit(server), done);
        }
        true
    }

    /// Nobody waits for a copy any more.
    pub fn pull_is_late(&mut self, server: usize) -> bool {
        let Driver::Filling { ready, todo, .. } = self.driver else { return false };
        let Some(bump) = self.rec.pending else { return false };
        if todo & bit(server) == 0 || !self.servers[server].reachable() {
            return false;
        }
        self.orphan(server, bump.version, ready);
        self.filled(bit(server), false);
        true
    }

    fn orphan(&mut self, server: usize, version: u8, from: Chain) {
        match &mut self.servers[server].pulling {
            Some(p) if !p.orphan => p.orphan = true,
            _ => self.put_late(Late::Pull { server, version, from }),
        }
    }

    /// A copy that nobody waits for ends in the middle.
    pub fn pull_drops(&mut self, server: usize) -> bool {
        self.servers[server].pulling.take_if(|p| p.orphan).is_some()
    }

    /// The server that made a copy for the driver has died.
    pub fn pull_died(&mut self, server: usize) {
        if let Driver::Filling { todo, .. } = self.driver
            && todo & bit(server) != 0
            && !self.servers[server].up
        {
            self.filled(bit(server), false);
        }
    }

    fn filled(&mut self, servers: Mask, done: bool) {
        let Driver::Filling { ready, fill, todo, bad } = self.driver else { return };
        let (todo, bad) = (todo & !servers, if done { bad } else { bad | servers });
        self.driver = Driver::Filling { ready, fill, todo, bad };
        if todo == 0 {
            let not_ready = fill.iter().filter(|s| !ready.has(*s));
            let members = ready.iter().chain(not_ready).filter(|s| bad & bit(*s) == 0).collect();
            self.driver = Driver::Opening { members };
        }
    }

    /// `BumpOpen` is committed.
    pub fn open(&mut self) -> bool {
        let (Driver::Opening { members }, Some(bump)) = (self.driver, self.rec.pending) else { return false };
        if !self.log_is_clear() {
            return false;
        }
        self.driver = Driver::Idle;
        self.bump_open(bump.version, members);
        true
    }

    fn bump_open(&mut self, version: u8, members: Chain) {
        let r = &mut self.rec;
        let Some(bump) = r.pending.filter(|b| b.version == version) else { return };
        if members.len() == 0 || members.mask() & !bump.named() != 0 {
            return;
        }
        self.ghost.went_back |= r.version > version;
        (r.version, r.members, r.pending) = (version, members, None);
        if bump.survivors.len() == 0 {
            r.since = version;
        }
    }

    /// The driver's task is dropped, with the call that it ran in.
    pub fn abandon(&mut self) -> bool {
        let Some(bump) = self.rec.pending else { return false };
        match std::mem::replace(&mut self.driver, Driver::Idle) {
            Driver::Setting { todo, create, .. } => {
                let anew = bump.survivors.len() == 0;
                for server in (0..SERVERS).filter(|s| todo & bit(*s) != 0) {
                    self.put_late(Late::SetVersion { server, version: bump.version, anew, create });
                }
            }
            Driver::Filling { ready, todo, .. } => {
                for server in (0..SERVERS).filter(|s| todo & bit(*s) != 0) {
                    self.orphan(server, bump.version, ready);
                }
            }
            Driver::Opening { members } => self.put_late(Late::Open { version: bump.version, members }),
            other => {
                self.driver = other;
                return false;
            }
        }
        true
    }

    /// Something late arrives.
    pub fn arrives(&mut self, cfg: &Config, l: Late) -> bool {
        match l {
            Late::SetVersion { server, version, anew, create } => {
                if !self.servers[server].reachable() || self.servers[server].pulling.is_some() {
                    return false;
                }
                let _ = self.set_version(cfg, server, version, anew, create);
            }
            Late::Pull { server, version, from } => {
                if !self.servers[server].reachable() || self.servers[server].pulling.is_some() {
                    return false;
                }
                self.pull_begin(server, version, from, true);
            }
            Late::Open { version, members } => self.bump_open(version, members),
        }
        self.take_late(l);
        true
    }

    /// `remove_surplus` up to its command.
    pub fn check_surplus(&mut self, cfg: &Config, server: usize) -> bool {
        let (r, s) = (&self.rec, &self.servers[server]);
        if !s.made || !s.reachable() || r.members.has(server) && cfg.plant != Some(Plant::SurplusEarly) {
            return false;
        }
        let version = match (cfg.plant, r.pending) {
            (Some(Plant::SurplusEarly), Some(b)) if b.named() & bit(server) == 0 => b.version,
            (_, None) if !r.members.has(server) => {
                let found = self.look_at();
                let good = |f: &Found| *f == Found::Current(ReplicaState::Good);
                if found.len() < usize::from(cfg.wanted) || !found.iter().all(|(_, f)| good(f)) {
                    return false;
                }
                r.version
            }
            _ => return false,
        };
        self.deleting = Some((server, version));
        true
    }

    /// `Delete` arrives, or not.
    pub fn remove(&mut self) -> bool {
        let Some((server, version)) = self.deleting else { return false };
        if self.servers[server].pulling.is_some() {
            return false;
        }
        self.deleting = None;
        if self.servers[server].reachable() {
            self.delete(server, version);
        }
        true
    }

    /// A heartbeat tells of a broken chain.
    pub fn heartbeat(&mut self, server: usize) -> bool {
        let s = &self.servers[server];
        let broken = s.reachable() && s.broken != 0 && s.broken == self.rec.version && s.version == s.broken;
        broken && !std::mem::replace(&mut self.rec.force, true)
    }

    /// `Access::obey` after a start.
    pub fn orders(&mut self, server: usize) -> bool {
        let fenced = self.fence != Fence::Live;
        let s = &mut self.servers[server];
        if !s.reachable() || s.ordered {
            return false;
        }
        (s.ordered, s.fenced) = (true, fenced);
        true
    }

    /// `Shared::fence`: it is acknowledged once what was admitted is done.
    pub fn fence_at(&mut self, cfg: &Config, server: usize) -> bool {
        let s = &mut self.servers[server];
        let waits = s.sending() && cfg.plant != Some(Plant::FenceNotAwaited);
        if !s.reachable() || waits {
            return false;
        }
        match &mut self.fence {
            Fence::Fenced { told } if *told & bit(server) == 0 => *told |= bit(server),
            Fence::Ended { owing } if *owing & bit(server) != 0 => *owing &= !bit(server),
            _ => return false,
        }
        s.fenced = true;
        true
    }

    /// `SessionEnd`, once every server that answers has.
    pub fn end_session(&mut self) -> bool {
        let Fence::Fenced { told } = self.fence else { return false };
        let all = (1 << SERVERS) - 1;
        let waited = (0..SERVERS).filter(|s| self.servers[*s].reachable()).fold(0, |m, s| m | bit(s));
        if waited & !told != 0 {
            return false;
        }
        self.fence = Fence::Ended { owing: all & !told };
        true
    }
}
