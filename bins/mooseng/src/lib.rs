//! # The `mooseng` command line, as a library so that its verbs can be tested
//!
//! Each verb is a function over a [`mooseng_client::Client`] that writes to any `Write`; what is
//! around it (arguments, connection, exit code) is here and in `connect`.
#![allow(clippy::print_stdout, reason = "a command line prints its results")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may panic"))]

mod bench;
mod cluster;
mod connect;
mod consent;
mod dashboard;
mod doctor;
mod drain;
mod events;
mod exit;
mod files;
mod fsck;
mod gc;
mod health;
mod join;
mod lists;
mod look;
mod manual;
mod masters;
mod mini;
mod mount_helper;
mod output;
mod scrub;
mod settings;
mod stats;
mod top;
mod trace;
mod transfer;
mod tree;
mod umount;

#[cfg(test)]
mod tests;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use mooseng_client::Client;
use mooseng_support::{config::Flags, keys};
use std::{io::Write, process::ExitCode};

/// A distributed POSIX filesystem: masters, chunkservers, clients.
#[derive(Parser)]
#[command(version, about, after_help = exit::HELP)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs a whole cluster in this process, on a network in memory, and proves it.
    Mini(mini::Args),
    /// Makes clusters' authorities and certificates, and lets nodes join.
    #[command(subcommand)]
    Cluster(cluster::Verb),
    /// Runs a master (the same as mooseng-master).
    Master(Flags<keys::Master>),
    /// Runs a chunkserver (the same as mooseng-chunkserver).
    Chunkserver(Flags<keys::Chunkserver>),
    /// Mounts the filesystem and serves it until it is told to stop (the same as mooseng-mount).
    Mount(Flags<keys::Mount>),
    /// Takes a mount of this machine away, also one whose process is gone.
    Umount(umount::UmountArgs),
    /// Looks at this machine as a daemon needs it: settings, identity, ports, disks, clock, masters. Begins nothing.
    #[command(after_help = doctor::HELP)]
    Doctor(doctor::DoctorArgs),
    /// Serves web pages that show the cluster and change nothing, and the same as JSON.
    Dashboard(Flags<keys::Dashboard>),
    /// Shows, judges and explains the settings of the daemons.
    #[command(subcommand)]
    Config(settings::Verb),
    /// Writes completions for a shell.
    Completions(manual::CompletionsArgs),
    /// Writes the manual's pages.
    Man(manual::ManArgs),
    /// Tells the version.
    Version(manual::VersionArgs),
    /// Runs a verb that asks a cluster, and shows where its time went, on all nodes.
    #[command(after_help = trace::HELP)]
    Trace(trace::TraceArgs),
    #[command(flatten)]
    Client(ClientVerb),
}

/// Verbs that need a cluster.
#[derive(Subcommand)]
enum ClientVerb {
    /// Tells how the cluster is.
    Status(look::StatusArgs),
    /// Tells what is wrong with the cluster, why, and what to do about it.
    Health(health::HealthArgs),
    /// Tells how much room there is.
    Df(lists::ListArgs),
    /// Lists the disks of all chunkservers.
    Disks(lists::ListArgs),
    /// Lists the sessions of clients.
    Sessions(lists::ListArgs),
    /// Tells what happened since the leading master's election.
    Events(events::EventsArgs),
    /// Tells how many calls of each operation come to the leading master, and how long they take.
    Stats(stats::StatsArgs),
    /// Shows what is going on, again and again: calls, and who makes and serves the most.
    Top(top::TopArgs),
    /// Tells where a file's chunks are: replicas, versions, states.
    Info(look::InfoArgs),
    /// Lists directories.
    Ls(files::LsArgs),
    /// Writes files to the standard output.
    Cat(files::CatArgs),
    /// Copies local files into the cluster; `-` is the standard input.
    Put(transfer::PutArgs),
    /// Copies files out of the cluster; `-` is the standard output.
    Get(transfer::GetArgs),
    /// Copies files inside the cluster.
    Cp(transfer::CpArgs),
    /// Renames, or moves into a directory.
    Mv(files::MvArgs),
    /// Removes files, and directories with -r.
    Rm(files::RmArgs),
    /// Makes directories.
    Mkdir(files::MkdirArgs),
    /// Tells attributes.
    Stat(files::StatArgs),
    /// Tells how much is below a directory, in one call.
    Du(files::DuArgs),
    /// Compares what masters and chunkservers have, and tells what is wrong. Changes nothing.
    Fsck(fsck::FsckArgs),
    /// Tells of copies that no record names: in quarantine, too many, waiting for an operator.
    Gc(gc::GcArgs),
    /// Tells how far the verifying of all copies is; begins a round with --now.
    Scrub(scrub::ScrubArgs),
    /// Empties a chunkserver: its copies are made elsewhere. `mooseng status` shows how far it is.
    Drain(drain::DrainArgs),
    /// Measures: one large file, many small ones, names.
    Bench(bench::Args),
}

/// Parses the command line, runs the verb, tells how it ended. Started as `mount.mooseng`, it is mount(8)'s helper.
pub fn main() -> ExitCode {
    if mount_helper::is_asked_for(std::env::args_os().next().as_deref()) {
        return mount_helper::main();
    }
    match run(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if exit::is_closed_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("mooseng: {}", output::shown_lines(&format!("{e:#}")));
            if let Some(cure) = exit::cure(&e) {
                eprintln!("  {cure}");
            }
            ExitCode::from(exit::code(&e))
        }
    }
}

fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Master(flags) => mooseng_master::run(&flags),
        Verb::Chunkserver(flags) => mooseng_chunkserver::run(&flags),
        Verb::Mount(flags) => mooseng_mount::run(&flags),
        Verb::Dashboard(flags) => dashboard::run(&flags),
        Verb::Cluster(cluster::Verb::Token(args)) => with_runtime(join::token(&args, &mut std::io::stdout())),
        Verb::Cluster(cluster::Verb::Join(args)) => with_runtime(join::join(&args, &mut std::io::stdout())),
        Verb::Cluster(cluster::Verb::AddMaster(args)) => changed(&masters::Change::Add(&args)),
        Verb::Cluster(cluster::Verb::RemoveMaster(args)) => changed(&masters::Change::Remove(&args)),
        Verb::Cluster(cluster::Verb::TransferLeadership(args)) => changed(&masters::Change::Transfer(&args)),
        Verb::Cluster(cluster::Verb::Init(args)) => cluster::init(&args, &mut std::io::stdout()),
        Verb::Cluster(cluster::Verb::Issue(args)) => cluster::issue(&args, &mut std::io::stdout()),
        Verb::Mini(args) => with_runtime(mini::run(args)),
        Verb::Trace(args) => run_traced(&args),
        Verb::Client(verb) => with_runtime(run_client(verb)),
        local => run_local(&local, &mut std::io::stdout()).context("this verb is not built")?,
    }
}

/// Runs a verb that needs neither a cluster nor a runtime; `None` for others.
fn run_local(verb: &Verb, out: &mut impl Write) -> Option<anyhow::Result<()>> {
    Some(match verb {
        Verb::Umount(args) => umount::umount(args, out),
        Verb::Doctor(args) => doctor::doctor(args, out),
        Verb::Config(verb) => settings::run(verb, out),
        Verb::Completions(args) => manual::completions(args, Cli::command(), out),
        Verb::Man(args) => manual::man(args, Cli::command(), out),
        Verb::Version(args) => manual::version(args, out),
        _ => return None,
    })
}

fn changed(what: &masters::Change<'_>) -> anyhow::Result<()> {
    with_runtime(masters::change(what, &mut std::io::stdout()))
}

fn with_runtime<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "error".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("the runtime does not start")?.block_on(work)
}

/// How the cluster of a verb is reached.
const fn connection_of(verb: &ClientVerb) -> &connect::Connection {
    match verb {
        ClientVerb::Status(a) => &a.to,
        ClientVerb::Health(a) => &a.to,
        ClientVerb::Df(a) | ClientVerb::Disks(a) | ClientVerb::Sessions(a) => &a.to,
        ClientVerb::Events(a) => &a.to,
        ClientVerb::Stats(a) => &a.to,
        ClientVerb::Top(a) => &a.to,
        ClientVerb::Info(a) => &a.to,
        ClientVerb::Ls(a) => &a.to,
        ClientVerb::Cat(a) => &a.to,
        ClientVerb::Put(a) => &a.to,
        ClientVerb::Get(a) => &a.to,
        ClientVerb::Cp(a) => &a.to,
        ClientVerb::Mv(a) => &a.to,
        ClientVerb::Rm(a) => &a.to,
        ClientVerb::Mkdir(a) => &a.to,
        ClientVerb::Stat(a) => &a.to,
        ClientVerb::Du(a) => &a.to,
        ClientVerb::Fsck(a) => &a.to,
        ClientVerb::Gc(a) => &a.to,
        ClientVerb::Scrub(a) => &a.to,
        ClientVerb::Drain(a) => &a.to,
        ClientVerb::Bench(a) => &a.to,
    }
}

async fn run_client(verb: ClientVerb) -> anyhow::Result<()> {
    // Told also where no session can be opened.
    if let ClientVerb::Health(a) = &verb {
        return health::ask(a, &mut std::io::stdout()).await;
    }
    let client = connection_of(&verb).connect().await?;
    let done = unless_interrupted(&client, &verb).await;
    let flushed = std::io::stdout().flush().map_err(anyhow::Error::from);
    // What a failed verb left open ends by itself; its own error counts.
    let ended = client.shutdown(connect::SHUTDOWN).await.context("the session did not end well");
    done.and(flushed).and(ended)
}

fn run_traced(args: &trace::TraceArgs) -> anyhow::Result<()> {
    let words = std::iter::once("mooseng".into()).chain(args.verb.iter().cloned());
    let Verb::Client(verb) = Cli::try_parse_from(words).unwrap_or_else(|e| e.exit()).verb else {
        return Err(exit::usage("only a verb that asks a cluster can be traced: status, ls, put and others"));
    };
    let work = async |client: &Client| {
        let done = unless_interrupted(client, &verb).await;
        done.and(std::io::stdout().flush().map_err(Into::into))
    };
    with_runtime(trace::trace(args, connection_of(&verb), work, &mut std::io::stderr()))
}

/// Runs a verb; Ctrl-C gives it up, and removes what it left half done.
async fn unless_interrupted(client: &Client, verb: &ClientVerb) -> anyhow::Result<()> {
    let (parts, mut out) = (tree::Parts::default(), std::io::stdout());
    let mut work = Box::pin(run_on(client, verb, &parts, &mut out));
    tokio::select! {
        biased;
        done = &mut work => done,
        pressed = tokio::signal::ctrl_c() => {
            pressed?;
            parts.give_up(&client.filesystem(), work).await;
            Err(exit::interrupted())
        }
    }
}

async fn run_on(
    client: &Client,
    verb: &ClientVerb,
    parts: &tree::Parts,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    match verb {
        ClientVerb::Status(a) => look::status(client, a.output, out).await,
        ClientVerb::Health(a) => health::tell(&client.health().await?, a.output, out),
        ClientVerb::Df(a) => lists::df(client, a.output, out).await,
        ClientVerb::Disks(a) => lists::disks(client, a.output, out).await,
        ClientVerb::Sessions(a) => lists::sessions(client, a.output, out).await,
        ClientVerb::Events(a) => events::events(client, a, out).await,
        ClientVerb::Stats(a) => stats::stats(client, a, out).await,
        ClientVerb::Top(a) => top::top(client, a, out).await,
        ClientVerb::Info(a) => look::info(client, &a.path, a.output, out).await,
        ClientVerb::Ls(a) => files::ls(client, a, out).await,
        ClientVerb::Cat(a) => files::cat(client, &a.paths, out).await,
        ClientVerb::Put(a) => transfer::put(client, a, parts).await,
        ClientVerb::Get(a) => transfer::get(client, a, parts, out).await,
        ClientVerb::Cp(a) => transfer::cp(client, a, parts).await,
        ClientVerb::Mv(a) => files::mv(client, &a.from, &a.to_path).await,
        ClientVerb::Rm(a) => files::rm(client, a).await,
        ClientVerb::Mkdir(a) => files::mkdir(client, a).await,
        ClientVerb::Stat(a) => files::stat(client, &a.paths, a.output, out).await,
        ClientVerb::Du(a) => files::du(client, &a.paths, a.output, out).await,
        ClientVerb::Fsck(a) => fsck::fsck(client, a, out).await,
        ClientVerb::Gc(a) => gc::gc(client, a, out).await,
        ClientVerb::Scrub(a) => scrub::scrub(client, a, out).await,
        ClientVerb::Drain(a) => drain::drain(client, a, out).await,
        ClientVerb::Bench(a) => bench::run(client, a, out).await,
    }
}
