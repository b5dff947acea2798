//! What clients do: `mooseng-client`'s `Writer` and `Node::flush_now`, for one chunk.

use crate::{Config, Cure, Plant, state::*};

impl State {
    /// `locate`: the masters give the place of the open version (`Inner::attach`).
    pub fn locate(&mut self, cfg: &Config, client: usize) -> bool {
        let (rec, c) = (self.rec, &self.clients[client]);
        let Some(head) = rec.members.head() else { return false };
        if !self.lives(client) || rec.pending.is_some() || c.version != 0 && !c.lost {
            return false;
        }
        if let Fence::Ended { owing } = self.fence
            && owing & bit(head) != 0
            && cfg.plant != Some(Plant::FenceNotAwaited)
        {
            // A head that owes a fence heads for nobody else: a version without it is asked for.
            return !std::mem::replace(&mut self.rec.force, true);
        }
        if c.version != rec.version {
            self.end_stream(client);
            let c = &mut self.clients[client];
            c.members = [0; SERVERS];
            if cfg.cures.contains(&Cure::FreshIsLost) && !rec.committed && !c.told {
                (c.synced, c.acked) = (0, 0);
            }
        }
        let c = &mut self.clients[client];
        (c.version, c.chain, c.create, c.lost) = (rec.version, rec.members, !rec.committed, false);
        if matches!(self.fence, Fence::Ended { .. }) {
            self.ghost.let_in = rec.version;
        }
        true
    }

    /// `Writer::push`: the next write that is not acknowledged goes to the head. One that is sent for
    /// the first time is written now.
    pub fn send(&mut self, cfg: &Config, client: usize) -> bool {
        let c = &self.clients[client];
        if c.version == 0 || c.lost || c.flying || c.acked >= cfg.writes[client] {
            return false;
        }
        if c.acked == c.issued && !self.lives(client) {
            return false;
        }
        let Some(to) = c.chain.head() else { return false };
        let w = write(client, c.acked + 1);
        if c.acked == c.issued {
            let own = (1..=c.issued).fold(0, |m, n| m | write_bit(write(client, n)));
            self.ghost.before[usize::from(w) - 1] = self.ghost.acked | own;
            let c = &mut self.clients[client];
            c.issued += 1;
            c.told &= !cfg.fresh;
        }
        if !self.servers[to].up {
            self.recover(client, true);
            return true;
        }
        let c = &mut self.clients[client];
        c.flying = true;
        let f =
            Frame { to, write: w, version: c.version, chain: c.chain, create: c.create, by: 0, old: false };
        self.put_frame(f);
        true
    }

    /// `Writer::acknowledged`.
    pub fn acknowledge(&mut self, w: Write, old: bool, by: &[(usize, u8)]) {
        let c = &mut self.clients[writer(w)];
        if old || !c.flying || c.acked + 1 != number(w) {
            return;
        }
        (c.acked, c.flying) = (number(w), false);
        for (server, incarnation) in by {
            c.members[*server] = *incarnation;
        }
        self.ghost.acked |= write_bit(w);
    }

    /// `Writer::end_stream`: what is not synced is to be sent again.
    pub fn end_stream(&mut self, client: usize) {
        let c = &mut self.clients[client];
        (c.flying, c.acked) = (false, c.synced);
        let mine = |w: Write| writer(w) == client;
        for f in &mut self.frames {
            f.old |= f.by == 0 && mine(f.write);
        }
        self.frames.sort_unstable();
        self.frames.dedup();
        for s in &mut self.servers {
            if let Some(o) = &mut s.out {
                o.old |= mine(o.write);
            }
        }
    }

    /// `Writer::recover`: whoever is at fault is reported, the place is learnt again.
    pub fn recover(&mut self, client: usize, report: bool) {
        self.end_stream(client);
        let lives = self.lives(client);
        let c = &mut self.clients[client];
        (c.sync, c.lost) = (None, true);
        // `report_replica`: a chunk that is being driven is left to its driver, and a bump under way is
        // carried on first.
        let idle = self.driver == Driver::Idle && self.rec.pending.is_none();
        if report && lives && idle && c.version == self.rec.version {
            self.rec.force = true;
        }
    }

    /// `Writer::sync` begins.
    pub fn start_sync(&mut self, cfg: &Config, client: usize) -> bool {
        let c = &mut self.clients[client];
        if c.version == 0 || c.lost || c.sync.is_some() || c.acked <= c.synced {
            return false;
        }
        let (upto, version, chain, by) = (c.acked, c.version, c.chain, c.members);
        c.sync = Some(Sync { upto, version, chain, by, checked: 0, done: 0 });
        if !cfg.fine && let Some(head) = chain.head() {
            return self.servers[head].pulling.is_none() && self.check_sync(cfg, client, head);
        }
        true
    }

    /// `DiskStore::sync`: a member takes the request, the head first.
    pub fn check_sync(&mut self, cfg: &Config, client: usize, server: usize) -> bool {
        let Some(y) = self.clients[client].sync else { return false };
        let first = y.chain.head() == Some(server);
        let forwarded = y.chain.head().is_some_and(|h| y.checked & bit(h) != 0);
        let waits = !cfg.fine && self.servers[server].pulling.is_some();
        if waits || !y.chain.has(server) || y.checked & bit(server) != 0 || !(first || forwarded) {
            return false;
        }
        let s = &self.servers[server];
        let other = y.by[server] != 0 && y.by[server] != s.incarnation;
        if !s.up {
            self.recover(client, true);
        } else if first && client == 0 && s.fenced {
            self.recover(client, false);
        } else if other && cfg.plant != Some(Plant::SyncIgnoresIncarnation) {
            // `ChunkError::Lost`.
            self.recover(client, false);
            self.clients[client].members = [0; SERVERS];
        } else if s.made && s.version != y.version {
            self.recover(client, false);
        } else if !s.good() {
            self.recover(client, true);
        } else if let Some(y) = &mut self.clients[client].sync {
            y.checked |= bit(server);
            if !cfg.fine {
                self.do_sync(client, server);
            }
        }
        true
    }

    /// `Shared::sync_here` on a member that has taken the request.
    pub fn do_sync(&mut self, client: usize, server: usize) -> bool {
        let Some(y) = self.clients[client].sync else { return false };
        if y.checked & !y.done & bit(server) == 0 || self.servers[server].pulling.is_some() {
            return false;
        }
        if !self.sync_here(server) {
            self.recover(client, true);
            return true;
        }
        let done = y.done | bit(server);
        let c = &mut self.clients[client];
        c.sync = Some(Sync { done, ..y });
        if done == y.chain.mask() {
            (c.sync, c.synced, c.members) = (None, y.upto, [0; SERVERS]);
            self.promise(client);
        }
        true
    }

    /// `commit_write`: what every replica has in memory is made known to the masters.
    pub fn commit(&mut self, client: usize) -> bool {
        let (rec, lives) = (self.rec, self.lives(client));
        let c = &mut self.clients[client];
        if !lives || c.version == 0 || c.lost || c.told || c.issued == 0 || c.acked != c.issued {
            return false;
        }
        // `committable`.
        let anew = rec.pending.is_some_and(|b| b.survivors.len() == 0);
        if !rec.committed && (anew || c.version < rec.since) {
            self.end_stream(client);
            (self.clients[client].lost, self.clients[client].sync) = (true, None);
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
            if ghost.promised & write_bit(w) != 0 {
                continue;
            }
            let had = (0..SERVERS).filter(|s| {
                let s = &self.servers[*s];
                s.made && !ghost.is_older(s.disk, w)
            });
            let had = had.fold(0, |m, s| m | bit(s));
            ghost.had[usize::from(w) - 1] = had;
            // When all who had it have lost their disks meanwhile, it is lost by that.
            if had != 0 {
                ghost.promised |= write_bit(w);
            }
        }
    }
}
