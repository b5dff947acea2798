//! The `mooseng` command line.
#![allow(clippy::print_stdout, reason = "a command line prints its results")]

mod mini;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A distributed POSIX filesystem: masters, chunkservers, clients.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs a whole cluster in this process, on a network in memory, and proves it.
    Mini(mini::Args),
}

fn main() -> ExitCode {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "error".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let Cli { verb: Verb::Mini(args) } = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("mooseng: the runtime does not start: {e}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(mini::run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("mooseng: {e:#}");
            ExitCode::FAILURE
        }
    }
}
