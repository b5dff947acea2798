//! Small-file and metadata operations on any mounted directory: one JSON object of operations per
//! second. Run by `tests/bench/run.sh` on MooseNG, MooseFS, a bare directory and a FUSE filesystem
//! that does nothing; each process works in a directory of its own.

use anyhow::{Context as _, Result};
use clap::Parser;
use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

/// Measures metadata operations in a directory.
#[derive(Parser)]
struct Args {
    /// Directory to work in; a subdirectory is made and removed.
    dir: PathBuf,
    /// Files per process and operation.
    #[arg(long, default_value_t = 1000)]
    files: u32,
    /// Processes at once.
    #[arg(long, default_value_t = 1)]
    processes: u32,
    /// Which phase this worker does (set by the parent).
    #[arg(long, hide = true)]
    phase: Option<String>,
}

const PHASES: &[&str] =
    &["create", "create+write4k", "stat", "readdir+stat", "open+read4k", "rename", "unlink"];

fn path(dir: &Path, kind: &str, i: u32) -> PathBuf {
    dir.join(format!("{kind}{i:06}"))
}

fn run_phase(dir: &Path, phase: &str, files: u32) -> Result<()> {
    let page = [7u8; 4096];
    for i in 0..files {
        match phase {
            "create" => {
                OpenOptions::new().write(true).create_new(true).open(path(dir, "e", i))?;
            }
            "create+write4k" => {
                let mut f = OpenOptions::new().write(true).create_new(true).open(path(dir, "w", i))?;
                f.write_all(&page)?;
            }
            "stat" => {
                fs::metadata(path(dir, "w", i))?;
            }
            "readdir+stat" => {
                // One listing counts as all its entries.
                if i == 0 {
                    let mut n = 0;
                    for entry in fs::read_dir(dir)? {
                        entry?.metadata()?;
                        n += 1;
                    }
                    anyhow::ensure!(n == 2 * files, "{n} entries listed, {} expected", 2 * files);
                }
            }
            "open+read4k" => {
                let mut buf = Vec::with_capacity(4096);
                File::open(path(dir, "w", i))?.read_to_end(&mut buf)?;
                anyhow::ensure!(buf == page, "file {i} reads back wrong");
            }
            "rename" => fs::rename(path(dir, "e", i), path(dir, "r", i))?,
            "unlink" => {
                fs::remove_file(path(dir, "r", i))?;
                fs::remove_file(path(dir, "w", i))?;
            }
            other => anyhow::bail!("no phase {other}"),
        }
    }
    Ok(())
}

/// Operations that one process does in a phase.
fn ops(phase: &str, files: u32) -> u32 {
    if matches!(phase, "readdir+stat" | "unlink") { 2 * files } else { files }
}

#[allow(clippy::print_stdout, reason = "the result is the output")]
fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(phase) = &args.phase {
        return run_phase(&args.dir, phase, args.files);
    }
    let base = args.dir.join(format!("metabench-{}", std::process::id()));
    let dirs: Vec<_> = (0..args.processes).map(|p| base.join(format!("p{p}"))).collect();
    for d in &dirs {
        fs::create_dir_all(d).with_context(|| format!("cannot make {}", d.display()))?;
    }
    let mut result = serde_json::Map::new();
    for phase in PHASES {
        let begin = Instant::now();
        let mut children = Vec::new();
        for d in &dirs {
            let mut c = Command::new(std::env::current_exe()?);
            c.arg(d).args(["--phase", phase, "--files", &args.files.to_string()]).stdin(Stdio::null());
            children.push(c.spawn()?);
        }
        for mut child in children {
            anyhow::ensure!(child.wait()?.success(), "a worker failed in phase {phase}");
        }
        let total = f64::from(ops(phase, args.files)) * f64::from(args.processes);
        let rate = (total / begin.elapsed().as_secs_f64()).round();
        result.insert((*phase).to_owned(), serde_json::json!(rate));
    }
    fs::remove_dir_all(&base)?;
    println!("{}", serde_json::Value::Object(result));
    Ok(())
}
