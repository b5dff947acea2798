//! What cannot be taken back is asked first.

use crate::{exit::usage, output::shown};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use std::{
    io::{self, BufRead, IsTerminal as _, Write},
    thread,
};
use tokio::sync::oneshot;

#[derive(Args)]
pub(crate) struct Consent {
    /// Does it without asking. Where no terminal is there to ask at, nothing is done without this.
    #[arg(short, long)]
    pub yes: bool,
}

impl Consent {
    /// Goes on when that was said beforehand, or is said now. `what` is what "this" does. An error: nothing is to be
    /// done.
    pub(crate) async fn given(&self, what: &str) -> Result<()> {
        if self.yes {
            return Ok(());
        }
        if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
            return Err(refused(what));
        }
        let (what, (tell, told)) = (what.to_owned(), oneshot::channel());
        let asking = move || drop(tell.send(ask(&what, &mut io::stdin().lock(), &mut io::stderr())));
        // Nothing waits for this thread: Ctrl-C ends the verb also while the question is open.
        thread::Builder::new().spawn(asking).context("the question cannot be asked")?;
        told.await.context("the question was not answered")?
    }
}

fn refused(what: &str) -> anyhow::Error {
    usage(format!(
        "this {what}, and no terminal is here to ask at: use --yes to have it done; nothing was changed"
    ))
}

/// Asks once. Whatever is no yes is a no, and so is the end of the input.
fn ask(what: &str, answers: &mut impl BufRead, to: &mut impl Write) -> Result<()> {
    write!(to, "mooseng: this {}. Go on? [y/N] ", shown(what))?;
    to.flush()?;
    let mut line = String::new();
    answers.read_line(&mut line)?;
    if !line.ends_with('\n') {
        writeln!(to)?;
    }
    let answer = line.trim();
    if answer.eq_ignore_ascii_case("y") || answer.eq_ignore_ascii_case("yes") {
        return Ok(());
    }
    bail!("that was no yes: nothing was changed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit;

    fn answered(line: &str) -> (Result<()>, String) {
        let mut said = Vec::new();
        let done = ask("removes /a\x1b[2J for good", &mut line.as_bytes(), &mut said);
        (done, String::from_utf8(said).unwrap())
    }

    #[test]
    fn only_a_yes_goes_on() {
        let asked = "mooseng: this removes /a\\u{1b}[2J for good. Go on? [y/N] ";
        for yes in ["y\n", "Y\n", "yes\n", "YES\r\n", " y \n"] {
            let (done, said) = answered(yes);
            assert!(done.is_ok() && said == asked, "{yes:?}: {said}");
        }
        for no in ["\n", "n\n", "no\n", "yesterday\n", "y y\n", ""] {
            let (done, said) = answered(no);
            let e = done.expect_err(no);
            assert!(
                said.starts_with(asked) && e.to_string().contains("nothing was changed"),
                "{no:?}: {said}"
            );
            assert_eq!(exit::code(&e), 1);
        }
        assert_eq!(answered("").1, format!("{asked}\n"), "what comes next has a line of its own");
        assert!(answered("yes").0.is_ok(), "the end of the input ends the answer");
    }

    #[tokio::test]
    async fn a_yes_beforehand_asks_nobody_and_nobody_to_ask_is_a_mistake() {
        Consent { yes: true }.given("removes /a for good").await.unwrap();
        let e = refused("removes /a for good");
        let said = e.to_string();
        assert_eq!(exit::code(&e), 2);
        assert!(said.starts_with("this removes /a for good, ") && said.contains("--yes"), "{said}");
    }
}
