//! `completions`, `man`, `version`: what comes with the program itself.

use crate::output::{self, Format};
use anyhow::{Context as _, Result};
use clap::{Args, Command};
use clap_complete::Shell;
use serde_json::json;
use std::{fs, io::Write, path::PathBuf};

#[derive(Args)]
pub(crate) struct CompletionsArgs {
    /// For which shell.
    shell: Shell,
}

#[derive(Args)]
pub(crate) struct ManArgs {
    /// Writes one page for each verb into this directory instead of the first page to the standard output.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct VersionArgs {
    /// Format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn completions(args: &CompletionsArgs, mut program: Command, out: &mut impl Write) -> Result<()> {
    let name = program.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut program, name, &mut text);
    Ok(out.write_all(&text)?)
}

pub(crate) fn man(args: &ManArgs, program: Command, out: &mut impl Write) -> Result<()> {
    match &args.dir {
        None => Ok(clap_mangen::Man::new(program).render(out)?),
        Some(dir) => {
            let told = || dir.display().to_string();
            fs::create_dir_all(dir).with_context(told)?;
            clap_mangen::generate_to(program, dir).with_context(told)
        }
    }
}

pub(crate) fn version(args: &VersionArgs, out: &mut impl Write) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    match args.output {
        Format::Table => Ok(writeln!(out, "mooseng {version} ({os}, {arch})")?),
        format => {
            let whole = json!({ "schema": "mooseng.version/1", "version": version, "os": os, "arch": arch });
            output::json(out, format, &whole)
        }
    }
}
