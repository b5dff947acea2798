//! Applying one log entry. Pure.

use super::{
    keys,
    session::{SlotCheck, check_session, check_slot, follows, save_reply},
    token::{self, Made},
};
use crate::{
    namespace::{self, Fail, Op, TotalsDelta, meta_key, put_number, take_number},
    store::*,
};
use mooseng_core::{
    attr::{FileKind, Timestamp},
    context::Credentials,
    error::MetaError,
    ids::*,
    limits::ID_RANGE_MAX,
    meta::*,
    planted::{self, Bug},
};
use std::io;

/// Applies one entry. `Err` means that the state cannot be read or written.
pub fn apply(tx: &mut dyn Tx, entry: &LogEntry, totals: &mut TotalsDelta) -> io::Result<Applied> {
    let now = clock(tx, entry.time)?;
    match &entry.command {
        Command::Fs { session, slot, creds, decisions, request } => {
            let answer = mutation(tx, now, (*session, *slot), creds, decisions, request, totals)?;
            Ok(Applied::Fs(answer))
        }
        Command::SessionOpen { cert, client, host, version, nonce } => {
            let rec = SessionRec {
                epoch: SessionEpoch(1),
                cert: *cert,
                client: client.clone(),
                host: host.clone(),
                version: version.clone(),
                since: now,
                nonce: *nonce,
            };
            Ok(Applied::Session(open_session(tx, rec)?))
        }
        Command::SessionEnd { session, unfenced } => {
            end_session(tx, now, *session, unfenced, totals).map(Applied::Done)
        }
        Command::Fence { session } => fence(tx, *session).map(Applied::Done),
        Command::ReleaseOrphan { inode, session } => {
            release_orphan(tx, now, *inode, *session, totals).map(Applied::Done)
        }
        Command::GrantIds { session, kind, count } => Ok(Applied::Ids(grant(tx, *session, *kind, *count)?)),
        Command::ServerSeen { server, addr, incarnation } => {
            save(
                tx,
                Table::Server,
                &key(server.get()),
                &ServerRec { addr: addr.clone(), incarnation: *incarnation },
            )?;
            Ok(Applied::Done(true))
        }
        Command::BumpStart { from, replaces, survivors, settles, joining, cut_to } => {
            bump_start(tx, (*from, *replaces), (survivors, *settles), joining, *cut_to).map(Applied::Done)
        }
        Command::BumpOpen { chunk, members } => bump_open(tx, *chunk, members).map(Applied::Done),
        Command::DeleteDone { done } => delete_done(tx, done).map(Applied::Done),
        Command::AddKey { key, master } => keys::add(tx, now, key, *master).map(Applied::Done),
        Command::RemoveKeys { unused_secs } => keys::remove(tx, now, *unused_secs).map(Applied::Done),
        Command::Init { cluster, class } => init(tx, now, *cluster, *class).map(Applied::Done),
        Command::Lead { .. } => Ok(Applied::Done(true)),
        Command::TokenMade { token, invite, lifetime_secs, validity_secs, replace } => {
            let (token, lifetime_secs, validity_secs) = (*token, *lifetime_secs, *validity_secs);
            let made = Made { token, invite, lifetime_secs, validity_secs, replace: *replace };
            token::make(tx, now, &made).map(Applied::Token)
        }
        Command::TokenUsed { token, csr } => token::spend(tx, now, *token, *csr).map(Applied::Token),
        Command::Drain { server, on } => {
            let k = key(server.get());
            drain(tx, now, (Table::Drain, &k), *server, *on).map(Applied::Done)
        }
        Command::DrainDisk { server, disk, on } => {
            let k = key2(server.get(), disk.get());
            drain(tx, now, (Table::DrainDisk, &k), *server, *on).map(Applied::Done)
        }
        Command::FenceDone { done } => {
            for (session, server) in done {
                tx.delete(Table::Unfenced, &key2(server.get(), session.get()))?;
            }
            Ok(Applied::Done(true))
        }
    }
}

/// Writes the deltas of a batch into the directories.
pub fn fold_totals(tx: &mut dyn Tx, totals: TotalsDelta) -> io::Result<()> {
    totals.fold(tx)
}

/// Master time: the leader's, never going back.
fn clock(tx: &mut dyn Tx, time: Timestamp) -> io::Result<Timestamp> {
    let last: Timestamp = load(tx, Table::Meta, meta_key::CLOCK)?.unwrap_or_default();
    let now = Timestamp(time.0.max(last.0.saturating_add(1)));
    save(tx, Table::Meta, meta_key::CLOCK, &now)?;
    Ok(now)
}

fn mutation(
    tx: &mut dyn Tx,
    now: Timestamp,
    (session, slot): (SessionStamp, SlotStamp),
    creds: &Credentials,
    decisions: &Decisions,
    request: &MetaRequest,
    totals: &mut TotalsDelta,
) -> io::Result<Result<MetaReply, MetaError>> {
    if let Err(e) = check_session(tx, session)? {
        return Ok(Err(e));
    }
    match check_slot(tx, session, slot, request)? {
        SlotCheck::Answered(answer) => return Ok(*answer),
        SlotCheck::Misused => return Ok(Err(MetaError::SlotMisuse)),
        SlotCheck::New => {}
    }
    if !follows(tx, session, slot, request)? {
        return Ok(Err(MetaError::Invalid("the batch that it comes after was not carried out".into())));
    }
    let mut op = Op { tx, now, creds, session: session.id, decisions, chains_used: 0, totals };
    let answer = match namespace::mutate(&mut op, request) {
        Ok(reply) => Ok(reply),
        Err(Fail::Meta(e)) => Err(e),
        Err(Fail::Io(e)) => return Err(e),
    };
    // A refusal that time can lift is not an answer to keep: the retry must be run.
    if !answer.as_ref().is_err_and(MetaError::is_retryable) && !planted::is(Bug::ReplyDropped) {
        save_reply(tx, session, slot, request, &answer)?;
    }
    Ok(answer)
}

fn open_session(tx: &mut dyn Tx, rec: SessionRec) -> io::Result<SessionStamp> {
    let mut found = None;
    scan_recs(tx, Table::Session, &[], &[], |k, s: SessionRec| {
        if s.nonce == rec.nonce && s.cert == rec.cert {
            found = Some(SessionStamp { id: SessionId(number(k)), epoch: s.epoch });
        }
        found.is_none()
    })?;
    if let Some(stamp) = found {
        return Ok(stamp);
    }
    let id = SessionId(take_number(tx, meta_key::NEXT_SESSION, 1, 1)?);
    save(tx, Table::Session, &key(id.get()), &rec)?;
    Ok(SessionStamp { id, epoch: rec.epoch })
}

fn delete_range(tx: &mut dyn Tx, table: Table, of: u64) -> io::Result<()> {
    let (from, to) = range_of(of);
    let mut keys = Vec::new();
    tx.scan(table, &from, &to, &mut |k, _| {
        keys.push(k.to_vec());
        true
    })?;
    keys.iter().try_for_each(|k| tx.delete(table, k))
}

fn end_session(
    tx: &mut dyn Tx,
    now: Timestamp,
    stamp: SessionStamp,
    unfenced: &[ServerId],
    totals: &mut TotalsDelta,
) -> io::Result<bool> {
    if check_session(tx, stamp)?.is_err() {
        return Ok(false);
    }
    for server in unfenced {
        save(tx, Table::Unfenced, &key2(server.get(), stamp.id.get()), &stamp.epoch)?;
    }
    tx.delete(Table::Session, &key(stamp.id.get()))?;
    delete_range(tx, Table::Slot, stamp.id.get())?;
    delete_range(tx, Table::Range, stamp.id.get())?;
    let mut held = Vec::new();
    scan_recs(tx, Table::Orphan, &[], &[], |k, o: OrphanRec| {
        if o.holders.contains(&stamp.id) {
            held.push(InodeId(number(k)));
        }
        true
    })?;
    for inode in held {
        release_orphan(tx, now, inode, stamp.id, totals)?;
    }
    Ok(true)
}

fn fence(tx: &mut dyn Tx, stamp: SessionStamp) -> io::Result<bool> {
    let Ok(mut rec) = check_session(tx, stamp)? else { return Ok(false) };
    rec.epoch = rec.epoch.next();
    save(tx, Table::Session, &key(stamp.id.get()), &rec)?;
    delete_range(tx, Table::Range, stamp.id.get())?;
    Ok(true)
}

fn release_orphan(
    tx: &mut dyn Tx,
    now: Timestamp,
    inode: InodeId,
    session: SessionId,
    totals: &mut TotalsDelta,
) -> io::Result<bool> {
    let k = key(inode.get());
    let Some(mut orphan) = load::<OrphanRec>(tx, Table::Orphan, &k)? else { return Ok(false) };
    orphan.holders.retain(|h| *h != session);
    if !orphan.holders.is_empty() {
        save(tx, Table::Orphan, &k, &orphan)?;
        return Ok(true);
    }
    let Some(rec) = load::<InodeRec>(tx, Table::Inode, &k)? else {
        tx.delete(Table::Orphan, &k)?;
        return Ok(true);
    };
    let (creds, decisions) = (Credentials::root(), Decisions::default());
    let mut op = Op { tx, now, creds: &creds, session, decisions: &decisions, chains_used: 0, totals };
    match namespace::purge(&mut op, inode, &rec) {
        Ok(()) => Ok(true),
        Err(Fail::Io(e)) => Err(e),
        Err(Fail::Meta(e)) => Err(io::Error::other(e.to_string())),
    }
}

fn grant(
    tx: &mut dyn Tx,
    session: SessionStamp,
    kind: IdKind,
    count: u32,
) -> io::Result<Result<IdRange, MetaError>> {
    if let Err(e) = check_session(tx, session)? {
        return Ok(Err(e));
    }
    if count == 0 || count > ID_RANGE_MAX {
        return Ok(Err(MetaError::Invalid(format!("1 to {ID_RANGE_MAX} ids can be granted at once"))));
    }
    let (counter, first) = match kind {
        IdKind::Inode => (meta_key::NEXT_INODE, 2),
        IdKind::Chunk => (meta_key::NEXT_CHUNK, 1),
    };
    let first = take_number(tx, counter, first, u64::from(count))?;
    let range = IdRange { kind, first, count };
    save(tx, Table::Range, &key2(session.id.get(), first), &range)?;
    Ok(Ok(range))
}

fn bump_start(
    tx: &mut dyn Tx,
    (from, replaces): (ChunkRef, Option<ChunkVersion>),
    (survivors, settles): (&[ServerId], bool),
    joining: &[ServerId],
    cut_to: Option<u64>,
) -> io::Result<bool> {
    let k = key(from.id.get());
    let Some(mut rec) = load::<ChunkRec>(tx, Table::Chunk, &k)? else { return Ok(false) };
    // Survivors come from the set that is open, or were filled from it by the bump that is replaced or by one
    // before, whose survivors they became: nobody else has what was acknowledged.
    let filled =
        |s: &ServerId| rec.pending.as_ref().is_some_and(|b| b.joining.contains(s) || b.survivors.contains(s));
    let known = survivors.iter().all(|s| rec.members.contains(s) || filled(s));
    if rec.version != from.version
        || rec.pending.as_ref().map(|b| b.version) != replaces
        || (survivors.is_empty() && rec.committed)
        || !known
        || (settles && survivors.len() != 1)
    {
        return Ok(false);
    }
    // A version is never made twice: who took the replaced one may not pass for a member of this.
    let version = rec.newest().next();
    let (survivors, joining) = (survivors.to_vec(), joining.to_vec());
    rec.pending = Some(PendingBump { version, survivors, settles, joining, cut_to });
    tx.put(Table::Busy, &k, &[])?;
    save(tx, Table::Chunk, &k, &rec)?;
    Ok(true)
}

fn bump_open(tx: &mut dyn Tx, chunk: ChunkRef, members: &[ServerId]) -> io::Result<bool> {
    let k = key(chunk.id.get());
    let Some(mut rec) = load::<ChunkRec>(tx, Table::Chunk, &k)? else { return Ok(false) };
    let Some(bump) = rec.pending.take_if(|b| b.version == chunk.version) else { return Ok(false) };
    let named = |s: &ServerId| bump.survivors.contains(s) || bump.joining.contains(s);
    if members.is_empty() || !members.iter().all(named) {
        return Ok(false);
    }
    rec.version = bump.version;
    rec.members = members.to_vec();
    if rec.cut_to.is_some() && rec.cut_to >= bump.cut_to && bump.cut_to.is_some() {
        rec.cut_to = None;
    }
    if rec.cut_to.is_none() {
        tx.delete(Table::Busy, &k)?;
    }
    save(tx, Table::Chunk, &k, &rec)?;
    Ok(true)
}

fn delete_done(tx: &mut dyn Tx, done: &[(ChunkId, ServerId)]) -> io::Result<bool> {
    let mut changed = false;
    for (chunk, server) in done {
        let k = key(chunk.get());
        let Some(mut rec) = load::<DeletingRec>(tx, Table::Deleting, &k)? else { continue };
        rec.holders.retain(|h| h != server);
        changed = true;
        if rec.holders.is_empty() {
            tx.delete(Table::Deleting, &k)?;
        } else {
            save(tx, Table::Deleting, &k, &rec)?;
        }
    }
    Ok(changed)
}

/// Notes that a server, or a disk of it, is being emptied, or takes the note away.
fn drain(
    tx: &mut dyn Tx,
    now: Timestamp,
    (table, k): (Table, &[u8]),
    server: ServerId,
    on: bool,
) -> io::Result<bool> {
    let drains = tx.get(table, k)?.is_some();
    let known = tx.get(Table::Server, &key(server.get()))?.is_some();
    if drains == on || (on && !known) {
        return Ok(false);
    }
    match on {
        true => save(tx, table, k, &now)?,
        false => tx.delete(table, k)?,
    }
    Ok(true)
}

fn init(tx: &mut dyn Tx, now: Timestamp, cluster: ClusterId, class: StorageClass) -> io::Result<bool> {
    if tx.get(Table::Meta, meta_key::CLUSTER)?.is_some() {
        return Ok(false);
    }
    save(tx, Table::Meta, meta_key::CLUSTER, &cluster)?;
    put_number(tx, meta_key::NEXT_INODE, 2)?;
    put_number(tx, meta_key::INODES, 1)?;
    let root = InodeRec {
        kind: FileKind::Dir,
        mode: 0o755,
        uid: 0,
        gid: 0,
        nlink: 2,
        size: 0,
        rdev: 0,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: now,
        change: 1,
        parent: InodeId::ROOT,
        class,
        truncates: TruncateCounter(0),
        chunks: 0,
        next_cookie: DirCookie(0),
        inline: None,
    };
    save(tx, Table::Inode, &key(InodeId::ROOT.get()), &root)?;
    Ok(true)
}
