//! Cuts a text into statements at its semicolons, but not at those within quotes and comments.
//!
//! No parser: whether a statement means anything is for the node to say.

/// Takes text as it is typed, gives statements as they become whole.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    text: String,
}

impl Splitter {
    /// Adds text.
    pub(crate) fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Whether nothing but white space and comments is waiting for its semicolon.
    pub(crate) fn is_empty(&self) -> bool {
        !Scanner::new(&self.text).any(|piece| matches!(piece, Piece::Code(c) if !c.is_whitespace()))
    }

    /// The next whole statement, without its semicolon.
    pub(crate) fn next_statement(&mut self) -> Option<String> {
        loop {
            let mut scanner = Scanner::new(&self.text);
            scanner.find(|piece| *piece == Piece::Code(';'))?;
            let rest = self.text.split_off(scanner.at);
            let mut statement = std::mem::replace(&mut self.text, rest);
            statement.pop();
            let alone = Self { text: statement };
            if !alone.is_empty() {
                return Some(alone.text.trim().to_owned());
            }
        }
    }

    /// What is left without a semicolon, if it is a statement.
    pub(crate) fn rest(self) -> Option<String> {
        (!self.is_empty()).then(|| self.text.trim().to_owned())
    }
}

/// Whether a statement answers with rows even if there are none of them.
pub(crate) fn answers_rows(statement: &str) -> bool {
    let mut code = String::new();
    for piece in Scanner::new(statement) {
        match piece {
            Piece::Code(c) if c.is_alphabetic() => code.push(c.to_ascii_lowercase()),
            Piece::Code(c) if code.is_empty() && (c.is_whitespace() || c == '(') => {}
            Piece::Comment => {}
            _ => break,
        }
    }
    matches!(
        code.as_str(),
        "select" | "with" | "values" | "table" | "show" | "describe" | "explain"
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    /// A character outside of quotes and comments.
    Code(char),
    /// A quoted text or name.
    Quoted,
    /// A comment, whole or not.
    Comment,
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Moves behind the first `end` at or behind `from`, or to the end of the text.
    fn skip_behind(&mut self, from: usize, end: &str) {
        let found = self.text.get(from..).and_then(|rest| rest.find(end));
        self.at = found.map_or(self.text.len(), |index| from + index + end.len());
    }
}

impl Iterator for Scanner<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let rest = &self.text[self.at..];
        let first = rest.chars().next()?;
        if rest.starts_with("--") {
            self.skip_behind(self.at, "\n");
            return Some(Piece::Comment);
        }
        if rest.starts_with("/*") {
            self.skip_behind(self.at + 2, "*/");
            return Some(Piece::Comment);
        }
        if first == '\'' || first == '"' {
            // A doubled quote is two quoted texts in a row, which is as good here.
            self.skip_behind(self.at + 1, &first.to_string());
            return Some(Piece::Quoted);
        }
        self.at += first.len_utf8();
        Some(Piece::Code(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_end_statements_outside_of_quotes_and_comments() {
        let check = |text: &str, whole: &[&str], rest: Option<&str>| {
            let mut splitter = Splitter::default();
            splitter.push(text);
            let mut statements = Vec::new();
            while let Some(statement) = splitter.next_statement() {
                statements.push(statement);
            }
            assert_eq!(statements, whole, "{text:?}");
            assert_eq!(splitter.rest().as_deref(), rest, "{text:?}");
        };
        check("", &[], None);
        check(" ; ;; -- no\n;", &[], None);
        check("SELECT 1", &[], Some("SELECT 1"));
        check("SELECT 1; SELECT 2;\n", &["SELECT 1", "SELECT 2"], None);
        check("SELECT ';'; x", &["SELECT ';'"], Some("x"));
        check("SELECT 'it''s;'; x", &["SELECT 'it''s;'"], Some("x"));
        check("SELECT \"a;b\"; x", &["SELECT \"a;b\""], Some("x"));
        check("SELECT 1 -- one; \n+ 1; x", &["SELECT 1 -- one; \n+ 1"], Some("x"));
        check("SELECT /* ; ' */ 1; x", &["SELECT /* ; ' */ 1"], Some("x"));
        check("SELECT 'open; ", &[], Some("SELECT 'open;"));
        check("SELECT 'é;'; ü", &["SELECT 'é;'"], Some("ü"));
        check("SELECT 4 / 2 - 1; x", &["SELECT 4 / 2 - 1"], Some("x"));
        check("-- only this", &[], None);
    }

    #[test]
    fn queries_answer_rows() {
        let check = |text, expected| assert_eq!(answers_rows(text), expected, "{text:?}");
        check("SELECT 1", true);
        check("  -- why\n select(1)", true);
        check("(SELECT 1)", true);
        check("CREATE SOURCE s", false);
        check("'select'", false);
        check("", false);
    }
}
