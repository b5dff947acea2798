//! Comparing records with copies, page by page, for `mooseng fsck`. It changes nothing.
//!
//! Lists and records are not of one moment: what seems wrong by them is asked again, chunk by chunk.

use super::{
    Inner, Lead, internal,
    lead::Odd,
    paths::Paths,
    quarantine::{self, Name},
};
use crate::{namespace, store::*};
use futures::{StreamExt as _, future::join_all, stream};
use mooseng_core::{
    chunk::{Control, ControlReply},
    error::{ChunkError, MetaError},
    ids::*,
    limits::REPORT_CHUNKS_MAX,
    meta::*,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Chunks asked about again at the same time.
const ASK_MAX: usize = 16;
/// Wait for one page of a server's list: an answer of ours that takes long is asked for again.
const LIST: Duration = Duration::from_secs(2);
/// Chunks whose paths one page tells: their files cost walks over directories.
const PATHS_MAX: usize = 64;
/// Entries of directories that one page looks through for paths.
const ENTRIES_MAX: usize = 1 << 22;

/// What servers say of a range of ids.
struct Listed {
    copies: BTreeMap<ChunkId, Vec<(ServerId, ChunkReport)>>,
    /// Those that answered.
    heard: BTreeSet<ServerId>,
    /// The last id that all pages cover; `None`: all that there are.
    upto: Option<ChunkId>,
}

impl Inner {
    pub(super) async fn check_chunks(&self, lead: &Lead, r: &CheckChunks) -> Result<ChunkCheck, MetaError> {
        let max = r.count.clamp(1, REPORT_CHUNKS_MAX as u32);
        let listed = self.list_all(lead, r.from, max).await?;
        let view = self.view()?;
        let (records, upto) = records_from(&view, r.from, listed.upto, max as usize)?;
        let within = |id: &ChunkId| upto.is_none_or(|upto| *id <= upto);
        let copies = listed.copies.iter().filter(|(id, _)| within(id)).map(|(_, c)| c.len() as u64).sum();
        let (mut odd, mut changing) = (BTreeSet::new(), 0);
        for (id, rec) in &records {
            if rec.pending.is_some() || rec.cut_to.is_some() {
                changing += 1;
            } else if self.seems_odd(lead, &view, *id, rec, &listed)? {
                odd.insert(*id);
            }
        }
        let named: BTreeSet<_> = records.iter().map(|(id, _)| *id).collect();
        odd.extend(listed.copies.keys().filter(|id| within(id) && !named.contains(id)));
        drop(view);
        let ask = |id: ChunkId| {
            let holders = listed.copies.get(&id).into_iter().flatten().map(|(s, _)| *s).collect();
            self.finding(lead, id, holders, &listed.heard)
        };
        let asked = stream::iter(odd).map(ask).buffered(ASK_MAX);
        let found: Vec<_> = asked.collect::<Vec<_>>().await.into_iter().collect::<Result<_, _>>()?;
        let mut findings: Vec<_> = found.into_iter().flatten().collect();
        self.add_paths(&mut findings).await?;
        let (records, next) = (records.len() as u64, upto.map(ChunkId::next));
        Ok(ChunkCheck { records, copies, changing, findings, next })
    }

    /// What every server that the masters know has, from an id on. Those that are silent are not asked.
    async fn list_all(&self, lead: &Lead, from: ChunkId, max: u32) -> Result<Listed, MetaError> {
        let (view, mut servers) = (self.view()?, Vec::new());
        scan_recs(&view, Table::Server, &[], &[], |k, s: ServerRec| {
            servers.push((ServerId(number(k)), s.addr));
            true
        })
        .map_err(internal)?;
        drop(view);
        {
            let (m, now) = (lead.memory.lock(), self.now());
            servers.retain(|(s, _)| !m.is_dead(*s, now, self.timings.server_dead));
        }
        let after = from.get().checked_sub(1).map(ChunkId);
        let list = |(server, addr): (ServerId, String)| async move {
            (server, self.peers.list(&addr, after, max, LIST).await)
        };
        let mut all = Listed { copies: BTreeMap::new(), heard: BTreeSet::new(), upto: None };
        for (server, page) in join_all(servers.into_iter().map(list)).await {
            let Ok(page) = page else { continue };
            all.heard.insert(server);
            if let Some(last) = page.chunks.last().map(|c| c.chunk.id).filter(|_| !page.last) {
                all.upto = Some(all.upto.map_or(last, |upto| upto.min(last)));
            }
            for c in page.chunks {
                all.copies.entry(c.chunk.id).or_default().push((server, c));
            }
        }
        Ok(all)
    }

    /// Whether a chunk wants to be asked about, by the lists.
    fn seems_odd(
        &self,
        lead: &Lead,
        view: &RedbView,
        id: ChunkId,
        rec: &ChunkRec,
        listed: &Listed,
    ) -> Result<bool, MetaError> {
        let there = listed.copies.get(&id).map_or(&[][..], |c| c);
        let m = lead.memory.lock();
        let good = |s: &ServerId| {
            let copy = there.iter().find(|(at, _)| at == s).map(|(_, c)| c);
            let right = |c: &ChunkReport| c.chunk.version == rec.version && c.state == ReplicaState::Good;
            let unwritten = !rec.committed && copy.is_none();
            listed.heard.contains(s)
                && !m.odd.contains_key(&(id, *s))
                && (copy.is_some_and(right) || unwritten)
        };
        let surplus = there.iter().any(|(s, _)| !rec.members.contains(s));
        let few = rec.members.len() < usize::from(rec.wanted);
        Ok(surplus || few || !rec.members.iter().all(good) || is_stray(view, id, rec)?)
    }

    /// Asks the servers again about one chunk, against its record of this moment.
    async fn finding(
        &self,
        lead: &Lead,
        id: ChunkId,
        holders: Vec<ServerId>,
        heard: &BTreeSet<ServerId>,
    ) -> Result<Option<ChunkFinding>, MetaError> {
        let view = self.view()?;
        let rec = namespace::chunk(&view, id).map_err(internal)?;
        let Some(rec) = rec else { return self.without_record(&view, id, holders).await };
        if rec.pending.is_some() {
            return Ok(None);
        }
        let stray = is_stray(&view, id, &rec)?;
        drop(view);
        // A server that did not answer once is not waited for with each chunk.
        let rec = &rec;
        let ask = |server: ServerId| async move {
            let fault = match heard.contains(&server) {
                true => self.fault_at(lead, server, id, rec).await,
                false => Some(CopyFault::Silent),
            };
            (server, fault)
        };
        let (mut good, mut faults) = (0, Vec::new());
        for (server, fault) in join_all(rec.members.iter().map(|s| ask(*s))).await {
            good += u8::from(fault.is_none());
            faults.extend(fault.map(|f| (server, f)));
        }
        for server in holders.into_iter().filter(|s| !rec.members.contains(s)) {
            faults.extend(self.version_at(server, id).await.map(|v| (server, CopyFault::Surplus(v))));
        }
        if faults.is_empty() && !stray && good >= rec.wanted {
            return Ok(None);
        }
        Ok(Some(ChunkFinding {
            chunk: ChunkRef { id, version: rec.version },
            wanted: rec.wanted,
            good,
            file: Some((rec.inode, rec.index)),
            path: None,
            stray,
            faults,
        }))
    }

    /// What is wrong with a member's copy.
    async fn fault_at(
        &self,
        lead: &Lead,
        server: ServerId,
        id: ChunkId,
        rec: &ChunkRec,
    ) -> Option<CopyFault> {
        let stat = match self.command(server, Control::Stat { chunk: id }, self.timings.control).await {
            Ok(ControlReply::Done(stat)) => stat.report,
            // What was never written need not be there.
            Err(ChunkError::NotFound(_)) => return rec.committed.then_some(CopyFault::Missing),
            Ok(_) | Err(_) => return Some(CopyFault::Silent),
        };
        // Damage that was reported is believed until the replica was mended.
        let told = lead.memory.lock().odd.get(&(id, server)).copied();
        match (stat.state, told) {
            _ if stat.chunk.version != rec.version => Some(CopyFault::OtherVersion(stat.chunk.version)),
            (ReplicaState::Damaged, _) | (_, Some(Odd::State(ReplicaState::Damaged))) => {
                Some(CopyFault::Damaged)
            }
            (ReplicaState::Suspect, _) => Some(CopyFault::Suspect),
            // It can be read; the status tells of the disk.
            (ReplicaState::Good | ReplicaState::Leaving, _) => None,
        }
    }

    async fn without_record(
        &self,
        view: &RedbView,
        id: ChunkId,
        holders: Vec<ServerId>,
    ) -> Result<Option<ChunkFinding>, MetaError> {
        let pending = quarantine::pending(view).map_err(internal)?;
        let mut faults = Vec::new();
        for server in holders {
            let name = quarantine::name_of(view, &pending, id, server).map_err(internal)?;
            let fault: fn(ChunkVersion) -> CopyFault = match name {
                Name::Known | Name::Pending => continue,
                Name::Unknown => CopyFault::Unknown,
                Name::Ahead => CopyFault::Ahead,
            };
            faults.extend(self.version_at(server, id).await.map(|v| (server, fault(v))));
        }
        let chunk = ChunkRef { id, version: ChunkVersion(0) };
        let (wanted, good, file, path, stray) = (0, 0, None, None, false);
        let finding = ChunkFinding { chunk, wanted, good, file, path, stray, faults };
        Ok(Some(finding).filter(|f| !f.faults.is_empty()))
    }

    /// Which version a server has now, when it has one.
    pub(super) async fn version_at(&self, server: ServerId, id: ChunkId) -> Option<ChunkVersion> {
        let stat = self.command(server, Control::Stat { chunk: id }, self.timings.control).await;
        match stat {
            Ok(ControlReply::Done(stat)) => Some(stat.report.chunk.version),
            Ok(_) | Err(ChunkError::NotFound(_)) => None,
            Err(e) => {
                tracing::debug!(%server, %id, error = %e, "a copy could not be asked about");
                None
            }
        }
    }

    /// Names the files that lack data, as far as a page may.
    async fn add_paths(&self, findings: &mut [ChunkFinding]) -> Result<(), MetaError> {
        let view = self.view()?;
        let lacking = |f: &&mut ChunkFinding| f.good == 0 && f.wanted > 0;
        let mut lacking: Vec<_> = findings.iter_mut().filter(lacking).take(PATHS_MAX).collect();
        let files: Vec<_> = lacking.iter().filter_map(|f| f.file.map(|(inode, _)| inode)).collect();
        let mut paths = Paths::new(&view, files, ENTRIES_MAX);
        for f in &mut lacking {
            let Some((inode, _)) = f.file else { continue };
            f.path = paths.of(inode).await?.map(Into::into);
        }
        Ok(())
    }
}

type Records = Vec<(ChunkId, ChunkRec)>;

/// Records from an id on, at most so many and not past the lists; and the last id that is covered.
fn records_from(
    view: &RedbView,
    from: ChunkId,
    upto: Option<ChunkId>,
    max: usize,
) -> Result<(Records, Option<ChunkId>), MetaError> {
    let (mut records, mut full) = (Vec::new(), false);
    let to = upto.map_or_else(Vec::new, |u| key(u.get().saturating_add(1)).to_vec());
    scan_recs(view, Table::Chunk, &key(from.get()), &to, |k, rec: ChunkRec| {
        full = records.len() == max;
        if !full {
            records.push((ChunkId(number(k)), rec));
        }
        !full
    })
    .map_err(internal)?;
    let covered = if full { records.last().map(|(id, _)| *id) } else { upto };
    Ok((records, covered))
}

/// Whether a record's file is not there, or does not name the chunk.
fn is_stray(view: &RedbView, id: ChunkId, rec: &ChunkRec) -> Result<bool, MetaError> {
    let named = view.get(Table::Map, &map_key(rec.inode, rec.index)).map_err(internal)?;
    let there = view.get(Table::Inode, &key(rec.inode.get())).map_err(internal)?.is_some();
    Ok(!there || named.is_none_or(|v| number(&v) != id.get()))
}
