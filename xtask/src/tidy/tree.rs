//! Names, sizes and contents of files, whatever their language.

use super::{Finding, is_rust};

/// Lines of a source file that need no reason.
const FILE_LINES_USUAL: usize = 600;
/// Lines of a source file that no reason excuses.
const FILE_LINES_MAX: usize = 800;

/// Words that say nothing about what a file holds.
const EMPTY_WORDS: &[&str] =
    &["util", "utils", "common", "helper", "helpers", "manager", "managers", "misc", "v2"];

/// First folders of absolute paths that exist on one machine alone.
const MACHINE_FOLDERS: &[&str] = &["root", "home", "work", "Users"];

/// Hosts that tracked files may point to: documents and name spaces. A package registry or a
/// mirror is a matter of the machine that builds, and is set there.
const HOSTS: &[&str] = &[
    "arrow.apache.org",
    "creativecommons.org",
    "cwiki.apache.org",
    "datafusion.apache.org",
    "doc.rust-lang.org",
    "docs.confluent.io",
    "flink.apache.org",
    "github.com",
    "html.spec.whatwg.org",
    "kafka.apache.org",
    "keepachangelog.com",
    "maven.apache.org",
    "nightlies.apache.org",
    "nexte.st",
    "no-color.org",
    "opensource.org",
    "semver.org",
    "spdx.org",
    "tools.ietf.org",
    "www.apache.org",
    "www.postgresql.org",
    "www.rfc-editor.org",
    "www.w3.org",
];

/// Refuses names that say nothing.
pub(super) fn check_name(path: &str) -> Option<Finding> {
    let empty = path
        .split('/')
        .flat_map(|part| part.split(['_', '-', '.']))
        .find(|word| EMPTY_WORDS.contains(&word.to_ascii_lowercase().as_str()))?;
    Some(Finding {
        path: path.to_owned(),
        line: 0,
        message: format!("`{empty}` in a name says nothing: name it after what it holds"),
    })
}

/// Refuses files that are too long, and what belongs to one machine.
pub(super) fn check_text(path: &str, text: &str) -> Vec<Finding> {
    let finding = |line, message| Finding { path: path.to_owned(), line, message };
    let mut findings = Vec::new();
    if is_rust(path) {
        findings.extend(check_length(path, text));
    }
    for (line, content) in (1..).zip(text.lines()) {
        if let Some(folder) = machine_path(content) {
            findings.push(finding(line, format!("`/{folder}/…` is a path of one machine")));
        }
        if let Some(host) = foreign_host(content) {
            findings.push(finding(
                line,
                format!("the host `{host}` is not one that documents may name (HOSTS of tidy)"),
            ));
        }
    }
    findings
}

fn check_length(path: &str, text: &str) -> Option<Finding> {
    let lines = text.lines().count();
    let mut exceptions =
        (1..).zip(text.lines()).filter(|(_, line)| exception(line, "long-file").is_some());
    let exception = exceptions.next().map(|(line, _)| line);
    let (line, message) = if lines > FILE_LINES_MAX {
        (0, format!("{lines} lines, more than {FILE_LINES_MAX}: split it"))
    } else {
        match (lines > FILE_LINES_USUAL, exception) {
            (false, None) | (true, Some(_)) => return None,
            (false, Some(line)) => {
                (line, "this exception (long-file) is no longer needed".to_owned())
            }
            (true, None) => (
                0,
                format!(
                    "{lines} lines, more than {FILE_LINES_USUAL}: split it, or give the reason \
                     in `// tidy(long-file): …`"
                ),
            ),
        }
    };
    Some(Finding { path: path.to_owned(), line, message })
}

/// Refuses a crate that does not say what it is, or leaves the workspace's lints.
pub(super) fn check_manifest(path: &str, text: &str) -> Vec<Finding> {
    let finding =
        |message: &str| Finding { path: path.to_owned(), line: 0, message: message.to_owned() };
    let mut findings = Vec::new();
    if !text.lines().any(|line| line.starts_with("description = \"")) {
        findings.push(finding("no description: say in a line what the crate is"));
    }
    if !text.contains("[lints]\nworkspace = true") {
        findings.push(finding("the workspace's lints are not taken: `[lints] workspace = true`"));
    }
    findings
}

/// Refuses links in a document to files that are not there; `exists` takes a path from the root.
pub(super) fn check_links(path: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut findings = Vec::new();
    for (line, content) in (1..).zip(text.lines()) {
        for (at, _) in content.match_indices("](") {
            let link = content[at + 2..].split([')', '#', ' ']).next().unwrap_or_default();
            if link.is_empty() || link.contains(':') || exists(&resolve(folder, link)) {
                continue;
            }
            findings.push(Finding {
                path: path.to_owned(),
                line,
                message: format!("there is no `{link}` to link to"),
            });
        }
    }
    findings
}

/// The path from the root of a link in a document in `folder`.
fn resolve(folder: &str, link: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The reason of an exception for `rule` in this line, if it is one.
pub(super) fn exception<'a>(line: &'a str, rule: &str) -> Option<&'a str> {
    let (_, rest) = line.trim_start().strip_prefix("//")?.split_once("tidy(")?;
    let reason = rest.strip_prefix(rule)?.strip_prefix("):")?.trim();
    (!reason.is_empty()).then_some(reason)
}

/// The first folder of an absolute path that only one machine has.
fn machine_path(line: &str) -> Option<&'static str> {
    MACHINE_FOLDERS.iter().copied().find(|folder| {
        line.match_indices(&format!("/{folder}/")).any(|(at, _)| {
            // Otherwise it is the middle of a path or of an address.
            let before = line[..at].chars().next_back();
            before.is_none_or(|c| !c.is_alphanumeric() && !"./_-~}*".contains(c))
        })
    })
}

/// The first host in an address that is not allowed.
fn foreign_host(line: &str) -> Option<&str> {
    line.match_indices("://").find_map(|(at, _)| {
        if !line[..at].ends_with("http") && !line[..at].ends_with("https") {
            return None;
        }
        let rest = &line[at + 3..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"-._".contains(c));
        let host = &rest[..end.unwrap_or(rest.len())];
        let loopback = host == "localhost" || host.starts_with("127.") || host == "0.0.0.0";
        // Reserved by RFC 2606; used where a test needs a host of somebody else.
        let reserved = ["example", "test", "invalid", "example.com", "example.org", "example.net"]
            .iter()
            .any(|suffix| host == *suffix || host.ends_with(&format!(".{suffix}")));
        let placeholder = host.is_empty() || !host.contains('.');
        (!loopback && !reserved && !placeholder && !HOSTS.contains(&host)).then_some(host)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_something() {
        for (path, refused) in [
            ("crates/afflux-log/src/journal.rs", false),
            ("crates/afflux-log/src/utils.rs", true),
            ("crates/afflux-log/tests/common/mod.rs", true),
            ("src/batch_v2.rs", true),
            ("src/state_manager.rs", true),
            ("src/Helper.java", true),
            ("src/commonly.rs", false),
        ] {
            assert_eq!(check_name(path).is_some(), refused, "{path}");
        }
    }

    #[test]
    fn files_have_a_length() {
        let reason = "// tidy(long-file): one table, read as a whole\n";
        for (lines, with_reason, refused) in [
            (600, false, false),
            (601, false, true),
            (700, true, false),
            (801, true, true),
            (100, true, true),
        ] {
            let mut text = "x\n".repeat(lines - usize::from(with_reason));
            if with_reason {
                text.push_str(reason);
            }
            assert_eq!(check_length("a.rs", &text).is_some(), refused, "{lines} {with_reason}");
        }
        let without_reason = format!("// tidy(long-file):\n{}", "x\n".repeat(650));
        assert!(check_length("a.rs", &without_reason).is_some());
    }

    #[test]
    fn manifests_say_what_a_crate_is() {
        let good = "[package]\ndescription = \"x\"\n[lints]\nworkspace = true\n";
        assert_eq!(check_manifest("Cargo.toml", good), []);
        assert_eq!(check_manifest("Cargo.toml", "[package]\n").len(), 2);
    }

    #[test]
    fn links_lead_somewhere() {
        let exists = |path: &str| ["README.md", "docs/sql.md", "docs"].contains(&path);
        for (path, text, refused) in [
            ("README.md", "[a](docs/sql.md) [b](docs/) [c](docs/sql.md#joins)", 0),
            ("docs/sql.md", "[a](../README.md) [b](sql.md) [c](#here) [d](mailto:x@y)", 0),
            ("docs/sql.md", "[a](README.md) [b](docs/sql.md)", 2),
        ] {
            assert_eq!(check_links(path, text, exists).len(), refused, "{path} {text}");
        }
    }

    #[test]
    fn paths_of_one_machine_are_refused() {
        for folder in MACHINE_FOLDERS {
            assert_eq!(machine_path(&format!("see /{folder}/someone/x")), Some(*folder));
            assert_eq!(machine_path(&format!("\"/{folder}/x\"")), Some(*folder));
            assert_eq!(machine_path(&format!("target/{folder}/x")), None);
            assert_eq!(machine_path(&format!("$DIR/{folder}/x ./{folder}/x")), None);
        }
        assert_eq!(machine_path("/usr/bin/env and /tmp/x"), None);
    }

    #[test]
    fn hosts_are_known() {
        let at = |host: &str| format!("see https{}{host}/x", "://");
        for (host, refused) in [
            ("github.com", false),
            ("127.0.0.1:8080", false),
            ("localhost:1", false),
            ("evil.example", false),
            ("{address}", false),
            ("HOST:PORT", false),
            ("mirror.corp.net", true),
            ("user.github.com", true),
        ] {
            assert_eq!(foreign_host(&at(host)).is_some(), refused, "{host}");
        }
        assert_eq!(foreign_host("postgres://db.corp.net"), None);
    }
}
