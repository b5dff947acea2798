//! `health`: what is wrong with the cluster, why, and what to do about it.

use crate::{
    connect::Connection,
    exit,
    output::{self, Format},
};
use anyhow::Result;
use clap::Args;
use mooseng_client::report;
use mooseng_core::health::{HealthCode, Problem};
use std::io::Write;

#[derive(Args)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    pub to: Connection,
    /// Format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Asks without a session of the caller's: where no master leads none can be opened.
pub(crate) async fn ask(args: &HealthArgs, out: &mut impl Write) -> Result<()> {
    tell(&args.to.builder()?.health().await?, args.output, out)
}

/// Ends with 0 when the cluster is healthy, with 6 when no master leads, with 7 when data cannot be had, else with 8.
pub(crate) fn tell(problems: &[Problem], format: Format, out: &mut impl Write) -> Result<()> {
    match format {
        Format::Table => {
            writeln!(out, "{}", report::health_word(problems))?;
            for p in problems {
                let cause = output::shown(&p.cause);
                writeln!(out, "{} ({}): {cause}\n  {}", p.code, p.severity, p.cure)?;
            }
        }
        format => output::json(out, format, &report::health(problems))?,
    }
    let count = match problems.len() {
        0 => return Ok(()),
        1 => "the cluster has a problem".to_owned(),
        n => format!("the cluster has {n} problems"),
    };
    let is = |code| problems.iter().any(|p| p.code == code);
    Err(match (is(HealthCode::MasterNoQuorum), is(HealthCode::ChunkMissing)) {
        (true, _) => exit::unreachable(count),
        (_, true) => exit::integrity(count),
        _ => exit::degraded(count),
    })
}
