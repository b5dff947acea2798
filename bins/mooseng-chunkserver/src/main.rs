//! A MooseNG chunkserver as a daemon.

use clap::Parser;
use mooseng_support::{config::Flags, daemon, keys};
use std::process::ExitCode;

/// A MooseNG chunkserver: keeps chunks on its disks.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(flatten)]
    flags: Flags<keys::Chunkserver>,
}

fn main() -> ExitCode {
    daemon::exit("mooseng-chunkserver", mooseng_chunkserver::run(&Cli::parse().flags))
}
