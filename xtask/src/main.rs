//! The project's own rules and its one test command.
//!
//! `cargo xtask tidy` holds what no general linter knows ([`tidy`]), `cargo xtask lint` runs
//! every linter ([`lint`]), `cargo xtask fuzz` runs fuzzers ([`fuzz`]), and `cargo xtask test` passes
//! all tests on a fresh machine ([`mod@test`]): it brings the tools that they need ([`tools`])
//! instead of skipping tests.

mod fuzz;
mod lint;
mod process;
mod test;
mod tidy;
mod tools;

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};

const USAGE: &str = "\
The project's own checks.

Usage: cargo xtask COMMAND

Commands:
  test [ARG...]  Install what the tests need, then run all of them. Arguments go to
                 `cargo nextest run`: `cargo xtask test -p afflux-log torn`
  lint           Formatting, clippy, tidy, licences, unused dependencies, spelling, docs
  tidy           The rules of ARCHITECTURE.md alone: layers, seam, sizes, names
  fuzz [TARGET...] [--seconds N | --runs N]
                 Run fuzzers, each for N seconds [default: 60] from all that was found before,
                 or N times from its seeds, the same each time
  fuzz TARGET --input FILE
                 Run a fuzzer on one input
  kafka          Put Apache Kafka into the cache, for comparisons, and print its class path
  fix            Mend what a tool can mend: formatting, clippy's suggestions, spelling

Environment:
  AFFLUX_CACHE_DIR  where tools are kept [default: $XDG_CACHE_HOME/afflux or ~/.cache/afflux]
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let root = workspace_root()?;
    match arguments.split_first().map(|(command, rest)| (command.as_str(), rest)) {
        Some(("tidy", [])) => tidy::run(&root),
        Some(("lint", [])) => lint::run(&root),
        Some(("fix", [])) => lint::fix(&root),
        Some(("kafka", [])) => {
            println!("{}", tools::jars(&tools::Cache::open()?, &tools::KAFKA)?);
            Ok(())
        }
        Some(("fuzz", rest)) => fuzz::run(&root, rest),
        Some(("test", rest)) => test::run(&root, rest),
        None | Some(("help" | "--help" | "-h", _)) => {
            print!("{USAGE}");
            Ok(())
        }
        Some((command, _)) => {
            anyhow::bail!("`cargo xtask {command}` is not known, or takes no arguments\n\n{USAGE}")
        }
    }
}

/// The workspace that this program was built from, wherever it is run.
fn workspace_root() -> Result<PathBuf> {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").context("run this as `cargo xtask`")?;
    Path::new(&manifest)
        .parent()
        .map(Path::to_path_buf)
        .context("xtask must lie in the workspace's root")
}
