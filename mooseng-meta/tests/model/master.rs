//! What the leading master does about the chunk: `bump`, `service/bump.rs`, `service/deleting.rs`,
//! `service/sessions.rs`. What is to be done is decided by the real [`plan`].

use crate::{Config, faults::Fault, state::*};
use mooseng_core::{
    ids::{ChunkId, ChunkIndex, ChunkVersion, InodeId, ServerId},
    meta::ReplicaState,
};
use mooseng_meta::{
    placement::Candidate,
    repair::{Found, Plan, plan},
    store::{ChunkRec, PendingBump},
};
use std::collections::BTreeSet;

fn ids(servers: impl Iterator<Item = usize>) -> Vec<ServerId> {
    servers.map(|s| ServerId(s as u64)).collect()
}
fn chain(servers: &[ServerId]) -> Chain {
    servers.iter().map(|s| s.get() as usize).collect()
}
fn servers(mask: Mask) -> impl Iterator<Item = usize> {
    (0..SERVERS).filter(move |s| mask & bit(*s) != 0)
}

impl State {
    fn record(&self, cfg: &Config) -> ChunkRec {
        let r = &self.rec;
        let pending = r.pending.map(|b| PendingBump {
            version: ChunkVersion(b.version.into()),
            survivors: ids(b.survivors.iter()),
            settles: b.winner,
            joining: ids(b.joining.iter()),
            cut_to: None,
        });
        ChunkRec {
            version: ChunkVersion(r.version.into()),
            members: ids(r.members.iter()),
            wanted: cfg.copies as u8,
            inode: InodeId(1),
            index: ChunkIndex(0),
            committed: r.committed,
            since: ChunkVersion(r.since.into()),
            pending,
            cut_to: None,
            mover: None,
        }
    }

    /// `Inner::look_at`, `Found::told`.
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

    /// A heartbeat tells of a broken chain (`Shared::broken_now`).
    fn tells_of_break(&self) -> bool {
        let tells = |s: &Server| s.reachable() && s.broken == self.rec.version && s.version == s.broken;
        self.servers.iter().any(tells)
    }

    /// Whether something is to be done: what reports, heartbeats and looks at all chunks find.
    fn is_odd(&self, cfg: &Config) -> bool {
        let r = &self.rec;
        let odd = |s: usize| match &self.servers[s] {
            s if !s.reachable() => true,
            s if !s.made => r.committed,
            s => s.suspect || s.version != r.version,
        };
        let few = r.members.len() != cfg.copies;
        r.force || self.tells_of_break() || few || r.members.iter().any(odd)
    }

    /// `Inner::settle` from its beginning: a pending bump is replaced, or (as it was) carried on.
    pub fn carry_on(&mut self, cfg: &Config) -> bool {
        let may = matches!(self.driver, Driver::Idle | Driver::Again) && self.rec.pending.is_some();
        if may && !cfg.has(Fault::BumpTakenUp) {
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
        let first = if bump.is_anew() { bump.joining } else { bump.survivors };
        let committed = self.rec.committed;
        self.driver = Driver::Setting { todo: first.mask(), create: bump.is_anew(), committed };
    }

    /// `bump::decide`. `heard`: members that are silent have been so for long.
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
        let nobody = BTreeSet::new();
        let candidates: Vec<_> =
            usable.map(|s| Candidate { server: ServerId(s as u64), free_bytes: 1 << 40 }).collect();
        let force = self.rec.force || self.tells_of_break() || (self.rec.pending.is_some() && all_heard);
        self.driver = match plan(
            ChunkId(1),
            &self.record(cfg),
            &found,
            (&candidates, &nobody, &nobody),
            all_heard,
            force,
        ) {
            Plan::Leave => {
                self.rec.force = false;
                Driver::Idle
            }
            Plan::Wait => Driver::Idle,
            Plan::Bump { survivors, settles: true, .. } if cfg.has(Fault::BlessedInPlace) => {
                let winner = survivors[0].get() as usize;
                if self.servers[winner].reachable() {
                    self.bless(winner);
                }
                // The loop of `settle` looks again.
                Driver::Again
            }
            Plan::Bump { survivors, settles, joining } => {
                Driver::Begin { survivors: chain(&survivors), joining: chain(&joining), winner: settles }
            }
        };
        // Between the two only a size commit matters.
        if !cfg.fresh {
            self.begin(cfg);
        }
        true
    }

    /// Whether an entry whose proposer has gone is ahead in the log.
    fn log_is_clear(&self) -> bool {
        !self.late.iter().any(|l| matches!(l, Late::Open { .. }))
    }

    /// `BumpStart` is committed.
    pub fn begin(&mut self, cfg: &Config) -> bool {
        let Driver::Begin { mut survivors, mut joining, winner } = self.driver else { return false };
        self.driver = Driver::Idle;
        if !self.log_is_clear() {
            return true;
        }
        if self.rec.pending.is_some_and(|b| b.is_anew()) && !cfg.has(Fault::AnewForgotten) {
            joining = survivors.iter().chain(joining.iter()).collect();
            survivors = Chain::default();
        }
        let r = &mut self.rec;
        let filled = r.pending.map_or(0, |b| b.joining.mask());
        let known = survivors.mask() & !(r.members.mask() | filled) == 0;
        if known && !(survivors.len() == 0 && r.committed) {
            r.pending = Some(Bump { version: r.newest() + 1, survivors, joining, winner });
            r.force = false;
            self.carry_out();
        }
        true
    }

    /// `SetVersion` is carried out by those that are asked. `late`: nobody hears of one in time.
    pub fn set(&mut self, cfg: &Config, late: Option<usize>) -> bool {
        let Driver::Setting { todo, create, committed } = self.driver else { return false };
        let Some(bump) = self.rec.pending else { return false };
        if late.is_some_and(|s| todo & bit(s) == 0 || !self.servers[s].reachable()) {
            return false;
        }
        let how = (bump.is_anew(), create, bump.winner);
        let (mut ready, mut empty) = (0, 0);
        for server in servers(todo) {
            if late == Some(server) {
                self.set_late(server, bump, create);
            } else if self.servers[server].reachable() {
                match self.set_version(cfg, server, bump.version, how) {
                    Ok(()) => ready |= bit(server),
                    Err(true) => empty |= bit(server),
                    Err(false) => {}
                }
            }
        }
        // Those that were empty are still to be filled when they did not take this in time.
        let empty = if create && !bump.is_anew() { todo & !ready } else { empty };
        if ready == 0 && !committed && !create && empty != 0 {
            // Never written anywhere: empty replicas keep a late first write to the old version out.
            if cfg.has(Fault::EmptyForCommitted) {
                self.driver = Driver::Setting { todo: empty, create: true, committed };
            } else {
                // As a set that begins with nothing: it is not begun when the chunk was committed meanwhile, and
                // then nothing is committed that was written before.
                let (survivors, joining) = (Chain::default(), servers(empty).collect());
                self.driver = Driver::Begin { survivors, joining, winner: false };
            }
            return true;
        }
        if ready == 0 {
            self.driver = Driver::Anew;
            return true;
        }
        let first = if bump.is_anew() { bump.joining } else { bump.survivors };
        let is_ready = |s: &usize| ready & bit(*s) != 0;
        let ready: Chain = first.iter().filter(is_ready).collect();
        let not_ready = |s: &usize| !ready.has(*s);
        let more = first.iter().filter(|s| empty & bit(*s) != 0 && not_ready(s) && !committed);
        let fill: Chain =
            ready.iter().skip(1).chain(more).chain(bump.joining.iter().filter(not_ready)).collect();
        self.driver = Driver::Filling { ready, fill };
        true
    }

    fn set_late(&mut self, server: usize, bump: Bump, create: bool) {
        let (version, anew, winner) = (bump.version, bump.is_anew(), bump.winner);
        self.put_late(Late::SetVersion { server, version, anew, create, winner });
    }

    /// Those that are to be equal pull; `late`: nobody hears of one in time. The version opens; `in_log`:
    /// with an entry whose proposer has gone.
    pub fn fill(&mut self, late: Option<usize>, in_log: bool) -> bool {
        let (Driver::Filling { ready, fill }, Some(bump)) = (self.driver, self.rec.pending) else {
            return false;
        };
        if late.is_some_and(|s| !fill.has(s) || !self.servers[s].reachable()) || !self.log_is_clear() {
            return false;
        }
        let mut good = ready.mask();
        for server in fill.iter() {
            let done = if late == Some(server) {
                self.put_late(Late::Pull { server, version: bump.version, from: ready });
                false
            } else {
                self.servers[server].reachable() && self.pull(server, bump.version, ready, false)
            };
            good = if done { good | bit(server) } else { good & !bit(server) };
        }
        let not_ready = fill.iter().filter(|s| !ready.has(*s));
        let members = ready.iter().chain(not_ready).filter(|s| good & bit(*s) != 0).collect();
        self.driver = Driver::Idle;
        if in_log {
            self.put_late(Late::Open { version: bump.version, members });
        } else {
            self.bump_open(bump.version, members);
        }
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
        if bump.is_anew() {
            r.since = version;
        }
    }

    /// The driver's task is dropped, with the call that it ran in, or with its leader.
    pub fn abandon(&mut self) -> bool {
        let Some(bump) = self.rec.pending else { return false };
        match std::mem::replace(&mut self.driver, Driver::Idle) {
            Driver::Setting { todo, create, .. } => {
                servers(todo).for_each(|server| self.set_late(server, bump, create));
            }
            Driver::Filling { ready, fill, .. } => {
                let late = |server| Late::Pull { server, version: bump.version, from: ready };
                fill.iter().for_each(|server| self.put_late(late(server)));
            }
            other => {
                self.driver = other;
                return false;
            }
        }
        true
    }

    /// Something late arrives. `half`: a copy that ends in the middle.
    pub fn arrives(&mut self, cfg: &Config, l: Late, half: bool) -> bool {
        match l {
            Late::SetVersion { server, version, anew, create, winner } => {
                if !self.servers[server].reachable() || half {
                    return false;
                }
                let _ = self.set_version(cfg, server, version, (anew, create, winner));
            }
            Late::Pull { server, version, from } => {
                if !self.servers[server].reachable() {
                    return false;
                }
                self.pull(server, version, from, half);
            }
            Late::Open { .. } if half => return false,
            Late::Open { version, members } => self.bump_open(version, members),
        }
        self.take_late(l);
        true
    }

    /// `Inner::copy_ahead`, of any server that may join, at any moment: late ones are among them.
    pub fn copy_ahead(&mut self, server: usize) -> bool {
        let (r, s) = (&self.rec, &self.servers[server]);
        if !r.committed || !s.reachable() || (r.members.has(server) && s.made) {
            return false;
        }
        let (version, members) = (r.version, r.members);
        self.pull_ahead(server, version, members)
    }

    /// `remove_surplus`.
    pub fn remove_surplus(&mut self, cfg: &Config, server: usize) -> bool {
        let (r, s) = (&self.rec, &self.servers[server]);
        if !s.made || !s.reachable() || r.members.has(server) && !cfg.has(Fault::SurplusEarly) {
            return false;
        }
        let version = match r.pending {
            Some(b) if cfg.has(Fault::SurplusEarly) && b.named() & bit(server) == 0 => b.version,
            None if !r.members.has(server) => {
                let found = self.look_at();
                let good = |f: &Found| *f == Found::Current(ReplicaState::Good);
                if found.len() < cfg.copies || !found.iter().all(|(_, f)| good(f)) {
                    return false;
                }
                r.version
            }
            _ => return false,
        };
        self.delete(cfg, server, version);
        true
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

    /// `end_session`: the fence goes to all, those that answer do so when what was admitted is done, and
    /// `SessionEnd` says who did not.
    pub fn end_session(&mut self, cfg: &Config) -> bool {
        let waits = |s: &Server| s.reachable() && s.sending() && !cfg.has(Fault::FenceNotAwaited);
        if self.fence != Fence::Fenced || self.servers.iter().any(waits) {
            return false;
        }
        let mut owing = 0;
        for (n, s) in self.servers.iter_mut().enumerate() {
            match s.reachable() {
                true => s.fenced = true,
                false => owing |= bit(n),
            }
        }
        self.fence = Fence::Ended { owing };
        true
    }

    /// A server that owed a fence acknowledges it.
    pub fn fence_at(&mut self, server: usize) -> bool {
        let Fence::Ended { owing } = &mut self.fence else { return false };
        let s = &mut self.servers[server];
        if *owing & bit(server) == 0 || !s.reachable() || s.sending() {
            return false;
        }
        *owing &= !bit(server);
        s.fenced = true;
        true
    }
}
