//! The `afflux` command.
//!
//! | command | module | talks to a node by |
//! |---|---|---|
//! | `up` | [`up`] | being one |
//! | `demo` | [`demo`] | starting one as a child; Kafka, HTTP |
//! | `sql` | [`sql`] | HTTP |
//! | `topic`, `produce`, `consume` | [`topic`], [`produce`], [`consume`] | Kafka |
//! | `journal` | [`journal`] | no means: it works on the files of one that is not running |
//!
//! Not here: anything that a node does. `up` and `journal` hand their flags to `afflux-server`; all
//! the others are clients and reach a node as any client would.

#![allow(
    clippy::disallowed_methods,
    reason = "commands live in real time: none of them runs in the simulator"
)]

mod args;
mod consume;
mod demo;
mod failure;
mod http;
mod interrupt;
mod journal;
mod kafka;
mod produce;
mod sql;
mod terminal;
mod topic;
mod up;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command, CompletionsArgs, Shell, VersionArgs};
use failure::Failure;
use terminal::say;

/// A node allocates on one thread what it frees on another all day (decision 0007).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Up(args) => up::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Sql(args) => sql::run(&args),
        Command::Topic(args) => topic::run(args),
        Command::Produce(args) => produce::run(&args),
        Command::Consume(args) => consume::run(&args),
        Command::Journal(args) => journal::run(&args),
        Command::Version(args) => {
            version(&args);
            Ok(())
        }
        Command::Completions(args) => {
            completions(&args);
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => Failure::report(&failure),
    }
}

fn version(args: &VersionArgs) {
    let version = env!("CARGO_PKG_VERSION");
    if args.json {
        say!("{}", serde_json::json!({ "version": version }));
    } else {
        say!("afflux {version}");
    }
}

fn completions(args: &CompletionsArgs) {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Elvish => clap_complete::Shell::Elvish,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::Powershell => clap_complete::Shell::PowerShell,
        Shell::Zsh => clap_complete::Shell::Zsh,
    };
    clap_complete::generate(shell, &mut Cli::command(), "afflux", &mut std::io::stdout());
}
