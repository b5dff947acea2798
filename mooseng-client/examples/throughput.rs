//! Sequential throughput of one client on an embedded cluster: one master, two chunkservers, two
//! copies, everything in this process. What it measures is the client's and the chunkservers' own
//! cost, without a network.
//!
//! `cargo run --release -p mooseng-client --features embedded --example throughput [DIR|memory [MIB [DIRTY_MIB]]]`
#![allow(clippy::print_stdout, reason = "a report")]

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use mooseng_client::{Filesystem, embedded::Cluster};
use tokio::time::Instant;

/// Each figure is the best of so many runs: others use the machine too.
const RUNS: usize = 3;

fn rate(bytes: u64, since: Instant) -> f64 {
    bytes as f64 / 1e6 / since.elapsed().as_secs_f64()
}

async fn write(fs: &Filesystem, bytes: u64, step: u64) -> Result<f64> {
    let block = Bytes::from((0..step).map(|i| ((i * 31) >> 3) as u8).collect::<Vec<_>>());
    let file = fs.create("/bench").await?;
    let begin = Instant::now();
    for at in (0..bytes).step_by(step as usize) {
        file.write_at(at, block.clone()).await?;
    }
    file.close().await?;
    Ok(rate(bytes, begin))
}

async fn read(fs: &Filesystem, bytes: u64, step: u64) -> Result<f64> {
    let file = fs.open("/bench").await?;
    let begin = Instant::now();
    for at in (0..bytes).step_by(step as usize) {
        ensure!(file.read_at(at, step).await?.len() as u64 == step, "a short read at {at}");
    }
    let rate = rate(bytes, begin);
    file.close().await?;
    Ok(rate)
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mut builder = Cluster::builder().masters(1).chunkservers(2);
    if let Some(dir) = args.next().filter(|d| d != "memory") {
        builder = builder.dir(dir);
    }
    let bytes = args.next().map_or(Ok(512), |n| n.parse::<u64>()).context("MIB is a number")? << 20;
    let cluster = builder.start().await?;
    let dirty = args.next().map_or(Ok(256), |n| n.parse::<usize>()).context("DIRTY_MIB is a number")? << 20;
    let writer = cluster.client_with(|b| b.dirty_max(dirty)).await?.filesystem();
    let reader = cluster.client().await?.filesystem();
    for step in [1 << 20, 128 << 10] {
        let (mut best_write, mut best_read) = (0f64, 0f64);
        for _ in 0..RUNS {
            best_write = best_write.max(write(&writer, bytes, step).await?);
            best_read = best_read.max(read(&reader, bytes, step).await?);
        }
        println!("{:>5} KiB: write {best_write:6.0} MB/s, read {best_read:6.0} MB/s", step >> 10);
    }
    writer.remove_file("/bench").await?;
    cluster.shutdown().await;
    Ok(())
}
