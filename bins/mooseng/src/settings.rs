//! `config`: settings of a role shown with their origins, judged, and as a template.

use crate::{
    dashboard,
    output::{self, Format},
};
use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use mooseng_support::{
    config::{ConfigError, Entry, Flags, Settings},
    keys,
};
use serde_json::{Value, json};
use std::io::Write;

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Prints what would be in force, as a file for --config.
    Show(ShowArgs),
    /// Judges settings and the identity as a start would; begins nothing.
    Check(OfRole),
    /// Prints a commented template of a role's file.
    Example {
        /// Whose.
        role: RoleName,
    },
}

#[derive(Args)]
pub(crate) struct ShowArgs {
    /// Tells with each value where it came from: a flag, the environment, the file or the default.
    #[arg(long)]
    origin: bool,
    /// Format; JSON tells origins always.
    #[arg(short, long, value_enum, default_value_t, global = true)]
    output: Format,
    #[command(flatten)]
    of: OfRole,
}

#[derive(Args)]
pub(crate) struct OfRole {
    #[command(subcommand)]
    role: RoleFlags,
}

/// A role with the flags of its daemon.
#[derive(Subcommand)]
pub(crate) enum RoleFlags {
    /// Of a master; takes the flags of `mooseng master`.
    Master(Flags<keys::Master>),
    /// Of a chunkserver; takes the flags of `mooseng chunkserver`.
    Chunkserver(Flags<keys::Chunkserver>),
    /// Of a mount; takes the flags of `mooseng mount`.
    Mount(Flags<keys::Mount>),
    /// Of a dashboard; takes the flags of `mooseng dashboard`.
    Dashboard(Flags<keys::Dashboard>),
}

impl RoleFlags {
    /// What would be in force.
    pub(crate) fn load(&self) -> Result<Settings, ConfigError> {
        match self {
            Self::Master(f) => Settings::load(f),
            Self::Chunkserver(f) => Settings::load(f),
            Self::Mount(f) => Settings::load(f),
            Self::Dashboard(f) => Settings::load(f),
        }
    }

    /// Judges settings and identity as a start would.
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Self::Master(f) => mooseng_master::check(f),
            Self::Chunkserver(f) => mooseng_chunkserver::check(f),
            Self::Mount(f) => mooseng_mount::check(f),
            Self::Dashboard(f) => dashboard::check(f),
        }
    }
}

/// A setting for programs.
pub(crate) fn entry_json(e: &Entry<'_>) -> Value {
    let (source, from) = e.value.map(|(_, source)| source.parts()).unzip();
    json!({ "key": e.key, "value": e.value.map(|(text, _)| text), "source": source, "from": from.flatten() })
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum RoleName {
    Master,
    Chunkserver,
    Mount,
    Dashboard,
}

impl RoleName {
    const fn template(self) -> &'static str {
        match self {
            Self::Master => include_str!("../../../docker/configs/master.toml"),
            Self::Chunkserver => include_str!("../../../docker/configs/chunkserver.toml"),
            Self::Mount => include_str!("../../../docker/configs/client.toml"),
            Self::Dashboard => include_str!("../../../docker/configs/dashboard.toml"),
        }
    }
}

pub(crate) fn run(verb: &Verb, out: &mut impl Write) -> Result<()> {
    match verb {
        Verb::Show(args) => {
            let settings = args.of.role.load()?;
            if args.output == Format::Table {
                return Ok(out.write_all(settings.print(args.origin).as_bytes())?);
            }
            let all: Vec<_> = settings.entries().collect();
            output::list(out, (args.output, "mooseng.config/1"), &all, entry_json, [], |_| [])
        }
        Verb::Check(of) => {
            of.role.check()?;
            Ok(writeln!(out, "the settings are good")?)
        }
        Verb::Example { role } => Ok(out.write_all(role.template().as_bytes())?),
    }
}
