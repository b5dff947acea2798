//! Two mounts of one cluster see each other.

use crate::world::*;
use anyhow::{Result, ensure};
use mooseng_fuse::MountOptions;
use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Barrier,
};

async fn on_two(
    options: MountOptions,
    f: impl FnOnce(&Path, &Path) -> Result<()> + Send + 'static,
) -> Result<()> {
    if no_fuse() {
        return Ok(());
    }
    let w = World::start(small(), &[options.clone(), options]).await?;
    let (a, b) = (w.at(0), w.at(1));
    blocking(move || f(&a, &b)).await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_does_the_other_sees_at_once() -> Result<()> {
    on_two(MountOptions::default(), |a, b| {
        for (i, len) in [0usize, 5, 9000, 2_000_000].into_iter().enumerate() {
            let name = format!("f{i}");
            ensure!(!b.join(&name).exists(), "looked for before it is there");
            fs::write(a.join(&name), bytes(i as u64, len))?;
            ensure!(fs::metadata(b.join(&name))?.len() == len as u64);
            ensure!(fs::read(b.join(&name))? == bytes(i as u64, len));
            fs::write(b.join(&name), "b was here")?;
            ensure!(fs::read(a.join(&name))? == b"b was here");
            fs::rename(a.join(&name), a.join("moved"))?;
            ensure!(!b.join(&name).exists() && b.join("moved").exists());
            fs::remove_file(b.join("moved"))?;
            ensure!(!a.join("moved").exists());
        }
        fs::create_dir(a.join("d"))?;
        for i in 0..50 {
            fs::write([a, b][i % 2].join(format!("d/{i}")), "")?;
            ensure!(fs::read_dir([b, a][i % 2].join("d"))?.count() == i + 1);
        }
        Ok(())
    })
    .await
}

/// A handle that stays open must see what the other mount wrote, once that write was flushed:
/// overwritten in place, cut and written again with the same size, cut short, grown.
fn an_open_handle_sees(a: &Path, b: &Path) -> Result<()> {
    for len in [100usize, 8192, 50_000, 3_000_000] {
        let (pa, pb) = (a.join(format!("f{len}")), b.join(format!("f{len}")));
        fs::write(&pa, bytes(1, len))?;
        let f = File::open(&pa)?;
        let all = |want: &[u8]| -> Result<()> {
            let mut got = vec![0; want.len() + 10];
            let n = read_all(&f, &mut got)?;
            ensure!(got[..n] == *want, "{len}: the open handle reads {n} bytes that are not the new ones");
            let mut first = vec![0; want.len().min(50)];
            f.read_exact_at(&mut first, 0)?;
            ensure!(first == want[..first.len()], "{len}: a part from within");
            Ok(())
        };
        all(&bytes(1, len))?;
        OpenOptions::new().write(true).open(&pb)?.write_all_at(&bytes(2, len), 0)?;
        all(&bytes(2, len))?;
        fs::write(&pb, bytes(3, len))?;
        all(&bytes(3, len))?;
        fs::write(&pb, bytes(4, len / 2))?;
        all(&bytes(4, len / 2))?;
        OpenOptions::new().write(true).open(&pb)?.set_len(len as u64 / 4)?;
        all(&bytes(4, len / 2)[..len / 4])?;
        OpenOptions::new().append(true).open(&pb)?.write_all(b"tail")?;
        let mut grown = bytes(4, len / 2)[..len / 4].to_vec();
        grown.extend_from_slice(b"tail");
        all(&grown)?;
    }
    Ok(())
}

fn read_all(f: &File, into: &mut [u8]) -> Result<usize> {
    let mut n = 0;
    while n < into.len() {
        match f.read_at(&mut into[n..], n as u64)? {
            0 => break,
            more => n += more,
        }
    }
    Ok(n)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_handle_sees_what_the_other_mount_wrote() -> Result<()> {
    on_two(MountOptions::default(), an_open_handle_sees).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_handle_sees_it_through_the_page_cache_too() -> Result<()> {
    on_two(MountOptions { direct_io: false, ..Default::default() }, an_open_handle_sees).await
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_of_both_stay() -> Result<()> {
    on_two(MountOptions::default(), |a, b| {
        let open = |p: &Path| OpenOptions::new().append(true).create(true).open(p.join("log"));
        let (mut fa, mut fb) = (open(a)?, open(b)?);
        let mut want = String::new();
        for i in 0..300 {
            // Long enough to grow out of the inode.
            let line = format!("{i} {}\n", "x".repeat(60));
            let f = if i % 2 == 0 { &mut fa } else { &mut fb };
            f.write_all(line.as_bytes())?;
            want += &line;
        }
        ensure!(fs::read_to_string(a.join("log"))? == want);
        ensure!(fs::read_to_string(b.join("log"))? == want);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_creates_wins() -> Result<()> {
    on_two(MountOptions::default(), |a, b| {
        let start = Barrier::new(4);
        for i in 0..40 {
            let try_create = |dir: PathBuf| {
                start.wait();
                OpenOptions::new().write(true).create_new(true).open(dir.join(format!("lock{i}")))
            };
            let results: Vec<_> = std::thread::scope(|s| {
                let tries = [a, b, a, b].map(|dir| s.spawn(|| try_create(dir.to_path_buf())));
                tries.map(|t| t.join().unwrap()).into_iter().collect()
            });
            ensure!(results.iter().filter(|r| r.is_ok()).count() == 1, "{results:?}");
            let lost = results.iter().filter_map(|r| r.as_ref().err());
            ensure!(lost.clone().all(|e| e.kind() == std::io::ErrorKind::AlreadyExists), "{results:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_file_outlives_its_name_on_either_mount() -> Result<()> {
    on_two(MountOptions::default(), |a, b| {
        for (i, remover) in [a, b].into_iter().enumerate() {
            let path = a.join(format!("f{i}"));
            let f = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
            f.write_all_at(&bytes(5, 100_000), 0)?;
            fs::remove_file(remover.join(format!("f{i}")))?;
            ensure!(!path.exists());
            f.write_all_at(&bytes(6, 100_000), 100_000)?;
            f.sync_all()?;
            ensure!(f.metadata()?.len() == 200_000);
            let mut got = vec![0; 200_000];
            f.read_exact_at(&mut got, 0)?;
            ensure!(got[..100_000] == bytes(5, 100_000) && got[100_000..] == bytes(6, 100_000));
        }
        Ok(())
    })
    .await
}
