//! Rights, extended attributes, renames with flags, directories that change while they are read.

use crate::world::*;
use anyhow::{Context as _, Result, ensure};
use mooseng_fuse::MountOptions;
use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AT_FDCWD, OFlag, RenameFlags, renameat2},
    sys::stat::Mode,
};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::Command,
};

#[tokio::test(flavor = "multi_thread")]
async fn renames_with_flags() -> Result<()> {
    if no_fuse() {
        return Ok(());
    }
    let w = World::one().await?;
    w.on(|at| {
        let rename = |a: &str, b: &str, flags| renameat2(AT_FDCWD, &at.join(a), AT_FDCWD, &at.join(b), flags);
        fs::write(at.join("a"), "a")?;
        fs::create_dir(at.join("b"))?;
        let refused = rename("a", "b", RenameFlags::RENAME_NOREPLACE);
        ensure!(refused == Err(Errno::EEXIST), "{refused:?}");
        rename("a", "c", RenameFlags::RENAME_NOREPLACE)?;
        rename("c", "b", RenameFlags::RENAME_EXCHANGE)?;
        ensure!(fs::read(at.join("b"))? == b"a" && at.join("c").is_dir());
        let refused = rename("b", "nothing", RenameFlags::RENAME_EXCHANGE);
        ensure!(refused == Err(Errno::ENOENT), "{refused:?}");
        let refused = rename("b", "x", RenameFlags::RENAME_WHITEOUT);
        ensure!(refused == Err(Errno::EINVAL), "{refused:?}");
        ensure!(rename("c", "c/inside", RenameFlags::empty()) == Err(Errno::EINVAL));
        Ok(())
    })
    .await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn extended_attributes() -> Result<()> {
    if no_fuse() || no_tool("python3", "--version") {
        return Ok(());
    }
    let w = World::one().await?;
    w.on(|at| {
        let script = r#"
import os, errno
open("f", "w").close()
def fails(no, call, *args, **kw):
    try: call(*args, **kw)
    except OSError as e: assert e.errno == no, (errno.errorcode[e.errno], args)
    else: raise AssertionError(args)
assert os.listxattr("f") == []
fails(errno.ENODATA, os.getxattr, "f", "user.a")
os.setxattr("f", "user.a", b"1\x002")
os.setxattr("f", "user.big", b"x" * 65536)
assert os.getxattr("f", "user.a") == b"1\x002"
assert os.getxattr("f", "user.big") == b"x" * 65536
assert sorted(os.listxattr("f")) == ["user.a", "user.big"]
fails(errno.EEXIST, os.setxattr, "f", "user.a", b"", os.XATTR_CREATE)
fails(errno.ENODATA, os.setxattr, "f", "user.b", b"", os.XATTR_REPLACE)
os.setxattr("f", "user.a", b"", os.XATTR_REPLACE)
assert os.getxattr("f", "user.a") == b""
os.removexattr("f", "user.big")
fails(errno.ENODATA, os.removexattr, "f", "user.big")
fails(errno.EOPNOTSUPP, os.setxattr, "f", "system.x", b"")
os.mkdir("d"); os.setxattr("d", "user.d", b"dir"); assert os.getxattr("d", "user.d") == b"dir"
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
os.setxattr("f", "user.c", b"0123456789")
assert libc.getxattr(b"f", b"user.c", None, 0) == 10
buf = ctypes.create_string_buffer(4)
assert libc.getxattr(b"f", b"user.c", buf, 4) == -1 and ctypes.get_errno() == errno.ERANGE
assert libc.listxattr(b"f", buf, 4) == -1 and ctypes.get_errno() == errno.ERANGE
"#;
        run(at, "python3", &["-c", script]).map(drop)
    })
    .await?;
    w.end().await
}

/// Runs a script as another user; its first error line, or nothing.
fn as_user(at: &Path, groups: &str, script: &str) -> Result<String> {
    let groups = if groups.is_empty() { "--clear-groups".into() } else { format!("--groups={groups}") };
    let out = Command::new("setpriv")
        .args(["--reuid=12345", "--regid=23456", &groups, "sh", "-ec", script])
        .current_dir(at)
        .output()
        .context("setpriv")?;
    ensure!(out.status.success() || !out.stderr.is_empty(), "{script}: failed in silence");
    Ok(String::from_utf8_lossy(&out.stderr).lines().next().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_may_what_the_bits_say() -> Result<()> {
    if no_fuse() || not_root() {
        return Ok(());
    }
    let w = World::start(small(), &[MountOptions { allow_other: true, ..Default::default() }]).await?;
    // The temporary directory above belongs to root alone.
    fs::set_permissions(w.at(0).parent().unwrap(), fs::Permissions::from_mode(0o1777))?;
    w.on(|at| {
        sh(at, "chmod 755 .; echo x > secret; chmod 600 secret; echo y > open; chmod 644 open")?;
        sh(at, "mkdir shared; chmod 1777 shared; echo z > shared/roots; mkdir shut; chmod 700 shut; : > shut/in")?;
        sh(at, "echo g > group; chgrp 34567 group; chmod 660 group; cp /bin/true run; chmod 711 run; cp run norun; chmod 644 norun")?;
        let denied = |script: &str, by: &str| -> Result<()> {
            let said = as_user(at, "", script)?;
            ensure!(said.contains(by), "`{script}` should end with `{by}`: {said}");
            Ok(())
        };
        let allowed = |groups: &str, script: &str| -> Result<()> {
            let said = as_user(at, groups, script)?;
            ensure!(said.is_empty(), "`{script}`: {said}");
            Ok(())
        };
        denied("cat secret", "Permission denied")?;
        denied("echo x >> open", "Permission denied")?;
        denied("touch new", "Permission denied")?;
        denied("ls shut", "Permission denied")?;
        denied("cat shut/in", "Permission denied")?;
        denied("cd shut", "")?;
        denied("chmod 777 open", "not permitted")?;
        denied("chown 12345 open", "not permitted")?;
        denied("rm -f shared/roots", "not permitted")?;
        denied("cat group", "Permission denied")?;
        denied("cat run", "Permission denied")?;
        denied("./norun", "Permission denied")?;
        allowed("", "cat open; ./run; test -r open; ! test -w open; ! test -r secret")?;
        allowed("34567", "cat group; echo more >> group; ./run")?;
        allowed("1,2,34567,4", "test \"$(wc -l < group)\" = 2; test -w group")?;
        allowed("", "cd shared; umask 022; echo mine > mine; chmod 400 mine; ! (echo no >> mine) 2>/dev/null; mv mine ours; rm -f ours; echo x > kept")?;
        let meta = fs::metadata(at.join("shared/kept"))?;
        ensure!((meta.uid(), meta.gid()) == (12345, 23456));
        // Made read-only, written through the handle that made it.
        allowed("", "cd shared; sh -c 'umask 777; exec 3> ro; echo text >&3; exec 3>&-'")?;
        ensure!(fs::read_to_string(at.join("shared/ro"))? == "text\n");
        Ok(())
    })
    .await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn set_user_id_goes_with_a_write_of_another() -> Result<()> {
    if no_fuse() || not_root() {
        return Ok(());
    }
    let w = World::start(small(), &[MountOptions { allow_other: true, ..Default::default() }]).await?;
    fs::set_permissions(w.at(0).parent().unwrap(), fs::Permissions::from_mode(0o1777))?;
    w.on(|at| {
        sh(
            at,
            "chmod 755 .; for f in write cut chown; do echo x > $f; chmod 6777 $f; done; chown 12345 chown",
        )?;
        // Root has it open as well, and opened it first.
        let _held = fs::File::open(at.join("write"))?;
        for script in ["echo more >> write", "truncate -s 1 cut", "chgrp 23456 chown"] {
            let said = as_user(at, "", script)?;
            ensure!(said.is_empty(), "{script}: {said}");
        }
        // At the write already, not only when it is flushed (no descriptor is closed in between).
        sh(at, "echo x > early; chmod 6777 early")?;
        let said = as_user(at, "", "exec 1<> early; echo more; test ! -u early")?;
        ensure!(said.is_empty(), "early: {said}");
        for f in ["write", "cut", "chown"] {
            let mode = fs::metadata(at.join(f))?.mode() & 0o7777;
            ensure!(mode == 0o777, "{f} has mode {mode:o}");
        }
        Ok(())
    })
    .await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_directory_changes_while_it_is_read() -> Result<()> {
    const FILES: usize = 3000;
    if no_fuse() {
        return Ok(());
    }
    let w = World::one().await?;
    w.on(|at| {
        let d = at.join("d");
        fs::create_dir(&d)?;
        for i in 0..FILES {
            fs::write(d.join(format!("file-{i}")), "")?;
        }
        let all: BTreeSet<_> = fs::read_dir(&d)?.map(|e| e.unwrap().file_name()).collect();
        ensure!(all.len() == FILES, "{} of {FILES} are listed", all.len());
        let dots = sh(&d, "ls -a | head -2")?;
        ensure!(dots == ".\n..\n", "{dots}");
        ensure!(fs::metadata(d.join(".."))?.ino() == fs::metadata(at)?.ino());
        // Each name that stays is told once, whatever goes and comes meanwhile.
        let mut dir = Dir::open(&d, OFlag::O_DIRECTORY, Mode::empty())?;
        let mut seen = BTreeSet::new();
        for (n, e) in dir.iter().enumerate() {
            let name = e?.file_name().to_str()?.to_owned();
            if name.starts_with("file-") {
                ensure!(seen.insert(name.clone()), "{name} is told twice");
                if n % 3 == 0 {
                    fs::remove_file(d.join(&name))?;
                    fs::write(d.join(format!("new-{n}")), "")?;
                }
            }
        }
        ensure!(seen.len() == FILES, "{} of {FILES} were told", seen.len());
        ensure!(fs::read_dir(&d)?.count() == FILES);
        run(at, "rm", &["-rf", "d"])?;
        ensure!(!d.exists());
        Ok(())
    })
    .await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn telldir_and_seekdir() -> Result<()> {
    if no_fuse() || no_tool("python3", "--version") {
        return Ok(());
    }
    let w = World::one().await?;
    w.on(|at| {
        for i in 0..2000 {
            fs::write(at.join(format!("{i:04}")), "")?;
        }
        let script = r#"
import ctypes
libc = ctypes.CDLL(None)
class Dirent(ctypes.Structure):
    _fields_ = [("ino", ctypes.c_uint64), ("off", ctypes.c_int64), ("len", ctypes.c_ushort), ("type", ctypes.c_ubyte), ("name", ctypes.c_char * 256)]
libc.opendir.restype = ctypes.c_void_p
libc.readdir64.restype = ctypes.POINTER(Dirent); libc.readdir64.argtypes = [ctypes.c_void_p]
libc.telldir.restype = ctypes.c_long; libc.telldir.argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]; libc.rewinddir.argtypes = [ctypes.c_void_p]
import os
d = libc.opendir(b".")
def rest():
    names = []
    while True:
        e = libc.readdir64(d)
        if not e: return names
        names.append(e.contents.name)
order, places = [], []
while True:
    places.append(libc.telldir(d))
    e = libc.readdir64(d)
    if not e: break
    order.append(e.contents.name)
assert order[:2] == [b".", b".."] and len(order) == 2002, len(order)
for i in (0, 1, 2, 3, 700, 1023, 1024, 1026, 1999, 2001, 2002):
    libc.seekdir(d, places[i]); assert rest() == order[i:], i
os.unlink(order[701]); libc.seekdir(d, places[700]); 
assert [n for n in rest() if n != order[701]] == order[700:701] + order[702:]
libc.rewinddir(d); assert rest() == order[:701] + order[702:]
"#;
        run(at, "python3", &["-c", script]).map(drop)
    })
    .await?;
    w.end().await
}
