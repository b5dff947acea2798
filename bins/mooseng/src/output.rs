//! How data is printed: tables for people, JSON for programs.

use anyhow::Result;
use bytesize::ByteSize;
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use mooseng_core::attr::{FileKind, Timestamp};
use serde::Serialize;
use serde_json::Value;
use std::io::Write;

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

/// Prints one object: over lines, or in one.
pub(crate) fn json(out: &mut impl Write, format: Format, whole: &Value) -> Result<()> {
    let text = if format == Format::Json { serde_json::to_string_pretty(whole)? } else { whole.to_string() };
    Ok(writeln!(out, "{text}")?)
}

/// Prints a table with a head.
pub(crate) fn table<const N: usize>(
    out: &mut impl Write,
    columns: [Column; N],
    rows: impl Iterator<Item = [String; N]>,
) -> Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.map(|(head, _)| head));
    for row in rows {
        table.add_row(row);
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

/// A size for people, in powers of 1024.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// RFC 3339, in UTC, to the second.
pub(crate) fn time(t: Timestamp) -> String {
    jiff::Timestamp::from_second(t.secs()).map_or_else(|_| format!("{} s", t.secs()), |t| t.to_string())
}

/// As `ls -l` shows kind and permissions.
pub(crate) fn mode(kind: FileKind, bits: u32) -> String {
    let kind = match kind {
        FileKind::File => '-',
        FileKind::Dir => 'd',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::CharDev => 'c',
        FileKind::BlockDev => 'b',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let rwx = bits >> shift & 7;
        text.push(if rwx & 4 != 0 { 'r' } else { '-' });
        text.push(if rwx & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & special != 0, rwx & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    text
}

/// The kind as a word.
pub(crate) const fn kind(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Dir => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDev => "chardev",
        FileKind::BlockDev => "blockdev",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_for_people() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(time(Timestamp::new(1_763_850_000, 5)), "2025-11-22T22:20:00Z");
        assert_eq!(time(Timestamp::new(-1, 0)), "1969-12-31T23:59:59Z");
        assert_eq!(mode(FileKind::Dir, 0o1777), "drwxrwxrwt");
        assert_eq!(mode(FileKind::File, 0o4644), "-rwSr--r--");
        assert_eq!(mode(FileKind::Symlink, 0o2755), "lrwxr-sr-x");
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
