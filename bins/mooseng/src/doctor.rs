//! `doctor`: what a daemon would find on this machine. Each check tells what was found, and what to do where that is
//! not as it should be.

mod disks;
mod peers;
mod place;
mod running;

use crate::{
    exit,
    output::{self, Format, words},
    settings::{RoleFlags, entry_json},
};
use anyhow::Result;
use clap::Args;
use mooseng_core::attr::Timestamp;
use mooseng_net::identity::Identity;
use mooseng_support::{
    config::{Flags, Settings},
    keys::Role,
    node::load_identity,
};
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    fmt, io,
    io::Write,
    path::{Path, PathBuf},
};

/// Shown below `doctor --help`.
pub(crate) const HELP: &str = "Exit codes: 0 all is well, 8 it would run and something should be better, 1 it would not \
run, or not well, 2 usage. Without --config, the file of the systemd units is read where it is there: /etc/mooseng/ROLE.toml, of \
a mount the only /etc/mooseng/mount-NAME.toml. A small file is written into data directories that are there, and removed, to measure how fast they sync.";

/// Where the packages' units have the file of each role.
const CONFIG_DIR: &str = "/etc/mooseng";
/// A certificate that ends within so many days is told of.
const EXPIRES_DAYS: i64 = 30;

#[derive(Args)]
pub(crate) struct DoctorArgs {
    #[command(subcommand)]
    role: RoleFlags,
    /// Format.
    #[arg(short, long, value_enum, default_value_t, global = true)]
    output: Format,
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// It runs so, and should be better.
    Warning,
    /// It does not run so, or not well.
    Problem,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

/// What one look came to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Check {
    check: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do; where all is well, nothing.
    cure: Option<String>,
}

impl Check {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), cure: None }
    }
    fn warning(check: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warning, found: found.into(), cure: Some(cure.into()) }
    }
    fn problem(check: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Problem, found: found.into(), cure: Some(cure.into()) }
    }
}

/// The flags with the file that is read, and where that comes from.
fn with_file<R: Role>(flags: &Flags<R>, dir: &Path) -> (Flags<R>, Check) {
    const NAME: &str = "configuration";
    if let Some((file, source)) = flags.file() {
        return (flags.clone(), Check::ok(NAME, format!("{}, from {source}", file.display())));
    }
    let file = match unit_files(R::NAME, dir).as_slice() {
        [] => dir.join(format!("{}.toml", R::NAME)),
        [only] => only.clone(),
        several => {
            let names: Vec<_> = several.iter().map(|f| f.display().to_string()).collect();
            let found = format!("{} are there, and none was read", names.join(" and "));
            return (flags.clone(), Check::warning(NAME, found, "tell by --config which one is meant"));
        }
    };
    match file.metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let found = format!("no file: --config names none, and there is no {}", file.display());
            (flags.clone(), Check::ok(NAME, found))
        }
        // One that cannot be read is told of where it is read.
        _ => {
            let found = format!("{}, the file of the systemd units: --config names none", file.display());
            (flags.with_file(file), Check::ok(NAME, found))
        }
    }
}

/// Files of a role's units that are named by more than the role, in order: of mounts there may be several.
fn unit_files(role: &str, dir: &Path) -> Vec<PathBuf> {
    if role != "mount" {
        return vec![];
    }
    let is_one = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("mount-") && name.ends_with(".toml")
    };
    let entries = dir.read_dir().into_iter().flatten().filter_map(Result::ok);
    let mut files: Vec<_> = entries.map(|e| e.path()).filter(is_one).collect();
    files.sort();
    files
}

impl RoleFlags {
    fn with_file(&self, dir: &Path) -> (Self, Check) {
        match self {
            Self::Master(f) => {
                let (f, check) = with_file(f, dir);
                (Self::Master(f), check)
            }
            Self::Chunkserver(f) => {
                let (f, check) = with_file(f, dir);
                (Self::Chunkserver(f), check)
            }
            Self::Mount(f) => {
                let (f, check) = with_file(f, dir);
                (Self::Mount(f), check)
            }
            Self::Dashboard(f) => {
                let (f, check) = with_file(f, dir);
                (Self::Dashboard(f), check)
            }
        }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Master(_) => "master",
            Self::Chunkserver(_) => "chunkserver",
            Self::Mount(_) => "mount",
            Self::Dashboard(_) => "dashboard",
        }
    }
}

pub(crate) fn doctor(args: &DoctorArgs, out: &mut impl Write) -> Result<()> {
    let (role, file) = args.role.with_file(Path::new(CONFIG_DIR));
    // What is in the file cannot be looked past.
    let settings = role.load()?;
    let checks = all(&role, &settings, file);
    tell(role.name(), &settings, &checks, args.output, out)?;
    match worst(&checks) {
        Verdict::Ok => Ok(()),
        Verdict::Warning => Err(exit::degraded("it would run, and something should be better")),
        Verdict::Problem => Err(anyhow::anyhow!("it would not run, or not well")),
    }
}

fn worst(checks: &[Check]) -> Verdict {
    checks.iter().map(|c| c.verdict).max().unwrap_or(Verdict::Ok)
}

fn all(role: &RoleFlags, settings: &Settings, file: Check) -> Vec<Check> {
    let mut checks = vec![Check::ok("program", format!("mooseng {}", env!("CARGO_PKG_VERSION"))), file];
    let found = settings.get::<String>("identity").map_err(anyhow::Error::from);
    let identity = found.and_then(|dir| load_identity(Path::new(&dir)));
    checks.push(match &identity {
        Ok(identity) => of_identity(identity),
        Err(e) => {
            Check::problem("identity", format!("{e:#}"), "join by a token (`mooseng cluster join`), or copy the directory that the authority made for this node; its key has mode 0600")
        }
    });
    if identity.is_ok() {
        checks.push(match role.check() {
            Ok(()) => Check::ok("settings", "a start takes them"),
            Err(e) => Check::problem(
                "settings",
                format!("{e:#}"),
                "change the setting that is named, where it comes from",
            ),
        });
    }
    checks.push(place::open_files());
    let me = identity.ok().map(|i| i.peer());
    let running = running::find(role, settings, me.as_ref());
    checks.extend(place::ports(role, settings, running.as_ref()));
    match role {
        RoleFlags::Master(_) => checks.extend(disks::data_dir(settings, "data_dir", disks::MASTER_SYNC)),
        RoleFlags::Chunkserver(_) => {
            checks.extend(disks::data_dir(settings, "data_dirs", disks::CHUNKSERVER_SYNC));
        }
        RoleFlags::Mount(_) => checks.extend(place::fuse(settings, running.as_ref())),
        // It keeps nothing here.
        RoleFlags::Dashboard(_) => {}
    }
    checks.extend(peers::masters(role, settings));
    checks
}

fn of_identity(identity: &Identity) -> Check {
    const NAME: &str = "identity";
    let peer = identity.peer();
    let who = format!("{} ({} {} of cluster {})", peer.name, peer.role, peer.node, peer.cluster);
    let renew = "have the cluster's authority issue a new one (`mooseng cluster issue`), or join again";
    if let Err(e) = identity.check_now() {
        return Check::problem(NAME, format!("{who}: {e}"), format!("set the clock right, or {renew}"));
    }
    let until = match identity.validity() {
        Ok(validity) => validity.until,
        Err(e) => return Check::problem(NAME, format!("{who}: {e}"), renew),
    };
    let days = (until.secs() - now().secs()) / 86_400;
    let found = format!("{who}, valid until {} ({days} days)", output::time(until));
    if days < EXPIRES_DAYS { Check::warning(NAME, found, renew) } else { Check::ok(NAME, found) }
}

/// By this machine's clock.
fn now() -> Timestamp {
    Timestamp::new(jiff::Timestamp::now().as_second(), 0)
}

fn tell(
    role: &str,
    settings: &Settings,
    checks: &[Check],
    format: Format,
    out: &mut impl Write,
) -> Result<()> {
    if format != Format::Table {
        return output::json(out, format, &report(role, settings, checks));
    }
    let columns = [words("CHECK"), words("VERDICT"), words("FOUND")];
    let rows = checks.iter().flat_map(|c| {
        let first = [c.check.to_owned(), c.verdict.to_string(), c.found.clone()];
        let cure = c.cure.iter().map(|cure| [String::new(), String::new(), format!("→ {cure}")]);
        std::iter::once(first).chain(cure)
    });
    output::table(out, columns, rows)?;
    writeln!(out, "\nSettings of a {role}:")?;
    Ok(out.write_all(settings.print(true).as_bytes())?)
}

fn report(role: &str, settings: &Settings, checks: &[Check]) -> Value {
    json!({
        "schema": "mooseng.doctor/1",
        "role": role,
        "verdict": worst(checks),
        "checks": checks,
        "settings": settings.entries().map(|e| entry_json(&e)).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests;
