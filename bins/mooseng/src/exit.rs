//! Exit codes, and what to do about an error.

use anyhow::anyhow;
use mooseng_client::{Error, ErrorKind};
use mooseng_core::{
    error::{Errno, MetaError, NetError},
    join::JoinError,
};
use mooseng_fuse::MountError;
use mooseng_support::config::ConfigError;
use std::{fmt, io};

/// Shown below `--help`.
pub(crate) const HELP: &str = "Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 permission, 5 temporary, \
6 cluster unreachable, 7 integrity problem, 8 degraded, 10 timeout, 130 interrupted.";

const ERROR: u8 = 1;
const USAGE: u8 = 2;
const NOT_FOUND: u8 = 3;
const PERMISSION: u8 = 4;
const TEMPORARY: u8 = 5;
const UNREACHABLE: u8 = 6;
const INTEGRITY: u8 = 7;
const DEGRADED: u8 = 8;
const TIMEOUT: u8 = 10;
/// As shells have it for SIGINT.
const INTERRUPTED: u8 = 130;

/// A mistake in what was asked for.
#[derive(Debug)]
struct Usage(String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// An error for exit code 2.
pub(crate) fn usage(text: impl fmt::Display) -> anyhow::Error {
    anyhow!(Usage(text.to_string()))
}

/// What a verb looked for and found, with its exit code.
#[derive(Debug)]
struct Found(u8, String);

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.1)
    }
}

impl std::error::Error for Found {}

/// An error for exit code 6, where more is known than that nobody leads.
pub(crate) fn unreachable(text: impl fmt::Display) -> anyhow::Error {
    anyhow!(Found(UNREACHABLE, text.to_string()))
}

/// An error for exit code 7: damage, or loss.
pub(crate) fn integrity(text: impl fmt::Display) -> anyhow::Error {
    anyhow!(Found(INTEGRITY, text.to_string()))
}

/// An error for exit code 8: all is there, and less safe than it should be.
pub(crate) fn degraded(text: impl fmt::Display) -> anyhow::Error {
    anyhow!(Found(DEGRADED, text.to_string()))
}

/// An error for exit code 10, where more is known than that time ran out.
pub(crate) fn timed_out(text: impl fmt::Display) -> anyhow::Error {
    anyhow!(Found(TIMEOUT, text.to_string()))
}

/// Ctrl-C.
#[derive(Debug)]
struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted; what was not whole yet was removed")
    }
}

impl std::error::Error for Interrupted {}

/// The error of a verb that was given up.
pub(crate) fn interrupted() -> anyhow::Error {
    anyhow!(Interrupted)
}

/// Whether the reader of our output went away, as `head` does.
pub(crate) fn is_closed_pipe(e: &anyhow::Error) -> bool {
    let io = |c: &(dyn std::error::Error + 'static)| {
        c.downcast_ref::<io::Error>().map(io::Error::kind) == Some(io::ErrorKind::BrokenPipe)
    };
    e.chain().any(io)
}

/// The exit code for an error.
pub(crate) fn code(e: &anyhow::Error) -> u8 {
    e.chain().find_map(code_of).unwrap_or(ERROR)
}

fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if cause.is::<Usage>() || cause.is::<ConfigError>() {
        return Some(USAGE);
    }
    if let Some(Found(code, _)) = cause.downcast_ref::<Found>() {
        return Some(*code);
    }
    if cause.is::<Interrupted>() {
        return Some(INTERRUPTED);
    }
    if let Some(e) = cause.downcast_ref::<Error>() {
        return Some(of_client(e));
    }
    if let Some(e) = cause.downcast_ref::<NetError>() {
        return Some(if matches!(e, NetError::Identity { .. }) { PERMISSION } else { ERROR });
    }
    if let Some(e) = cause.downcast_ref::<JoinError>() {
        return Some(of_join(e));
    }
    if let Some(e) = cause.downcast_ref::<MountError>() {
        return of_mount(e);
    }
    match cause.downcast_ref::<io::Error>()?.kind() {
        io::ErrorKind::NotFound => Some(NOT_FOUND),
        io::ErrorKind::PermissionDenied => Some(PERMISSION),
        _ => None,
    }
}

/// `None`: what is below it tells.
fn of_mount(e: &MountError) -> Option<u8> {
    match e {
        MountError::NotMounted { .. } => Some(NOT_FOUND),
        MountError::Other { .. } | MountError::Point { .. } => Some(USAGE),
        MountError::Busy { .. } => Some(TEMPORARY),
        MountError::Unmount { cause, .. } | MountError::Refused { cause, .. } => code_of(cause),
        MountError::AllowOther => Some(PERMISSION),
        _ => None,
    }
}

fn of_join(e: &JoinError) -> u8 {
    match e {
        JoinError::Text(_) | JoinError::Invalid(_) => USAGE,
        JoinError::Foreign { .. }
        | JoinError::Unknown(_)
        | JoinError::Expired(_)
        | JoinError::Used(_)
        | JoinError::Signature(_) => PERMISSION,
        JoinError::TooMany { .. } => TEMPORARY,
        e if e.is_retryable() => TEMPORARY,
        _ => ERROR,
    }
}

fn of_client(e: &Error) -> u8 {
    if let Error::Meta(MetaError::Join(e)) = e {
        return of_join(e);
    }
    // Refused by the certificate: no time and no other master changes it.
    if let Error::Meta(MetaError::Net(NetError::Identity { .. }))
    | Error::Masters { last: MetaError::Net(NetError::Identity { .. }), .. } = e
    {
        return PERMISSION;
    }
    // A name that no filesystem takes is a mistake of who typed it.
    if let Error::Meta(MetaError::Name(_)) = e {
        return USAGE;
    }
    match e.kind() {
        ErrorKind::NotFound => NOT_FOUND,
        ErrorKind::PermissionDenied => PERMISSION,
        ErrorKind::InvalidInput => USAGE,
        ErrorKind::Unreachable => UNREACHABLE,
        ErrorKind::TimedOut if matches!(e, Error::Meta(MetaError::NoQuorum(_))) => TEMPORARY,
        ErrorKind::TimedOut => TIMEOUT,
        ErrorKind::DataLoss => INTEGRITY,
        _ if e.is_retryable() => TEMPORARY,
        _ => ERROR,
    }
}

/// What to do about it, where that can be told.
pub(crate) fn cure(e: &anyhow::Error) -> Option<&'static str> {
    let client = e.chain().find_map(|c| c.downcast_ref::<Error>())?;
    if let Error::Meta(MetaError::Join(_)) = client {
        // Its text tells the cure.
        return None;
    }
    match client.errno() {
        Errno::ENOENT => return Some("look with `mooseng ls` at the directory above"),
        Errno::ENOTEMPTY => return Some("use -r to remove what is below, too"),
        Errno::EEXIST => return Some("choose another name, or remove what is there first"),
        Errno::ENOSPC => {
            return Some("the disks are full: `mooseng status` shows them; remove files, or add disks");
        }
        _ => {}
    }
    match of_client(client) {
        UNREACHABLE => Some("check --masters, and that masters run: curl http://MASTER:9423/health"),
        PERMISSION => Some(
            "check --identity: it must be a certificate of this cluster, a client's, or an admin's to change the cluster",
        ),
        TEMPORARY => Some("it may pass: try again; `mooseng status` shows which parts are missing"),
        INTEGRITY => Some("`mooseng info PATH` shows the replicas of the file's chunks"),
        TIMEOUT => Some("`mooseng status` shows which parts are slow or missing; --timeout waits longer"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;
    use mooseng_core::{join::TokenId, name::NameError};

    #[test]
    fn each_kind_has_its_code() {
        let masters = |last| Error::Masters { tried: "m1:1".into(), millis: 1, last };
        let identity = NetError::Identity { peer: "m1".into(), cause: "foreign".into() };
        let unmount = |kind: io::ErrorKind| MountError::Unmount { point: "/m".into(), cause: kind.into() };
        for (error, wanted) in [
            (anyhow!("anything"), ERROR),
            (usage("x"), USAGE),
            (interrupted(), INTERRUPTED),
            (integrity("x"), INTEGRITY),
            (degraded("x"), DEGRADED),
            (unreachable("x"), UNREACHABLE),
            (Error::from(Errno::ENOENT).into(), NOT_FOUND),
            (Error::from(Errno::EACCES).into(), PERMISSION),
            (Error::from(MetaError::Name(NameError::TooLong)).into(), USAGE),
            (Error::from(Errno::ENOTEMPTY).into(), ERROR),
            (Error::from(MetaError::NoQuorum("1 of 3".into())).into(), TEMPORARY),
            (masters(MetaError::NoQuorum("1 of 3".into())).into(), UNREACHABLE),
            (masters(MetaError::Net(identity.clone())).into(), PERMISSION),
            (identity.into(), PERMISSION),
            (JoinError::Expired(TokenId([0; 32])).into(), PERMISSION),
            (JoinError::Text("x".into()).into(), USAGE),
            (Error::from(MetaError::Join(JoinError::Clash("x".into()))).into(), ERROR),
            (Error::from(MetaError::Join(JoinError::TooMany { limit: 1 })).into(), TEMPORARY),
            (masters(MetaError::Join(JoinError::Busy("x".into()))).into(), UNREACHABLE),
            (Error::from(Errno::ETIMEDOUT).into(), TIMEOUT),
            (io::Error::from(io::ErrorKind::NotFound).into(), NOT_FOUND),
            (MountError::NotMounted { point: "/m".into() }.into(), NOT_FOUND),
            (MountError::Other { point: "/m".into(), kind: "tmpfs".into() }.into(), USAGE),
            (MountError::Busy { point: "/m".into() }.into(), TEMPORARY),
            (unmount(io::ErrorKind::PermissionDenied).into(), PERMISSION),
            (unmount(io::ErrorKind::Other).into(), ERROR),
        ] {
            let error: anyhow::Error = error;
            let said = format!("{error:#}");
            assert_eq!(code(&error), wanted, "{said}");
            assert_eq!(code(&Err::<(), _>(error).context("around").unwrap_err()), wanted, "around: {said}");
        }
    }
}
