//! `mooseng cluster add-master`, `remove-master`, `transfer-leadership`: changing the masters while they
//! run.

use crate::{
    connect::{Connection, SHUTDOWN},
    consent::Consent,
    exit::{timed_out, usage},
    output::{self, Format, shown},
};
use anyhow::{Context as _, Result};
use clap::Args;
use mooseng_client::{Client, report};
use mooseng_core::{
    ids::MasterId,
    limits::MASTERS_MAX,
    meta::{AddMaster, MasterInfo, RemoveMaster, TransferLeadership},
};
use mooseng_support::addr;
use std::io::Write;

#[derive(Args)]
pub(crate) struct AddArgs {
    #[command(flatten)]
    to: Connection,
    /// The new master's number, as its certificate has it. It runs already, with `--raft-peers wait`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    node: u64,
    /// Where the other masters reach it, host:port (its raft_port, 9422).
    #[arg(long, value_name = "ADDR")]
    raft_addr: String,
    /// Where clients and chunkservers reach it, host:port (its listen_port, 9421).
    #[arg(long, value_name = "ADDR")]
    client_addr: String,
    /// Format of the list of masters.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Args)]
pub(crate) struct OneArgs {
    #[command(flatten)]
    to: Connection,
    /// The master's number.
    #[arg(value_name = "N")]
    node: u64,
    /// Format of the list of masters.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Args)]
pub(crate) struct RemoveArgs {
    #[command(flatten)]
    one: OneArgs,
    #[command(flatten)]
    consent: Consent,
}

/// What is to be done. The leader does it; each can be repeated.
pub(crate) enum Change<'a> {
    Add(&'a AddArgs),
    Remove(&'a RemoveArgs),
    Transfer(&'a OneArgs),
}

pub(crate) async fn change(what: &Change<'_>, out: &mut impl Write) -> Result<()> {
    let (to, format) = match what {
        Change::Add(a) => (&a.to, a.output),
        Change::Remove(a) => (&a.one.to, a.one.output),
        Change::Transfer(a) => (&a.to, a.output),
    };
    let client = to.connect().await?;
    let done = change_by(&client, what, format, out).await;
    let ended = client.shutdown(SHUTDOWN).await.context("the session did not end well");
    done.and(ended)
}

async fn change_by(client: &Client, what: &Change<'_>, format: Format, out: &mut impl Write) -> Result<()> {
    let masters = client.status().await?.masters;
    match what {
        Change::Add(a) => {
            if let Err(e) = add(client, a, &masters).await {
                return Err(not_added(client, a, e).await);
            }
        }
        Change::Remove(RemoveArgs { one, consent }) => {
            let m = known(&masters, one.node)?;
            consent.given(&format!("removes master {} ({}) for good", one.node, m.client_addr)).await?;
            let id = MasterId(one.node);
            client.request(RemoveMaster { id }).await.context("the master was not removed")?;
        }
        Change::Transfer(a) => {
            let m = known(&masters, a.node)?;
            if !m.voter {
                return Err(usage(format!("master {} does not vote yet: it cannot lead", a.node)));
            }
            let to = MasterId(a.node);
            client.request(TransferLeadership { to }).await.context("leadership was not handed over")?;
        }
    }
    tell(&client.status().await?.masters, format, out)
}

fn known(masters: &[MasterInfo], node: u64) -> Result<&MasterInfo> {
    let all: Vec<_> = masters.iter().map(|m| m.id.get().to_string()).collect();
    let found = masters.iter().find(|m| m.id.get() == node);
    found.ok_or_else(|| usage(format!("there is no master {node}, there are {}", all.join(", "))))
}

async fn add(client: &Client, a: &AddArgs, masters: &[MasterInfo]) -> Result<()> {
    let address = |text: &str| addr::with_port(text.trim()).map_err(usage);
    let (raft_addr, client_addr) = (address(&a.raft_addr)?, address(&a.client_addr)?);
    for m in masters {
        let same = m.raft_addr == raft_addr && m.client_addr == client_addr;
        if m.id.get() == a.node && !same {
            let (node, raft, at) = (a.node, &m.raft_addr, &m.client_addr);
            return Err(usage(format!("master {node} is there, at {raft} and {at}: remove it first")));
        }
        if m.id.get() != a.node && (m.raft_addr == raft_addr || m.client_addr == client_addr) {
            return Err(usage(format!("master {} has one of these addresses", m.id.get())));
        }
    }
    if masters.len() >= MASTERS_MAX && masters.iter().all(|m| m.id.get() != a.node) {
        return Err(usage(format!("there are {} masters, the limit is {MASTERS_MAX}", masters.len())));
    }
    let request = AddMaster { id: MasterId(a.node), raft_addr, client_addr };
    Ok(client.request(request).await?)
}

/// Why a master was not added, and what is left of it.
async fn not_added(client: &Client, a: &AddArgs, e: anyhow::Error) -> anyhow::Error {
    let masters = client.status().await.map(|s| s.masters).unwrap_or_default();
    match masters.iter().find(|m| m.id.get() == a.node && !m.voter) {
        Some(m) => timed_out(format!(
            "master {0} is not filled yet, it does not vote. Check that it runs, with `--raft-peers wait`, and \
             that the other masters reach it at {1}; then ask again, or take it back with `mooseng cluster \
             remove-master {0}`",
            a.node, m.raft_addr
        )),
        None => e.context("the master was not added, as far as is known"),
    }
}

/// The masters as they are now, and what is odd about their number.
pub(crate) fn tell(masters: &[MasterInfo], format: Format, out: &mut impl Write) -> Result<()> {
    match format {
        Format::Table => masters.iter().try_for_each(|m| line(m, out))?,
        format => output::list(out, (format, "mooseng.masters/1"), masters, report::master_item, [], |_| [])?,
    }
    let voters = masters.iter().filter(|m| m.voter).count();
    if voters.is_multiple_of(2) {
        let bear = voters.saturating_sub(1) / 2;
        eprintln!("{voters} masters bear the loss of {bear}, as {} do: make their number odd", voters - 1);
    }
    Ok(())
}

fn line(m: &MasterInfo, out: &mut impl Write) -> Result<()> {
    let role = match (m.leader, m.voter) {
        (true, _) => "leads",
        (false, true) => "votes",
        (false, false) => "is being filled",
    };
    Ok(writeln!(out, "master {} at {} {role}", m.id.get(), shown(&m.client_addr))?)
}
