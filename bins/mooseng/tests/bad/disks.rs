//! Disks that are full or may not be written.

use super::{super::join::Trio, *};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A small filesystem in memory, gone when it is dropped.
struct Small(PathBuf);

impl Small {
    /// `None`, and a word why, for who may not mount.
    fn new(at: &str, mebibytes: u64) -> Option<Self> {
        fs::create_dir(at).unwrap();
        let small = Self(at.into());
        match small.mount(MsFlags::empty(), &format!("size={mebibytes}m")) {
            Ok(()) => Some(small),
            Err(e) => {
                println!("skipped: a filesystem in memory cannot be mounted: {e}");
                std::mem::forget(small);
                None
            }
        }
    }
    fn mount(&self, flags: MsFlags, options: &str) -> nix::Result<()> {
        mount(Some("mooseng-test"), &self.0, Some("tmpfs"), flags, Some(options))
    }
    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
    /// Fills it to the last block.
    fn fill(&self) {
        let mut filler = fs::File::create(self.0.join("filler")).unwrap();
        while filler.write_all(&[1; 4096]).is_ok() {}
    }
    fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len as u32 / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

#[test]
fn a_full_chunkserver_says_enospc_and_loses_nothing() {
    let site = Site::new("quic");
    let Some(disk) = Small::new(&site.path("small"), 192) else { return };
    let mut master = site.start_master();
    master.wait_ready(site.master[2]);
    let command = site.chunkserver_command(&disk.path("d"));
    let mut chunkserver = Daemon::start(command, site.path("c.log").into());
    chunkserver.wait_ready(site.chunkserver[1]);
    let (kept, big) = (bytes(4 << 20), bytes(48 << 20));
    fs::write(site.path("kept"), &kept).unwrap();
    fs::write(site.path("big"), &big).unwrap();
    site.ok(&["put", &site.path("kept"), "/kept"]);
    site.ok(&["put", &site.path("kept"), "/other"]);

    // The masters do not know yet that it is full, or they do: the writer hears the same.
    disk.fill();
    for _ in 0..2 {
        let begin = Instant::now();
        let (code, said) = fails(site.verb(&["put", &site.path("big"), "/big"]));
        let took = begin.elapsed();
        assert!(
            code != Some(0) && said.contains("no space") && said.contains("remove files, or add disks"),
            "{said}"
        );
        assert!(took < Duration::from_secs(15), "ENOSPC took {took:?}");
    }
    // What was acknowledged is there, half-written files are not, and deleting works.
    let same = |name: &str, wanted: &[u8]| {
        let back = site.path("back");
        let _ = fs::remove_file(&back);
        site.ok(&["get", name, &back]);
        assert!(fs::read(&back).unwrap() == wanted, "{name} differs");
    };
    same("/kept", &kept);
    site.ok(&["rm", "/other"]);
    assert_eq!(site.ok(&["ls"]), "kept\n");
    chunkserver.wait_ready(site.chunkserver[1]);

    // With space it goes on, by itself.
    disk.make_room();
    wait_for("writing works again", || {
        site.verb(&["put", &site.path("big"), "/big"]).output().unwrap().status.success().then_some(())
    });
    same("/big", &big);
    // Nor does a restart on a full disk lose anything.
    disk.fill();
    assert_eq!(chunkserver.stop(), Some(0));
    let command = site.chunkserver_command(&disk.path("d"));
    let mut chunkserver = Daemon::start(command, site.path("c.log").into());
    chunkserver.wait_ready(site.chunkserver[1]);
    same("/big", &big);
    same("/kept", &kept);
}

#[test]
fn a_master_whose_disk_is_full_ends_loudly_the_others_serve_and_it_comes_back() {
    let site = Trio::new(&[]);
    let Some(disk) = Small::new(&site.path("master-1"), 64) else { return };
    let mut masters = site.masters();
    let _chunkserver = site.chunkserver(&site.path("c/chunkserver-1"), "d");
    let tree = site.path("tree");
    fs::create_dir(&tree).unwrap();
    for n in 0..600 {
        fs::write(format!("{tree}/{n}-{}", "x".repeat(200)), "some text").unwrap();
    }
    site.ok(&["mkdir", "/before"]);
    disk.fill();
    // Goes on until the full disk was needed; whichever master it is, the clients are served.
    let (mut rounds, begin) = (0, Instant::now());
    let code = loop {
        let at = format!("/during-{rounds}");
        rounds += 1;
        site.ok(&["mkdir", &at]);
        site.ok(&["put", "-r", &tree, &at]);
        if let Some(code) = masters[0].child.try_wait().unwrap() {
            break code;
        }
        // It is much work, beside other tests.
        assert!(begin.elapsed() < 5 * PATIENCE, "the master on the full disk did not end in {rounds} rounds");
    };
    let log = masters[0].log();
    assert_eq!(code.code(), Some(1), "{log}");
    let told = format!("make room on the disk of {}", site.path("master-1"));
    assert!(log.contains("No space left on device") && log.contains(&told), "{log}");
    assert!(!log.contains("panicked"), "{log}");

    disk.make_room();
    masters[0] = site.master(0);
    masters[0].wait_ready(site.ports[0][2]);
    wait_for("it has all that the others have", || {
        let applied = |n: usize| {
            let (_, health) = http_get(site.ports[n][2], "/health")?;
            Some(health.split_once("\"applied\":")?.1.split(',').next()?.to_owned())
        };
        (applied(0)? == applied(1)?).then_some(())
    });
    // It can be the quorum's second half: nothing was lost.
    drop(masters.pop());
    assert_eq!(site.ok(&["ls"]).lines().count(), rounds + 1);
    for n in 0..rounds {
        let names = site.ok(&["ls", &format!("/during-{n}/tree")]);
        assert_eq!(names.lines().count(), 600, "round {n}");
    }
}

#[test]
fn daemons_refuse_a_full_or_a_read_only_directory_with_cause_and_cure() {
    let site = Site::new("quic");
    let Some(disk) = Small::new(&site.path("small"), 1) else { return };
    let data = disk.path("data");
    fs::create_dir(&data).unwrap();
    disk.fill();
    for command in [site.master_command(&data), site.chunkserver_command(&data)] {
        let (code, said) = fails(command);
        let told = said.contains(&data) && said.contains("No space left on device");
        assert!(code == Some(1) && told && said.contains("make room on"), "{code:?} {said}");
    }
    disk.make_room();
    disk.mount(MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, "").unwrap();
    for command in [site.master_command(&data), site.chunkserver_command(&data)] {
        let (code, said) = fails(command);
        let told = said.contains(&data) && said.contains("mount it writable, or choose another");
        assert!(code == Some(1) && told, "{code:?} {said}");
    }
}
