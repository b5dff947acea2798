//! What is done to a cluster when all else is over: a thief uses another client's capability, a file is cut
//! while a commit is under way, and nodes find flipped bits: a master in the middle of its log and in its state, a
//! chunkserver in what it keeps beside the chunks.

use crate::{disk::SimMedium, faults::Media, journal::Journal};
use anyhow::{Context as _, Result, bail, ensure};
use futures::TryStreamExt as _;
use mooseng_client::{Client, Error, OpenFlags, embedded::Cluster};
use mooseng_core::{
    attr::SetAttr,
    capability::Capability,
    chunk::{ChunkStore as _, ReadRequest},
    context::CallContext,
    error::{ChunkError, MetaError},
    ids::{ChunkIndex, Offset},
    limits::BLOCK_BYTES,
    meta::{ChunkPlace, CommitWrite, GetLayout},
    net::Role,
    rpc::RemoteChunks,
    seam::Rng,
};
use std::time::Duration;

/// The log's files.
const LOG: &str = "raft/log/";
/// The masters' state.
const STATE: &str = "state.redb";
/// What a disk of a chunkserver has beside the chunks.
const BESIDE: [&str; 3] = ["redo.0", "redo.1", "dirty.redb"];
/// Disks of a chunkserver.
const DISKS: u64 = 2;

/// A client that got hold of another's capability reads nothing with it. Errors: it did.
pub async fn theft(cluster: &Cluster, owner: &Client) -> Result<()> {
    let fs = owner.filesystem();
    fs.write("/loot", vec![7u8; 3 * BLOCK_BYTES as usize]).await?;
    let file = fs.open("/loot").await?;
    let at = GetLayout { inode: file.attr().inode, from: ChunkIndex(0), count: 1 };
    let layout = owner.request(at).await?;
    let place = layout.chunks.first().context("the loot has no chunk")?;
    let read = ask_head(cluster, "thief", (place, layout.capability), (Offset(0), BLOCK_BYTES));
    match read.await {
        Err(ChunkError::Forbidden(_)) => {}
        Ok(_) => bail!("a capability was good in another client's hand"),
        Err(e) => return Err(e).context("a thief was refused, but not for what it is"),
    }
    file.close().await?;
    Ok(())
}

/// What a chunk's head answers to a node of this name that asks for bytes from a block's begin on, past all that a
/// client does: it may know nothing of a change of the chain. Errors: those of the head.
pub async fn ask_head(
    cluster: &Cluster,
    name: &str,
    (place, capability): (&ChunkPlace, Option<Capability>),
    (at, len): (Offset, u64),
) -> Result<Vec<u8>, ChunkError> {
    let head = place.chain.first().ok_or(ChunkError::NotFound(place.chunk.id))?;
    let store = RemoteChunks::new(cluster.transport(Role::Client, 97, name).connect(&head.addr).await?);
    let req = ReadRequest { chunk: place.chunk, at, len, capability };
    let cx = CallContext::internal(Duration::from_secs(5));
    let frames: Vec<_> = store.read(&cx, req).await?.try_collect().await?;
    Ok(frames.iter().flat_map(|f| f.data.iter().copied().chain((0..f.head.hole).map(|_| 0))).collect())
}

/// A commit that was under way while another client cut the file does not make it longer again. Errors: it does.
pub async fn cut_across(cluster: &Cluster, writer: &Client) -> Result<()> {
    const PATH: &str = "/cut-across";
    let bytes = 10 * BLOCK_BYTES;
    let cutter = cluster.client_named("cutter", |b| b).await?;
    let (fs, others) = (writer.filesystem(), cutter.filesystem());
    fs.write(PATH, vec![7u8; bytes as usize]).await?;
    let file = fs.open_with(PATH, OpenFlags { read: true, write: true, ..OpenFlags::default() }, 0).await?;
    let at = GetLayout { inode: file.attr().inode, from: ChunkIndex(0), count: 1 };
    let truncates = writer.request(at).await?.truncates;
    others.set_attr(PATH, SetAttr { size: Some(10), ..SetAttr::default() }).await?;
    let inode = file.attr().inode;
    let late = CommitWrite { inode, truncates, size: bytes, chunks: vec![], drop_inline: false };
    match writer.request(late).await {
        Err(Error::Meta(MetaError::LayoutStale)) => {}
        Ok(attr) => bail!("a commit from before a cut was taken, and the file has {} bytes again", attr.size),
        Err(e) => return Err(e).context("a commit from before a cut was refused, but not for that"),
    }
    file.close().await?;
    Ok(())
}

/// A master does not start on a log that has a bad record with later batches behind it. Errors: it does,
/// or not once the bit is as it was.
pub async fn rot(cluster: &mut Cluster, media: &Media, rng: &dyn Rng, journal: &Journal) -> Result<()> {
    let at = (rng.next_u64() % 3) as usize;
    let medium = media.get(&format!("master-{}", at + 1));
    medium.kill();
    cluster.kill_master(at).await;
    let Some((name, used)) = medium.used(|n| n.starts_with(LOG)) else { bail!("a master without a log") };
    // Whatever is in the first half has a later batch behind it.
    let bit = rng.next_u64() % (used * 4);
    journal.note("fault", format_args!("bit {bit} of {name} at master-{} is flipped", at + 1));
    medium.flip(&name, bit);
    ensure!(cluster.start_master(at).await.is_err(), "master-{} starts on a log with a flipped bit", at + 1);
    medium.kill();
    medium.flip(&name, bit);
    cluster.start_master(at).await.context("its log is whole again")?;
    Ok(())
}

/// A bit of what is in use of a file, when there is anything.
fn some_bit(medium: &SimMedium, file: &str, rng: &dyn Rng) -> Option<u64> {
    medium.used(|n| n == file).map(|(_, used)| rng.next_u64() % (used * 8))
}

/// A bit of a master's state flips while it is down. It starts all the same, and the caller looks whether it serves
/// right, or refuses. Errors: it refuses once the bit is as it was.
pub async fn rot_of_state(
    cluster: &mut Cluster,
    media: &Media,
    rng: &dyn Rng,
    journal: &Journal,
) -> Result<()> {
    let at = (rng.next_u64() % 3) as usize;
    let name = format!("master-{}", at + 1);
    let medium = media.get(&name);
    medium.kill();
    cluster.kill_master(at).await;
    let bit = some_bit(&medium, STATE, rng).context("a master without a state")?;
    medium.flip(STATE, bit);
    let started = cluster.start_master(at).await;
    journal.note("fault", format_args!("bit {bit} of {STATE} at {name} is flipped: {}", end_of(&started)));
    if started.is_err() {
        medium.kill();
        medium.flip(STATE, bit);
        cluster.start_master(at).await.context("its state is whole again")?;
    }
    Ok(())
}

/// The same with the notes and the redo log of a chunkserver.
pub async fn rot_beside_chunks(
    cluster: &mut Cluster,
    media: &Media,
    rng: &dyn Rng,
    journal: &Journal,
) -> Result<()> {
    let at = (rng.next_u64() % 3) as usize;
    let name = format!("chunkserver-{}", at + 1);
    let disks: Vec<_> = (1..=DISKS).map(|d| media.get(&format!("{name}/disk-{d}"))).collect();
    disks.iter().for_each(SimMedium::kill);
    cluster.kill_chunkserver(at);
    let disk = rng.next_u64() % DISKS;
    let medium = &disks[disk as usize];
    let file = BESIDE[(rng.next_u64() % BESIDE.len() as u64) as usize];
    let bit = some_bit(medium, file, rng);
    let flips = || bit.into_iter().for_each(|bit| medium.flip(file, bit));
    flips();
    let started = cluster.start_chunkserver(at).await;
    let place = format!("{file} at {name}/disk-{}", disk + 1);
    journal.note("fault", format_args!("bit {bit:?} of {place} is flipped: {}", end_of(&started)));
    if started.is_err() {
        disks.iter().for_each(SimMedium::kill);
        flips();
        cluster.start_chunkserver(at).await.with_context(|| format!("its {file} is whole again"))?;
    }
    Ok(())
}

/// What became of a start, in a word or in the node's own.
fn end_of(started: &mooseng_client::Result<()>) -> String {
    started.as_ref().map_or_else(ToString::to_string, |()| "it starts".into())
}
