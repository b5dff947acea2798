//! `umount`: takes a mount of this machine away.

use crate::output::{self, Format};
use anyhow::Result;
use clap::Args;
use serde_json::json;
use std::{io::Write, path::PathBuf};

#[derive(Args)]
pub(crate) struct UmountArgs {
    /// Where it is mounted.
    #[arg(value_name = "DIR")]
    point: PathBuf,
    /// Takes it out of the tree although something is open there; it ends when that is closed.
    #[arg(short, long)]
    lazy: bool,
    /// Format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Also of a mount whose process is gone. A filesystem that is no MooseNG is left alone.
pub(crate) fn umount(args: &UmountArgs, out: &mut impl Write) -> Result<()> {
    mooseng_fuse::unmount_any(&args.point, args.lazy)?;
    tell(args, out)
}

fn tell(args: &UmountArgs, out: &mut impl Write) -> Result<()> {
    let point = args.point.display();
    if args.output == Format::Table {
        let open = if args.lazy { "; what is open there still works until it is closed" } else { "" };
        return Ok(writeln!(out, "{point} is unmounted{open}")?);
    }
    let whole = json!({ "schema": "mooseng.umount/1", "mount_point": point.to_string(), "lazy": args.lazy });
    output::json(out, args.output, &whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{exit, tests::looks::pinned};

    fn args(point: &str, output: Format) -> UmountArgs {
        UmountArgs { point: point.into(), lazy: true, output }
    }

    #[test]
    fn what_was_done_is_told() {
        let mut out = Vec::new();
        tell(&args("/mnt/moose", Format::Json), &mut out).unwrap();
        pinned("umount", &serde_json::from_slice(&out).unwrap());
        let mut out = Vec::new();
        tell(&args("/mnt/moose", Format::Table), &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().starts_with("/mnt/moose is unmounted; what is open"));
    }

    #[test]
    fn what_is_no_mount_of_ours_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for (point, code) in [(dir.path().to_str().unwrap(), 3), ("/proc", 2), ("/no/such/place", 3)] {
            let e = umount(&args(point, Format::Table), &mut Vec::new()).unwrap_err();
            assert_eq!(exit::code(&e), code, "{point}: {e:#}");
        }
    }
}
