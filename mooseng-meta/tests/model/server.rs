//! What chunkservers do: `mooseng-chunk`.

use crate::{Config, faults::Fault, state::*, steps::Failure};

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
            return if f.create & bit(f.to) != 0 && f.version > s.gone {
                Ok(())
            } else {
                Err(Refused::Report)
            };
        }
        if s.version != f.version && !cfg.has(Fault::VersionUnchecked) {
            return Err(Refused::Elsewhere);
        }
        if s.suspect { Err(Refused::Report) } else { Ok(()) }
    }

    /// `place` and `open`: a file, when there is none.
    fn make(&mut self, server: usize, version: u8) {
        let s = &mut self.servers[server];
        if !s.made {
            (s.made, s.version, s.suspect) = (true, version, false);
            (s.mem, s.disk, s.filed) = ([0; BLOCKS], [0; BLOCKS], false);
        }
    }

    /// Whether the head takes a frame now: the way is free (`Pass::take`), and it has its orders. One that
    /// has none yet is asked again until it has them.
    pub fn is_free(&self, head: usize) -> bool {
        let s = &self.servers[head];
        s.out.is_none() && s.ordered
    }

    /// A frame that was under way arrives. Returns false when it waits.
    pub fn deliver(&mut self, cfg: &Config, f: Frame) -> bool {
        if f.by == Start::Nobody {
            if !self.is_free(f.to) {
                return false;
            }
            self.frames.retain(|x| *x != f);
            self.take_at_head(cfg, f, true);
        } else {
            let s = &self.servers[f.to];
            if s.up && !s.ordered {
                return false;
            }
            self.frames.retain(|x| *x != f);
            self.take_behind(cfg, f);
        }
        true
    }

    /// `DiskStore::write` and the first half of `chain::take`: admit, note, send on. `old`: nobody waits for
    /// the answer.
    pub fn take_at_head(&mut self, cfg: &Config, f: Frame, old: bool) {
        let client = writer(f.write);
        if let Err(why) = self.admit(cfg, &f) {
            self.refuse(client, old, why);
            return;
        }
        let s = &mut self.servers[f.to];
        if number(f.write) <= s.numbers[client] && !cfg.has(Fault::RepeatApplied) {
            // Nothing was sent on: the head acknowledges for all, and names itself.
            self.acknowledge(f.write, old, &[(f.to, Start::Now)]);
            return;
        }
        let passes_on = !self.servers[f.to].made || cfg.has(Fault::CreatePassedOn);
        let create = if passes_on { f.create } else { 0 };
        self.make(f.to, f.version);
        let s = &mut self.servers[f.to];
        (s.dirty, s.mark) = (true, true);
        let (write, version, chain, by) = (f.write, f.version, f.chain, [Start::Nobody; SERVERS]);
        s.out = Some(Out { write, version, chain, applied: false, by, failed: false, old });
        for to in f.chain.behind() {
            // Who has the chunk knows that those behind have it, or have lost it.
            self.put_frame(Frame { to, create, by: Start::Now, ..f });
        }
        // With nobody behind nothing comes between the note and the write.
        if f.chain.len() == 1 {
            self.apply_at_head(cfg, f.to);
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
        self.learn_numbers(cfg, f)
    }

    /// `learn_numbers`: a head that has started since asks those behind it.
    fn learn_numbers(&mut self, cfg: &Config, f: &Frame) -> Result<(), Refused> {
        if self.servers[f.to].complete {
            return Ok(());
        }
        let mut told = [0; CLIENTS];
        for behind in f.chain.behind() {
            let b = &self.servers[behind];
            if b.up && !b.made && f.create & bit(behind) != 0 {
                continue;
            }
            if !b.serves(f.version) {
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
        if !cfg.has(Fault::OldStreamsLive) {
            // They hear from it that what its earlier start has sent on is not to be taken any more.
            let old = |x: &Frame| x.by == Start::Before && x.chain.head() == Some(f.to);
            self.frames.retain(|x| !old(x));
        }
        Ok(())
    }

    /// `Shared::apply` on one server.
    fn put(&mut self, cfg: &Config, f: &Frame) -> Result<(), Refused> {
        self.admits_version(cfg, f)?;
        self.make(f.to, f.version);
        let (s, client) = (&mut self.servers[f.to], writer(f.write));
        if number(f.write) <= s.numbers[client] && !cfg.has(Fault::RepeatApplied) {
            return Ok(());
        }
        (s.dirty, s.mark) = (true, true);
        s.mem[block(f.write)] = f.write;
        s.numbers[client] = number(f.write).max(s.numbers[client]);
        Ok(())
    }

    /// A server behind the head applies a frame and acknowledges it.
    fn take_behind(&mut self, cfg: &Config, f: Frame) {
        let s = &self.servers[f.to];
        let done = s.up && s.ordered && self.put(cfg, &f).is_ok();
        let Some(head) = f.chain.head() else { return };
        if f.by == Start::Now
            && let Some(out) = &mut self.servers[head].out
            && (out.write, out.version) == (f.write, f.version)
        {
            match done {
                true => out.by[f.to] = Start::Now,
                false => out.failed = true,
            }
            self.finish(head);
        }
    }

    /// The second half of `chain::take`: the head applies what it has sent on.
    pub fn apply_at_head(&mut self, cfg: &Config, server: usize) -> bool {
        let Some(out) = self.servers[server].out.filter(|o| !o.applied) else { return false };
        let (to, write, version, chain) = (server, out.write, out.version, out.chain);
        let f = Frame { to, write, version, chain, create: 0, by: Start::Nobody };
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
        } else if out.chain.behind().all(|s| out.by[s] != Start::Nobody) {
            self.servers[head].out = None;
            let by: Vec<_> = out.chain.behind().map(|s| (s, out.by[s])).chain([(head, Start::Now)]).collect();
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

    /// Whether the durable note that the chunk is dirty may have gone (`Notes::settle`: a while
    /// after a sync, or at a clean stop). It stays while frames are under way behind this server, and while
    /// its chain is broken.
    pub fn is_settled(&self, cfg: &Config, server: usize) -> bool {
        let s = &self.servers[server];
        let quiet = s.out.is_none() && (s.broken == 0 || s.broken != s.version);
        s.mark && !s.dirty && (quiet || cfg.has(Fault::NoteGoesEarly))
    }

    /// `Chunkserver::shutdown`: all that may be clean is.
    pub fn stop(&mut self, cfg: &Config, server: usize) {
        self.sync_here(cfg, server);
        let settled = self.is_settled(cfg, server);
        self.crash(cfg, server, false, settled);
    }

    /// The process or the machine dies. `lose`: with what was not synced. `settled`: the note had gone.
    pub fn crash(&mut self, cfg: &Config, server: usize, lose: bool, settled: bool) {
        let s = &mut self.servers[server];
        s.mark &= !settled;
        let out = s.out.take();
        if lose {
            s.mem = s.disk;
            if !s.filed {
                s.empty();
            }
        }
        s.gone = 0;
        let nobody_has_it = self.servers.iter().all(|s| !s.made);
        if nobody_has_it {
            self.may_come_again();
        }
        let s = &mut self.servers[server];
        (s.up, s.ordered, s.fenced, s.complete) = (false, false, false, false);
        (s.suspect, s.dirty) = (false, false);
        (s.numbers, s.broken) = ([0; CLIENTS], 0);
        self.forget_start(cfg, server);
        // What comes to it, and what its own clients wait for, ends with its connections. What it has
        // sent on may still arrive.
        self.frames.retain(|f| f.to != server);
        self.late.retain(|l| l.to() != Some(server));
        for head in 0..SERVERS {
            if let Some(o) = &mut self.servers[head].out
                && o.chain.has(server)
                && o.by[server] == Start::Nobody
            {
                o.failed = true;
                self.finish(head);
            }
        }
        if let Some(out) = out {
            self.refuse(writer(out.write), out.old, Refused::Report);
        }
        // Streams through it break: `Writer::rest`.
        for client in 0..CLIENTS {
            if self.clients[client].chain.has(server) && !self.clients[client].flying {
                self.end_stream(client);
            }
        }
    }

    /// Another's content takes the place of its own.
    fn does_not_vouch(&mut self, server: usize) {
        self.clients.iter_mut().filter(|c| c.closed).for_each(|c| c.members[server].end());
    }

    /// A start is over: who remembers it remembers an old one.
    fn forget_start(&mut self, cfg: &Config, server: usize) {
        if !cfg.has(Fault::CreateUnbound) {
            self.clients.iter_mut().for_each(|c| c.create &= !bit(server));
            self.frames.iter_mut().for_each(|f| f.create &= !bit(server));
        }
        self.clients.iter_mut().for_each(|c| c.members[server].end());
        self.servers.iter_mut().filter_map(|s| s.out.as_mut()).for_each(|o| o.by[server].end());
        self.frames.iter_mut().filter(|f| f.chain.head() == Some(server)).for_each(|f| f.by.end());
    }

    /// The disk is lost with all that is on it.
    pub fn wipe(&mut self, cfg: &Config, server: usize) {
        self.crash(cfg, server, true, false);
        self.servers[server].empty();
        if self.servers.iter().all(|s| !s.made) {
            self.may_come_again();
        }
        // What was synced, and is on no disk now, is lost by that.
        for (client, c) in self.clients.iter().enumerate() {
            for w in (1..=c.synced).map(|n| write(client, n)) {
                if !self.servers.iter().any(|s| s.made && !self.ghost.is_older(s.disk, w)) {
                    self.ghost.void |= write_bit(w);
                }
            }
        }
        self.ghost.wiped(server);
    }

    /// `DiskStore::new`: what was dirty is suspect.
    pub fn restart(&mut self, cfg: &Config, server: usize) {
        let s = &mut self.servers[server];
        (s.up, s.dirty) = (true, s.mark);
        s.ordered = !cfg.kinds.contains(&Failure::Fence);
        if !cfg.has(Fault::NumbersForgotten) {
            s.numbers = s.kept;
        }
        s.suspect = s.mark && !cfg.has(Fault::SuspectServed);
    }

    /// `Shared::clean`.
    fn clean(&mut self, server: usize) {
        let s = &mut self.servers[server];
        if !s.sending() {
            s.dirty = false;
        }
    }

    fn harden(&mut self, server: usize) {
        let s = &mut self.servers[server];
        (s.disk, s.kept, s.filed) = (s.mem, s.numbers, true);
        let content = s.disk;
        self.ghost.is_on_disk(server, content);
    }

    fn becomes(&mut self, server: usize, version: u8) {
        let s = &mut self.servers[server];
        self.ghost.went_back |= s.version > version;
        s.version = version;
    }

    /// `Shared::sync_here`; whether it was done.
    pub fn sync_here(&mut self, cfg: &Config, server: usize) -> bool {
        if !self.servers[server].good() {
            return false;
        }
        if self.servers[server].dirty {
            let kept = self.servers[server].kept;
            self.harden(server);
            if cfg.has(Fault::NumbersBehindSync) {
                self.servers[server].kept = kept;
            }
            self.clean(server);
        }
        true
    }

    /// `Shared::set_version`; `Err(true)` when there is nothing. `winner`: a suspect takes it too, as it is.
    pub fn set_version(
        &mut self,
        cfg: &Config,
        server: usize,
        to: u8,
        (anew, create, winner): (bool, bool, bool),
    ) -> Result<(), bool> {
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
        if s.suspect && !winner {
            return Err(false);
        }
        if self.servers[server].suspect || anew {
            self.may_come_again();
            self.ghost.settled = to;
        }
        if anew {
            self.servers[server].mem = [0; BLOCKS];
            self.does_not_vouch(server);
        }
        if anew || create && cfg.has(Fault::NumbersCutAlone) {
            let s = &mut self.servers[server];
            (s.numbers, s.complete) = ([0; CLIENTS], false);
        }
        self.servers[server].suspect = false;
        self.becomes(server, to);
        self.harden(server);
        self.clean(server);
        Ok(())
    }

    /// `pull`: the content and its numbers. Whether it succeeded. `half`: it ends in the middle.
    pub fn pull(&mut self, server: usize, version: u8, from: Chain, half: bool) -> bool {
        let source = from.iter().next().filter(|s| *s != server && self.servers[*s].serves(version));
        let s = &mut self.servers[server];
        if s.made && s.version > version {
            return false;
        }
        let Some(source) = source else { return false };
        let theirs = self.servers[source].mem;
        self.make(server, 0);
        let s = &mut self.servers[server];
        s.suspect = true;
        let differs = s.mem != theirs || half;
        if differs || s.version == 0 {
            // `Slot::own_since`.
            self.does_not_vouch(server);
        }
        let s = &mut self.servers[server];
        if differs {
            (s.dirty, s.mark, s.version, s.filed) = (true, true, 0, true);
        }
        if half {
            return false;
        }
        let numbers = self.servers[source].numbers;
        self.becomes(server, version);
        let s = &mut self.servers[server];
        (s.mem, s.numbers, s.complete, s.suspect) = (theirs, numbers, false, false);
        self.harden(server);
        self.clean(server);
        true
    }

    /// `pull_ahead`, whether it comes to its end or not: what is left is of no version.
    pub fn pull_ahead(&mut self, server: usize, version: u8, from: Chain) -> bool {
        let source = from.iter().next().filter(|s| *s != server && self.servers[*s].serves(version));
        let s = &self.servers[server];
        let is_so = s.made && s.suspect && s.version == 0;
        let (Some(source), false) = (source, is_so || (s.made && s.version >= version)) else { return false };
        let theirs = self.servers[source].mem;
        self.make(server, 0);
        let s = &mut self.servers[server];
        (s.dirty, s.mark, s.version, s.filed) = (true, true, 0, true);
        (s.mem, s.suspect) = (theirs, true);
        true
    }

    /// A suspect becomes good at its own version: only with the mistake `BlessedInPlace`.
    pub fn bless(&mut self, server: usize) {
        if self.servers[server].made {
            self.may_come_again();
            self.servers[server].suspect = false;
            self.harden(server);
            self.clean(server);
        }
    }

    /// No replica is left that did not crash, or none at all of what is not committed: that may be lost, so its writers write it again,
    /// and it counts as written then. (`CHANGELOG.md`, known faults.)
    fn may_come_again(&mut self) {
        let mut again = 0;
        for (client, c) in self.clients.iter().enumerate() {
            let kept = if c.told { c.synced } else { 0 };
            again |= (kept + 1..=c.issued).fold(0, |m, n| m | write_bit(write(client, n)));
        }
        let ghost = &mut self.ghost;
        ghost.acked &= !again;
        for w in (1..=ALL_WRITES as Write).filter(|w| again & write_bit(*w) != 0) {
            ghost.before[usize::from(w) - 1] &= !again;
        }
    }

    /// `Shared::delete`.
    pub fn delete(&mut self, cfg: &Config, server: usize, version: u8) {
        if self.servers[server].made && self.servers[server].version <= version {
            self.servers[server].empty();
            if !cfg.has(Fault::DeletedForgotten) && cfg.fresh {
                self.servers[server].gone = version;
            }
        }
    }
}
