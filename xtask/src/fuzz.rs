//! Fuzzers guided by coverage, built with the toolchain that all else is built with.
//!
//! 1. The targets (`fuzz/fuzz_targets`) are built with what tells the fuzzer where a run has been:
//!    what `cargo fuzz` would pass to the compiler, less the sanitizers, which need another
//!    toolchain. So `cargo fuzz run` works too, for who has both.
//! 2. Each writes its seeds, and runs: for a time, from these and from all that earlier runs have
//!    found, or so many times from its seeds alone, with the same numbers drawn each time.
//! 3. What ends one is shown, with the input and the command that repeats it. The others still run.
//!
//! ```text
//! CACHE/fuzz/TARGET/corpus/    inputs that got somewhere new
//! CACHE/fuzz/TARGET/seeds/     what it set out from, made anew
//! CACHE/fuzz/TARGET/findings/  inputs that ended it
//! ```

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{process, tools::Cache};

const SECONDS_USUAL: u64 = 60;

/// A single run may take no longer; what hangs is a finding.
const RUN_SECONDS_MAX: u64 = 20;
/// Nor may the process take more, whatever a target allows itself.
const PROCESS_MIB_MAX: u64 = 2048;
/// Lines of a fuzzer's output that are shown when it ends early.
const SHOWN_LINES: usize = 60;

const RUSTFLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// How long each target runs.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Effort {
    Seconds(u64),
    Runs(u64),
    Input(PathBuf),
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    targets: Vec<String>,
    effort: Effort,
}

/// Builds and runs.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let asked = parse(arguments, &targets(root)?)?;
    let built = build(root)?;
    let cache = Cache::open()?;
    let mut ended = Vec::new();
    for target in &asked.targets {
        if let Err(error) = run_one(&cache, &built, target, &asked.effort) {
            eprintln!("error: {error:#}");
            ended.push(target.as_str());
        }
    }
    ensure!(ended.is_empty(), "these fuzzers found something: {}", ended.join(", "));
    Ok(())
}

/// The names of all targets, in order.
fn targets(root: &Path) -> Result<Vec<String>> {
    let dir = root.join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        let stem = path.file_stem().context("a target without a name")?;
        names.push(stem.to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn parse(arguments: &[String], known: &[String]) -> Result<Asked> {
    let mut asked = Asked { targets: Vec::new(), effort: Effort::Seconds(SECONDS_USUAL) };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if !argument.starts_with("--") {
            let all = known.join(", ");
            ensure!(known.contains(argument), "there is no fuzzer `{argument}`, but: {all}");
            asked.targets.push(argument.clone());
            continue;
        }
        let value = arguments.next().with_context(|| format!("{argument} needs a value"))?;
        let number = || {
            let number = value.parse().ok().filter(|number| *number > 0);
            number.with_context(|| format!("{argument} needs a number above 0, not `{value}`"))
        };
        asked.effort = match argument.as_str() {
            "--seconds" => Effort::Seconds(number()?),
            "--runs" => Effort::Runs(number()?),
            "--input" => Effort::Input(PathBuf::from(value)),
            other => bail!("{other} is not known; --seconds, --runs and --input are"),
        };
    }
    if matches!(asked.effort, Effort::Input(_)) {
        ensure!(asked.targets.len() == 1, "--input needs the name of one fuzzer");
    }
    if asked.targets.is_empty() {
        asked.targets = known.to_vec();
    }
    Ok(asked)
}

/// Builds all targets; where their programs are.
fn build(root: &Path) -> Result<PathBuf> {
    let host = process::output(Command::new("rustc").args(["--print", "host-tuple"]))?;
    let host = host.trim();
    let below = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let dir = root.join(below).join("fuzz");
    // With a target named, what runs while building is not instrumented.
    process::run(
        Command::new("cargo")
            .current_dir(root.join("fuzz"))
            .args(["build", "--release", "--bins", "--locked", "--target", host])
            .env("CARGO_TARGET_DIR", &dir)
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env("RUSTFLAGS", RUSTFLAGS),
    )?;
    Ok(dir.join(host).join("release"))
}

/// Runs one target. An error if it found something, or did not run as often as it should.
fn run_one(cache: &Cache, built: &Path, target: &str, effort: &Effort) -> Result<()> {
    let dir = |name: &str| cache.dir().join("fuzz").join(target).join(name);
    let [corpus, seeds, findings] = ["corpus", "seeds", "findings"].map(dir);
    if seeds.exists() {
        fs::remove_dir_all(&seeds).context("clear the seeds")?;
    }
    for dir in [&corpus, &seeds, &findings] {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let mut command = Command::new(built.join(target));
    command
        .arg(format!("-timeout={RUN_SECONDS_MAX}"))
        .arg(format!("-rss_limit_mb={PROCESS_MIB_MAX}"))
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .arg("-print_final_stats=1");
    match effort {
        // What is found goes to the first directory.
        Effort::Seconds(seconds) => {
            command.arg(format!("-max_total_time={seconds}")).args([&corpus, &seeds])
        }
        Effort::Runs(runs) => command.arg(format!("-runs={runs}")).arg("-seed=1").arg(&seeds),
        Effort::Input(input) => command.arg(input),
    };
    let output = command
        .env("AFFLUX_FUZZ_SEEDS", &seeds)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {target}"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let lines: Vec<&str> = told.lines().collect();
        eprintln!("{}", lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n"));
        if let Some(found) = finding(&told) {
            eprintln!("repeat it: cargo xtask fuzz {target} --input {found}");
        }
        bail!("{target} ended early: {}", output.status);
    }
    let summary = summary(&told);
    eprintln!("fuzz: {target}: {} runs, {} paths", summary.runs, summary.paths);
    if let Effort::Runs(runs) = effort {
        ensure!(summary.runs >= *runs, "{target} ran {} times instead of {runs}", summary.runs);
    }
    Ok(())
}

/// Where a fuzzer says that it wrote what ended it.
fn finding(told: &str) -> Option<&str> {
    told.lines().find_map(|line| Some(line.split_once("Test unit written to ")?.1.trim()))
}

/// What a fuzzer says of its runs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Summary {
    runs: u64,
    paths: u64,
}

fn summary(told: &str) -> Summary {
    let number_behind = |line: &str, word: &str| -> Option<u64> {
        line.split_once(word)?.1.split_whitespace().next()?.parse().ok()
    };
    let mut summary = Summary::default();
    for line in told.lines() {
        if let Some(runs) = number_behind(line, "stat::number_of_executed_units:") {
            summary.runs = runs;
        }
        if let Some(paths) = number_behind(line, " ft: ") {
            summary.paths = paths;
        }
    }
    summary
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn arguments_say_what_runs_and_for_how_long() {
        let known = strings(&["broker", "request"]);
        let check = |arguments: &[&str], targets: &[&str], effort: Effort| {
            let asked = parse(&strings(arguments), &known).unwrap();
            assert_eq!(asked, Asked { targets: strings(targets), effort }, "{arguments:?}");
        };
        check(&[], &["broker", "request"], Effort::Seconds(SECONDS_USUAL));
        check(&["request", "--runs", "9"], &["request"], Effort::Runs(9));
        check(&["--seconds", "5"], &["broker", "request"], Effort::Seconds(5));
        check(&["broker", "--input", "x"], &["broker"], Effort::Input("x".into()));
        for refused in [
            &["other"][..],
            &["--runs"],
            &["--runs", "0"],
            &["--runs", "x"],
            &["--input", "x"],
            &["--jobs", "2"],
        ] {
            assert!(parse(&strings(refused), &known).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn a_fuzzers_last_word_is_read() {
        let told = "#2 INITED cov: 9 ft: 10 corp: 1/1b\n#5 NEW    cov: 12 ft: 17 corp: 2/3b\n\
                    stat::number_of_executed_units: 2000\nstat::average_exec_per_sec:     0\n";
        assert_eq!(summary(told), Summary { runs: 2000, paths: 17 });
        assert_eq!(summary(""), Summary::default());
        let told = "#9 NEW\nartifact_prefix='/x/'; Test unit written to /x/crash-1\nBase64: AA==\n";
        assert_eq!((finding(told), finding("#9 NEW\n")), (Some("/x/crash-1"), None));
    }
}
