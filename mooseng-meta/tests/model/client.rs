//! What clients do: `mooseng-client`'s `Writer` and `Node::flush_now`, for one chunk.

use crate::{Config, faults::Fault, state::*};

impl State {
    /// `locate`: the masters give the place of the open version (`Inner::attach`).
    pub fn locate(&mut self, cfg: &Config, client: usize) -> bool {
        let (rec, c) = (self.rec, &self.clients[client]);
        let Some(head) = rec.members.head() else { return false };
        let has_one = c.version != 0 && !c.lost || c.is_done(cfg.writes[client]);
        if !self.lives(client) || rec.pending.is_some() || has_one {
            return false;
        }
        if let Fence::Ended { owing } = self.fence
            && owing & bit(head) != 0
            && !cfg.has(Fault::FenceNotAwaited)
        {
            // A head that owes a fence heads for nobody else: a version without it is asked for.
            return !std::mem::replace(&mut self.rec.force, true);
        }
        if c.version != rec.version {
            self.end_stream(client);
            let c = &mut self.clients[client];
            c.moved = c.closed;
            if !c.closed {
                c.members = [Start::Nobody; SERVERS];
            }
            if !cfg.has(Fault::FreshSetAbandoned) && c.fresh && !c.told {
                (c.synced, c.acked) = (0, 0);
            }
        }
        let known = |s: &usize| self.servers[*s].reachable() || cfg.has(Fault::CreateUnbound);
        let known = rec.members.iter().filter(known).fold(0, |m, s| m | bit(s));
        let c = &mut self.clients[client];
        c.create = if rec.committed { 0 } else { known };
        (c.version, c.chain, c.fresh, c.lost) = (rec.version, rec.members, !rec.committed, false);
        if matches!(self.fence, Fence::Ended { .. }) {
            self.ghost.let_in = rec.version;
        }
        true
    }

    /// `Writer::push`: the next write that is not acknowledged goes to the head. One that is sent for
    /// the first time is written now. `gives_up`: the client ends its stream before the frame arrives.
    pub fn send(&mut self, cfg: &Config, client: usize, gives_up: bool) -> bool {
        let c = &self.clients[client];
        if c.version == 0 || c.lost || c.flying || c.acked >= cfg.writes[client] {
            return false;
        }
        let Some(to) = c.chain.head() else { return false };
        let is_up = self.servers[to].up;
        if is_up && !gives_up && !self.is_free(to) || gives_up && !is_up {
            return false;
        }
        let w = write(client, c.acked + 1);
        if c.acked == c.issued {
            let own = (1..=c.issued).fold(0, |m, n| m | write_bit(write(client, n)));
            self.ghost.before[usize::from(w) - 1] = self.ghost.acked | own;
            let c = &mut self.clients[client];
            c.issued += 1;
            c.told &= !cfg.fresh;
        }
        if !is_up {
            self.recover(client, true);
            return true;
        }
        let c = &mut self.clients[client];
        let f =
            Frame { to, write: w, version: c.version, chain: c.chain, create: c.create, by: Start::Nobody };
        if gives_up {
            self.put_frame(f);
            self.recover(client, true);
        } else {
            c.flying = true;
            self.take_at_head(cfg, f, false);
        }
        true
    }

    /// `Writer::acknowledged`.
    pub fn acknowledge(&mut self, w: Write, old: bool, by: &[(usize, Start)]) {
        let c = &mut self.clients[writer(w)];
        if old || !c.flying || c.acked + 1 != number(w) {
            return;
        }
        (c.acked, c.flying) = (number(w), false);
        self.ghost.void &= !write_bit(w);
        for (server, start) in by {
            c.members[*server] = *start;
        }
        // What a set says that suspects have replaced is said of what may be lost.
        if self.clients[writer(w)].version >= self.ghost.settled {
            self.ghost.acked |= write_bit(w);
        }
    }

    /// `Writer::end_stream`: what is not synced is to be sent again.
    pub fn end_stream(&mut self, client: usize) {
        let c = &mut self.clients[client];
        c.flying = false;
        if !c.closed {
            c.acked = c.synced;
        }
        for o in self.servers.iter_mut().filter_map(|s| s.out.as_mut()) {
            o.old |= writer(o.write) == client;
        }
    }

    /// `Writer::recover`: whoever is at fault is reported, the place is learnt again.
    pub fn recover(&mut self, client: usize, report: bool) {
        self.end_stream(client);
        let lives = self.lives(client);
        let c = &mut self.clients[client];
        c.lost = true;
        // `report_replica`: a chunk that is being driven is left to its driver, and a bump under way is
        // carried on first.
        let idle = self.driver == Driver::Idle && self.rec.pending.is_none();
        if report && lives && idle && c.version == self.rec.version {
            self.rec.force = true;
        }
    }

    /// Whether a client may ask for a sync now.
    pub fn may_sync(&self, client: usize) -> bool {
        let c = &self.clients[client];
        c.version != 0 && !c.lost && c.acked > c.synced
    }

    /// `DiskStore::sync` on one member, and `has_all`: what is wrong, and whether the masters hear of it.
    fn refuses_sync(&self, cfg: &Config, client: usize, server: usize) -> Option<Ends> {
        let (s, c) = (&self.servers[server], &self.clients[client]);
        let head = c.chain.head() == Some(server);
        let other = match c.moved {
            true => head && c.members[server] != Start::Now && !cfg.has(Fault::EarlierUnchecked),
            false => c.members[server] == Start::Before,
        };
        let other = other && !cfg.has(Fault::IncarnationIgnored);
        match () {
            () if !s.up => Some(Ends::Report),
            () if client == 0 && s.fenced && head => Some(Ends::Elsewhere),
            () if other => Some(Ends::Lost),
            () if s.made && s.version != c.version => Some(Ends::Elsewhere),
            () if !s.good() => Some(Ends::Report),
            () => None,
        }
    }

    /// `Writer::sync` and `chain::sync`: every member puts it on its disk.
    pub fn sync(&mut self, cfg: &Config, client: usize) -> bool {
        if !self.may_sync(client) {
            return false;
        }
        let (chain, upto) = (self.clients[client].chain, self.clients[client].acked);
        for server in chain.iter() {
            let refused = self.refuses_sync(cfg, client, server);
            if let Some(why) = refused.or_else(|| (!self.sync_here(cfg, server)).then_some(Ends::Report)) {
                self.recover(client, why != Ends::Elsewhere);
                if why == Ends::Lost {
                    self.is_lost(client);
                }
                return true;
            }
        }
        let c = &mut self.clients[client];
        (c.synced, c.members, c.moved) = (upto, [Start::Nobody; SERVERS], false);
        self.promise(client);
        true
    }

    /// `ChunkError::Lost`: what is held is written again, to the next version (at this one the head takes it for
    /// a repeat, and says so for itself alone); what is not held is told as an error.
    fn is_lost(&mut self, client: usize) {
        let c = &mut self.clients[client];
        if c.closed {
            c.synced = c.acked;
            self.ghost.void |= (1..=c.acked).fold(0, |m, n| m | write_bit(write(client, n)));
        }
    }

    /// The last handle is closed: everything is acknowledged, and told.
    pub fn close(&mut self, cfg: &Config, client: usize) -> bool {
        let c = &mut self.clients[client];
        let all = c.acked == cfg.writes[client] && c.told && !c.lost && !c.is_done(c.acked);
        all && !std::mem::replace(&mut c.closed, true)
    }

    /// A sync that ends before its answer came: some have done it. Returns false when that changes nothing.
    pub fn sync_in_part(&mut self, cfg: &Config, client: usize, members: Mask) -> bool {
        let chain = self.clients[client].chain;
        let taken = |s: &usize| self.refuses_sync(cfg, client, *s).is_none();
        let here: Vec<_> = chain.iter().take_while(taken).filter(|s| members & bit(*s) != 0).collect();
        let changes = here.iter().all(|s| self.servers[*s].dirty) && !here.is_empty();
        if !self.may_sync(client) || here.iter().fold(0, |m, s| m | bit(*s)) != members || !changes {
            return false;
        }
        here.into_iter().all(|s| self.sync_here(cfg, s))
    }

    /// `commit_write`: what every replica has in memory is made known to the masters.
    pub fn commit(&mut self, cfg: &Config, client: usize) -> bool {
        let (rec, lives) = (self.rec, self.lives(client));
        let c = &mut self.clients[client];
        if !lives || c.version == 0 || c.lost || c.told || c.issued == 0 || c.acked != c.issued {
            return false;
        }
        // `committable`.
        let anew = rec.pending.is_some_and(|b| b.is_anew());
        let stale = c.version < rec.since;
        let refused = !rec.committed && (anew || stale) || stale && !cfg.has(Fault::OldSetCommitted);
        if refused {
            self.end_stream(client);
            self.clients[client].lost = true;
            return true;
        }
        c.told = true;
        self.rec.committed = true;
        self.promise(client);
        true
    }

    /// An fsync succeeds once its writes are synced and the masters know of them.
    fn promise(&mut self, client: usize) {
        let c = &self.clients[client];
        if !c.told {
            return;
        }
        for n in 1..=c.synced {
            let w = write(client, n);
            let ghost = &mut self.ghost;
            if (ghost.promised | ghost.void) & write_bit(w) != 0 {
                continue;
            }
            let had = (0..SERVERS).filter(|s| {
                let s = &self.servers[*s];
                s.made && !ghost.is_older(s.disk, w)
            });
            let had = had.fold(0, |m, s| m | bit(s));
            ghost.had[usize::from(w) - 1] = had;
            ghost.promised |= write_bit(w);
        }
    }
}

/// How a sync is refused.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    Elsewhere,
    Report,
    /// `ChunkError::Lost`.
    Lost,
}
