//! Words for states, sizes, times: the same in every place that shows them.

pub use mooseng_core::health::word as health_word;

use bytesize::ByteSize;
use mooseng_core::{
    attr::{FileKind, Timestamp},
    ids::DiskId,
    meta::{
        Care, DiskReport, DiskScrub, Draining, DrainingDisk, MasterInfo, Repairs, ReplicaState, ServerCare,
        ServerInfo, ServerScrub,
    },
};
use std::time::Duration;

/// A size for people, in powers of 1024.
pub fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// Microseconds.
pub fn micros(us: u64) -> String {
    match us {
        0..1000 => format!("{us} µs"),
        1000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

/// RFC 3339, in UTC, to the second.
pub fn time(t: Timestamp) -> String {
    jiff::Timestamp::from_second(t.secs()).map_or_else(|_| format!("{} s", t.secs()), |t| t.to_string())
}

/// Seconds for people.
pub fn secs(secs: u64) -> String {
    humantime::format_duration(Duration::from_secs(secs)).to_string()
}

/// Hundredths of `total`, rounded up, as df(1) has it; `-` of nothing.
pub fn percent(part: u64, total: u64) -> String {
    match total {
        0 => "-".into(),
        total => format!("{}%", (u128::from(part) * 100).div_ceil(u128::from(total))),
    }
}

/// A disk's id, as people see it.
pub fn disk_name(disk: DiskId) -> String {
    format!("{:016x}", disk.get())
}

/// The kind of an inode.
pub const fn kind(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Dir => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDev => "chardev",
        FileKind::BlockDev => "blockdev",
    }
}

/// Kind and permissions as `ls -l` shows them.
pub fn mode(kind: FileKind, bits: u32) -> String {
    let kind = match kind {
        FileKind::File => '-',
        FileKind::Dir => 'd',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::CharDev => 'c',
        FileKind::BlockDev => 'b',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let rwx = bits >> shift & 7;
        text.push(if rwx & 4 != 0 { 'r' } else { '-' });
        text.push(if rwx & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & special != 0, rwx & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    text
}

/// What a master is.
pub const fn master_state(m: &MasterInfo) -> &'static str {
    match (m.leader, m.voter) {
        (true, _) => "leader",
        (false, true) => "follower",
        (false, false) => "learner",
    }
}

/// How a chunkserver is.
pub fn server_state(server: &ServerInfo, care: &Care) -> String {
    let drain = care.drains.iter().find(|d| d.server == server.id);
    match (server.alive, drain) {
        (false, Some(d)) if d.left == 0 => "gone, was empty".into(),
        (false, _) if !server.silent => "not heard yet".into(),
        (false, _) => format!("silent {} s", server.silent_ms / 1000),
        (true, None) => "alive".into(),
        (true, Some(d)) if d.left == 0 => "empty, may go".into(),
        (true, Some(_)) => "alive, drains".into(),
    }
}

/// How a disk is, beside its server's state.
pub fn disk_state(s: &ServerInfo, d: &DiskReport) -> String {
    match (&d.error, s.alive) {
        (Some(e), _) => format!("set aside: {e}"),
        (None, false) => "silent".into(),
        (None, true) if d.drains && d.chunks == 0 => "empty, may go".into(),
        (None, true) if d.drains => "drains".into(),
        (None, true) => "ok".into(),
    }
}

/// How a replica is, as its server last told; `None`: nothing was heard of it.
pub const fn replica_state(s: Option<ReplicaState>) -> &'static str {
    match s {
        Some(ReplicaState::Good) => "good",
        Some(ReplicaState::Suspect) => "suspect",
        Some(ReplicaState::Damaged) => "damaged",
        Some(ReplicaState::Leaving) => "on a disk that is set aside or being emptied",
        None => "absent",
    }
}

/// What becomes of copies without a record at one server.
pub fn care_state(c: &ServerCare) -> &'static str {
    match c {
        ServerCare { held: true, .. } => "waits for an operator: --allow",
        ServerCare { ahead: 1.., .. } => "the masters are older than the chunkserver",
        ServerCare { unknown: 1.., .. } => "in quarantine",
        ServerCare { surplus: 1.., .. } => "being removed",
        _ => "nothing",
    }
}

/// How far the scrub of a disk is.
pub fn scrub_state(s: &ServerScrub, d: &DiskScrub) -> String {
    match (s.alive, d.total) {
        (false, _) => "silent".into(),
        (true, 0) => "between rounds".into(),
        (true, total) => {
            let fast = if d.fast { ", asked for" } else { "" };
            format!("{} of {total} chunks{fast}", d.done)
        }
    }
}

/// How far the copying of what lacks copies is, what it waits for, and when all is safe; `None` when nothing lacks
/// any.
pub fn repair_line(r: &Repairs) -> Option<String> {
    if r.chunks == 0 {
        return None;
    }
    let mut line = format!("{} chunks are to be copied, {}", r.chunks, size(r.bytes));
    if r.waits_secs > 0 {
        line += &format!("; a silent chunkserver is waited for another {}", secs(r.waits_secs));
    } else if r.running > 0 || r.bytes_per_s > 0 {
        line += &format!("; {} under way, {}/s", r.running, size(r.bytes_per_s));
    }
    if r.stuck > 0 {
        line += &format!(
            "; {} cannot be mended: there are too few chunkservers with room (start one, or free space)",
            r.stuck
        );
    }
    if let Some(left) = r.until_safe_secs {
        line += &format!("; all safe in some {}", secs(left.max(1)));
    }
    Some(line)
}

/// How far a drain is.
pub fn drain_line(d: &Draining) -> String {
    let server = d.server.get();
    match d.left {
        0 => format!("chunkserver {server} is empty: no file needs it, it is safe to take away"),
        n => format!("chunkserver {server} is being emptied: {n} chunks are left, do not stop it yet"),
    }
}

/// How far the drain of a disk is.
pub fn disk_drain_line(d: &DrainingDisk) -> String {
    let path = d.path.as_ref().map_or_else(String::new, |path| format!(" ({path})"));
    let which = format!("disk {}{path} of chunkserver {}", disk_name(d.disk), d.server.get());
    match (&d.path, d.left) {
        (None, _) => format!("{which} is not there, or its chunkserver is silent"),
        (Some(_), None) => format!("{which} is to be emptied: its chunkserver has not heard of it yet"),
        (Some(_), Some(0)) => {
            format!("{which} is empty: it is safe to take away (restart the chunkserver without it)")
        }
        (Some(_), Some(n)) => {
            format!("{which} is being emptied: {n} chunks are left, do not take it away yet")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_for_people() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(time(Timestamp::new(1_763_850_000, 5)), "2025-11-22T22:20:00Z");
        assert_eq!(time(Timestamp::new(-1, 0)), "1969-12-31T23:59:59Z");
        assert_eq!(mode(FileKind::Dir, 0o1777), "drwxrwxrwt");
        assert_eq!(mode(FileKind::File, 0o4644), "-rwSr--r--");
        assert_eq!(mode(FileKind::Symlink, 0o2755), "lrwxr-sr-x");
        assert_eq!(secs(3661), "1h 1m 1s");
    }

    #[test]
    fn what_is_used_is_rounded_up() {
        assert_eq!(percent(0, 0), "-");
        assert_eq!(percent(0, 7), "0%");
        assert_eq!(percent(1, 1000), "1%");
        assert_eq!(percent(u64::MAX, u64::MAX), "100%");
    }
}
