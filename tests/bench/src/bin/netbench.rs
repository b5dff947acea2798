//! What a call and a gigabyte cost on each transport, between two runtimes of this process.
#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use anyhow::{Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use clap::Parser;
use futures::StreamExt as _;
use mooseng_core::{
    context::CallContext,
    error::NetError,
    ids::ClusterId,
    net::{Body, Connection, Handler, Message, Method, PeerIdentity, Piece, Role, Transport},
};
use mooseng_net::{
    identity::ClusterCa,
    quic::{QuicOptions, QuicTransport},
    tcp::{TcpOptions, TcpTransport},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Small calls, and bulk both ways, over QUIC and TCP with TLS.
#[derive(Parser)]
struct Args {
    /// Calls one after the other.
    #[arg(long, default_value_t = 20_000)]
    calls: u32,
    /// MiB in each direction.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
}

struct Server;

#[async_trait]
impl Handler for Server {
    async fn handle(
        &self,
        _: &PeerIdentity,
        _: CallContext,
        method: Method,
        msg: Message,
    ) -> Result<Message, NetError> {
        match (method.0, msg.body) {
            (0, Body::Stream(mut pieces)) => {
                let mut bytes = 0u64;
                while let Some(piece) = pieces.next().await {
                    bytes += piece?.data.len() as u64;
                }
                Ok(Message::of_head(bytes.to_string().into()))
            }
            (0, body) => Ok(Message { head: msg.head, body }),
            (mib, _) => Ok(Message { head: Bytes::new(), body: mebibytes(u64::from(mib)) }),
        }
    }
}

fn mebibytes(n: u64) -> Body {
    let data = Bytes::from(vec![7; 1 << 20]);
    let piece = move |_| Ok(Piece { head: Bytes::from_static(b"0123456789abcdef"), data: data.clone() });
    Body::Stream(futures::stream::iter(0..n).map(piece).boxed())
}

/// CPU time of this process, in seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / 100.0
}

async fn measure<T>(what: &str, units: f64, unit: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let (begin, before) = (Instant::now(), cpu());
    let done = work.await?;
    let (took, used) = (begin.elapsed().as_secs_f64(), cpu() - before);
    println!("{what:32} {:>10.0} {unit}/s  {:>8.2} CPU-us/{unit}", units / took, used / units * 1e6);
    Ok(done)
}

async fn small(connection: &Arc<dyn Connection>, calls: u32, at_once: u32) -> Result<()> {
    let cx = CallContext::default();
    let one = async || -> Result<()> {
        for _ in 0..calls / at_once {
            connection.call(&cx, Method(0), Message::of_head(Bytes::from_static(&[7; 64]))).await?;
        }
        Ok(())
    };
    futures::future::try_join_all((0..at_once).map(|_| one())).await?;
    Ok(())
}

async fn run(name: &str, args: &Args, at: String, client: Arc<dyn Transport>) -> Result<()> {
    let connection = client.connect(&at).await?;
    let (calls, mib) = (f64::from(args.calls), args.mib as f64);
    small(&connection, 1000, 1).await?;
    measure(&format!("{name}: calls, 1 at once"), calls, "call", small(&connection, args.calls, 1)).await?;
    measure(
        &format!("{name}: calls, 32 at once"),
        calls * 8.0,
        "call",
        small(&connection, args.calls * 8, 32),
    )
    .await?;
    let cx = CallContext::internal(Duration::from_secs(120));
    measure(&format!("{name}: to the server"), mib, "MiB", async {
        let msg = Message { head: Bytes::new(), body: mebibytes(args.mib) };
        Ok(connection.call(&cx, Method(0), msg).await?)
    })
    .await?;
    measure(&format!("{name}: from the server"), mib, "MiB", async {
        let reply = connection.call(&cx, Method(args.mib as u16), Message::of_head(Bytes::new())).await?;
        let Body::Stream(mut pieces) = reply.body else { anyhow::bail!("no stream") };
        let mut bytes = 0;
        while let Some(piece) = pieces.next().await {
            bytes += piece?.data.len() as u64;
        }
        ensure!(bytes == args.mib << 20, "{bytes} bytes came");
        Ok(())
    })
    .await
}

fn main() -> Result<()> {
    let args = Args::parse();
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let (servers, clients) = (runtime()?, runtime()?);
    let ca = ClusterCa::create(ClusterId(uuid::Uuid::nil()))?;
    let issue = |role, name| ca.issue(role, 0, name, Duration::from_secs(86_400));
    let (s, c) = (issue(Role::Master, "server")?, issue(Role::Client, "client")?);
    let quic = |me| QuicTransport::new(me, QuicOptions::default());
    let tcp = |me| TcpTransport::new(me, TcpOptions::default());
    let over = |name: &str, server: Arc<dyn Transport>, client: Arc<dyn Transport>| -> Result<()> {
        let listening = servers.block_on(server.listen("127.0.0.1:0", Arc::new(Server)))?;
        clients.block_on(run(name, &args, listening.local_addr(), client))?;
        servers.block_on(listening.close());
        Ok(())
    };
    over("QUIC", quic(&s)?, quic(&c)?)?;
    over("TCP+TLS", tcp(&s)?, tcp(&c)?)
}
