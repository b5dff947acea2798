//! Certificates that ended, names that cannot be, ports and directories that are taken.

use super::*;

#[test]
fn an_expired_certificate_is_refused_with_cause_and_cure() {
    for transport in ["quic", "tcp"] {
        let site = Site::new(transport);
        let mut master = site.start_master();
        master.wait_ready(site.master[2]);
        let issue = |role: &str, name: &str| {
            let (ca, out) = (site.path("c/ca"), site.path(name));
            let args = ["cluster", "issue", "--ca", &ca, "--role", role, "--node", "0", "--name", name];
            site.ok(&[&args[..], &["--validity", "1s", "--out", &out]].concat());
            out
        };
        let short = issue("client", "short");
        let (code, said) = wait_for("the certificate ends", || {
            let mut verb = site.verb(&["ls", "--timeout", "5s"]);
            verb.env("MOOSENG_IDENTITY_DIR", &short);
            let (code, said) = fails(verb);
            (code != Some(0)).then_some((code, said))
        });
        assert!(
            code == Some(4) && said.contains("expired") && said.contains("issue a new one"),
            "{code:?} {said}"
        );
        let log = master.log();
        assert!(log.contains("a connection was refused") && log.contains("expired"), "{log}");
        // Who holds a good one is served.
        assert_eq!(site.ok(&["ls"]), "");

        // A daemon with such a certificate does not begin to be silent: it says so and ends.
        let mut mount = site.verb(&["mount", "--mount-point", &site.path("mnt")]);
        mount.env("MOOSENG_IDENTITY_DIR", &short);
        let (code, said) = fails(mount);
        let cure = "set the clock right, or have the cluster's authority issue a new one";
        assert!(
            code == Some(4) && said.contains("not valid at this time") && said.contains(cure),
            "{code:?} {said}"
        );
    }
}

#[test]
fn names_and_paths_that_cannot_be_are_told_as_such() {
    let site = Site::new("quic");
    let mut master = site.start_master();
    master.wait_ready(site.master[2]);
    let mut chunkserver = site.start_chunkserver();
    chunkserver.wait_ready(site.chunkserver[1]);
    fs::write(site.path("local"), "kept").unwrap();
    site.ok(&["put", &site.path("local"), "/kept"]);
    let (longest, long) = (format!("/{}", "n".repeat(255)), format!("/{}", "n".repeat(256)));
    let below = format!("{long}/below");
    let local = site.path("local");
    for verb in [
        vec!["mkdir", &long],
        vec!["put", &local, &long],
        vec!["put", &local, &below],
        vec!["mv", "/kept", &long],
        vec!["cp", "/kept", &long],
        vec!["cat", &long],
        vec!["stat", &below],
        vec!["rm", &long],
    ] {
        let (code, said) = fails(site.verb(&verb));
        let once = said.matches("a name has at most 255 bytes").count() == 1;
        assert!(code == Some(2) && once, "{}: {code:?} {said}", verb[0]);
    }
    // What a system call cannot pass comes from a program; a path of a verb can hold no NUL.
    let nul = site.verb(&["mkdir", "/a\0b"]).output().unwrap_err();
    assert_eq!(nul.kind(), std::io::ErrorKind::InvalidInput);
    for bad in ["/kept/..", "/..", "/."] {
        let (code, said) = fails(site.verb(&["mkdir", bad]));
        assert!(code != Some(0) && said.contains(bad), "{bad}: {code:?} {said}");
    }
    assert_eq!(site.ok(&["ls"]), "kept\n", "nothing was made or moved");
    assert_eq!(site.ok(&["cat", "/kept"]), "kept");
    site.ok(&["put", &local, &longest]);
    assert_eq!(site.ok(&["cat", &longest]), "kept");
}

#[test]
fn two_chunkservers_get_neither_one_directory_nor_one_port() {
    let site = Site::new("quic");
    let mut master = site.start_master();
    master.wait_ready(site.master[2]);
    let mut chunkserver = site.start_chunkserver();
    chunkserver.wait_ready(site.chunkserver[1]);
    fs::write(site.path("local"), "kept").unwrap();
    site.ok(&["put", &site.path("local"), "/kept"]);
    // One of its two directories is enough.
    let taken = format!("{},{}", site.path("d3"), site.path("d2"));
    let mut second = site.chunkserver_command(&taken);
    second.env("MOOSENG_LISTEN_PORT", free_port().to_string());
    second.env("MOOSENG_METRICS_PORT", free_port().to_string());
    let (code, said) = fails(second);
    let cure = "stop that process, or give each node a directory of its own";
    assert!(code == Some(1) && said.contains("in use by another process") && said.contains(cure), "{said}");
    assert!(said.contains(&site.path("d2")), "{said}");
    // Each port by itself: the service's, the metrics'.
    for (free, flag) in [("MOOSENG_METRICS_PORT", "listen-port"), ("MOOSENG_LISTEN_PORT", "metrics-port")] {
        let mut second = site.chunkserver_command(&site.path("d4"));
        second.env(free, free_port().to_string());
        let (code, said) = fails(second);
        let by = format!("in use by process {}; use --{flag} to choose another", chunkserver.child.id());
        assert!(code == Some(1) && said.contains(&by), "{flag}: {code:?} {said}");
    }
    assert_eq!(site.ok(&["cat", "/kept"]), "kept");
}
