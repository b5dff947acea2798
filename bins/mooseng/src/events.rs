//! `events`: what the leading master has seen since its election.

use crate::{
    connect::Connection,
    output::{self, Format, shown, time, words},
};
use anyhow::Result;
use clap::Args;
use mooseng_client::{Client, report};
use mooseng_core::{
    ids::Term,
    meta::{ClusterEvent, EventMark, EventPage},
};
use std::{io::Write, time::Duration};

/// Between two looks while events are followed.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    pub to: Connection,
    /// Goes on with what happens, also through a change of leader, until Ctrl-C.
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last so many of those that there are.
    #[arg(short = 'n', long, value_name = "N")]
    pub last: Option<usize>,
    /// Only those after a place: `next` of the JSON of an earlier look. With one of another leader: all.
    #[arg(long, value_name = "TERM:NUMBER", value_parser = mark)]
    pub after: Option<EventMark>,
    /// Format; with --follow `json` is one object a line, as `jsonl`.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

pub(crate) async fn events(client: &Client, args: &EventsArgs, out: &mut impl Write) -> Result<()> {
    let mut all = client.events(args.after).await?;
    let mut at: Vec<_> = args.after.and_then(|after| missed(after, &all)).into_iter().collect();
    loop {
        let more = client.events(Some(all.next)).await?;
        at.extend(missed(all.next, &more));
        if more.events.is_empty() {
            break;
        }
        all.events.extend(more.events);
        all.lost += more.lost;
        all.next = more.next;
    }
    let first = args.last.map_or(0, |n| all.events.len().saturating_sub(n));
    all.events.drain(..first);
    at.iter().for_each(|what| eprintln!("{what}"));
    let format = if args.follow && args.output == Format::Json { Format::Jsonl } else { args.output };
    let columns = [words("TIME"), words("CODE"), words("WHAT")];
    match format {
        Format::Json => output::json(out, format, &report::events(&all))?,
        format => {
            let schema = (format, "mooseng.events/1");
            output::list(out, schema, &all.events, report::event_item, columns, row)?;
        }
    }
    if args.follow { follow(client, all.next, format, out).await } else { Ok(()) }
}

async fn follow(client: &Client, mut next: EventMark, format: Format, out: &mut impl Write) -> Result<()> {
    loop {
        out.flush()?;
        tokio::time::sleep(LOOK).await;
        match client.events(Some(next)).await {
            Ok(page) => {
                missed(next, &page).iter().for_each(|what| eprintln!("{what}"));
                page.events.iter().try_for_each(|e| line(e, format, out))?;
                next = page.next;
            }
            Err(e) => eprintln!("{}; looking again", output::shown_lines(&e.to_string())),
        }
    }
}

/// What there was after a place and is not on the page.
fn missed(after: EventMark, page: &EventPage) -> Option<String> {
    if page.next.term != after.term {
        let (term, number) = (page.next.term.get(), after.number);
        return Some(format!(
            "events may be lost: another master leads since, in term {term}; what the one of term {} saw after its event {number} went with it",
            after.term.get()
        ));
    }
    (page.lost > 0).then(|| format!("{} events are lost: the leader keeps the newest only", page.lost))
}

/// A place in a leader's events, as it is typed.
fn mark(text: &str) -> Result<EventMark, String> {
    let parse = |(term, number): (&str, &str)| {
        Some(EventMark { term: Term(term.parse().ok()?), number: number.parse().ok()? })
    };
    let mark = text.split_once(':').and_then(parse);
    mark.ok_or_else(|| format!("{text} is no TERM:NUMBER, as 3:127"))
}

fn row(e: &ClusterEvent) -> [String; 3] {
    let code = match &e.problem {
        Some(problem) => format!("{} {problem}", e.code),
        None => e.code.to_string(),
    };
    [time(e.at), code, e.text.clone()]
}

fn line(e: &ClusterEvent, format: Format, out: &mut impl Write) -> Result<()> {
    if format != Format::Table {
        return Ok(writeln!(out, "{}", report::event_item(e))?);
    }
    Ok(writeln!(out, "{}", shown(&row(e).join("  ")))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::looks::pinned;
    use mooseng_core::{attr::Timestamp, meta::EventCode};

    fn at(term: u64, number: u64) -> EventMark {
        EventMark { term: Term(term), number }
    }

    #[test]
    fn what_was_missed_is_told() {
        let page = |next, lost| EventPage { events: vec![], next, lost };
        assert_eq!(missed(at(3, 5), &page(at(3, 9), 0)), None);
        let told = missed(at(3, 5), &page(at(3, 900), 12)).unwrap();
        assert!(told.starts_with("12 events are lost"), "{told}");
        let told = missed(at(3, 5), &page(at(4, 1), 0)).unwrap();
        assert!(told.contains("term 3 saw after its event 5"), "{told}");
        assert_eq!(mark("3:5"), Ok(at(3, 5)));
        assert!(mark("3").is_err() && mark("3:x").is_err());
    }

    #[test]
    fn a_problem_is_told_by_its_name() {
        let e = ClusterEvent {
            mark: at(1, 1),
            at: Timestamp::new(0, 0),
            code: EventCode::ProblemRaised,
            problem: Some("MASTER_SILENT".into()),
            text: "master 2 has not answered".into(),
        };
        assert_eq!(row(&e)[1], "PROBLEM_RAISED MASTER_SILENT");
        pinned("events-problem", &report::events(&EventPage { events: vec![e], next: at(1, 1), lost: 0 }));
    }

    #[test]
    fn a_name_in_an_event_steers_no_terminal() {
        let e = ClusterEvent {
            mark: at(1, 1),
            at: Timestamp::new(0, 0),
            code: EventCode::SessionFenced,
            problem: None,
            text: "session 5 (\x1b[31m\nevil at h) has ended".into(),
        };
        let mut out = Vec::new();
        line(&e, Format::Table, &mut out).unwrap();
        let said = String::from_utf8(out).unwrap();
        assert!(
            said.ends_with("(\\u{1b}[31m\\nevil at h) has ended\n") && said.lines().count() == 1,
            "{said}"
        );
    }
}
