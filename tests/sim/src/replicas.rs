//! Whether the replicas of each chunk are equal: a divergence that no reader met yet is one all the same.

use crate::weather::SCRUBBER;
use anyhow::{Context as _, Result, bail, ensure};
use futures::TryStreamExt as _;
use mooseng_client::embedded::Cluster;
use mooseng_core::{
    chunk::{ChecksumTable, ChunkStore as _, Control, ControlReply, ReadRequest},
    context::CallContext,
    error::ChunkError,
    ids::{ChunkId, ChunkRef, Offset},
    limits::{BLOCK_BYTES, REPORT_CHUNKS_MAX},
    meta::ReplicaState,
    net::{Role, Transport},
    rpc::RemoteChunks,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

fn cx() -> CallContext {
    CallContext::internal(Duration::from_secs(10))
}

/// A repair is under way: what is found now is neither the old nor the new.
#[derive(Debug, thiserror::Error)]
#[error("{0} while the replicas were compared")]
struct Moved(ChunkError);

/// Whether it may be compared later.
pub fn has_moved(e: &anyhow::Error) -> bool {
    e.is::<Moved>()
}

fn moved(e: ChunkError) -> anyhow::Error {
    match e {
        ChunkError::Suspect(_) | ChunkError::Stale { .. } | ChunkError::TooNew { .. } => Moved(e).into(),
        e => e.into(),
    }
}

/// All good chunks of a server with their checksum tables.
async fn tables(chunks: &RemoteChunks) -> Result<BTreeMap<ChunkRef, ChecksumTable>> {
    let (mut tables, mut after) = (BTreeMap::new(), None);
    loop {
        let page = chunks.list(&cx(), after, REPORT_CHUNKS_MAX as u32).await?;
        for report in &page.chunks {
            after = Some(report.chunk.id);
            if report.state != ReplicaState::Good {
                continue;
            }
            match chunks.control(&cx(), Control::Table { chunk: report.chunk }).await {
                Ok(ControlReply::Table(table)) => drop(tables.insert(report.chunk, table)),
                // Deleted since it was listed.
                Err(ChunkError::NotFound(_)) => {}
                // It has no table that could be compared.
                Err(ChunkError::Damaged { .. }) => {}
                Err(e) => return Err(moved(e)).context(format!("the table of {:?}", report.chunk)),
                other => bail!("the table of {:?} is {other:?}", report.chunk),
            }
        }
        if page.last {
            return Ok(tables);
        }
    }
}

/// Whether a block is not damaged on a server.
async fn can_be_read(transport: &dyn Transport, server: &str, chunk: ChunkRef, block: usize) -> Result<bool> {
    let chunks = RemoteChunks::new(transport.connect(server).await?);
    let req =
        ReadRequest { chunk, at: Offset(block as u64 * BLOCK_BYTES), len: BLOCK_BYTES, capability: None };
    let read = async { chunks.read(&cx(), req).await?.try_collect::<Vec<_>>().await };
    match read.await {
        Ok(_) => Ok(true),
        Err(ChunkError::Damaged { .. }) => Ok(false),
        Err(e) => Err(moved(e)),
    }
}

/// Reads all good replicas of a server, block by block: which are damaged. The server tells the masters by
/// itself.
pub async fn damage(cluster: &Cluster, server: &str) -> Result<BTreeMap<ChunkRef, u64>> {
    let transport = cluster.transport(Role::Master, 98, SCRUBBER);
    let chunks = RemoteChunks::new(transport.connect(server).await?);
    let mut damaged = BTreeMap::new();
    for (chunk, table) in tables(&chunks).await? {
        for (block, _) in table.blocks.iter().enumerate().filter(|(_, crc)| crc.is_some()) {
            if !can_be_read(&*transport, server, chunk, block).await? {
                damaged.insert(chunk, block as u64);
                break;
            }
        }
    }
    Ok(damaged)
}

/// How many good replicas a server has, and how many of them are not equal to one of the same version elsewhere,
/// though all that they say of themselves is right.
pub async fn differing(cluster: &Cluster, server: &str, servers: usize) -> Result<(usize, usize)> {
    let transport = cluster.transport(Role::Master, 98, SCRUBBER);
    let ours = tables(&RemoteChunks::new(transport.connect(server).await?)).await?;
    let mut differ = BTreeSet::new();
    for other in (1..=servers).map(|n| format!("chunkserver-{n}")).filter(|o| o != server) {
        let theirs = tables(&RemoteChunks::new(transport.connect(&other).await?)).await?;
        let unequal = |(chunk, table): &(&ChunkRef, &ChecksumTable)| {
            theirs.get(*chunk).is_some_and(|there| there != *table)
        };
        differ.extend(ours.iter().filter(unequal).map(|(chunk, _)| *chunk));
    }
    Ok((ours.len(), differ.len()))
}

/// Chunks that files have, as the leader knows. Errors: nobody leads now.
pub async fn named(cluster: &Cluster) -> Result<BTreeSet<ChunkId>> {
    let leader = cluster.leader().and_then(|at| cluster.master(at)).context("nobody leads")?;
    Ok(leader.held().await?.chunks)
}

/// Whether a server knows that its replica is damaged.
async fn is_damaged(transport: &dyn Transport, server: &str, chunk: ChunkRef) -> Result<bool> {
    let chunks = RemoteChunks::new(transport.connect(server).await?);
    match chunks.control(&cx(), Control::Stat { chunk: chunk.id }).await.map_err(moved)? {
        ControlReply::Done(stat) => Ok(stat.report.state == ReplicaState::Damaged),
        other => bail!("a question about {chunk:?} was answered with {other:?}"),
    }
}

/// Compares the replicas on the first so many servers; which chunks have several, and how many were
/// compared. A single copy may be one that nobody needs and nobody deletes in a hurry.
/// Errors: two of one version are not equal.
pub async fn equal(cluster: &Cluster, servers: usize) -> Result<(BTreeSet<ChunkId>, usize)> {
    let transport = cluster.transport(Role::Master, 99, "auditor");
    let mut first = BTreeMap::new();
    let (mut several, mut compared) = (BTreeSet::new(), 0);
    for n in 1..=servers {
        let server = format!("chunkserver-{n}");
        let chunks = RemoteChunks::new(transport.connect(&server).await?);
        for (chunk, table) in tables(&chunks).await.with_context(|| format!("the chunks of {server}"))? {
            let Some((other, there)) = first.get(&chunk) else {
                first.insert(chunk, (server.clone(), table));
                continue;
            };
            compared += 1;
            several.insert(chunk.id);
            if there.length != table.length {
                // Replicas that are all damaged wait for somebody to remove them.
                let hopeless = is_damaged(&*transport, other, chunk).await?
                    && is_damaged(&*transport, &server, chunk).await?;
                ensure!(
                    hopeless,
                    "{chunk:?} has {} bytes on {other} and {} on {server}",
                    there.length,
                    table.length
                );
                continue;
            }
            for block in 0..there.blocks.len().max(table.blocks.len()) {
                let crc = |t: &ChecksumTable| t.blocks.get(block).copied().flatten();
                // What a power failure took verifies nowhere, or at one of them.
                ensure!(
                    crc(there) == crc(&table)
                        || !can_be_read(&*transport, other, chunk, block).await?
                        || !can_be_read(&*transport, &server, chunk, block).await?,
                    "{chunk:?} differs between {other} and {server}, first in block {block}"
                );
            }
        }
    }
    Ok((several, compared))
}
