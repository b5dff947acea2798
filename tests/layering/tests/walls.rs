//! Which crate may know which, from `cargo metadata`, and rules that keep the tree tidy.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Allowed edges. Binaries and tests may know everything.
const ALLOWED: &[(&str, &[&str])] = &[
    ("mooseng-core", &[]),
    ("mooseng-host", &["mooseng-core"]),
    ("mooseng-net", &["mooseng-core"]),
    ("mooseng-meta", &["mooseng-core"]),
    ("mooseng-chunk", &["mooseng-core"]),
    ("mooseng-client", &["mooseng-core"]),
    ("mooseng-support", &["mooseng-core", "mooseng-net"]),
    ("mooseng-fuse", &["mooseng-core", "mooseng-client"]),
    ("mooseng-dashboard", &["mooseng-core", "mooseng-client"]),
];
/// What the client's `embedded` feature may add.
const EMBEDDED: &[&str] = &["mooseng-host", "mooseng-net", "mooseng-meta", "mooseng-chunk"];
/// Crates that must not be in the tree.
const BANNED: &[&str] = &["openssl", "openssl-sys", "native-tls", "bincode", "serde_yaml"];
/// Lines of a source file without its tests.
const LINES_MAX: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

fn metadata() -> Value {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

#[test]
fn no_crate_knows_more_than_it_may() {
    let meta = metadata();
    let packages = meta["packages"].as_array().unwrap();
    let names: BTreeSet<_> = packages.iter().map(|p| p["name"].as_str().unwrap()).collect();
    for banned in BANNED {
        assert!(!names.contains(banned), "{banned} is in the tree");
    }
    for (name, allowed) in ALLOWED {
        let package =
            packages.iter().find(|p| p["name"] == *name).unwrap_or_else(|| panic!("no crate {name}"));
        for dep in package["dependencies"].as_array().unwrap().iter().filter(|d| d["kind"].is_null()) {
            let to = dep["name"].as_str().unwrap();
            let embedded = *name == "mooseng-client" && dep["optional"] == true && EMBEDDED.contains(&to);
            assert!(
                !to.starts_with("mooseng") || allowed.contains(&to) || embedded,
                "{name} must not know {to}"
            );
        }
    }
}

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && name != ".git" {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// What documents point to within the tree, with the part before `#`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let marked = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let pictures = text.split("src=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let within = |link: &&str| !link.contains(':') && !link.contains(char::is_whitespace);
    marked
        .chain(pictures)
        .filter(within)
        .filter_map(|link| link.split('#').next())
        .filter(|link| !link.is_empty())
}

#[test]
fn documents_point_to_what_is_there() {
    let root = root();
    let mut documents = Vec::new();
    for dir in [root.clone(), root.join("docs"), root.join("packaging")] {
        let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
        documents.extend(entries.filter(|p| p.extension().is_some_and(|e| e == "md")));
    }
    let mut seen = 0;
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for link in links(&text) {
            seen += 1;
            let to = document.parent().unwrap().join(link);
            assert!(to.exists(), "{} points to {link}, which is not there", document.display());
        }
    }
    assert!(seen > 20, "no links were found");
}

#[test]
fn the_tree_is_tidy() {
    let root = root();
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 50, "the sources were not found");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let name = file.strip_prefix(&root).unwrap().display().to_string();
        if name.starts_with("tests/layering") {
            continue;
        }
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let lines = code.lines().count();
        assert!(lines <= LINES_MAX, "{name} has {lines} lines: past {LINES_MAX} it is two things");
        assert!(!name.ends_with("main.rs") || lines <= 150, "{name} is more than an assembly");
        for word in ["todo!(", "unimplemented!("] {
            assert!(!code.contains(word), "{name} says {word}");
        }
        // A mount is this machine's kernel: there is nothing to be simulated behind it.
        let free = ["mooseng-host/", "mooseng-fuse/", "bins/", "tests/"].iter().any(|d| name.starts_with(d))
            || name.contains("/tests");
        for word in ["std::time::Instant", "SystemTime::now", "thread::spawn", "spawn_blocking", "std::fs::"]
        {
            let code = code.lines().filter(|l| !l.trim_start().starts_with("//"));
            let used = code.clone().any(|l| l.contains(word));
            let identities = word == "std::fs::" && name.contains("identity");
            assert!(free || identities || !used, "{name} uses {word}: it comes in through a seam");
        }
    }
}
