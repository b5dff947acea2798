//! A MooseNG mount as a daemon.

use clap::Parser;
use mooseng_support::{config::Flags, daemon, keys};
use std::process::ExitCode;

/// Mounts a MooseNG filesystem and serves it until it is told to stop.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(flatten)]
    flags: Flags<keys::Mount>,
}

fn main() -> ExitCode {
    daemon::exit("mooseng-mount", mooseng_mount::run(&Cli::parse().flags))
}
