//! How data is printed: tables for people, JSON for programs.

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
pub(crate) use mooseng_client::report::{kind, mode, size, time};
use serde::Serialize;
use serde_json::Value;
use std::{borrow::Cow, io::Write};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// One object with the schema's name and version.
    Json,
    /// One item per line.
    Jsonl,
}

/// One column: its head, whether it is of numbers.
pub(crate) type Column = (&'static str, bool);

/// A column of words.
pub(crate) const fn words(head: &'static str) -> Column {
    (head, false)
}

/// A column of numbers.
pub(crate) const fn numbers(head: &'static str) -> Column {
    (head, true)
}

/// Prints items: as JSON by themselves, in a table by `row`.
pub(crate) fn items<T: Serialize, const N: usize>(
    out: &mut impl Write,
    format: Format,
    schema: &str,
    items: &[T],
    columns: [Column; N],
    row: impl Fn(&T) -> [String; N],
) -> Result<()> {
    match format {
        Format::Table => table(out, columns, items.iter().map(row)),
        Format::Json => json(out, format, &serde_json::json!({ "schema": schema, "items": items })),
        Format::Jsonl => {
            for item in items {
                writeln!(out, "{}", serde_json::to_string(item)?)?;
            }
            Ok(())
        }
    }
}

/// Prints items whose JSON is made by `json`, and their rows by `row`.
pub(crate) fn list<T, const N: usize>(
    out: &mut impl Write,
    (format, schema): (Format, &str),
    all: &[T],
    json: impl Fn(&T) -> Value,
    columns: [Column; N],
    row: impl Fn(&T) -> [String; N],
) -> Result<()> {
    if format == Format::Table {
        return table(out, columns, all.iter().map(row));
    }
    items(out, format, schema, &all.iter().map(json).collect::<Vec<_>>(), [], |_| [])
}

/// A text for a terminal in which names may be that others chose: control characters and those that change the
/// direction of writing are escaped, so that it is one line and steers nothing.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    if !text.contains(steers) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out.into()
}

/// The same for a text of several lines.
pub(crate) fn shown_lines(text: &str) -> String {
    text.split('\n').map(shown).collect::<Vec<_>>().join("\n")
}

/// Prints one object: over lines, or in one.
pub(crate) fn json(out: &mut impl Write, format: Format, whole: &Value) -> Result<()> {
    let text = if format == Format::Json { serde_json::to_string_pretty(whole)? } else { whole.to_string() };
    Ok(writeln!(out, "{text}")?)
}

/// Prints a table with a head. Cells are shown as [`shown`] has them.
pub(crate) fn table<const N: usize>(
    out: &mut impl Write,
    columns: [Column; N],
    rows: impl Iterator<Item = [String; N]>,
) -> Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.map(|(head, _)| head));
    for row in rows {
        table.add_row(row.each_ref().map(|cell| shown(cell)));
    }
    for (column, (_, numbers)) in table.column_iter_mut().zip(columns) {
        column.set_padding((0, 2));
        if numbers {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_steer_no_terminal() {
        assert_eq!(shown("caf\u{e9} \u{65e5}\u{672c} \"a\\b\""), "caf\u{e9} \u{65e5}\u{672c} \"a\\b\"");
        assert_eq!(shown("a\x1b[2Jb\r\nc\u{7f}\u{9b}"), r"a\u{1b}[2Jb\r\nc\u{7f}\u{9b}");
        assert_eq!(shown("x\u{202e}gpj.exe"), r"x\u{202e}gpj.exe");
        assert_eq!(shown_lines("a\n\x07b"), "a\n\\u{7}b");
        let mut out = Vec::new();
        table(&mut out, [words("NAME")], std::iter::once(["\x1b]0;owned\x07".to_owned()])).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "NAME\n\\u{1b}]0;owned\\u{7}\n");
    }

    #[test]
    fn items_are_tables_objects_or_lines() {
        let show = |format| {
            let mut out = Vec::new();
            let columns = [words("NAME"), numbers("N")];
            let row = |(name, n): &(&str, u32)| [(*name).to_owned(), n.to_string()];
            items(&mut out, format, "mooseng.test/1", &[("a", 5), ("bcd", 1000)], columns, row).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(show(Format::Table), "NAME     N\na        5\nbcd   1000\n");
        assert_eq!(show(Format::Jsonl), "[\"a\",5]\n[\"bcd\",1000]\n");
        let json: serde_json::Value = serde_json::from_str(&show(Format::Json)).unwrap();
        assert_eq!((&json["schema"], &json["items"][1][1]), (&"mooseng.test/1".into(), &1000.into()));
    }
}
