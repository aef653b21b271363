//! What people see and type: commands on a terminal.
#![cfg(unix)]

mod support;

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use support::{
    Node, afflux, run_with,
    terminal::{CTRL_C, CTRL_D, Terminal},
};

/// What begins a colour or another weight of letters; moving the cursor does not.
fn is_coloured(drawn: &str) -> bool {
    drawn.split("\x1b[").skip(1).any(|rest| {
        let end = rest.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(0);
        rest[end..].starts_with('m') && !matches!(&rest[..end], "" | "0")
    })
}

fn in_colours(mut command: Command) -> Command {
    command.env_remove("NO_COLOR");
    command
}

#[test]
fn statements_are_typed_over_several_lines() {
    let node = Node::start();
    let mut terminal = Terminal::run(node.command(&["sql"]));
    terminal.until("afflux> ");
    terminal.keys("SELECT 41 + 1 AS answer,\r");
    terminal.until("     -> ");
    terminal.keys("2 AS two; SELECT 3 AS three;\r");
    terminal.until("answer  two");
    terminal.until("(1 row)");
    terminal.until("three");
    terminal.until("(1 row)");
    // A mistake is told and ends nothing.
    terminal.until("afflux> ");
    terminal.keys("SELEC 1;\r");
    terminal.until("error: ");
    // Ctrl-C forgets what was begun.
    terminal.until("afflux> ");
    terminal.keys("SELECT 'half\r");
    terminal.until("     -> ");
    terminal.keys(CTRL_C);
    terminal.until("afflux> ");
    terminal.keys("SELECT 4 AS four;\r");
    terminal.until("(1 row)");
    // What was typed comes back with the key for up.
    terminal.until("afflux> ");
    terminal.keys("\x1b[A");
    terminal.until("SELECT 4 AS four;");
    terminal.keys("\r");
    terminal.until("(1 row)");
    terminal.until("afflux> ");
    terminal.keys(CTRL_D);
    assert_eq!(terminal.end().0, Some(0));

    let mut terminal = Terminal::run(node.command(&["sql"]));
    terminal.until("afflux> ");
    terminal.keys("\\q\r");
    assert_eq!(terminal.end().0, Some(0));
}

#[test]
fn colours_are_for_those_who_want_them() {
    let nobody = ["sql", "--http", "127.0.0.1:1", "-c", "SELECT 1"];
    let command = || {
        let mut command = afflux();
        command.args(nobody);
        command
    };
    let (status, plain) = Terminal::run(command()).end();
    assert_eq!(status, Some(3));
    assert!(plain.contains("error: ") && !is_coloured(&plain), "{plain:?}");
    let (_, drawn) = Terminal::run(in_colours(command())).end();
    assert!(is_coloured(&drawn), "{drawn:?}");
    // Where it goes to a file, there are none.
    let piped = in_colours(command()).output().expect("it runs");
    assert!(!is_coloured(&support::text(&piped.stderr[..])));
}

#[test]
fn the_demo_draws_a_bar_and_the_busiest_routes() {
    let command = || {
        let mut command = afflux();
        command.args(["demo", "--until-done", "--days", "2", "--speed", "4"]).args([
            "--kafka",
            "127.0.0.1:0",
            "--postgres",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
        ]);
        command
    };
    let mut terminal = Terminal::run(command());
    terminal.until("psql: ");
    terminal.until("UTC");
    terminal.until("records");
    terminal.until("route      flights  mean delay at arrival, minutes");
    let (status, drawn) = terminal.end();
    assert_eq!(status, Some(0), "{drawn}");
    assert!(drawn.contains("█") && drawn.contains("JFK-LAX"), "{drawn}");
    assert!(drawn.contains("views equal the batch recomputation"), "{drawn}");
    assert!(!is_coloured(&drawn), "{drawn:?}");

    let (status, drawn) = Terminal::run(in_colours(command())).end();
    assert_eq!(status, Some(0), "{drawn}");
    assert!(is_coloured(&drawn), "{drawn:?}");
}

#[test]
fn an_interrupt_ends_consume_and_commits_what_was_printed() {
    let node = Node::start();
    node.run(&["topic", "create", "orders", "--partitions", "1"]).ok();
    run_with(&mut node.command(&["produce", "orders"]), "1\n2\n").ok();
    let consume = ["consume", "orders", "--group", "g", "--from-beginning"];
    let mut child =
        node.command(&consume).stdout(Stdio::piped()).spawn().expect("the command starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    assert_eq!((line(), line()), ("1".to_owned(), "2".to_owned()));
    kill_process(Pid::from_raw(child.id() as i32).expect("an id"), Signal::INT).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    run_with(&mut node.command(&["produce", "orders"]), "3\n").ok();
    assert_eq!(node.run(&[&consume[..], &["-n", "1"]].concat()).ok(), "3\n");
}
