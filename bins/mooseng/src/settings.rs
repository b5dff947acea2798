//! `config`: settings of a role shown with their origins, judged, and as a template.

use crate::dashboard;
use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use mooseng_support::{
    config::{Flags, Settings},
    keys,
};
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
    #[command(flatten)]
    of: OfRole,
}

#[derive(Args)]
pub(crate) struct OfRole {
    #[command(subcommand)]
    role: RoleFlags,
}

#[derive(Subcommand)]
enum RoleFlags {
    /// Of a master; takes the flags of `mooseng master`.
    Master(Flags<keys::Master>),
    /// Of a chunkserver; takes the flags of `mooseng chunkserver`.
    Chunkserver(Flags<keys::Chunkserver>),
    /// Of a mount; takes the flags of `mooseng mount`.
    Mount(Flags<keys::Mount>),
    /// Of a dashboard; takes the flags of `mooseng dashboard`.
    Dashboard(Flags<keys::Dashboard>),
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
            let settings = match &args.of.role {
                RoleFlags::Master(f) => Settings::load(f)?,
                RoleFlags::Chunkserver(f) => Settings::load(f)?,
                RoleFlags::Mount(f) => Settings::load(f)?,
                RoleFlags::Dashboard(f) => Settings::load(f)?,
            };
            Ok(out.write_all(settings.print(args.origin).as_bytes())?)
        }
        Verb::Check(of) => {
            match &of.role {
                RoleFlags::Master(f) => mooseng_master::check(f)?,
                RoleFlags::Chunkserver(f) => mooseng_chunkserver::check(f)?,
                RoleFlags::Mount(f) => mooseng_mount::check(f)?,
                RoleFlags::Dashboard(f) => dashboard::check(f)?,
            }
            Ok(writeln!(out, "the settings are good")?)
        }
        Verb::Example { role } => Ok(out.write_all(role.template().as_bytes())?),
    }
}
