//! Data directories: whether they can be used, how much room there is, how fast they sync.

use super::Check;
use crate::output::size;
use mooseng_support::{config::Settings, node::data_dir_error};
use rustix::{fs::Access, io::Errno};
use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const NAME: &str = "data directory";
/// Syncs that are measured; the middle one counts.
const SYNCS: usize = 15;
/// Bytes before each of them.
const BLOCK: usize = 4096;
/// Each change of the namespace waits for a sync of a majority of the masters.
pub(super) const MASTER_SYNC: Duration = Duration::from_millis(10);
/// An fsync of a program waits for one of each chunkserver of the chain.
pub(super) const CHUNKSERVER_SYNC: Duration = Duration::from_millis(30);

/// One or two checks for each directory of a key.
pub(super) fn data_dir(settings: &Settings, key: &str, fast: Duration) -> Vec<Check> {
    settings.list(key).iter().flat_map(|dir| one(Path::new(dir), fast)).collect()
}

fn one(dir: &Path, fast: Duration) -> Vec<Check> {
    if dir.metadata().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
        let above = nearest(dir);
        let may = rustix::fs::access(&above, Access::WRITE_OK | Access::EXEC_OK);
        return vec![judge_missing(dir, &above, may)];
    }
    let took = match sync_time(dir) {
        Ok(took) => took,
        Err(e) => {
            let said = data_dir_error(dir, &e).to_string();
            let (found, cure) = said.rsplit_once("; ").unwrap_or((&said, "choose another"));
            return vec![Check::problem(NAME, found, cure)];
        }
    };
    vec![room(dir, &dir.display().to_string()), judge_sync(dir, took, fast)]
}

/// Of one that is not there, as on a new machine: a start makes it, or systemd before that. Nothing is made here, so
/// how fast it syncs is not known yet.
pub(super) fn judge_missing(dir: &Path, above: &Path, may: Result<(), Errno>) -> Check {
    let at = dir.display();
    let Err(e) = may else { return room(above, &format!("{at} is not there yet, and a start makes it")) };
    let user = rustix::process::geteuid().as_raw();
    Check::warning(
        NAME,
        format!("{at} is not there yet, and user {user} cannot make it in {}: {e}", above.display()),
        format!(
            "leave it to the systemd unit, whose StateDirectory= makes it, or make it and give it to user {user} (chown)"
        ),
    )
}

/// How much room there is.
fn room(at: &Path, found: &str) -> Check {
    let room = rustix::fs::statvfs(at).map(|s| (s.f_bavail * s.f_frsize, s.f_blocks * s.f_frsize));
    match room {
        Ok((free, total)) if free < total / 20 => Check::warning(
            NAME,
            format!("{found}: {} of {} free", size(free), size(total)),
            "make room, or choose a larger disk: writes are refused before it is full",
        ),
        Ok((free, total)) => Check::ok(NAME, format!("{found}: {} of {} free", size(free), size(total))),
        Err(e) => Check::warning(NAME, format!("{found}: its space cannot be told: {e}"), "check its disk"),
    }
}

pub(super) fn judge_sync(dir: &Path, took: Duration, fast: Duration) -> Check {
    const NAME: &str = "sync speed";
    let found = format!("{}: {:.2} ms for 4 KiB", dir.display(), took.as_secs_f64() * 1e3);
    if took <= fast {
        return Check::ok(NAME, found);
    }
    let cure = format!("{} ms or less are good: use a local SSD or NVMe disk of its own", fast.as_millis());
    Check::warning(NAME, found, cure)
}

/// The nearest directory above that is there.
fn nearest(dir: &Path) -> PathBuf {
    let above = dir.ancestors().find(|d| d.is_dir());
    above.unwrap_or(Path::new(".")).to_path_buf()
}

/// Time in which a block is made durable in a file of a directory, as its disk does it. The file is removed again.
fn sync_time(dir: &Path) -> io::Result<Duration> {
    let path = dir.join(format!(".mooseng-doctor-{}", std::process::id()));
    let measured = measure(&path);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound && measured.is_ok() => Err(e),
        _ => measured,
    }
}

fn measure(path: &Path) -> io::Result<Duration> {
    let mut file = File::create_new(path)?;
    let mut took = Vec::with_capacity(SYNCS);
    for n in 0..SYNCS {
        let begin = Instant::now();
        file.write_all(&[n as u8; BLOCK])?;
        file.sync_data()?;
        took.push(begin.elapsed());
    }
    took.sort_unstable();
    Ok(took[SYNCS / 2])
}
