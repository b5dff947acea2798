//! `trace`: runs a verb, asks all nodes what they did for it, and shows where the time went.

mod waterfall;

use crate::{
    connect::{Connection, SHUTDOWN},
    exit,
    output::{self, Format},
};
use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use mooseng_client::Client;
use mooseng_core::{
    context::CallContext,
    ids::TraceId,
    net::{Message, Role, Transport},
    rpc::method,
    trace::{self, Here, SPANS_MAX, SpanRecord},
    wire,
};
use mooseng_support::trace::{fresh_trace, spans_of};
use std::{ffi::OsString, io::Write, time::Duration};
use waterfall::{Missing, Waterfall};

/// Shown below `mooseng trace --help`.
pub(crate) const HELP: &str = "\
Example: mooseng trace -- put report.pdf /
The waterfall goes to the standard error, what the verb prints to the standard output. Only an admin's identity is \
told traces. Nodes that do not answer are named: what they did is missing.";

/// Why a node may have told a part only.
const TOO_MANY: &str = "it did more than is told of one trace: the steps that ended first are missing";

/// Longest wait for what a node has of a trace.
const ASK: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(crate) struct TraceArgs {
    /// Format of the waterfall.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// A verb that asks a cluster, with its arguments.
    #[arg(last = true, required = true, value_name = "VERB")]
    pub verb: Vec<OsString>,
}

impl TraceArgs {
    fn title(&self) -> String {
        self.verb.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }
}

/// A node, where it is asked; why it cannot be, when that is known already.
type Node = (String, Result<String>);

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
    mooseng_support::trace::begin(None);
    let id = fresh_trace();
    let verb = async {
        let client = connection.connect().await?;
        let done = work(&client).await;
        // What it still writes is on the disks then.
        let ended = client.shutdown(SHUTDOWN).await.context("the session did not end well");
        done.and(ended)
    };
    let title = args.title();
    let place = Here { trace: id, ..Here::NOWHERE };
    let done = trace::within(place, trace::step_as(|| output::shown(&title).into_owned(), verb)).await;
    let shown = show(args, connection, id, to).await;
    // What the verb came to counts before that.
    done.and(shown)
}

/// Gathers the trace, and shows it.
async fn show(args: &TraceArgs, connection: &Connection, id: TraceId, to: &mut impl Write) -> Result<()> {
    let (told, mut missing) = gather(connection, id).await?;
    let here = spans_of(id);
    if here.len() >= SPANS_MAX {
        missing.push(Missing { node: "here".into(), cause: TOO_MANY.into() });
    }
    #[cfg(feature = "otlp")]
    if let Err(e) = mooseng_support::trace::otlp::send_now(&connection.identity()?.peer(), id, &here).await {
        tracing::error!(error = format_args!("{e:#}"), "the spans of this process were not sent");
    }
    Waterfall::new(here, told, missing).show(args.output, id, to)
}

/// What the nodes have of a trace, and which do not tell.
async fn gather(
    connection: &Connection,
    id: TraceId,
) -> Result<(Vec<(String, Vec<SpanRecord>)>, Vec<Missing>)> {
    let transport = connection.transport()?;
    let nodes = nodes(connection).await;
    let asks = nodes.into_iter().map(|(name, addr)| {
        let transport = transport.clone();
        async move {
            let told = async { ask(&*transport, &addr?, id).await }.await;
            (name, told)
        }
    });
    let (mut told, mut missing) = (Vec::new(), Vec::new());
    for (node, spans) in futures::future::join_all(asks).await {
        match spans {
            Ok(spans) => {
                if spans.len() >= SPANS_MAX {
                    missing.push(Missing { node: node.clone(), cause: TOO_MANY.into() });
                }
                told.push((node, spans));
            }
            Err(e) => missing.push(Missing { node, cause: format!("{e:#}") }),
        }
    }
    Ok((told, missing))
}

/// All nodes, as the leader knows them; the masters that were named, where nobody leads.
async fn nodes(connection: &Connection) -> Vec<Node> {
    let known = async {
        let client = connection.connect().await?;
        let status = client.status().await;
        client.shutdown(SHUTDOWN).await?;
        Ok::<_, anyhow::Error>(status?)
    };
    let status = match known.await {
        Ok(status) => status,
        Err(e) => {
            let masters = connection.masters().iter().map(|at| (format!("master at {at}"), Ok(at.clone())));
            let unknown = e.context("which there are is not known");
            return masters.chain([("chunkservers".into(), Err(unknown))]).collect();
        }
    };
    let masters = status.masters.into_iter().map(|m| (format!("master {}", m.id.get()), Ok(m.client_addr)));
    let servers = status.servers.into_iter().map(|s| {
        let addr = if s.alive { Ok(s.addr) } else { Err(anyhow!("the masters do not hear it")) };
        (format!("chunkserver {}", s.id.get()), addr)
    });
    masters.chain(servers).collect()
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
