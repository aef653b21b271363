//! Rows in aligned columns.
//!
//! 1. The first rows wait until it is known how wide their columns are.
//! 2. Then they are printed, and every later row at once, in the same columns; a value that does
//!    not fit pushes its row to the right rather than being cut.

use std::io::{self, Write};

use serde_json::Value;

use crate::http::Row;

/// How many rows decide about the widths.
const ROWS_WAITING_MAX: usize = 1_000;

/// Prints the rows of one answer.
pub(crate) struct Printer<W> {
    out: W,
    waiting: Vec<Row>,
    widths: Vec<usize>,
    rows: u64,
}

impl<W: Write> Printer<W> {
    /// A printer for one answer.
    pub(crate) fn new(out: W) -> Self {
        Self { out, waiting: Vec::new(), widths: Vec::new(), rows: 0 }
    }

    /// Takes the next row.
    pub(crate) fn row(&mut self, row: Row) -> io::Result<()> {
        self.rows += 1;
        if self.widths.is_empty() {
            self.waiting.push(row);
            if self.waiting.len() == ROWS_WAITING_MAX { self.release() } else { Ok(()) }
        } else {
            self.print(&row)
        }
    }

    /// Ends the answer; says how many rows there were if it was an answer of rows.
    pub(crate) fn end(&mut self, count_shown: bool) -> io::Result<()> {
        self.release()?;
        match self.rows {
            0 if !count_shown => Ok(()),
            1 => writeln!(self.out, "(1 row)"),
            rows => writeln!(self.out, "({rows} rows)"),
        }
    }

    fn release(&mut self) -> io::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let Some(first) = waiting.first() else { return Ok(()) };
        self.widths = first.0.iter().map(|(name, _)| width(name)).collect();
        for row in &waiting {
            for (widest, (_, value)) in self.widths.iter_mut().zip(&row.0) {
                *widest = (*widest).max(width(&text(value)));
            }
        }
        let names = first.0.iter().map(|(name, value)| (name.clone(), value.is_number()));
        let rule: Vec<_> = self.widths.iter().map(|width| "-".repeat(*width)).collect();
        self.line(names)?;
        writeln!(self.out, "{}", rule.join("  "))?;
        waiting.iter().try_for_each(|row| self.print(row))
    }

    fn print(&mut self, row: &Row) -> io::Result<()> {
        self.line(row.0.iter().map(|(_, value)| (text(value), value.is_number())))
    }

    fn line(&mut self, cells: impl Iterator<Item = (String, bool)>) -> io::Result<()> {
        let mut line = String::new();
        for (index, (cell, right)) in cells.enumerate() {
            let blanks = self.widths.get(index).map_or(0, |w| w.saturating_sub(width(&cell)));
            if index > 0 {
                line.push_str("  ");
            }
            let blanks = " ".repeat(blanks);
            line.extend(if right { [blanks, cell] } else { [cell, blanks] });
        }
        writeln!(self.out, "{}", line.trim_end())
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// A value as a cell. Control characters would draw elsewhere.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text
            .chars()
            .flat_map(|c| {
                let escaped = c.is_control().then(|| c.escape_default());
                let plain = escaped.is_none().then_some(c);
                escaped.into_iter().flatten().chain(plain)
            })
            .collect(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_stand_right() {
        let check = |rows: &[&str], count_shown, expected: &str| {
            let mut out = Vec::new();
            let mut printer = Printer::new(&mut out);
            for row in rows {
                printer.row(serde_json::from_str(row).expect("a row")).expect("memory");
            }
            printer.end(count_shown).expect("memory");
            assert_eq!(String::from_utf8(out).expect("text"), expected);
        };
        check(&[], false, "");
        check(&[], true, "(0 rows)\n");
        check(
            &[r#"{"dest":"LAX","n":1}"#, r#"{"dest":"X\nY","n":1000}"#, r#"{"dest":null,"n":2.5}"#],
            true,
            "dest     n\n----  ----\nLAX      1\nX\\nY  1000\n       2.5\n(3 rows)\n",
        );
        check(&[r#"{"n":1}"#], true, "n\n-\n1\n(1 row)\n");
    }
}
