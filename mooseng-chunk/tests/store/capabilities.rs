//! What a capability must say, and by whom it is shown: one row for each way to be refused. Each is tried
//! as a read, a write and a sync; each time a line of the log tells of it, and what the chunk holds is the same
//! afterwards.

use crate::common::*;
use futures::StreamExt as _;
use mooseng_core::{
    attr::Timestamp,
    capability::{Capability, Claims, KeyId, Rights, SigningKey},
    chunk::*,
    error::ChunkError,
    ids::*,
    meta::ServerOrders,
    net::{CertHash, PeerIdentity, Role},
    rpc::RemoteChunks,
    wire,
};
use parking_lot::Mutex;
use std::{
    fmt::{Debug, Write as _},
    sync::Arc,
};
use tracing::{
    Event, Metadata,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::DefaultGuard,
};

/// What is logged on this thread, a line for each event.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    /// Begins to write, until the guard is dropped.
    fn begin() -> (Self, DefaultGuard) {
        let log = Self::default();
        (log.clone(), tracing::subscriber::set_default(log))
    }

    /// Whether a line says that a call of this peer was refused, and why.
    fn tells(&self, peer: &PeerIdentity, why: &str) -> bool {
        let words = ["a call was refused", &format!("peer={} ", peer.name), why];
        self.0.lock().iter().any(|line| words.iter().all(|w| line.contains(w)))
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        self.0.lock().push(line.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, "{field}={value:?} ");
    }
}

const ALL: Rights = Rights(7);

/// The three ways to touch a chunk.
const READ: usize = 0;
const WRITE: usize = 1;
const SYNC: usize = 2;

async fn read(to: &RemoteChunks, chunk: ChunkRef, capability: Option<Capability>) -> Result<(), ChunkError> {
    let req = ReadRequest { chunk, at: Offset(0), len: 4096, capability };
    to.read(&cx(), req).await.map(drop)
}

async fn write(
    world: &World,
    to: &RemoteChunks,
    chunk: ChunkRef,
    session: SessionStamp,
    number: u64,
    capability: Option<Capability>,
) -> Result<(), ChunkError> {
    let req = WriteRequest { session, capability, ..world.write_request(chunk, &[1]) };
    let frames = futures::stream::iter([Ok(frame(chunk.id.get(), number, 0, vec![9; BLOCK]))]).boxed();
    let mut acks = to.write(&cx(), req, frames).await?;
    while let Some(ack) = acks.next().await {
        ack?;
    }
    Ok(())
}

async fn sync(
    to: &RemoteChunks,
    chunk: ChunkRef,
    session: SessionStamp,
    capability: Option<Capability>,
) -> Result<(), ChunkError> {
    let acknowledged_by = vec![];
    to.sync(&cx(), SyncRequest { chunk, chain: chain(&[1]), acknowledged_by, session, capability })
        .await
        .map(drop)
}

/// One way to be refused: the capability, the ways that it does not open, and the reason told.
struct Row {
    what: &'static str,
    cap: Option<Capability>,
    ways: &'static [usize],
    why: &'static str,
}

/// The rows of the client that has this certificate.
fn rows(world: &World, c: ChunkRef, before: ChunkRef, cert: CertHash) -> Vec<Row> {
    let good = || Claims { cert, ..world.claims(c, SESSION) };
    let signed = |claims| Some(world.key.sign(claims));
    let of = |chunks: Vec<(ChunkRef, Rights)>| signed(Claims { chunks, ..good() });
    let right = world.key.sign(good());
    let altered = |change: &dyn Fn(&mut Claims)| {
        let mut claims: Claims = wire::decode(&right.claims).unwrap();
        change(&mut claims);
        Some(Capability { claims: wire::encode(&claims), signature: right.signature.clone() })
    };
    let signature = |s: Vec<u8>| Some(Capability { claims: right.claims.clone(), signature: s.into() });
    let mut flipped = right.signature.to_vec();
    flipped[17] ^= 4;
    let gone = SigningKey::from_seed(KeyId(44), &[4; 32]);
    let other_half = SigningKey::from_seed(KeyId(1), &[5; 32]);
    let later = ChunkRef { version: c.version.next(), ..c };
    let neighbour = chunk(c.id.get() + 1, c.version.get());
    let (all, reads): (&[usize], &[usize]) = (&[READ, WRITE, SYNC], &[READ]);
    let row = |what, cap, ways, why| Row { what, cap, ways, why };
    vec![
        row("none", None, all, "a client needs a capability"),
        row(
            "another client's",
            signed(Claims { cert: CertHash([99; 32]), ..good() }),
            all,
            "given to another client",
        ),
        row(
            "another session's",
            signed(Claims { session: OTHER, ..good() }),
            &[WRITE, SYNC],
            "given to another session",
        ),
        row("the version before", of(vec![(before, ALL)]), all, "is named at"),
        row("a later version", of(vec![(later, ALL)]), all, "is named at"),
        row("another chunk's", of(vec![(neighbour, ALL)]), all, "is not named in it"),
        row("no chunk's", of(vec![]), all, "is not named in it"),
        row("to read only", of(vec![(c, Rights::READ)]), &[WRITE, SYNC], "without this right"),
        row("to write only", of(vec![(c, Rights::WRITE.and(Rights::CREATE))]), reads, "without this right"),
        row("not to make it", of(vec![(c, Rights::READ.and(Rights::WRITE))]), &[WRITE], "without this right"),
        row(
            "for other starts",
            signed(Claims { makers: vec![], ..good() }),
            &[WRITE],
            "other starts of servers",
        ),
        row("no right at all", of(vec![(c, Rights(0))]), all, "without this right"),
        row("expired", signed(Claims { expires: Timestamp::new(-1, 0), ..good() }), all, "it has expired"),
        row(
            "altered: another end",
            altered(&|c| c.expires = Timestamp::new(1 << 32, 0)),
            all,
            "signature does not match",
        ),
        row(
            "altered: another client",
            altered(&|c| c.cert = CertHash([1; 32])),
            all,
            "signature does not match",
        ),
        row(
            "altered: a version",
            altered(&|c| c.chunks[0].0.version = ChunkVersion(9)),
            all,
            "signature does not match",
        ),
        row(
            "altered: a later epoch",
            altered(&|c| c.session.epoch = SessionEpoch(2)),
            all,
            "signature does not match",
        ),
        row("a flipped bit in its signature", signature(flipped), all, "signature does not match"),
        row("no signature", signature(vec![]), all, "signature does not match"),
        row("half a signature", signature(right.signature[..32].to_vec()), all, "signature does not match"),
        row("of a key that is gone", Some(gone.sign(good())), all, "key is not known"),
        row(
            "of another key by the same number",
            Some(other_half.sign(good())),
            all,
            "signature does not match",
        ),
    ]
}

/// A second session of the same client.
const OTHER: SessionStamp = SessionStamp { id: SessionId(8), epoch: SessionEpoch(1) };

#[tokio::test(start_paused = true)]
async fn each_way_to_be_refused_is_refused_and_changes_nothing() {
    let world = World::new().await;
    let servers = servers(&world, 1).await;
    let before = chunk(5, 1);
    let data = pattern(3, 2 * BLOCK);
    world.write(before, &[1], vec![frame(5, 1, 0, data.clone())]).await.unwrap();
    let c = world.bump(before, &[1]).await;
    let (log, _writes) = Log::begin();
    let count = rows(&world, c, before, CertHash::default()).len();
    for (row, way) in (0..count).flat_map(|row| [READ, WRITE, SYNC].map(|way| (row, way))) {
        // A client for each: of one that is refused again and again not each time is logged.
        let me = identity(Role::Client, 100 + (3 * row + way) as u64);
        let client = RemoteChunks::new(world.net.transport(me.clone()).connect(&addr(1)).await.unwrap());
        let Row { what, cap, ways, why } = rows(&world, c, before, me.cert_hash).remove(row);
        // What it does say, it allows; a write would change what is compared below.
        if way == WRITE && !ways.contains(&way) {
            continue;
        }
        let got = match way {
            READ => read(&client, c, cap.clone()).await,
            WRITE => write(&world, &client, c, SESSION, 2, cap.clone()).await,
            _ => sync(&client, c, SESSION, cap.clone()).await,
        };
        let way_name = ["a read", "a write", "a sync"][way];
        if ways.contains(&way) {
            assert!(
                matches!(&got, Err(ChunkError::Forbidden(told)) if told.contains(why)),
                "{way_name} with a capability {what}: {got:?}"
            );
            assert!(log.tells(&me, why), "{way_name} with a capability {what} is not in the log");
        } else {
            assert!(got.is_ok(), "{way_name} with a capability {what}: {got:?}");
            assert!(!log.tells(&me, ""), "{way_name} with a capability {what} passes for refused in the log");
        }
        assert_eq!(world.read(c, 1, 0, 2 * BLOCK as u64).await.unwrap(), data, "after {what}");
    }
    // The good one opens all three.
    let (right, client) = (world.right(c), world.remote(Role::Client, 1).await);
    read(&client, c, right.clone()).await.unwrap();
    write(&world, &client, c, SESSION, 2, right.clone()).await.unwrap();
    sync(&client, c, SESSION, right).await.unwrap();
    drop(servers);
}

#[tokio::test(start_paused = true)]
async fn after_a_fence_a_capability_opens_nothing_and_those_of_others_go_on() {
    let world = World::new().await;
    let servers = servers(&world, 1).await;
    let (c, client) = (chunk(5, 1), world.remote(Role::Client, 1).await);
    let (log, _writes) = Log::begin();
    let right = world.right(c);
    write(&world, &client, c, SESSION, 1, right.clone()).await.unwrap();
    let others = Some(world.key.sign(world.claims(c, OTHER)));
    let session = SessionStamp { epoch: SESSION.epoch.next(), ..SESSION };
    world.control(1, Control::Fence { session, term: Term(1) }).await.unwrap();
    for got in [
        read(&client, c, right.clone()).await,
        write(&world, &client, c, SESSION, 2, right.clone()).await,
        sync(&client, c, SESSION, right.clone()).await,
        // Under the new epoch's name it is not the old one's.
        write(&world, &client, c, session, 2, right.clone()).await,
    ] {
        let fenced = matches!(&got, Err(ChunkError::Fenced));
        let other = matches!(&got, Err(ChunkError::Forbidden(why)) if why.contains("another session"));
        assert!(fenced || other, "{got:?}");
    }
    assert_eq!(read(&client, c, right.clone()).await, Err(ChunkError::Fenced));
    assert!(log.tells(&identity(Role::Client, 1), "a read: the session was fenced"));
    write(&world, &client, c, OTHER, 1, others.clone()).await.unwrap();
    // A right under the new epoch is another right.
    let again = Some(world.key.sign(world.claims(c, session)));
    write(&world, &client, c, session, 1, again).await.unwrap();
    drop(servers);
}

/// What was verified once is remembered no longer than the key that verified it.
#[tokio::test(start_paused = true)]
async fn a_capability_that_was_good_goes_with_its_key() {
    let world = World::new().await;
    let servers = servers(&world, 1).await;
    let (c, client) = (chunk(5, 1), world.remote(Role::Client, 1).await);
    let right = world.right(c);
    let (log, _writes) = Log::begin();
    write(&world, &client, c, SESSION, 1, right.clone()).await.unwrap();
    read(&client, c, right.clone()).await.unwrap();
    let next = SigningKey::from_seed(KeyId(2), &[8; 32]);
    let keys = vec![next.public()];
    *world.leader.orders.lock() = Some(ServerOrders { term: Term(1), keys, ..Default::default() });
    let refused = async {
        loop {
            match read(&client, c, right.clone()).await {
                Ok(()) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
                Err(e) => return e,
            }
        }
    };
    let e = tokio::time::timeout(std::time::Duration::from_secs(30), refused).await.expect("the key is gone");
    assert!(matches!(&e, ChunkError::Forbidden(why) if why.contains("key is not known")), "{e}");
    assert!(log.tells(&identity(Role::Client, 1), "key is not known"));
    read(&client, c, Some(next.sign(world.claims(c, SESSION)))).await.unwrap();
    drop(servers);
}

/// The same bytes shown by another certificate are another capability, also when they were verified.
#[tokio::test(start_paused = true)]
async fn what_was_verified_for_one_is_not_verified_for_another() {
    let world = World::new().await;
    let servers = servers(&world, 1).await;
    let c = chunk(5, 1);
    let right = world.right(c);
    let owner = world.remote(Role::Client, 1).await;
    write(&world, &owner, c, SESSION, 1, right.clone()).await.unwrap();
    let thief = world.net.transport(identity(Role::Client, 2)).connect(&addr(1)).await.unwrap();
    let thief = RemoteChunks::new(thief);
    for _ in 0..2 {
        read(&owner, c, right.clone()).await.unwrap();
        let got = read(&thief, c, right.clone()).await;
        assert!(matches!(&got, Err(ChunkError::Forbidden(why)) if why.contains("another client")), "{got:?}");
    }
    drop(servers);
}
