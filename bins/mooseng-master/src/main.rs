//! A MooseNG master as a daemon.

use clap::Parser;
use mooseng_support::{config::Flags, daemon, keys};
use std::process::ExitCode;

/// A MooseNG master: keeps the namespace, with the other masters, by Raft.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(flatten)]
    flags: Flags<keys::Master>,
}

fn main() -> ExitCode {
    daemon::exit("mooseng-master", mooseng_master::run(&Cli::parse().flags))
}
