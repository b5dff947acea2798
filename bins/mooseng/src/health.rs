//! `health`: what is wrong with the cluster, why, and what to do about it.

use crate::{
    connect::Connection,
    exit,
    output::{self, Format},
};
use anyhow::Result;
use clap::Args;
use mooseng_client::{Client, report};
use mooseng_core::health::HealthCode;
use std::io::Write;

#[derive(Args)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    pub to: Connection,
    /// Format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Ends with 0 when the cluster is healthy, with 7 when data cannot be had, else with 8.
pub(crate) async fn health(client: &Client, args: &HealthArgs, out: &mut impl Write) -> Result<()> {
    let problems = client.health().await?;
    match args.output {
        Format::Table => {
            writeln!(out, "{}", report::health_word(&problems))?;
            for p in &problems {
                writeln!(out, "{} ({}): {}\n  {}", p.code, p.severity, p.cause, p.cure)?;
            }
        }
        format => output::json(out, format, &report::health(&problems))?,
    }
    let count = match problems.len() {
        0 => return Ok(()),
        1 => "the cluster has a problem".to_owned(),
        n => format!("the cluster has {n} problems"),
    };
    let lost = problems.iter().any(|p| p.code == HealthCode::ChunkMissing);
    Err(if lost { exit::integrity(count) } else { exit::degraded(count) })
}
