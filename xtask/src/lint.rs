//! Every linter, each once, the quick ones first.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

use crate::{
    process, tidy,
    tools::{self, Cache, LINT_TOOLS},
};

/// Runs all checks, also behind one that fails, so that one run tells everything.
pub(crate) fn run(root: &Path) -> Result<()> {
    let cache = Cache::open()?;
    tools::python_tools(&cache, LINT_TOOLS)?;
    let command = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.current_dir(root).args(arguments);
        cache.extend_path(&mut command);
        command
    };

    // The fuzzers are a workspace of their own.
    let fuzz = |program: &str, arguments: &[&str]| {
        let mut command = command(program, arguments);
        command.current_dir(root.join("fuzz"));
        command
    };

    let mut failed = Vec::new();
    let mut check = |name: &'static str, outcome: Result<()>| {
        if let Err(error) = outcome {
            eprintln!("error: {error:#}");
            failed.push(name);
        }
    };
    check("tidy", tidy::run(root));
    check("fmt", process::run(&mut command("cargo", &["fmt", "--all", "--check"])));
    check("fmt of fuzz", process::run(&mut fuzz("cargo", &["fmt", "--check"])));
    check("typos", process::run(&mut command("typos", &[])));
    // Advisories change without any commit of ours and need a database from outside: they are
    // looked up by hand or on a schedule, not in every run.
    let deny = ["--workspace", "--locked", "check", "bans", "licenses", "sources"];
    check("deny", process::run(&mut command("cargo-deny", &deny)));
    check("deny of fuzz", process::run(&mut fuzz("cargo-deny", &deny)));
    check("shear", process::run(&mut command("cargo-shear", &[])));
    check("shear of fuzz", process::run(&mut fuzz("cargo-shear", &[])));
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny=warnings"];
    check("clippy", process::run(&mut command("cargo", &clippy)));
    check("clippy of fuzz", process::run(&mut fuzz("cargo", &clippy)));
    // Who reads these pages reads the code: private items belong to them.
    check(
        "doc",
        process::run(
            command(
                "cargo",
                &["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"],
            )
            .env("RUSTDOCFLAGS", "--deny=warnings --allow=rustdoc::private-intra-doc-links"),
        ),
    );
    if failed.is_empty() {
        eprintln!("lint: all is in order");
        return Ok(());
    }
    bail!("these checks failed: {}; `cargo xtask fix` mends a part of them", failed.join(", "))
}

/// Lets the tools mend what they can.
pub(crate) fn fix(root: &Path) -> Result<()> {
    let cache = Cache::open()?;
    tools::python_tools(&cache, LINT_TOOLS)?;
    let commands: [(&str, &[&str]); 4] = [
        ("typos", &["--write-changes"]),
        ("cargo-shear", &["--fix"]),
        ("cargo", &["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty"]),
        ("cargo", &["fmt", "--all"]),
    ];
    for (program, arguments) in commands {
        let mut command = Command::new(program);
        command.current_dir(root).args(arguments);
        cache.extend_path(&mut command);
        process::run(&mut command)?;
    }
    Ok(())
}
