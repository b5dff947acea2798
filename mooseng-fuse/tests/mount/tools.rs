//! The system's own tools on a mount.

use crate::world::*;
use anyhow::{Result, ensure};
use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

/// A tree with what trees have: sizes around the edges, links, modes, empty directories.
fn plant(root: &Path) -> Result<()> {
    for d in 0..6 {
        let dir = root.join(format!("d{d}/sub"));
        fs::create_dir_all(&dir)?;
        for f in 0..20u64 {
            let len = [0, 1, 4096, 8191, 8192, 8193, 70_000][(f % 7) as usize];
            fs::write(dir.join(format!("f{f}")), bytes(d * 100 + f, len))?;
        }
    }
    fs::write(root.join("big"), bytes(7, 3_500_000))?;
    sh(
        root,
        "mkdir empty; ln -s ../big d0/link; ln d1/sub/f6 hard; chmod 600 hard; touch -d '2001-02-03 04:05:06' d2",
    )?;
    Ok(())
}

fn same(a: &Path, b: &Path) -> Result<()> {
    run(a, "diff", &["-r", "--no-dereference", ".", &b.to_string_lossy()]).map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn cp_tar_and_dd() -> Result<()> {
    if no_fuse() {
        return Ok(());
    }
    let w = World::one().await?;
    w.on(|at| {
        let src = tempfile::tempdir()?;
        plant(src.path())?;
        let s = src.path().to_string_lossy();
        run(at, "cp", &["-a", &format!("{s}/."), "in"])?;
        same(src.path(), &at.join("in"))?;
        ensure!(fs::metadata(at.join("in/d2"))?.mtime() == fs::metadata(src.path().join("d2"))?.mtime());
        ensure!(fs::metadata(at.join("in/hard"))?.nlink() == 2, "cp -a keeps hard links");
        run(at, "cp", &["-r", "in", "again"])?;
        same(&at.join("in"), &at.join("again"))?;
        run(at, "tar", &["-cf", "all.tar", "in"])?;
        fs::create_dir(at.join("out"))?;
        run(at, "tar", &["-xf", "all.tar", "-C", "out"])?;
        same(src.path(), &at.join("out/in"))?;
        run(at, "tar", &["--compare", "-f", "all.tar"])?;
        fs::write(src.path().join("image"), bytes(9, 9_000_000))?;
        sh(
            at,
            &format!("dd if={s}/image of=image bs=1M status=none; dd if=image of=copy bs=7k status=none"),
        )?;
        run(at, "cmp", &["copy", &format!("{s}/image")])?;
        sh(at, "dd if=/dev/zero of=copy bs=64k seek=3 count=2 conv=notrunc,fsync status=none")?;
        let mut model = bytes(9, 9_000_000);
        model[3 * 65_536..5 * 65_536].fill(0);
        ensure!(fs::read(at.join("copy"))? == model);
        sh(at, "dd if=image of=direct bs=1M iflag=direct oflag=direct,dsync status=none; cmp image direct")?;
        sh(at, "rm -rf in again out && ls")?;
        Ok(())
    })
    .await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn rsync() -> Result<()> {
    if no_fuse() || no_tool("rsync", "--version") {
        return Ok(());
    }
    let w = World::one().await?;
    w.on(|at| {
        let src = tempfile::tempdir()?;
        plant(src.path())?;
        let s = format!("{}/", src.path().display());
        run(at, "rsync", &["-aH", &s, "copy"])?;
        same(src.path(), &at.join("copy"))?;
        fs::write(src.path().join("d3/sub/f2"), "changed")?;
        fs::remove_file(src.path().join("d4/sub/f4"))?;
        let done = run(at, "rsync", &["-aH", "--delete", "--itemize-changes", &s, "copy"])?;
        same(src.path(), &at.join("copy"))?;
        let sent: Vec<_> = done.lines().filter(|l| l.starts_with(">f")).collect();
        ensure!(sent.len() == 1 && sent[0].ends_with("d3/sub/f2"), "only what changed is sent: {done}");
        Ok(())
    })
    .await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn git() -> Result<()> {
    if no_fuse() || no_tool("git", "--version") {
        return Ok(());
    }
    let w = World::one().await?;
    w.on(|at| {
        fs::create_dir(at.join("repo"))?;
        let repo = at.join("repo");
        plant(&repo)?;
        let me = "git -c user.name=m -c user.email=m@example.invalid -c commit.gpgsign=false";
        sh(&repo, &format!("git init -q . && git add -A && {me} commit -qm first"))?;
        sh(
            &repo,
            &format!("echo more >> big && {me} commit -qam second && git fsck --full 2>&1 && git gc -q"),
        )?;
        ensure!(sh(&repo, "git status --porcelain")?.is_empty());
        sh(at, "git clone -q repo clone && git clone -q --no-local repo packed")?;
        for copy in ["clone", "packed"] {
            ensure!(sh(&at.join(copy), "git log --oneline | wc -l")?.trim() == "2");
            run(
                &repo,
                "diff",
                &["-r", "--no-dereference", "-x", ".git", "-x", "empty", ".", &format!("../{copy}")],
            )?;
        }
        Ok(())
    })
    .await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_editor_saves() -> Result<()> {
    if no_fuse() {
        return Ok(());
    }
    let w = World::one().await?;
    w.on(|at| {
        let f = at.join("text");
        fs::write(&f, "one two three\n".repeat(2000))?;
        for i in 0..10 {
            run(at, "sed", &["-i", &format!("s/two/two{i}/"), "text"])?;
        }
        ensure!(
            fs::read_to_string(&f)?.lines().all(|l| l.ends_with("two9876543210 three") || l.contains("two9"))
        );
        // Beside, synced, renamed over: what is there is always one of the two.
        for i in 0..10u64 {
            let new = fs::File::create(at.join("text.new"))?;
            std::io::Write::write_all(&mut &new, &bytes(i, 20_000))?;
            new.sync_all()?;
            fs::rename(at.join("text.new"), &f)?;
            ensure!(fs::read(&f)? == bytes(i, 20_000));
        }
        ensure!(fs::read_dir(at)?.count() == 1, "nothing is left over");
        Ok(())
    })
    .await?;
    w.end().await
}

/// mmap takes a program: python3 has it.
#[tokio::test(flavor = "multi_thread")]
async fn mapped_files() -> Result<()> {
    if no_fuse() || no_tool("python3", "--version") {
        return Ok(());
    }
    for direct_io in [true, false] {
        let options = mooseng_fuse::MountOptions { direct_io, ..Default::default() };
        let w = World::start(small(), &[options]).await?;
        w.on(|at| {
            fs::write(at.join("f"), bytes(3, 300_000))?;
            let script = r#"
import mmap, os
fd = os.open("f", os.O_RDWR)
whole = open("f", "rb").read()
m = mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
assert m[:] == whole
m.close()
m = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
m[100000:100005] = b"HELLO"
assert os.pread(fd, 5, 100000) == b"HELLO", "a read sees what was mapped and written"
os.pwrite(fd, b"world", 200000)
m.flush()
assert m[200000:200005] == b"world", "a map sees what was written"
m[0:3] = b"abc"
m.close()
os.close(fd)
"#;
            run(at, "python3", &["-c", script])?;
            let mut model = bytes(3, 300_000);
            model[100_000..100_005].copy_from_slice(b"HELLO");
            model[200_000..200_005].copy_from_slice(b"world");
            model[0..3].copy_from_slice(b"abc");
            ensure!(fs::read(at.join("f"))? == model);
            Ok(())
        })
        .await?;
        w.end().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn df_and_programs() -> Result<()> {
    if no_fuse() {
        return Ok(());
    }
    let w = World::one().await?;
    w.on(|at| {
        let df = sh(at, "df --output=source,fstype,size,avail . | tail -1")?;
        let f: Vec<_> = df.split_whitespace().collect();
        ensure!(f[0] == "mooseng" && f[1] == "fuse.mooseng", "{df}");
        ensure!(f[2].parse::<u64>()? > 0 && f[3].parse::<u64>()? > 0, "{df}");
        sh(at, "printf '#!/bin/sh\\necho ran $1\\n' > script; chmod 755 script; cp /bin/true program")?;
        ensure!(sh(at, "./script well; ./program && echo too")? == "ran well\ntoo\n");
        Ok(())
    })
    .await?;
    w.end().await
}
