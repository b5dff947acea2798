//! A whole cluster in this process, a file written by one client and read by another.
//!
//! `cargo run -p mooseng-examples --bin embed`
#![allow(clippy::print_stdout, reason = "it says hello")]

use mooseng_client::embedded::Cluster;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cluster = Cluster::builder().masters(1).chunkservers(2).start().await?;
    let (alice, bob) = (cluster.client().await?.filesystem(), cluster.client().await?.filesystem());
    alice.create_dir_all("/notes/today").await?;
    alice.write("/notes/today/hello.txt", "Hello from Alice!").await?;
    println!("{}", bob.read_to_string("/notes/today/hello.txt").await?);
    cluster.shutdown().await;
    Ok(())
}
