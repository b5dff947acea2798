//! The examples do what they say.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::process::Command;

fn run(program: &str) -> String {
    let out = Command::new(program).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{program}: {said}{}", String::from_utf8_lossy(&out.stderr));
    said
}

#[test]
fn embed() {
    assert_eq!(run(env!("CARGO_BIN_EXE_embed")), "Hello from Alice!\n");
}

#[test]
fn parallel_copy() {
    let said = run(env!("CARGO_BIN_EXE_parallel_copy"));
    assert!(said.starts_with("copied 64 files"), "{said}");
}
