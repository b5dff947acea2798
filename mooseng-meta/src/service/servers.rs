//! Chunkservers: registration, heartbeats, reports of what they have.

use super::{
    Inner, Lead, internal,
    lead::{Odd, Server},
    quarantine::unknown_of,
};
use crate::{namespace, store::*};
use mooseng_core::{
    attr::Timestamp, context::CallContext, error::MetaError, ids::*, limits::REPORT_CHUNKS_MAX, meta::*,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Disks of one chunkserver at most.
const DISKS_MAX: usize = 1024;
/// Reports are asked for again after this time: what became unknown since is found so.
const REPORT_EVERY: Duration = Duration::from_secs(3600);

impl Inner {
    pub(super) async fn server(
        &self,
        lead: &Arc<Lead>,
        cx: &CallContext,
        req: MetaRequest,
    ) -> Result<MetaReply, MetaError> {
        match req {
            MetaRequest::Register(r) => {
                self.is_itself(cx, r.server)?;
                self.register(lead, cx, r).await.map(MetaReply::Register)
            }
            MetaRequest::Heartbeat(r) => {
                self.is_itself(cx, r.server)?;
                self.heartbeat(lead, r).map(MetaReply::Heartbeat)
            }
            MetaRequest::Report(r) => {
                self.is_itself(cx, r.server)?;
                self.report(lead, r).map(MetaReply::Report)
            }
            MetaRequest::TellScrub(r) => {
                self.is_itself(cx, r.server)?;
                self.tell_scrub(lead, r).map(MetaReply::TellScrub)
            }
            other => Err(MetaError::Invalid(format!("{} is not from a chunkserver", other.name()))),
        }
    }

    /// A chunkserver speaks for itself only: its number is in its certificate.
    fn is_itself(&self, cx: &CallContext, server: ServerId) -> Result<(), MetaError> {
        match &cx.peer {
            Some(p) if p.node != server.get() => {
                Err(MetaError::Invalid(format!("the certificate is of chunkserver {}, not {server}", p.node)))
            }
            _ => Ok(()),
        }
    }

    async fn register(
        &self,
        lead: &Arc<Lead>,
        cx: &CallContext,
        r: Register,
    ) -> Result<ServerOrders, MetaError> {
        let rec = ServerRec { addr: r.addr.clone(), incarnation: r.incarnation };
        let known: Option<ServerRec> =
            load(&self.view()?, Table::Server, &key(r.server.get())).map_err(internal)?;
        if known.as_ref() != Some(&rec) {
            let (server, addr, incarnation) = (r.server, r.addr.clone(), r.incarnation);
            self.propose(Command::ServerSeen { server, addr, incarnation }, cx.budget).await?;
            let (id, addr) = (r.server.get(), &r.addr);
            match &known {
                None => self.tell(
                    lead,
                    EventCode::ChunkserverJoined,
                    format!("chunkserver {id} ({addr}) has joined"),
                ),
                Some(k) if k.incarnation != incarnation => {
                    self.tell(
                        lead,
                        EventCode::ChunkserverBack,
                        format!("chunkserver {id} ({addr}) has started anew"),
                    );
                }
                Some(_) => {}
            }
        }
        let now = self.now();
        let server = Server {
            addr: r.addr,
            incarnation: r.incarnation,
            came: now,
            heard: now,
            clock: Default::default(),
            disks: r.disks,
            reported: None,
            report_at: None,
        };
        tracing::info!(server = %r.server, addr = server.addr, incarnation = %r.incarnation, "chunkserver registered");
        // No look comes between, which would tell of its return once more.
        let mut seen = lead.watch.seen();
        let mut m = lead.memory.lock();
        let before = m.servers.insert(r.server, server);
        if before.is_some_and(|b| b.incarnation != r.incarnation) {
            m.tried.retain(|(_, s)| *s != r.server);
        }
        m.came(r.server);
        drop(m);
        if known.is_some_and(|k| k.incarnation != r.incarnation) {
            seen.is_back(r.server);
        }
        drop(seen);
        self.orders(lead, r.server)
    }

    fn heartbeat(&self, lead: &Lead, r: Heartbeat) -> Result<ServerOrders, MetaError> {
        {
            let mut m = lead.memory.lock();
            let Some(server) = m.servers.get_mut(&r.server).filter(|s| s.incarnation == r.incarnation) else {
                return Err(MetaError::Busy("register first".into()));
            };
            server.heard = self.now();
            server.clock.tell(r.clock, self.wall());
            server.disks = r.disks;
            m.doubted.remove(&r.server);
            for chunk in r.damaged {
                m.odd.insert((chunk.id, r.server), Odd::State(ReplicaState::Damaged));
                m.hurt.insert(chunk.id);
                lead.wake.notify_one();
            }
        }
        let view = self.view()?;
        for chunk in r.broken {
            // One that has another version already was made equal with it.
            let rec = namespace::chunk(&view, chunk.id).map_err(internal)?;
            if rec.is_some_and(|rec| rec.version == chunk.version) {
                lead.memory.lock().wanted.insert(chunk.id, true);
                lead.wake.notify_one();
            }
        }
        self.orders(lead, r.server)
    }

    fn tell_scrub(&self, lead: &Lead, r: TellScrub) -> Result<ToldServer, MetaError> {
        let mut m = lead.memory.lock();
        if m.servers.get(&r.server).is_none_or(|s| s.incarnation != r.incarnation) {
            return Err(MetaError::Busy("register first".into()));
        }
        if r.disks.len() > DISKS_MAX {
            return Err(MetaError::Invalid(format!("a server has at most {DISKS_MAX} disks")));
        }
        let (server, incarnation, served) = (r.server, r.incarnation, r.served);
        m.loads.insert(server, ServerLoad { server, incarnation, told: self.wall(), served });
        m.scrubs.insert(r.server, r.disks);
        let drain_left = m.drain_left.get(&r.server).copied();
        Ok(ToldServer { scrub_asked: m.scrub_asked, drain_left })
    }

    /// How all scrubs stand.
    pub(super) fn scrubs(&self, lead: &Lead) -> Vec<ServerScrub> {
        let (m, now) = (lead.memory.lock(), self.now());
        let one = |server: &ServerId| ServerScrub {
            server: *server,
            alive: m.is_alive(*server, now, self.timings.server_dead),
            disks: m.scrubs.get(server).cloned().unwrap_or_default(),
        };
        m.servers.keys().map(one).collect()
    }

    /// Asks every chunkserver for a round now. Each hears of it when it next tells how it stands.
    pub(super) fn scrub_now(&self, lead: &Lead) -> Timestamp {
        let mut m = lead.memory.lock();
        let asked = m.scrub_asked.map_or(self.wall(), |last| self.wall().max(Timestamp(last.0 + 1)));
        m.scrub_asked = Some(asked);
        asked
    }

    fn orders(&self, lead: &Lead, server: ServerId) -> Result<ServerOrders, MetaError> {
        let view = self.view()?;
        let (mut keys, mut sessions) = (Vec::new(), Vec::new());
        scan_recs(&view, Table::Key, &[], &[], |_, k: KeyRec| {
            keys.push(k.key);
            true
        })
        .map_err(internal)?;
        scan_recs(&view, Table::Session, &[], &[], |k, s: SessionRec| {
            sessions.push(SessionStamp { id: SessionId(number(k)), epoch: s.epoch });
            true
        })
        .map_err(internal)?;
        let next_session = namespace::next_session(&view).map_err(internal)?;
        let (want_report, drains) = {
            let (m, now) = (lead.memory.lock(), self.now());
            let reported = m.servers.get(&server).and_then(|s| s.reported);
            (reported.is_none_or(|at| now.saturating_sub(at) > REPORT_EVERY), m.drains_of(server))
        };
        Ok(ServerOrders { term: lead.term, keys, sessions, next_session, want_report, drains })
    }

    /// Takes one page of a report. What is not as its record says is noted, and looked at again by
    /// asking the server before anything is done about it: the report and the records are not of
    /// one moment.
    fn report(&self, lead: &Lead, r: Report) -> Result<(), MetaError> {
        if r.chunks.len() > REPORT_CHUNKS_MAX {
            return Err(MetaError::Invalid(format!("a page has at most {REPORT_CHUNKS_MAX} chunks")));
        }
        let from = r.after.map_or(ChunkId(0), ChunkId::next);
        let to = if r.last { None } else { r.chunks.last().map(|c| c.chunk.id.next()) };
        let view = self.view()?;
        let records = records_with(&view, from, to)?;
        let unknown = unknown_of(&view, &r, &records).map_err(internal)?;
        let mut m = lead.memory.lock();
        let Some(server) = m.servers.get_mut(&r.server).filter(|s| s.incarnation == r.incarnation) else {
            return Err(MetaError::Busy("register first".into()));
        };
        if server.report_at != r.after {
            server.report_at = None;
            return Err(MetaError::Invalid("a report's pages come in order".into()));
        }
        server.report_at = r.chunks.last().map(|c| c.chunk.id).or(r.after);
        if r.last {
            server.report_at = None;
            server.reported = Some(self.now());
            m.look_at_all = true;
            m.came(r.server);
        }
        m.keep_apart(r.server, (from, to), &unknown, self.now());
        let has: BTreeMap<_, _> = r.chunks.iter().map(|c| (c.chunk.id, *c)).collect();
        for (id, rec) in &records {
            let member = rec.members.contains(&r.server);
            if let Some(c) = has.get(id).filter(|c| c.chunk.version > rec.newest() && !m.behind) {
                tracing::error!(id = %id, server = %r.server, here = %c.chunk.version, record = %rec.version,
                    "a copy is newer than the masters know: removals wait for `mooseng gc --allow` from now on");
                m.behind = true;
            }
            match has.get(id) {
                Some(c) if !member => {
                    // It may have what all members lack.
                    if m.is_damaged(*id, rec) {
                        m.hurt.insert(*id);
                    }
                    m.note_surplus(*id, r.server, c.chunk.version, rec.version);
                }
                Some(c) if c.chunk.version != rec.version => {
                    m.odd.insert((*id, r.server), Odd::OtherVersion(c.chunk.version));
                }
                Some(c) if c.state != ReplicaState::Good => {
                    m.odd.insert((*id, r.server), Odd::State(c.state));
                }
                Some(_) => {
                    m.odd.remove(&(*id, r.server));
                }
                None if member && rec.committed => {
                    m.odd.insert((*id, r.server), Odd::Missing);
                }
                None => {}
            }
        }
        if r.last {
            lead.wake.notify_one();
        }
        Ok(())
    }
}

fn records_with(
    view: &RedbView,
    from: ChunkId,
    to: Option<ChunkId>,
) -> Result<Vec<(ChunkId, ChunkRec)>, MetaError> {
    let to = to.map_or_else(Vec::new, |t| key(t.get()).to_vec());
    let mut records = Vec::new();
    scan_recs(view, Table::Chunk, &key(from.get()), &to, |k, rec: ChunkRec| {
        records.push((ChunkId(number(k)), rec));
        true
    })
    .map_err(internal)?;
    Ok(records)
}
