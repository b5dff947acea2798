//! `faults`: what a cluster of real processes does when it is killed, stopped, cut off, filled up
//! and corrupted. Prints what it measured; ends with 0 when nothing was wrong and no aim was missed.
#![allow(clippy::print_stdout, reason = "it is what the command is for")]

use anyhow::Result;
use clap::{Parser, ValueEnum};
use mooseng_e2e::{
    faults::{self, Amount},
    report::Report,
};
use std::process::ExitCode;

/// Real processes under faults.
#[derive(Parser)]
struct Cli {
    /// Which scenarios.
    #[arg(required = true)]
    scenarios: Vec<Scenario>,
    /// Fewer kills, fewer flips.
    #[arg(long)]
    quick: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// kill -9 of the leading master under load.
    Leader,
    /// kill -9 of chunkservers while files are written.
    Chunkserver,
    /// Everything killed at once under load.
    Power,
    /// SIGSTOP of the leader, of a chunkserver, of a writing client.
    Pause,
    /// One bit flipped in each kind of file.
    Bitflips,
    /// Disks filled and emptied.
    Full,
    /// Nodes cut off fully, one way and with loss.
    Network,
    /// Every scenario.
    All,
}

impl Scenario {
    fn run(self, amount: Amount, report: &mut Report) -> Result<()> {
        match self {
            Self::Leader => faults::leader(amount, report),
            Self::Chunkserver => faults::chunkserver(amount, report),
            Self::Power => faults::power(amount, report),
            Self::Pause => faults::pause(amount, report),
            Self::Bitflips => faults::bitflips(amount, report),
            Self::Full => faults::full(amount, report),
            Self::Network => faults::network(amount, report),
            Self::All => Ok(()),
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let amount = if cli.quick { Amount::Quick } else { Amount::Full };
    let all = cli.scenarios.contains(&Scenario::All);
    let wanted: Vec<_> = Scenario::value_variants()
        .iter()
        .filter(|s| **s != Scenario::All && (all || cli.scenarios.contains(s)))
        .collect();
    let mut reports = Vec::new();
    for scenario in wanted {
        let name = scenario.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
        let mut report = Report::new(&name);
        if let Err(e) = scenario.run(amount, &mut report) {
            report.fail(format!("the scenario could not go on: {e:#}"));
        }
        println!("{}", report.verdict());
        reports.push(report);
    }
    println!("\n== verdicts");
    reports.iter().for_each(|r| println!("{}", r.verdict()));
    if reports.iter().all(Report::good) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
