//! `fsck`: compares the masters' records with what chunkservers have. It reads only.

use crate::{
    connect::Connection,
    exit,
    output::{self, Format, numbers, words},
};
use anyhow::{Context as _, Result};
use clap::Args;
use mooseng_client::Client;
use mooseng_core::{
    ids::ChunkId,
    meta::{CheckChunks, ChunkFinding, CopyFault},
};
use serde_json::{Value, json};
use std::io::{IsTerminal as _, Write};

/// Chunks of each server that are compared in one call.
const PAGE: u32 = 4096;

#[derive(Args)]
pub(crate) struct FsckArgs {
    #[command(flatten)]
    pub to: Connection,
    /// Format; jsonl is one finding per line.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// What was looked at, and how many findings of each kind there are.
#[derive(Default)]
struct Sum {
    records: u64,
    copies: u64,
    changing: u64,
    /// No good copy is left.
    unreadable: u64,
    /// Fewer good copies than wanted.
    short: u64,
    /// Copies too many, and copies that no record names.
    surplus: u64,
    unknown: u64,
    /// Records without their file.
    stray: u64,
}

impl Sum {
    fn add(&mut self, f: &ChunkFinding) {
        let some = |is: fn(&CopyFault) -> bool| f.faults.iter().filter(|(_, fault)| is(fault)).count() as u64;
        let unreadable = f.wanted > 0 && f.good == 0;
        self.unreadable += u64::from(unreadable);
        self.short += u64::from(f.good < f.wanted && !unreadable);
        self.surplus += some(|f| matches!(f, CopyFault::Surplus(_)));
        self.unknown += some(|f| matches!(f, CopyFault::Unknown(_) | CopyFault::Ahead(_)));
        self.stray += u64::from(f.stray);
    }

    fn json(&self) -> Value {
        json!({
            "records": self.records, "copies": self.copies, "changing": self.changing,
            "unreadable": self.unreadable, "short": self.short, "surplus_copies": self.surplus,
            "unknown_copies": self.unknown, "records_without_file": self.stray,
        })
    }
}

fn fault(f: CopyFault) -> (&'static str, Option<u64>) {
    match f {
        CopyFault::Missing => ("missing", None),
        CopyFault::Silent => ("silent", None),
        CopyFault::OtherVersion(v) => ("stale", Some(v.get())),
        CopyFault::Suspect => ("suspect", None),
        CopyFault::Damaged => ("damaged", None),
        CopyFault::Surplus(v) => ("surplus", Some(v.get())),
        CopyFault::Unknown(v) => ("unknown", Some(v.get())),
        CopyFault::Ahead(v) => ("ahead", Some(v.get())),
    }
}

fn path(f: &ChunkFinding) -> Option<String> {
    f.path.as_ref().map(|p| String::from_utf8_lossy(p).into_owned())
}

fn finding_json(f: &ChunkFinding) -> Value {
    json!({
        "chunk": format!("{:016x}", f.chunk.id.get()),
        "version": f.chunk.version.get(),
        "wanted": f.wanted,
        "good": f.good,
        "inode": f.file.map(|(inode, _)| inode.get()),
        "index": f.file.map(|(_, index)| index.get()),
        "path": path(f),
        "without_file": f.stray,
        "copies": f.faults.iter().map(|(server, f)| {
            let (state, version) = fault(*f);
            json!({ "server": server.get(), "state": state, "version": version })
        }).collect::<Vec<_>>(),
    })
}

fn row(f: &ChunkFinding) -> [String; 5] {
    let copies = f.faults.iter().map(|(server, f)| {
        let (state, version) = fault(*f);
        let version = version.map_or(String::new(), |v| format!(" v{v}"));
        format!("{} {state}{version}", server.get())
    });
    let file = match (&f.file, path(f)) {
        _ if f.stray => "none".into(),
        (_, Some(path)) => path,
        (Some((inode, index)), None) => format!("inode {}, chunk {}", inode.get(), index.get()),
        (None, None) => "no record".into(),
    };
    let good = if f.wanted > 0 { format!("{} of {}", f.good, f.wanted) } else { "-".into() };
    let (chunk, version) = (f.chunk.id.get(), f.chunk.version.get());
    [format!("{chunk:016x}"), version.to_string(), good, copies.collect::<Vec<_>>().join(", "), file]
}

pub(crate) async fn fsck(client: &Client, args: &FsckArgs, out: &mut impl Write) -> Result<()> {
    let (mut sum, mut findings, mut from) = (Sum::default(), Vec::new(), Some(ChunkId(0)));
    let on_terminal = std::io::stderr().is_terminal();
    while let Some(at) = from {
        let page = client
            .request(CheckChunks { from: at, count: PAGE })
            .await
            .context("the comparison ended early")?;
        sum.records += page.records;
        sum.copies += page.copies;
        sum.changing += page.changing;
        for f in page.findings {
            sum.add(&f);
            if args.output == Format::Jsonl {
                writeln!(out, "{}", finding_json(&f))?;
            } else {
                findings.push(f);
            }
        }
        if on_terminal {
            eprint!("\rfsck: {} records, {} copies   ", sum.records, sum.copies);
        }
        from = page.next;
    }
    if on_terminal {
        eprintln!();
    }
    match args.output {
        Format::Jsonl => {}
        Format::Json => {
            let whole = json!({
                "schema": "mooseng.fsck/1",
                "sum": sum.json(),
                "findings": findings.iter().map(finding_json).collect::<Vec<_>>(),
            });
            writeln!(out, "{}", serde_json::to_string_pretty(&whole)?)?;
        }
        Format::Table => table(&sum, &findings, out)?,
    }
    verdict(&sum)
}

fn table(s: &Sum, findings: &[ChunkFinding], out: &mut impl Write) -> Result<()> {
    if !findings.is_empty() {
        let columns = [words("CHUNK"), numbers("VERSION"), words("GOOD"), words("COPIES"), words("FILE")];
        output::table(out, columns, findings.iter().map(row))?;
        writeln!(out)?;
    }
    writeln!(
        out,
        "{} chunks and {} copies compared, {} changing: {} unreadable, {} short of copies, {} records without \
         file; {} surplus and {} unknown copies",
        s.records, s.copies, s.changing, s.unreadable, s.short, s.stray, s.surplus, s.unknown
    )?;
    Ok(())
}

/// Lost data is an integrity problem, missing copies are degraded; copies too many are neither.
fn verdict(s: &Sum) -> Result<()> {
    if s.unreadable + s.stray > 0 {
        let (unreadable, stray) = (s.unreadable, s.stray);
        return Err(exit::integrity(format!(
            "{unreadable} chunks have no good copy, {stray} records no file"
        )));
    }
    if s.short > 0 {
        return Err(exit::degraded(format!("{} chunks have fewer copies than wanted", s.short)));
    }
    Ok(())
}
