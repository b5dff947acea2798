//! `trace`: runs a verb, asks all nodes what they did for it, and shows where the time went.

mod waterfall;

use crate::{
    connect::{Connection, SHUTDOWN},
    exit,
    output::Format,
};
use anyhow::{Context as _, Result};
use clap::Args;
use mooseng_client::Client;
use mooseng_core::{
    context::CallContext,
    ids::{SpanId, TraceId},
    net::{Message, Role, Transport},
    rpc::method,
    trace::{self, SpanRecord},
    wire,
};
use mooseng_support::trace::{fresh_trace, spans_of};
use std::{ffi::OsString, io::Write, sync::Arc, time::Duration};
use tracing::Instrument as _;
use waterfall::Waterfall;

/// Longest wait for what a node has of a trace.
const ASK: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(crate) struct TraceArgs {
    /// Format of the waterfall, which goes to the standard error.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// A verb that asks a cluster, with its arguments: `mooseng trace -- put FILE /`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "VERB")]
    pub verb: Vec<OsString>,
}

impl TraceArgs {
    fn title(&self) -> String {
        self.verb.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }
}

/// Runs `work` on a client of its own, and tells on `to` where its time went. What the verb found is its answer.
pub(crate) async fn trace(
    args: &TraceArgs,
    connection: &Connection,
    work: impl AsyncFnOnce(&Client) -> Result<()>,
    to: &mut impl Write,
) -> Result<()> {
    if connection.identity()?.peer().role != Role::Admin {
        return Err(exit::usage("traces are told to an admin: give the identity of one (--identity)"));
    }
    let id = fresh_trace();
    let root = trace::begin(id, SpanId(0), &args.title());
    let done = async {
        let client = connection.connect().await?;
        let done = work(&client).await;
        Ok::<_, anyhow::Error>((client, done))
    };
    let (client, done) = done.instrument(root).await?;
    let nodes = nodes(&client).await;
    // What it still writes ends here, and so do the spans of that.
    let ended = client.shutdown(SHUTDOWN).await.context("the session did not end well");
    let transport = connection.transport()?;
    let told = nodes?.into_iter().map(|(name, addr)| {
        let transport = transport.clone();
        async move {
            let spans = ask(&*transport, &addr, id).await;
            (name, spans)
        }
    });
    let mut told = futures::future::join_all(told).await;
    let silent: Vec<_> = told.extract_if(.., |(_, spans)| spans.is_err()).collect();
    let told = told.into_iter().filter_map(|(name, spans)| Some((name, spans.ok()?)));
    Waterfall::new(spans_of(id), told.collect()).show(args.output, id, to)?;
    for (name, spans) in silent {
        if let Err(e) = spans {
            writeln!(to, "{name} does not tell: {e:#}")?;
        }
    }
    done.and(ended)
}

/// Names and addresses of all nodes that live.
async fn nodes(client: &Client) -> Result<Vec<(String, String)>> {
    let status = client.status().await?;
    let masters = status.masters.iter().map(|m| (format!("master {}", m.id.get()), m.client_addr.clone()));
    let servers = status.servers.iter().filter(|s| s.alive);
    let servers = servers.map(|s| (format!("chunkserver {}", s.id.get()), s.addr.clone()));
    Ok(masters.chain(servers).collect())
}

async fn ask(transport: &dyn Transport, addr: &str, trace: TraceId) -> Result<Vec<SpanRecord>> {
    let work = async {
        let connection = transport.connect(addr).await?;
        let message = Message::of_head(wire::encode(&trace));
        let reply = connection.call(&CallContext::internal(ASK), method::TRACE, message).await?;
        connection.close();
        Ok(wire::decode(&reply.head)?)
    };
    tokio::time::timeout(ASK, work).await.context("no answer in time")?
}
