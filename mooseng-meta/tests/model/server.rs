//! What chunkservers do: `mooseng-chunk`.

use crate::{Config, Cure, Plant, state::*, steps::Failure};

/// How a frame is refused, as far as the client's recovery goes (`at_fault`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// Another version, or a fence: the place is learnt again.
    Elsewhere,
    /// A server is reported.
    Report,
}

impl State {
    /// `is_good`, and `to_write` for a place that may be made.
    fn admits_version(&self, cfg: &Config, f: &Frame) -> Result<(), Refused> {
        let s = &self.servers[f.to];
        if !s.made {
            return if f.create { Ok(()) } else { Err(Refused::Report) };
        }
        if s.version != f.version && cfg.plant != Some(Plant::VersionUnchecked) {
            return Err(Refused::Elsewhere);
        }
        if s.suspect { Err(Refused::Report) } else { Ok(()) }
    }

    /// `place` and `open`: a file, when there is none.
    fn make(&mut self, server: usize, version: u8) {
        let s = &mut self.servers[server];
        if !s.made {
            (s.made, s.version, s.suspect) = (true, version, false);
            (s.mem, s.disk) = (0, 0);
        }
    }

    /// A frame arrives. Returns false when it waits.
    pub fn deliver(&mut self, cfg: &Config, f: Frame) -> bool {
        let head = f.by == 0;
        let s = &self.servers[f.to];
        // What is sent to one that has no orders yet is sent again until it has them.
        if s.pulling.is_some() && !head || head && s.out.is_some() || s.up && !s.ordered {
            return false;
        }
        self.frames.retain(|x| *x != f);
        if head {
            self.deliver_to_head(cfg, f)
        } else {
            self.deliver_behind(cfg, f)
        }
        true
    }

    /// `DiskStore::write` and the first half of `chain::take`: admit, note, send on.
    fn deliver_to_head(&mut self, cfg: &Config, f: Frame) {
        let client = writer(f.write);
        if let Err(why) = self.admit(cfg, &f) {
            self.refuse(client, f.old, why);
            return;
        }
        let s = &mut self.servers[f.to];
        if number(f.write) <= s.numbers[client] && cfg.plant != Some(Plant::RepeatApplied) {
            // Nothing was sent on: the head acknowledges for all, and names itself.
            let by = [(f.to, s.incarnation)];
            self.acknowledge(f.write, f.old, &by);
            return;
        }
        self.make(f.to, f.version);
        let s = &mut self.servers[f.to];
        (s.dirty, s.mark) = (true, true);
        let (write, version, chain, old) = (f.write, f.version, f.chain, f.old);
        s.out = Some(Out { write, version, chain, applied: false, by: [0; SERVERS], failed: false, old });
        let by = s.incarnation;
        for to in f.chain.behind() {
            self.put_frame(Frame { to, by, old: false, ..f });
        }
    }

    fn admit(&mut self, cfg: &Config, f: &Frame) -> Result<(), Refused> {
        let (server, client) = (f.to, writer(f.write));
        let s = &self.servers[server];
        if !s.up || !s.ordered {
            return Err(Refused::Report);
        }
        if client == 0 && s.fenced {
            return Err(Refused::Elsewhere);
        }
        self.admits_version(cfg, f)?;
        if f.chain.len() > 1 && s.broken >= f.version {
            return Err(Refused::Report);
        }
        self.learn_numbers(f)
    }

    /// `learn_numbers`: a head that has started since asks those behind it.
    fn learn_numbers(&mut self, f: &Frame) -> Result<(), Refused> {
        if self.servers[f.to].complete {
            return Ok(());
        }
        let mut told = [0; CLIENTS];
        for behind in f.chain.behind() {
            let b = &self.servers[behind];
            if b.up && !b.made && f.create {
                continue;
            }
            if !b.serves(f.version) || b.pulling.is_some() {
                return Err(Refused::Report);
            }
            for (mine, theirs) in told.iter_mut().zip(b.numbers) {
                *mine = theirs.max(*mine);
            }
        }
        let s = &mut self.servers[f.to];
        if told != [0; CLIENTS] && !s.made {
            return Err(Refused::Report);
        }
        for (mine, theirs) in s.numbers.iter_mut().zip(told) {
            *mine = theirs.max(*mine);
        }
        s.complete = true;
        Ok(())
    }

    /// `Shared::apply` on one server.
    fn put(&mut self, cfg: &Config, f: &Frame) -> Result<(), Refused> {
        self.admits_version(cfg, f)?;
        self.make(f.to, f.version);
        let (s, client) = (&mut self.servers[f.to], writer(f.write));
        if number(f.write) <= s.numbers[client] && cfg.plant != Some(Plant::RepeatApplied) {
            return Ok(());
        }
        (s.dirty, s.mark) = (true, true);
        s.mem = f.write;
        s.numbers[client] = number(f.write).max(s.numbers[client]);
        Ok(())
    }

    /// A server behind the head applies a frame and acknowledges it.
    fn deliver_behind(&mut self, cfg: &Config, f: Frame) {
        let s = &self.servers[f.to];
        let incarnation = s.incarnation;
        let done = s.up && s.ordered && self.put(cfg, &f).is_ok();
        let Some(head) = f.chain.head() else { return };
        let (to, h) = (f.to, &mut self.servers[head]);
        if h.incarnation == f.by
            && let Some(out) = &mut h.out
            && (out.write, out.version) == (f.write, f.version)
        {
            match done {
                true => out.by[to] = incarnation,
                false => out.failed = true,
            }
            self.finish(head);
        }
    }

    /// The second half of `chain::take`: the head applies what it has sent on.
    pub fn apply_at_head(&mut self, cfg: &Config, server: usize) -> bool {
        let Some(out) = self.servers[server].out.filter(|o| !o.applied) else { return false };
        if self.servers[server].pulling.is_some() {
            return false;
        }
        let (to, write, version, chain) = (server, out.write, out.version, out.chain);
        let f = Frame { to, write, version, chain, create: false, by: 0, old: out.old };
        match self.put(cfg, &f) {
            Ok(()) => {
                if writer(write) == 0 && self.ghost.let_in == version {
                    self.ghost.late_write = true;
                }
                if let Some(out) = &mut self.servers[server].out {
                    out.applied = true;
                }
                self.finish(server);
            }
            Err(why) => self.break_chain(server, why),
        }
        true
    }

    /// `end_pass`: all have it, or the chain is not used again at this version.
    fn finish(&mut self, head: usize) {
        let Some(out) = self.servers[head].out.filter(|o| o.applied) else { return };
        if out.failed {
            self.break_chain(head, Refused::Report);
        } else if out.chain.behind().all(|s| out.by[s] != 0) {
            self.servers[head].out = None;
            let here = (head, self.servers[head].incarnation);
            let by: Vec<_> = out.chain.behind().map(|s| (s, out.by[s])).chain([here]).collect();
            self.acknowledge(out.write, out.old, &by);
        }
    }

    fn break_chain(&mut self, head: usize, why: Refused) {
        let Some(out) = self.servers[head].out.take() else { return };
        if out.chain.len() > 1 {
            self.servers[head].broken = out.version;
        }
        self.refuse(writer(out.write), out.old, why);
    }

    /// The head gives up on those behind it (`Behind::stalls`).
    pub fn stall(&mut self, head: usize) -> bool {
        let Some(out) = self.servers[head].out.as_mut().filter(|o| !o.failed && o.chain.len() > 1) else {
            return false;
        };
        out.failed = true;
        self.finish(head);
        true
    }

    fn refuse(&mut self, client: usize, old: bool, why: Refused) {
        if !old {
            self.recover(client, why == Refused::Report);
        }
    }

    /// Whether the durable note that the chunk is dirty may have gone (`DataDisk::settle_marks`: a while
    /// after a sync). Frames under way behind this server are acknowledged, or their chain is broken and
    /// bumped, within that while.
    pub fn is_settled(&self, cfg: &Config, server: usize) -> bool {
        let s = &self.servers[server];
        let quiet = s.out.is_none() && (s.broken == 0 || s.broken != s.version);
        s.mark && !s.dirty && (quiet || cfg.plant == Some(Plant::NoteGoesEarly))
    }

    /// The process or the machine dies. `lose`: with what was not synced. `settled`: the note had gone.
    pub fn crash(&mut self, server: usize, lose: bool, settled: bool) {
        let s = &mut self.servers[server];
        s.mark &= !settled;
        if lose {
            s.mem = s.disk;
        }
        let out = s.out.take();
        (s.up, s.ordered, s.fenced, s.complete) = (false, false, false, false);
        (s.numbers, s.broken, s.pulling) = ([0; CLIENTS], 0, None);
        // What comes to it, and what its own clients wait for, ends with its connections. What it has
        // sent on may still arrive.
        self.frames.retain(|f| f.to != server);
        for head in 0..SERVERS {
            if let Some(o) = &mut self.servers[head].out
                && o.chain.has(server)
                && o.by[server] == 0
            {
                o.failed = true;
                self.finish(head);
            }
        }
        if let Some(out) = out {
            self.refuse(writer(out.write), out.old, Refused::Report);
        }
        for client in 0..CLIENTS {
            let c = &self.clients[client];
            let waits = c.flying && c.chain.head() == Some(server);
            let syncs = c.sync.is_some_and(|y| {
                y.chain.head() == Some(server) || y.chain.has(server) && y.done & bit(server) == 0
            });
            if waits || syncs {
                self.recover(client, true);
            }
        }
    }

    /// The disk is lost with all that is on it.
    pub fn wipe(&mut self, server: usize) {
        self.crash(server, true, false);
        let s = &mut self.servers[server];
        (s.made, s.version, s.dirty, s.mark) = (false, 0, false, false);
        (s.mem, s.disk, s.kept) = (0, 0, [0; CLIENTS]);
        self.ghost.wiped(server);
    }

    /// `DiskStore::new`: what was dirty is suspect.
    pub fn restart(&mut self, cfg: &Config, server: usize) {
        let s = &mut self.servers[server];
        (s.up, s.incarnation) = (true, s.incarnation + 1);
        s.ordered = !cfg.kinds.contains(&Failure::Fence);
        s.dirty = s.mark;
        if cfg.cures.contains(&Cure::NumbersDurable) {
            s.numbers = s.kept;
        }
        s.suspect = s.mark && cfg.plant != Some(Plant::SuspectServed);
    }

    /// `Shared::clean`.
    fn clean(&mut self, server: usize) {
        let s = &mut self.servers[server];
        if !s.sending() {
            s.dirty = false;
        }
    }

    fn to_disk(&mut self, server: usize) {
        let s = &mut self.servers[server];
        (s.disk, s.kept) = (s.mem, s.numbers);
        let content = s.disk;
        self.ghost.is_on_disk(server, content);
    }

    fn becomes(&mut self, server: usize, version: u8) {
        let s = &mut self.servers[server];
        self.ghost.went_back |= s.version > version;
        s.version = version;
    }

    /// `Shared::sync_here`; whether it was done.
    pub fn sync_here(&mut self, server: usize) -> bool {
        if !self.servers[server].good() {
            return false;
        }
        if self.servers[server].dirty {
            self.to_disk(server);
            self.clean(server);
        }
        true
    }

    /// `Shared::set_version`; `Err(true)` when there is nothing. The caller waits for the order lock.
    pub fn set_version(&mut self, cfg: &Config, server: usize, to: u8, anew: bool, create: bool) -> Result<(), bool> {
        if !self.servers[server].made {
            if !create {
                return Err(true);
            }
            self.make(server, 0);
        }
        let s = &self.servers[server];
        if s.version > to {
            return Err(false);
        }
        if s.version == to && !s.suspect {
            return Ok(());
        }
        if s.suspect {
            return Err(false);
        }
        if anew {
            self.servers[server].mem = 0;
        }
        if create && (anew || !cfg.cures.contains(&Cure::NumbersWithContent)) {
            let s = &mut self.servers[server];
            (s.numbers, s.complete) = ([0; CLIENTS], false);
        }
        self.becomes(server, to);
        self.to_disk(server);
        self.clean(server);
        Ok(())
    }

    fn source(&self, server: usize, p: &Pulling) -> Option<usize> {
        p.from.iter().find(|s| *s != server && self.servers[*s].serves(p.version))
    }

    /// The first half of `pull`, up to `begin`; whether it goes on.
    pub fn pull_begin(&mut self, server: usize, version: u8, from: Chain, orphan: bool) -> bool {
        let p = Pulling { version, from, orphan };
        let Some(source) = self.source(server, &p) else {
            if self.servers[server].made && self.servers[server].version <= version {
                self.servers[server].suspect = true;
            }
            return false;
        };
        if self.servers[server].version > version {
            return false;
        }
        let theirs = self.servers[source].mem;
        self.make(server, 0);
        let s = &mut self.servers[server];
        s.suspect = true;
        if s.mem != theirs {
            (s.dirty, s.mark, s.version) = (true, true, 0);
        }
        s.pulling = Some(p);
        true
    }

    /// The second half of `pull`: the content, its numbers, `finish`. Whether it succeeded.
    pub fn pull_end(&mut self, server: usize) -> bool {
        let Some(p) = self.servers[server].pulling.take() else { return false };
        let Some(source) = self.source(server, &p) else { return false };
        let (mem, numbers) = (self.servers[source].mem, self.servers[source].numbers);
        self.becomes(server, p.version);
        let s = &mut self.servers[server];
        (s.mem, s.numbers, s.complete, s.suspect) = (mem, numbers, false, false);
        self.to_disk(server);
        self.clean(server);
        true
    }

    /// `Shared::bless`.
    pub fn bless(&mut self, server: usize) {
        if self.servers[server].made {
            self.servers[server].suspect = false;
            self.to_disk(server);
            self.clean(server);
        }
    }

    /// `Shared::delete`.
    pub fn delete(&mut self, server: usize, version: u8) {
        let s = &mut self.servers[server];
        if s.made && s.version <= version {
            (s.made, s.version, s.dirty, s.mark, s.suspect) = (false, 0, false, false, false);
            (s.mem, s.disk, s.complete) = (0, 0, false);
            (s.numbers, s.kept) = ([0; CLIENTS], [0; CLIENTS]);
        }
    }
}
