//! `mooseng bench`: one large file, many small ones, names.

use crate::{
    connect::Connection,
    exit::usage,
    output::{self, Format, numbers, size, words},
    tree,
};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use bytesize::ByteSize;
use clap::Args as ClapArgs;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use mooseng_client::{Client, Filesystem};
use serde::Serialize;
use std::{
    future::Future,
    io::{IsTerminal as _, Write},
    time::{Duration, Instant},
};

#[derive(ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    pub to: Connection,
    /// A directory that is made for it, and removed afterwards.
    #[arg(long, default_value = "/mooseng-bench")]
    pub dir: String,
    /// Size of the large file.
    #[arg(long, default_value = "256MiB")]
    pub size: ByteSize,
    /// How many small files.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub files: u64,
    /// Size of a small file.
    #[arg(long, default_value = "4KiB")]
    pub file_size: ByteSize,
    /// Operations at the same time, on small files.
    #[arg(short, long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: u16,
    /// Format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Bytes per write.
const STEP: u64 = 1 << 20;
/// Largest small file: it is held in memory.
const SMALL_MAX: u64 = 64 << 20;

/// One phase's result.
#[derive(Serialize)]
struct Phase {
    phase: &'static str,
    operations: u64,
    bytes: u64,
    seconds: f64,
    /// Half of the operations took at most this long.
    p50_seconds: f64,
    p99_seconds: f64,
}

impl Phase {
    fn new(phase: &'static str, bytes: u64, took: Duration, mut each: Vec<Duration>) -> Self {
        each.sort_unstable();
        let at = |percent: usize| each.get((each.len() * percent / 100).min(each.len().saturating_sub(1)));
        let seconds = |percent| at(percent).map_or(0.0, Duration::as_secs_f64);
        let (p50_seconds, p99_seconds) = (seconds(50), seconds(99));
        let operations = each.len() as u64;
        Self { phase, operations, bytes, seconds: took.as_secs_f64(), p50_seconds, p99_seconds }
    }

    fn row(&self) -> [String; 6] {
        let per_second = |n: u64| n as f64 / self.seconds.max(1e-9);
        let bytes =
            if self.bytes > 0 { format!("{}/s", size(per_second(self.bytes) as u64)) } else { String::new() };
        let ops = format!("{:.0}/s", per_second(self.operations));
        let time = |s: f64| format!("{:.2} ms", s * 1000.0);
        let took = format!("{:.2} s", self.seconds);
        [self.phase.into(), took, ops, bytes, time(self.p50_seconds), time(self.p99_seconds)]
    }
}

pub(crate) async fn run(client: &Client, args: &Args, out: &mut impl Write) -> Result<()> {
    if args.file_size.0 > SMALL_MAX {
        return Err(usage(format!("--file-size is over {}: use --size for a large file", size(SMALL_MAX))));
    }
    let fs = client.filesystem();
    ensure!(!fs.exists(&args.dir).await?, "{} is there already: choose another --dir", args.dir);
    fs.create_dir_all(&args.dir).await.with_context(|| args.dir.clone())?;
    let measured = measure(&fs, args).await;
    let removed = fs.remove_dir_all(&args.dir).await.with_context(|| format!("{} is left behind", args.dir));
    let phases = measured?;
    removed?;
    let columns = [
        words("PHASE"),
        numbers("TIME"),
        numbers("OPERATIONS"),
        numbers("BYTES"),
        numbers("P50"),
        numbers("P99"),
    ];
    output::items(out, args.output, "mooseng.bench/1", &phases, columns, Phase::row)
}

async fn measure(fs: &Filesystem, args: &Args) -> Result<Vec<Phase>> {
    let large = tree::join(&args.dir, "large");
    let mut phases = vec![write_large(fs, &large, args.size.0).await?, read_large(fs, &large).await?];
    let name = |n: u64| tree::join(&args.dir, &format!("small-{n}"));
    let data = noise(args.file_size.0);
    let all = args.files * args.file_size.0;
    phases.push(
        many("create small files", args, all, |n| {
            let (fs, path, data) = (fs.clone(), name(n), data.clone());
            async move { Ok(fs.write(&path, data).await?) }
        })
        .await?,
    );
    phases.push(
        many("read small files", args, all, |n| {
            let (fs, path, data) = (fs.clone(), name(n), data.clone());
            async move {
                ensure!(fs.read(&path).await? == data, "{path} reads back different");
                Ok(())
            }
        })
        .await?,
    );
    phases.push(
        many("stat", args, 0, |n| {
            let (fs, path) = (fs.clone(), name(n));
            async move { Ok(fs.metadata(&path).await.map(drop)?) }
        })
        .await?,
    );
    phases.push(
        many("rename", args, 0, |n| {
            let (fs, path) = (fs.clone(), name(n));
            async move { Ok(fs.rename(&path, &format!("{path}-renamed")).await?) }
        })
        .await?,
    );
    phases.push(
        many("remove", args, 0, |n| {
            let (fs, path) = (fs.clone(), name(n));
            async move { Ok(fs.remove_file(&format!("{path}-renamed")).await?) }
        })
        .await?,
    );
    Ok(phases)
}

/// Bytes that no layer can shorten.
fn noise(len: u64) -> Bytes {
    let mut x = 88_172_645_463_325_252u64;
    let mut data = Vec::with_capacity(len as usize + 8);
    while (data.len() as u64) < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        data.extend_from_slice(&x.to_le_bytes());
    }
    data.truncate(len as usize);
    data.into()
}

fn bar(name: &'static str, len: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(len).with_message(name);
    match ProgressStyle::with_template("{msg:20} {bar:30} {percent}% {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

async fn write_large(fs: &Filesystem, path: &str, len: u64) -> Result<Phase> {
    let (data, bar) = (noise(STEP), bar("write and sync", len));
    let (begin, mut each, mut at) = (Instant::now(), Vec::new(), 0);
    let file = fs.create(path).await?;
    while at < len {
        let (n, from) = (STEP.min(len - at), Instant::now());
        file.write_at(at, data.slice(..n as usize)).await?;
        each.push(from.elapsed());
        at += n;
        bar.inc(n);
    }
    file.sync_all().await?;
    file.close().await?;
    bar.finish_and_clear();
    Ok(Phase::new("write and sync", len, begin.elapsed(), each))
}

async fn read_large(fs: &Filesystem, path: &str) -> Result<Phase> {
    let (data, bar) = (noise(STEP), bar("read", 0));
    let (begin, mut each, mut len, mut from) = (Instant::now(), Vec::new(), 0, Instant::now());
    let mut pieces = Box::pin(tree::read_cluster(fs, path));
    while let Some(piece) = pieces.try_next().await? {
        ensure!(piece == data.slice(..piece.len()), "{path} reads back different at {len}");
        each.push(from.elapsed());
        len += piece.len() as u64;
        bar.inc(piece.len() as u64);
        from = Instant::now();
    }
    bar.finish_and_clear();
    Ok(Phase::new("read", len, begin.elapsed(), each))
}

async fn many<F: Future<Output = Result<()>>>(
    name: &'static str,
    args: &Args,
    bytes: u64,
    one: impl Fn(u64) -> F,
) -> Result<Phase> {
    let (bar, begin) = (bar(name, args.files), Instant::now());
    let timed = |n| {
        let (work, bar) = (one(n), &bar);
        async move {
            let from = Instant::now();
            work.await?;
            bar.inc(1);
            anyhow::Ok(from.elapsed())
        }
    };
    let work = stream::iter((0..args.files).map(timed)).buffer_unordered(usize::from(args.jobs));
    let each = work.try_collect().await.context(name)?;
    bar.finish_and_clear();
    Ok(Phase::new(name, bytes, begin.elapsed(), each))
}
