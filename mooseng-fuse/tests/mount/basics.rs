//! What every program does with files.

use crate::world::*;
use anyhow::{Result, ensure};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    time::{Duration, SystemTime},
};

#[tokio::test(flavor = "multi_thread")]
async fn files_and_directories() -> Result<()> {
    if no_fuse() {
        return Ok(());
    }
    let w = World::one().await?;
    w.on(|at| {
        fs::create_dir(at.join("d"))?;
        for (name, len) in [("empty", 0), ("small", 700), ("edge", 8192), ("past", 8193), ("big", 5_000_000)]
        {
            let (path, data) = (at.join("d").join(name), bytes(len as u64, len));
            fs::write(&path, &data)?;
            ensure!(fs::metadata(&path)?.len() == len as u64, "{name} has another size");
            ensure!(fs::read(&path)? == data, "{name} reads back different");
        }
        let mut names: Vec<_> = fs::read_dir(at.join("d"))?
            .map(|e| Ok(e?.file_name().into_string().unwrap()))
            .collect::<Result<_>>()?;
        names.sort();
        ensure!(names == ["big", "edge", "empty", "past", "small"], "{names:?}");
        fs::rename(at.join("d/small"), at.join("renamed"))?;
        ensure!(!at.join("d/small").exists() && fs::read(at.join("renamed"))? == bytes(700, 700));
        fs::rename(at.join("renamed"), at.join("d/big"))?;
        ensure!(fs::read(at.join("d/big"))?.len() == 700, "a rename replaces");
        ensure!(fs::remove_dir(at.join("d")).unwrap_err().kind() == std::io::ErrorKind::DirectoryNotEmpty);
        fs::remove_dir_all(at.join("d"))?;
        ensure!(fs::read_dir(at)?.next().is_none());
        Ok(())
    })
    .await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_files() -> Result<()> {
    if no_fuse() {
        return Ok(());
    }
    let w = World::one().await?;
    w.on(|at| {
        let path = at.join("f");
        let mut f = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        f.write_all(&bytes(1, 3_000_000))?;
        f.write_all_at(&bytes(2, 100_000), 1_048_000)?;
        let mut model = bytes(1, 3_000_000);
        model[1_048_000..1_148_000].copy_from_slice(&bytes(2, 100_000));
        let mut part = vec![0; 70_000];
        f.read_exact_at(&mut part, 1_040_000)?;
        ensure!(part == model[1_040_000..1_110_000], "own writes are seen before they are flushed");
        ensure!(f.metadata()?.len() == 3_000_000);
        ensure!(f.seek(SeekFrom::End(-10))? == 2_999_990);
        f.set_len(2_000_000)?;
        f.set_len(2_500_000)?;
        model.truncate(2_000_000);
        model.resize(2_500_000, 0);
        drop(f);
        ensure!(fs::read(&path)? == model, "cut and grown: zeros follow");
        fs::write(&path, b"short")?;
        ensure!(fs::read(&path)? == b"short", "an open that truncates");
        let mut log = OpenOptions::new().append(true).open(&path)?;
        log.write_all(b" and")?;
        log.write_all(b" more")?;
        ensure!(fs::read(&path)? == b"short and more");

        let mut sparse = File::create(at.join("sparse"))?;
        sparse.seek(SeekFrom::Start(200 << 20))?;
        sparse.write_all(b"end")?;
        drop(sparse);
        let meta = fs::metadata(at.join("sparse"))?;
        ensure!(meta.len() == (200 << 20) + 3);
        ensure!(meta.blocks() * 512 < 100 << 20, "a hole takes no space: {} blocks", meta.blocks());
        let f = File::open(at.join("sparse"))?;
        let mut hole = vec![1; 4096];
        f.read_exact_at(&mut hole, 100 << 20)?;
        ensure!(hole.iter().all(|b| *b == 0));
        let mut end = Vec::new();
        (&f).seek(SeekFrom::Start((200 << 20) - 1))?;
        (&f).read_to_end(&mut end)?;
        ensure!(end == b"\0end");
        let wide = OpenOptions::new().write(true).open(&path)?;
        ensure!(wide.write_all_at(b"x", (1 << 62) + 1).unwrap_err().raw_os_error() == Some(27), "EFBIG");
        Ok(())
    })
    .await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn links_nodes_modes_and_times() -> Result<()> {
    if no_fuse() {
        return Ok(());
    }
    let w = World::one().await?;
    w.on(|at| {
        let f = at.join("f");
        fs::write(&f, "content")?;
        fs::hard_link(&f, at.join("g"))?;
        ensure!(
            fs::metadata(&f)?.nlink() == 2 && fs::metadata(&f)?.ino() == fs::metadata(at.join("g"))?.ino()
        );
        fs::write(at.join("g"), "changed")?;
        ensure!(fs::read(&f)? == b"changed");
        fs::remove_file(&f)?;
        ensure!(fs::read(at.join("g"))? == b"changed" && fs::metadata(at.join("g"))?.nlink() == 1);

        symlink("g", at.join("l"))?;
        symlink("nowhere/at all", at.join("dangling"))?;
        ensure!(fs::read(at.join("l"))? == b"changed");
        ensure!(fs::read_link(at.join("dangling"))? == Path::new("nowhere/at all"));
        ensure!(fs::symlink_metadata(at.join("l"))?.is_symlink());
        ensure!(fs::metadata(at.join("dangling")).is_err());

        fs::set_permissions(at.join("g"), fs::Permissions::from_mode(0o640))?;
        ensure!(fs::metadata(at.join("g"))?.mode() & 0o7777 == 0o640);
        sh(at, "umask 027; mkdir m; : > n")?;
        ensure!(fs::metadata(at.join("m"))?.mode() & 0o7777 == 0o750, "the umask counts once");
        ensure!(fs::metadata(at.join("n"))?.mode() & 0o7777 == 0o640);

        let when = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_007, 123_456_789);
        let g = OpenOptions::new().write(true).open(at.join("g"))?;
        (&g).write_all(b"CHANGED")?;
        g.set_modified(when)?;
        drop(g);
        let meta = fs::metadata(at.join("g"))?;
        ensure!(meta.modified()? == when, "what was written before does not move the time set after");
        ensure!(meta.accessed()? != when);
        run(at, "touch", &["-a", "-d", "1970-01-02 00:00:00 UTC", "g"])?;
        ensure!(fs::metadata(at.join("g"))?.atime() == 86_400);
        run(at, "touch", &["g"])?;
        ensure!(fs::metadata(at.join("g"))?.modified()?.elapsed()? < Duration::from_secs(3600));

        run(at, "mkfifo", &["pipe"])?;
        ensure!(fs::symlink_metadata(at.join("pipe"))?.file_type().is_fifo());
        let _socket = std::os::unix::net::UnixListener::bind(at.join("socket"))?;
        ensure!(fs::symlink_metadata(at.join("socket"))?.file_type().is_socket());
        let long = at.join("n".repeat(255));
        fs::write(&long, "")?;
        ensure!(
            fs::write(at.join("n".repeat(256)), "").unwrap_err().raw_os_error() == Some(36),
            "ENAMETOOLONG"
        );
        Ok(())
    })
    .await?;
    w.end().await
}
