//! Capabilities that masters gave, used by others, for more, or after the session's end. What needs the
//! masters' key to make (another version, another epoch) is in the chunkserver's own tests.

use super::{members::*, *};
use bytes::Bytes;
use futures::StreamExt as _;
use mooseng_core::{
    attr::Access,
    capability::{Capability, Claims, Rights},
    checksum::frame_crcs,
    chunk::*,
    error::ChunkError,
    ids::*,
    meta::*,
    name::Name,
    rpc::RemoteChunks,
    wire::{decode, encode},
};
use mooseng_net::identity::Identity;

struct Given {
    chunk: ChunkRef,
    chain: Vec<Replica>,
    capability: Capability,
}

fn given(layout: &Layout) -> Given {
    let place = &layout.chunks[0];
    Given { chunk: place.chunk, chain: place.chain.clone(), capability: layout.capability.clone().unwrap() }
}

/// A file with one written chunk: the right to write it, and the right to read it.
async fn made(site: &Site, who: &mut Member, me: &Identity, name: &str) -> (Given, Given) {
    let (parent, open) = (InodeId::ROOT, Access::READ.and(Access::WRITE));
    let name = Name::new(name).unwrap();
    let create = Create { parent, name, mode: 0o644, exclusive: true, open, truncate: false, id: None };
    let inode = who.ask(create).await.unwrap().attr.inode;
    let (from, truncates) = (ChunkIndex(0), TruncateCounter(0));
    let write = given(&who.ask(Allocate { inode, truncates, from, count: 1 }).await.unwrap());
    let chunks = RemoteChunks::new(site.connect(me, site.chunkserver[0]).await.unwrap());
    writes(&chunks, &write, who.stamp, &write.capability).await.unwrap();
    let commit =
        CommitWrite { inode, truncates, size: 9, chunks: vec![(from, write.chunk)], drop_inline: false };
    who.ask(commit).await.unwrap();
    let read = given(&who.ask(GetLayout { inode, from, count: 1 }).await.unwrap());
    (write, read)
}

async fn writes(
    to: &RemoteChunks,
    g: &Given,
    session: SessionStamp,
    cap: &Capability,
) -> Result<(), ChunkError> {
    let data = Bytes::from_static(b"something");
    let crcs = frame_crcs(g.chunk.id, Offset(0), &data);
    let frame = Frame { head: FrameHead { number: WriteNumber(1), at: Offset(0), crcs, hole: 0 }, data };
    let (chunk, chain, capability) = (g.chunk, g.chain.clone(), Some(cap.clone()));
    let makers = claims(cap).makers;
    let req = WriteRequest { chunk, chain, makers, head: None, session, capability };
    let frames = futures::stream::iter([Ok(frame)]).boxed();
    let mut acks = to.write(&cx(), req, frames).await?;
    while let Some(ack) = acks.next().await {
        ack?;
    }
    Ok(())
}

async fn reads(from: &RemoteChunks, chunk: ChunkRef, cap: &Capability) -> Result<usize, ChunkError> {
    let req = ReadRequest { chunk, at: Offset(0), len: 4096, capability: Some(cap.clone()) };
    let mut frames = from.read(&cx(), req).await?;
    let mut bytes = 0;
    while let Some(frame) = frames.next().await {
        bytes += frame?.data.len();
    }
    Ok(bytes)
}

fn claims(cap: &Capability) -> Claims {
    decode(&cap.claims).unwrap()
}

fn altered(cap: &Capability, change: impl FnOnce(&mut Claims)) -> Capability {
    let mut claims = claims(cap);
    change(&mut claims);
    Capability { claims: encode(&claims), signature: cap.signature.clone() }
}

fn forbidden(got: Result<impl std::fmt::Debug, ChunkError>, why: &str) {
    assert!(
        matches!(&got, Err(ChunkError::Forbidden(told)) if told.contains(why)),
        "not \"{why}\" but {got:?}"
    );
}

#[test]
fn a_capability_is_good_for_what_it_says_and_for_whom() {
    for transport in TRANSPORTS {
        let (site, _master, chunkserver) = Site::serving(transport);
        run(async {
            let (me, thief) = (site.issue("client", 0, "owner"), site.issue("client", 0, "thief"));
            let mut owner = Member::open(&site, &me).await;
            let mut other = Member::open(&site, &thief).await;
            let (write, read) = made(&site, &mut owner, &me, "one").await;
            let (foreign, _) = made(&site, &mut other, &thief, "two").await;
            let mine = RemoteChunks::new(site.connect(&me, site.chunkserver[0]).await.unwrap());
            let theirs = RemoteChunks::new(site.connect(&thief, site.chunkserver[0]).await.unwrap());
            // As it was given it is good.
            assert_eq!(reads(&mine, read.chunk, &read.capability).await.unwrap(), 9);

            // Another client's, also in its own session's name.
            forbidden(reads(&theirs, read.chunk, &read.capability).await, "another client");
            forbidden(writes(&theirs, &write, owner.stamp, &write.capability).await, "another client");
            forbidden(writes(&theirs, &write, other.stamp, &write.capability).await, "another client");
            // Another chunk's.
            forbidden(reads(&theirs, read.chunk, &foreign.capability).await, "is not named in it");
            // Another mode's.
            forbidden(writes(&mine, &read, owner.stamp, &read.capability).await, "without this right");
            let sync = SyncRequest {
                chunk: read.chunk,
                chain: read.chain.clone(),
                acknowledged_by: vec![],
                session: owner.stamp,
                capability: Some(read.capability.clone()),
            };
            forbidden(mine.sync(&cx(), sync).await, "without this right");
            // Altered: more rights, more chunks, for the thief, for longer, another signature.
            let (thiefs, everything) =
                (thief.peer().cert_hash, Rights::READ.and(Rights::WRITE).and(Rights::CREATE));
            let forged = [
                altered(&read.capability, |c| c.chunks[0].1 = everything),
                altered(&read.capability, |c| c.chunks.push((foreign.chunk, everything))),
                altered(&read.capability, |c| c.expires.0 += 1),
                altered(&read.capability, |c| c.session.epoch = c.session.epoch.next()),
                Capability { signature: write.capability.signature.clone(), ..read.capability.clone() },
                Capability { signature: vec![0; 64].into(), ..read.capability.clone() },
                Capability { signature: Bytes::new(), ..read.capability.clone() },
            ];
            for cap in &forged {
                forbidden(reads(&mine, read.chunk, cap).await, "signature does not match");
            }
            let stolen = altered(&read.capability, |c| c.cert = thiefs);
            forbidden(reads(&theirs, read.chunk, &stolen).await, "signature does not match");
            let nobodys = altered(&read.capability, |c| c.key.0 ^= 1);
            forbidden(reads(&mine, read.chunk, &nobodys).await, "key is not known");
            let nonsense = Capability { claims: vec![0xff; 40].into(), signature: vec![0; 64].into() };
            let got = reads(&mine, read.chunk, &nonsense).await;
            assert!(matches!(got, Err(ChunkError::Net(_))), "{got:?}");

            // Replayed after the fence that ends its session.
            owner.ask(CloseSession {}).await.unwrap();
            let got = reads(&mine, read.chunk, &read.capability).await;
            assert!(matches!(got, Err(ChunkError::Fenced)), "{got:?}");
            let got = writes(&mine, &write, owner.stamp, &write.capability).await;
            assert!(matches!(got, Err(ChunkError::Fenced)), "{got:?}");
            // One whose first refusal it is, for the log.
            let late = site.issue("client", 0, "late");
            let mut ended = Member::open(&site, &late).await;
            let (_, read) = made(&site, &mut ended, &late, "three").await;
            ended.ask(CloseSession {}).await.unwrap();
            let late = RemoteChunks::new(site.connect(&late, site.chunkserver[0]).await.unwrap());
            let got = reads(&late, read.chunk, &read.capability).await;
            assert!(matches!(got, Err(ChunkError::Fenced)), "{got:?}");
            // The other one goes on.
            writes(&theirs, &foreign, other.stamp, &foreign.capability).await.unwrap();
        });
        logged(&chunkserver, &["a call was refused", "peer=thief ", "given to another client"]);
        logged(&chunkserver, &["a call was refused", "peer=owner ", "without this right"]);
        logged(&chunkserver, &["a call was refused", "peer=owner ", "signature does not match"]);
        logged(&chunkserver, &["a call was refused", "peer=late ", "the session was fenced"]);
        site.serves();
    }
}
