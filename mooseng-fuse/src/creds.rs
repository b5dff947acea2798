//! Who asks.
//!
//! The masters decide who may do what, so `default_permissions` is off: with it the kernel would
//! ask for attributes before each of its own checks (nothing is cached), and would still decide by
//! bits that may have changed since. The masters need the caller's supplementary groups for that,
//! which a FUSE request does not carry: they are read from `/proc/PID/status` while the caller
//! waits. The superuser needs none.

use mooseng_core::{context::Credentials, limits::GROUPS_MAX};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// How long groups are remembered: a process's groups hardly change, and one that drops them
/// changes its user or group as well, which is looked up anew.
const REMEMBERED: Duration = Duration::from_secs(1);
/// Callers remembered at most.
const CALLERS_MAX: usize = 1024;

/// A process as one user and group.
type Caller = (u32, u32, u32);

/// Supplementary groups of recent callers.
#[derive(Debug, Default)]
pub(crate) struct Groups(Mutex<HashMap<Caller, (Instant, Vec<u32>)>>);

impl Groups {
    /// Credentials of who sent a request.
    pub(crate) fn of(&self, req: &fuser::Request) -> Credentials {
        let (uid, gid, pid) = (req.uid(), req.gid(), req.pid());
        let groups = if uid == 0 || pid == 0 { Vec::new() } else { self.groups((pid, uid, gid)) };
        Credentials { uid, gid, groups }
    }

    fn groups(&self, caller: Caller) -> Vec<u32> {
        let now = Instant::now();
        let mut known = self.0.lock();
        if let Some((at, groups)) = known.get(&caller)
            && now.duration_since(*at) < REMEMBERED
        {
            return groups.clone();
        }
        // A caller that cannot be seen from here (another namespace) has no groups but its own.
        let status = std::fs::read_to_string(format!("/proc/{}/status", caller.0)).unwrap_or_default();
        let groups = parse(&status);
        if known.len() >= CALLERS_MAX {
            known.clear();
        }
        known.insert(caller, (now, groups.clone()));
        groups
    }
}

/// The groups in the text of `/proc/PID/status`.
fn parse(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|l| l.strip_prefix("Groups:")).unwrap_or_default();
    line.split_ascii_whitespace().filter_map(|g| g.parse().ok()).take(GROUPS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_from_a_status() {
        assert_eq!(parse("Name:\tsh\nGroups:\t4 24 1000 \nVmPeak:\t1\n"), [4, 24, 1000]);
        assert!(parse("Name:\tsh\nGroups:\t\n").is_empty());
        assert!(parse("").is_empty());
        let many: String = (0..2000).map(|g| format!("{g} ")).collect();
        assert_eq!(parse(&format!("Groups:\t{many}\n")).len(), GROUPS_MAX);
    }

    #[test]
    fn this_process_has_the_groups_the_system_tells() {
        let groups = Groups::default();
        let mut mine = groups.groups((std::process::id(), 1, 1));
        let mut told: Vec<u32> =
            nix::unistd::getgroups().unwrap().into_iter().map(nix::unistd::Gid::as_raw).collect();
        mine.sort_unstable();
        told.sort_unstable();
        assert_eq!(mine, told);
        assert!(groups.groups((u32::MAX, 1, 1)).is_empty(), "a process that is not there has none");
    }
}
