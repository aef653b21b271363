//! Rules about Rust code, read as tokens, so that comments and strings are never taken for it.
//!
//! It is not a compiler: macros are not expanded and names are resolved only through the `use`
//! lines of the same file. What it cannot see, review does.
//!
//! 1. The file becomes token trees; `use` lines become a map from short names to full paths.
//! 2. One walk over the trees, which knows when it is inside a test, collects the functions,
//!    the unfinished macros and every path that names something of the world.
//! 3. Findings with a reasoned exception above them are dropped; exceptions that dropped
//!    nothing become findings.

use std::collections::{BTreeSet, HashMap};

use proc_macro2::{Delimiter, Group, Ident, TokenStream, TokenTree};

use super::{Finding, layers, tree};

/// Lines of code of a function; blank lines and comments are free.
const FUNCTION_LINES_MAX: usize = 70;

/// From this layer on, the world may be touched directly.
const FIRST_LAYER_OUTSIDE_THE_SEAM: u8 = 5;

/// The real world's side of the seam.
const SEAM: &str = "crates/afflux-env/src/real";

/// What stands behind `afflux-env`. A path is refused if it begins with one of these.
const WORLD: &[&str] = &[
    "std::time::Instant",
    "std::time::SystemTime",
    "std::thread::sleep",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "std::os::unix::fs",
    "std::os::unix::net",
    "tokio::fs",
    "tokio::net",
    "tokio::time::Instant",
];

/// Macros of code that is not finished.
const UNFINISHED: &[&str] = &["todo", "unimplemented", "dbg"];

/// Words of comments that put something off.
const PUT_OFF: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Rules that allow a reasoned exception.
const WITH_EXCEPTIONS: &[&str] = &["long-function", "seam"];

/// All that this module finds in one file.
pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    let finding = |line, message: String| Finding { path: path.to_owned(), line, message };
    let tokens: TokenStream = match text.parse() {
        Ok(tokens) => tokens,
        Err(error) => return vec![finding(0, format!("is not Rust: {error}"))],
    };

    let mut names = HashMap::new();
    collect_names(tokens.clone(), &mut names);
    let seam_applies = layers::layer_of(path).is_some_and(|l| l < FIRST_LAYER_OUTSIDE_THE_SEAM)
        && !path.starts_with(SEAM);
    let mut walk = Walk { names, seam_applies, found: Vec::new() };
    walk.trees(tokens, is_test_file(path));

    let lines: Vec<&str> = text.lines().collect();
    let mut needed = BTreeSet::new();
    let mut findings = Vec::new();
    for found in walk.found {
        match exception_above(&lines, found.line, found.rule) {
            Some(line) => _ = needed.insert(line),
            None => findings.push(finding(found.line, found.message)),
        }
    }
    for (number, line) in (1..).zip(&lines) {
        let excepts = WITH_EXCEPTIONS.iter().any(|rule| tree::exception(line, rule).is_some());
        if excepts && !needed.contains(&number) {
            findings.push(finding(number, "this exception is no longer needed".to_owned()));
        }
        if let Some(word) = put_off(line) {
            findings.push(finding(number, format!("{word}: do it, or file it")));
        }
    }
    findings
}

fn is_test_file(path: &str) -> bool {
    let mut parts = path.rsplit('/');
    let stem = parts.next().unwrap_or_default().trim_end_matches(".rs");
    stem == "tests" || stem.ends_with("_tests") || parts.any(|part| part == "tests")
}

/// Something that breaks a rule, before exceptions.
struct Found {
    line: usize,
    rule: &'static str,
    message: String,
}

struct Walk {
    /// Short names that the file's `use` lines bring in, and what they stand for.
    names: HashMap<String, String>,
    seam_applies: bool,
    found: Vec<Found>,
}

impl Walk {
    fn trees(&mut self, tokens: TokenStream, in_test: bool) {
        let trees: Vec<TokenTree> = tokens.into_iter().collect();
        let mut item_is_test = false;
        let mut at = 0;
        while let Some(tree) = trees.get(at) {
            let mut step = 1;
            match tree {
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    item_is_test |= marks_test(trees.get(at + 1));
                }
                TokenTree::Punct(punct) if punct.as_char() == ';' => item_is_test = false,
                TokenTree::Group(group) => {
                    self.trees(group.stream(), in_test || item_is_test);
                    if group.delimiter() == Delimiter::Brace {
                        item_is_test = false;
                    }
                }
                TokenTree::Ident(ident) => {
                    let in_test = in_test || item_is_test;
                    self.unfinished(ident, &trees[at..]);
                    if ident == "use" && !in_test {
                        step = self.use_line(ident, &trees[at..]);
                    } else {
                        let path = path_at(&trees[at..]);
                        step = path.tokens;
                        if !in_test {
                            self.function(ident, &trees[at..]);
                            self.path(ident, &path.names);
                        }
                    }
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
            at += step;
        }
    }

    fn unfinished(&mut self, ident: &Ident, trees: &[TokenTree]) {
        let name = ident.to_string();
        let called = matches!(trees.get(1), Some(TokenTree::Punct(p)) if p.as_char() == '!')
            && matches!(trees.get(2), Some(TokenTree::Group(_)));
        if called && UNFINISHED.contains(&name.as_str()) {
            self.find(ident, "unfinished", format!("`{name}!` must not be left in the code"));
        }
    }

    fn function(&mut self, ident: &Ident, trees: &[TokenTree]) {
        if ident != "fn" || !matches!(trees.get(1), Some(TokenTree::Ident(_))) {
            return;
        }
        let body = trees.iter().find_map(|tree| match tree {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => Some(Some(group)),
            TokenTree::Punct(punct) if punct.as_char() == ';' => Some(None),
            _ => None,
        });
        let Some(Some(body)) = body else { return };
        let lines = lines_of_code(ident, body);
        if lines > FUNCTION_LINES_MAX {
            let message = format!(
                "`fn {}` has {lines} lines of code, more than {FUNCTION_LINES_MAX}: split it, or \
                 give the reason in `// tidy(long-function): …`",
                trees[1]
            );
            self.find(ident, "long-function", message);
        }
    }

    /// Checks what a `use` line names; returns how many trees it has.
    fn use_line(&mut self, ident: &Ident, trees: &[TokenTree]) -> usize {
        let end = end_of_use(trees);
        let mut imported = Vec::new();
        expand(&trees[1..end], "", &mut imported);
        for (_, full) in imported {
            self.world(ident, &full);
        }
        end
    }

    fn path(&mut self, ident: &Ident, path: &[String]) {
        let [first, rest @ ..] = path else { return };
        // A name alone was checked where it was imported.
        if rest.is_empty() {
            return;
        }
        let first = self.names.get(first).cloned().unwrap_or_else(|| first.clone());
        self.world(ident, &[&[first], rest].concat().join("::"));
    }

    fn world(&mut self, ident: &Ident, full: &str) {
        if !self.seam_applies {
            return;
        }
        let touched = WORLD.iter().find(|refused| {
            full.strip_prefix(**refused)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        });
        let line = ident.span().start().line;
        // `use` and the places where the name is used are one finding a line.
        if let Some(world) = touched
            && !self.found.iter().any(|found| found.line == line && found.rule == "seam")
        {
            let message = format!(
                "{world} below layer {FIRST_LAYER_OUTSIDE_THE_SEAM}: go through `afflux-env`, or \
                 give the reason in `// tidy(seam): …`"
            );
            self.find(ident, "seam", message);
        }
    }

    fn find(&mut self, at: &Ident, rule: &'static str, message: String) {
        self.found.push(Found { line: at.span().start().line, rule, message });
    }
}

/// Whether the attribute behind `#` marks a test: `test`, `tokio::test`, `cfg(test)` and the like.
fn marks_test(attribute: Option<&TokenTree>) -> bool {
    let Some(TokenTree::Group(group)) = attribute else { return false };
    let mut trees = group.stream().into_iter();
    let Some(TokenTree::Ident(first)) = trees.next() else { return false };
    if first != "cfg" {
        return path_at(&group.stream().into_iter().collect::<Vec<_>>())
            .names
            .last()
            .is_some_and(|name| name == "test" || name == "rstest");
    }
    let Some(TokenTree::Group(condition)) = trees.next() else { return false };
    // `not(test)` is a group further down, and is not a test.
    condition.stream().into_iter().any(|tree| matches!(tree, TokenTree::Ident(i) if i == "test"))
}

/// The lines from the `fn` to its closing brace on which a token stands.
fn lines_of_code(start: &Ident, body: &Group) -> usize {
    fn collect(tokens: TokenStream, lines: &mut BTreeSet<usize>) {
        for tree in tokens {
            if let TokenTree::Group(group) = &tree {
                lines.insert(group.span_open().start().line);
                lines.insert(group.span_close().end().line);
                collect(group.stream(), lines);
            } else {
                lines.extend(tree.span().start().line..=tree.span().end().line);
            }
        }
    }
    let mut lines = BTreeSet::from([start.span().start().line]);
    lines.extend(start.span().start().line..=body.span_open().start().line);
    lines.insert(body.span_close().end().line);
    collect(body.stream(), &mut lines);
    lines.len()
}

/// A path in code: `a::b::c`, and how many trees it takes.
struct PathTokens {
    names: Vec<String>,
    tokens: usize,
}

fn path_at(trees: &[TokenTree]) -> PathTokens {
    let mut path = PathTokens { names: Vec::new(), tokens: 0 };
    while let Some(TokenTree::Ident(ident)) = trees.get(path.tokens) {
        path.names.push(ident.to_string());
        path.tokens += 1;
        if !is_path_separator(&trees[path.tokens..])
            || !matches!(trees.get(path.tokens + 2), Some(TokenTree::Ident(_)))
        {
            break;
        }
        path.tokens += 2;
    }
    path
}

fn is_path_separator(trees: &[TokenTree]) -> bool {
    trees.len() >= 2
        && trees[..2].iter().all(|tree| matches!(tree, TokenTree::Punct(p) if p.as_char() == ':'))
}

fn end_of_use(trees: &[TokenTree]) -> usize {
    let end =
        trees.iter().position(|tree| matches!(tree, TokenTree::Punct(p) if p.as_char() == ';'));
    end.unwrap_or(trees.len())
}

/// The names that `use` lines bring in anywhere in the file.
fn collect_names(tokens: TokenStream, names: &mut HashMap<String, String>) {
    let trees: Vec<TokenTree> = tokens.into_iter().collect();
    for (at, tree) in trees.iter().enumerate() {
        match tree {
            TokenTree::Group(group) => collect_names(group.stream(), names),
            TokenTree::Ident(ident) if ident == "use" => {
                let end = at + end_of_use(&trees[at..]);
                let mut imported = Vec::new();
                expand(&trees[at + 1..end], "", &mut imported);
                names.extend(imported);
            }
            _ => {}
        }
    }
}

/// Expands a `use` tree into short names and full paths.
fn expand(trees: &[TokenTree], prefix: &str, imported: &mut Vec<(String, String)>) {
    for part in trees.split(|tree| matches!(tree, TokenTree::Punct(p) if p.as_char() == ',')) {
        let mut path = prefix.to_owned();
        let mut short = String::new();
        let mut renamed = false;
        for tree in part {
            match tree {
                TokenTree::Ident(ident) if ident == "as" => renamed = true,
                TokenTree::Ident(ident) if renamed => short = ident.to_string(),
                TokenTree::Ident(ident) if ident == "self" && !path.is_empty() => {
                    path.rsplit("::").next().unwrap_or_default().clone_into(&mut short);
                }
                TokenTree::Ident(ident) => {
                    short = ident.to_string();
                    path = if path.is_empty() { short.clone() } else { format!("{path}::{short}") };
                }
                TokenTree::Group(group) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    expand(&inner, &path, imported);
                    short.clear();
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
        if !short.is_empty() {
            imported.push((short, path));
        }
    }
}

/// The line of the exception for `rule` that stands on `line` or in the comments and attributes
/// right above it. Lines are counted from 1.
fn exception_above(lines: &[&str], line: usize, rule: &str) -> Option<usize> {
    let mut number = line;
    loop {
        let content = lines.get(number.checked_sub(1)?)?.trim_start();
        let comment = content.find("//").map_or("", |at| &content[at..]);
        if tree::exception(comment, rule).is_some() {
            return Some(number);
        }
        if number != line && !content.starts_with("//") && !content.starts_with("#[") {
            return None;
        }
        number -= 1;
    }
}

fn put_off(line: &str) -> Option<&'static str> {
    let comment = &line[line.find("//")?..];
    let mut words = comment.split(|c: char| !c.is_alphanumeric());
    words.find_map(|word| PUT_OFF.iter().copied().find(|put_off| word == *put_off))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BELOW: &str = "crates/afflux-log/src/journal.rs";

    /// Each expected finding is `LINE: START OF MESSAGE`.
    fn check_source(path: &str, text: &str, expected: &[&str]) {
        let mut findings = check(path, text);
        findings.sort();
        assert_eq!(findings.len(), expected.len(), "{text}\n{findings:?}");
        for (finding, expected) in findings.iter().zip(expected) {
            let found = format!("{}: {}", finding.line, finding.message);
            assert!(found.starts_with(expected), "{text}\n{found}\n{expected}");
        }
    }

    fn long_function(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    step();\n".repeat(lines - 2))
    }

    #[test]
    fn functions_have_a_length() {
        check_source(BELOW, &long_function(70), &[]);
        check_source(BELOW, &long_function(71), &["1: `fn long` has 71 lines"]);
        let commented = long_function(70).replace("{\n", "{\n\n    // why\n");
        check_source(BELOW, &commented, &[]);
    }

    #[test]
    fn long_functions_need_a_reason_that_holds() {
        let reason = "// tidy(long-function): one table\n";
        check_source(BELOW, &format!("{reason}#[inline]\npub {}", long_function(71)), &[]);
        check_source(BELOW, &format!("{reason}{}", long_function(9)), &["1: this exception"]);
        let elsewhere = format!("{reason}fn a() {{}}\n{}", long_function(71));
        check_source(BELOW, &elsewhere, &["1: this exception", "3: `fn long`"]);
        let no_reason = format!("// tidy(long-function):\n{}", long_function(71));
        check_source(BELOW, &no_reason, &["2: `fn long`"]);
    }

    #[test]
    fn nothing_is_unfinished() {
        check_source(BELOW, "fn a() { todo!() }", &["1: `todo!`"]);
        check_source(BELOW, "fn a() {\n if dbg!(x) {} }", &["2: `dbg!`"]);
        check_source(BELOW, "fn a() { let s = \"todo!()\"; todo != s }", &[]);
        check_source(BELOW, "#[cfg(test)] mod t { fn a() { unimplemented!() } }", &["1: "]);
        let comment = format!("// {}: later", PUT_OFF[0]);
        check_source(BELOW, &comment, &[&format!("1: {}", PUT_OFF[0])]);
    }

    #[test]
    fn the_world_stands_behind_the_seam() {
        for line in [
            "use std::time::Instant;",
            "use std::{io, fs};",
            "use std::{time::{Duration, SystemTime}};",
            "use std::fs::{self, File};",
            "use std::net::{SocketAddr, TcpStream};",
            "fn a() { std::thread::sleep(d) }",
            "use std::thread; fn a() { thread::sleep(d) }",
            "use std::time; fn a() -> time::Instant { b() }",
            "fn a() { tokio::net::TcpListener::bind(x) }",
        ] {
            check_source(BELOW, line, &["1: "]);
        }
        for line in [
            "use std::time::Duration;",
            "use std::net::{IpAddr, SocketAddr};",
            "use std::thread; fn a() { thread::spawn(b) }",
            "// std::fs is not used here",
            "use crate::fs::File;",
            "use afflux_env::Clock; fn a(c: &dyn Clock) { c.now() }",
        ] {
            check_source(BELOW, line, &[]);
        }
    }

    #[test]
    fn the_seam_has_two_sides() {
        let text = "use std::fs;";
        check_source("crates/afflux-env/src/real.rs", text, &[]);
        check_source("crates/afflux-env/src/sim.rs", text, &["1: std::fs"]);
        check_source("crates/afflux-serve/src/http.rs", text, &[]);
        check_source("crates/afflux-log/tests/crash.rs", text, &[]);
        check_source(BELOW, "#[cfg(test)]\nmod tests {\n use std::fs;\n}\n", &[]);
        check_source(BELOW, "#[test]\nfn a() { std::fs::read(x); }", &[]);
        check_source(BELOW, "#[cfg(not(test))]\nuse std::fs;", &["2: std::fs"]);
        check_source(BELOW, "#[cfg(test)]\nuse a::b;\nuse std::fs;", &["3: std::fs"]);
        let reasoned = "// tidy(seam): the file is the user's own\nuse std::fs;";
        check_source(BELOW, reasoned, &[]);
    }
}
