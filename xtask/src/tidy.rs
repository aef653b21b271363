//! The rules that no general linter knows.
//!
//! 1. [`layers`]: no crate depends upwards, or on a neighbour that it must not know.
//! 2. [`tree`]: sizes and names of files; nothing of one machine in a tracked file.
//! 3. [`source`]: the seam to the world, functions' lengths, no unfinished code.
//!
//! A rule that allows exceptions names itself in its message. The exception is a comment above
//! the place, `// tidy(RULE): REASON`, and is itself refused once nothing needs it.

mod layers;
mod source;
mod tree;

use std::{fmt, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::process;

/// Something that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Relative to the workspace's root.
    path: String,
    /// Counted from 1; 0 for the file as a whole.
    line: usize,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

/// Checks the workspace at `root`. An error if anything was found.
pub(crate) fn run(root: &Path) -> Result<()> {
    let metadata = process::output(Command::new("cargo").current_dir(root).args([
        "metadata",
        "--no-deps",
        "--format-version=1",
    ]))?;
    let packages = layers::packages(&metadata)?;
    let mut findings = layers::check(&packages);

    let files = tracked_files(root)?;
    for path in &files {
        findings.extend(tree::check_name(path));
        let bytes = match std::fs::read(root.join(path)) {
            Ok(bytes) => bytes,
            // Removed, but not yet from the index.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("read {path}")),
        };
        // What is not text has no lines, no words and no code.
        let Ok(text) = str::from_utf8(&bytes) else { continue };
        findings.extend(tree::check_text(path, text));
        if path.ends_with("Cargo.toml") && path != "Cargo.toml" {
            findings.extend(tree::check_manifest(path, text));
        }
        if has_extension(path, "md") {
            findings.extend(tree::check_links(path, text, |to| root.join(to).exists()));
        }
        if is_rust(path) {
            findings.extend(source::check(path, text));
        }
    }

    findings.sort();
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("tidy found {} in {} files", findings.len(), files.len());
    }
    eprintln!("tidy: {} crates and {} files are in order", packages.len(), files.len());
    Ok(())
}

/// Files that are tracked or would be: what git ignores is nobody's concern.
fn tracked_files(root: &Path) -> Result<Vec<String>> {
    let list = process::output(Command::new("git").current_dir(root).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))
    .context("list the files; tidy needs a git checkout")?;
    Ok(list.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
}

/// Whether a file holds Rust.
fn is_rust(path: &str) -> bool {
    has_extension(path, "rs")
}

fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}
