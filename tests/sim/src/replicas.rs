//! Whether the replicas of each chunk are equal: a divergence that no reader met yet is one all the same.

use anyhow::{Context as _, Result, ensure};
use mooseng_client::embedded::Cluster;
use mooseng_core::{
    chunk::{ChecksumTable, ChunkStore as _, Control, ControlReply},
    context::CallContext,
    ids::ChunkRef,
    limits::REPORT_CHUNKS_MAX,
    meta::ReplicaState,
    net::Role,
    rpc::RemoteChunks,
};
use std::{collections::BTreeMap, time::Duration};

fn cx() -> CallContext {
    CallContext::internal(Duration::from_secs(10))
}

/// All good chunks of a server with their checksum tables.
async fn tables(chunks: &RemoteChunks) -> Result<BTreeMap<ChunkRef, ChecksumTable>> {
    let (mut tables, mut after) = (BTreeMap::new(), None);
    loop {
        let page = chunks.list(&cx(), after, REPORT_CHUNKS_MAX as u32).await?;
        for report in &page.chunks {
            after = Some(report.chunk.id);
            if report.state == ReplicaState::Good
                && let ControlReply::Table(table) =
                    chunks.control(&cx(), Control::Table { chunk: report.chunk }).await?
            {
                tables.insert(report.chunk, table);
            }
        }
        if page.last {
            return Ok(tables);
        }
    }
}

/// Compares the replicas on the first so many servers. Errors: two of one version are not equal.
pub async fn equal(cluster: &Cluster, servers: usize) -> Result<usize> {
    let transport = cluster.transport(Role::Master, 99, "auditor");
    let mut first = BTreeMap::new();
    let mut compared = 0;
    for n in 1..=servers {
        let server = format!("chunkserver-{n}");
        let chunks = RemoteChunks::new(transport.connect(&server).await?);
        for (chunk, table) in tables(&chunks).await.with_context(|| format!("the chunks of {server}"))? {
            let Some((other, there)) = first.get(&chunk) else {
                first.insert(chunk, (server.clone(), table));
                continue;
            };
            compared += 1;
            ensure!(
                there.length == table.length,
                "{chunk:?} has {} bytes on {other} and {} on {server}",
                there.length,
                table.length
            );
            let blocks = there.blocks.len().max(table.blocks.len());
            let differs = (0..blocks)
                .find(|b| there.blocks.get(*b).copied().flatten() != table.blocks.get(*b).copied().flatten());
            ensure!(
                differs.is_none(),
                "{chunk:?} differs between {other} and {server}, first in block {differs:?}"
            );
        }
    }
    Ok(compared)
}
