//! `afflux sql`: statements to a node, rows to the terminal.
//!
//! 1. The text is cut into statements ([`split`]); each is a request of its own, so that what
//!    came before a mistake has been done and printed.
//! 2. Rows are printed as they come, as JSON or in columns ([`table`]).

mod split;
mod table;

use std::io::{IsTerminal, Read, Write};

use rustyline::{DefaultEditor, error::ReadlineError};

use crate::{
    args::SqlArgs,
    failure::{Failure, Status},
    http::Node,
    terminal::say,
};
use split::Splitter;

/// Runs the command.
pub(crate) fn run(args: &SqlArgs) -> Result<(), Failure> {
    let node = Node::new(&args.node.http);
    if let Some(text) = &args.command {
        return run_all(&node, text, args.json);
    }
    let text = match &args.file {
        Some(path) if path.as_os_str() != "-" => {
            std::fs::read_to_string(path).map_err(|error| {
                Failure::new(Status::Failed, format!("reading {}: {error}", path.display()))
            })?
        }
        None if std::io::stdin().is_terminal() => return interactive(&node, args.json),
        _ => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(|error| {
                Failure::new(Status::Failed, format!("reading the standard input: {error}"))
            })?;
            text
        }
    };
    run_all(&node, &text, args.json)
}

/// The statements of a text.
pub(crate) fn statements(text: &str) -> Vec<String> {
    let mut splitter = Splitter::default();
    splitter.push(text);
    let mut statements: Vec<_> = std::iter::from_fn(|| splitter.next_statement()).collect();
    statements.extend(splitter.rest());
    statements
}

/// Runs all statements of a text, up to the first that fails.
fn run_all(node: &Node, text: &str, json: bool) -> Result<(), Failure> {
    statements(text).iter().try_for_each(|statement| run_one(node, statement, json))
}

fn run_one(node: &Node, statement: &str, json: bool) -> Result<(), Failure> {
    let mut rows = node.query(statement)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let written = if json {
        loop {
            match rows.next_line()? {
                Some(line) => {
                    if let Err(error) = writeln!(out, "{line}") {
                        break Err(error);
                    }
                }
                None => break Ok(()),
            }
        }
    } else {
        let answers_rows = split::answers_rows(statement);
        let mut printer = table::Printer::new(&mut out);
        loop {
            match rows.next_row()? {
                Some(row) => {
                    if let Err(error) = printer.row(row) {
                        break Err(error);
                    }
                }
                None => break printer.end(answers_rows),
            }
        }
    };
    match written.and_then(|()| out.flush()) {
        // Whoever reads us has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(Status::Failed, format!("writing the rows: {error}"))),
        Ok(()) => Ok(()),
    }
}

fn interactive(node: &Node, json: bool) -> Result<(), Failure> {
    let lost =
        |error: ReadlineError| Failure::new(Status::Failed, format!("the terminal: {error}"));
    let mut editor = DefaultEditor::new().map_err(lost)?;
    say!("afflux {}. End statements with a semicolon; Ctrl-D leaves.", env!("CARGO_PKG_VERSION"));
    let mut splitter = Splitter::default();
    loop {
        let prompt = if splitter.is_empty() { "afflux> " } else { "     -> " };
        match editor.readline(prompt) {
            Ok(line) => {
                if splitter.is_empty() && matches!(line.trim(), "exit" | "quit" | "\\q") {
                    return Ok(());
                }
                let _ = editor.add_history_entry(&line);
                splitter.push(&line);
                splitter.push("\n");
                while let Some(statement) = splitter.next_statement() {
                    if let Err(failure) = run_one(node, &statement, json) {
                        failure.report();
                    }
                }
            }
            Err(ReadlineError::Interrupted) => splitter = Splitter::default(),
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(lost(error)),
        }
    }
}
