//! Text to statements.
//!
//! 1. The text becomes tokens with places; `;` cuts them into statements.
//! 2. `TUMBLE(TABLE t, …)` loses its inner `TABLE`, which sqlparser does not know there.
//! 3. The first words decide: DDL, `SHOW` and session statements are read here and in `ddl`,
//!    anything else goes to sqlparser and has to be a query.

use afflux_types::ErrorKind;
use datafusion::sql::sqlparser::{
    ast,
    dialect::PostgreSqlDialect,
    parser::{Parser, ParserError},
    tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Word},
};

use crate::{
    Position, Query, Session, Show, SqlError, Statement, ddl,
    depth::{depth, nests_tables},
    dialect::AffluxDialect,
    error::sqlstate,
    size, stack,
    statement::DropKind,
};

/// How deep a statement may nest; a chain of operators is as deep as it is long. Planning, here
/// and in DataFusion, is recursive.
const DEPTH_MAX: usize = 500;
/// How many steps sqlparser may recurse, several a level of nesting.
const RECURSION_MAX: usize = 400;

static DIALECT: AffluxDialect = AffluxDialect(PostgreSqlDialect {});

/// The statements of a text, which `;` separates.
pub fn parse(text: &str) -> Result<Vec<Statement>, SqlError> {
    let tokens = Tokenizer::new(&DIALECT, text).tokenize_with_location().map_err(|error| {
        SqlError::invalid(sqlstate::SYNTAX, error.message)
            .at(position(error.location))
            .with_hint("a quote, a comment or a character is not closed or not known")
    })?;
    let lines = Lines::of(text);
    tokens
        .split(|token| token.token == Token::SemiColon)
        .filter(|tokens| tokens.iter().any(|token| is_significant(&token.token)))
        .map(|tokens| statement(&lines, tokens))
        .collect()
}

fn statement(lines: &Lines<'_>, tokens: &[TokenWithSpan]) -> Result<Statement, SqlError> {
    let significant: Vec<_> =
        tokens.iter().filter(|token| is_significant(&token.token)).cloned().collect();
    let depth = depth(&significant);
    if depth > DEPTH_MAX || nests_tables(&significant) {
        return Err(too_deep().at(significant.first().and_then(|t| position(t.span.start))));
    }
    stack::with(depth, || {
        let mut cursor = Cursor::new(lines, without_inner_table(&significant), depth);
        let statement = cursor.statement()?;
        cursor.expect_end()?;
        Ok(statement)
    })
}

fn is_significant(token: &Token) -> bool {
    !matches!(token, Token::Whitespace(_) | Token::EOF)
}

fn too_deep() -> SqlError {
    SqlError::invalid(
        sqlstate::STATEMENT_TOO_COMPLEX,
        format!("the statement nests too deep, or chains more than {DEPTH_MAX} operators"),
    )
    .with_hint("write a long OR as IN (…), or join with a table")
}

/// Flink writes `TUMBLE(TABLE t, …)` and `TUMBLE(DATA => TABLE t, …)`.
fn without_inner_table(tokens: &[TokenWithSpan]) -> Vec<TokenWithSpan> {
    let inner = |at: usize| {
        let before = |back: usize| at.checked_sub(back).map(|at| &tokens[at].token);
        let follows = match before(1) {
            Some(Token::LParen) => before(2).is_some_and(|token| {
                ["tumble", "hop", "cumulate", "session"].iter().any(|name| is_word(token, name))
            }),
            Some(Token::RArrow) => before(2).is_some_and(|token| is_word(token, "data")),
            _ => false,
        };
        follows && is_word(&tokens[at].token, "table")
    };
    let kept: Vec<_> = (0..tokens.len()).filter(|at| !inner(*at)).collect();
    kept.into_iter().map(|at| tokens[at].clone()).collect()
}

fn is_word(token: &Token, expected: &str) -> bool {
    matches!(token, Token::Word(Word { value, quote_style: None, .. })
        if value.eq_ignore_ascii_case(expected))
}

/// A place as tokens carry it; the parser's own tokens have none.
pub(crate) fn position(location: Location) -> Option<Position> {
    (location.line > 0).then_some(Position { line: location.line, column: location.column })
}

/// A text by lines, to find the text between two tokens.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let behind = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(behind).collect() }
    }

    /// The byte at a location.
    fn byte(&self, location: Location) -> usize {
        let line = (location.line as usize).saturating_sub(1);
        let Some(&start) = self.starts.get(line) else { return self.text.len() };
        let column = (location.column as usize).saturating_sub(1);
        self.text[start..].char_indices().nth(column).map_or(self.text.len(), |(at, _)| start + at)
    }

    /// The text of some tokens, from the first to the last.
    fn text(&self, tokens: &[TokenWithSpan]) -> &'a str {
        let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else { return "" };
        let from = self.byte(first.span.start);
        let to = self.byte(last.span.end).max(from);
        self.text[from..to].trim()
    }
}

/// The tokens of one statement and a place among them.
pub(crate) struct Cursor<'a> {
    parser: Parser<'a>,
    tokens: Vec<TokenWithSpan>,
    lines: &'a Lines<'a>,
    depth: usize,
}

impl<'a> Cursor<'a> {
    fn new(lines: &'a Lines<'a>, tokens: Vec<TokenWithSpan>, depth: usize) -> Self {
        let parser = Parser::new(&DIALECT)
            .with_recursion_limit(RECURSION_MAX)
            .with_tokens_with_locations(tokens.clone());
        Self { parser, tokens, lines, depth }
    }

    /// The statement as written.
    pub(crate) fn text(&self) -> String {
        self.lines.text(&self.tokens).to_owned()
    }

    /// Where the next token is; where the text ends if there is none.
    pub(crate) fn position(&self) -> Option<Position> {
        position(self.parser.peek_token_ref().span.start)
            .or_else(|| self.tokens.last().and_then(|token| position(token.span.end)))
    }

    /// Whether the next tokens are these words, not quoted.
    pub(crate) fn peek(&self, words: &[&str]) -> bool {
        words
            .iter()
            .enumerate()
            .all(|(n, word)| is_word(&self.parser.peek_nth_token_ref(n).token, word))
    }

    /// Steps over these words, if they are next.
    pub(crate) fn take(&mut self, words: &[&str]) -> bool {
        let found = self.peek(words);
        if found {
            for _ in words {
                self.skip();
            }
        }
        found
    }

    /// Steps over one token.
    pub(crate) fn skip(&mut self) {
        self.parser.next_token();
    }

    /// Steps over these words, which have to be next.
    pub(crate) fn expect(&mut self, words: &[&str]) -> Result<(), SqlError> {
        if self.take(words) { Ok(()) } else { Err(self.expected(&words.join(" ").to_uppercase())) }
    }

    /// The next token.
    pub(crate) fn next(&self) -> &Token {
        &self.parser.peek_token_ref().token
    }

    /// Steps over a token, if it is next.
    pub(crate) fn take_token(&mut self, token: &Token) -> bool {
        self.parser.consume_token(token)
    }

    /// Steps over a token, which has to be next.
    pub(crate) fn expect_token(&mut self, token: &Token) -> Result<(), SqlError> {
        if self.take_token(token) { Ok(()) } else { Err(self.expected(&token.to_string())) }
    }

    /// A syntax error here.
    pub(crate) fn expected(&self, what: &str) -> SqlError {
        let found = match self.next() {
            Token::EOF => "the end of the statement".to_owned(),
            token => format!("\"{token}\""),
        };
        SqlError::invalid(sqlstate::SYNTAX, format!("expected {what}, found {found}"))
            .at(self.position())
    }

    fn expect_end(&self) -> Result<(), SqlError> {
        match self.next() {
            Token::EOF => Ok(()),
            _ => Err(self.expected("the end of the statement or \";\"")),
        }
    }

    /// Runs a part of sqlparser.
    pub(crate) fn with<T>(
        &mut self,
        part: impl FnOnce(&mut Parser<'a>) -> Result<T, ParserError>,
    ) -> Result<T, SqlError> {
        let end = self.tokens.last().and_then(|token| position(token.span.end));
        part(&mut self.parser).map_err(|error| from_parser(&error).at(end))
    }

    /// A name, folded. Schemas are not there yet, except PostgreSQL's `public`.
    pub(crate) fn name(&mut self) -> Result<String, SqlError> {
        let at = self.position();
        let first = self.identifier()?;
        if !self.take_token(&Token::Period) {
            return Ok(first);
        }
        let second = self.identifier()?;
        if first == "public" && *self.next() != Token::Period {
            return Ok(second);
        }
        Err(SqlError::unsupported(format!("there is no schema \"{first}\""))
            .with_hint("write the name without a schema")
            .at(at))
    }

    /// An identifier, folded.
    pub(crate) fn identifier(&mut self) -> Result<String, SqlError> {
        let at = self.position();
        if !matches!(self.next(), Token::Word(_)) {
            return Err(self.expected("a name"));
        }
        let name = fold(&self.with(Parser::parse_identifier)?);
        if name.is_empty() {
            return Err(SqlError::invalid(sqlstate::INVALID_NAME, "a name is empty").at(at));
        }
        Ok(name)
    }

    /// `IF NOT EXISTS`, if it is next.
    pub(crate) fn if_not_exists(&mut self) -> bool {
        self.take(&["if", "not", "exists"])
    }

    /// A query up to the end of the statement.
    pub(crate) fn query(&mut self) -> Result<Query, SqlError> {
        let from = self.parser.peek_token_ref().span.start;
        let at = self.position();
        let ast = self.with(Parser::parse_query)?;
        if matches!(
            ast.body.as_ref(),
            ast::SetExpr::Insert(_) | ast::SetExpr::Update(_) | ast::SetExpr::Delete(_)
        ) {
            return Err(not_a_query().at(at));
        }
        size::check_relations(&ast).map_err(|error| error.at(at))?;
        let first = self.tokens.iter().position(|token| token.span.start == from).unwrap_or(0);
        let text = self.lines.text(&self.tokens[first..]).to_owned();
        Ok(Query { text, ast, columns: Vec::new(), depth: self.depth })
    }

    fn statement(&mut self) -> Result<Statement, SqlError> {
        if self.take(&["create"]) {
            return ddl::create(self);
        }
        if self.take(&["drop"]) {
            return ddl::drop(self);
        }
        if self.take(&["show"]) {
            return self.show().map(Statement::Show);
        }
        if self.take(&["describe"]) || self.take(&["desc"]) {
            self.take(&["table"]);
            return Ok(Statement::Describe { name: self.name()? });
        }
        if self.take(&["explain"]) {
            return self.explain();
        }
        if let Some(session) = self.session()? {
            return Ok(Statement::Session(session));
        }
        let starts_query = ["select", "with", "values", "table"].iter().any(|w| self.peek(&[w]))
            || *self.next() == Token::LParen;
        if starts_query {
            return self.query().map(Statement::Query);
        }
        Err(self.unknown())
    }

    fn unknown(&self) -> SqlError {
        let statements = ["insert", "update", "delete", "merge", "copy"];
        if statements.iter().any(|word| self.peek(&[word])) {
            return not_a_query().at(self.position());
        }
        let planned = [
            "alter",
            "truncate",
            "grant",
            "revoke",
            "comment",
            "analyze",
            "vacuum",
            "prepare",
            "execute",
            "declare",
            "fetch",
            "subscribe",
            "use",
            "call",
            "refresh",
        ];
        if planned.iter().any(|word| self.peek(&[word])) {
            return SqlError::unsupported(format!("there is no {} here", self.next()))
                .at(self.position());
        }
        self.expected("a statement").with_hint(
            "statements begin with CREATE, DROP, SHOW, DESCRIBE, EXPLAIN, SELECT or WITH",
        )
    }

    fn explain(&mut self) -> Result<Statement, SqlError> {
        if self.peek(&["analyze"]) || *self.next() == Token::LParen {
            return Err(SqlError::unsupported("EXPLAIN takes no options")
                .with_hint("write EXPLAIN SELECT … or EXPLAIN CREATE MATERIALIZED VIEW …")
                .at(self.position()));
        }
        if self.take(&["create"]) {
            let at = self.position();
            return match ddl::create(self)? {
                Statement::CreateView(view) => Ok(Statement::Explain(view.query)),
                _ => Err(SqlError::unsupported("EXPLAIN explains queries")
                    .with_hint("write EXPLAIN CREATE MATERIALIZED VIEW …")
                    .at(at)),
            };
        }
        self.query().map(Statement::Explain)
    }

    fn show(&mut self) -> Result<Show, SqlError> {
        if self.take(&["create"]) {
            let _ = self.take(&["source"]) || self.take(&["table"]) || ddl::take_view(self);
            return Ok(Show::Create { name: self.name()? });
        }
        let lists = [
            ("sources", Show::Sources),
            ("tables", Show::Tables),
            ("views", Show::Views),
            ("topics", Show::Topics),
            ("pipelines", Show::Pipelines),
        ];
        self.take(&["materialized"]);
        for (word, show) in lists {
            if self.take(&[word]) {
                return Ok(show);
            }
        }
        for (words, parameter) in [
            (&["transaction", "isolation", "level"][..], "transaction_isolation"),
            (&["time", "zone"], "timezone"),
            (&["session", "authorization"], "session_authorization"),
        ] {
            if self.take(words) {
                return Ok(Show::Parameter(parameter.to_owned()));
            }
        }
        let mut name = self.identifier()?;
        while self.take_token(&Token::Period) {
            name = format!("{name}.{}", self.identifier()?);
        }
        Ok(Show::Parameter(name.to_lowercase()))
    }

    /// Session statements are taken as a whole: their details mean nothing here.
    fn session(&mut self) -> Result<Option<Session>, SqlError> {
        let plain = [
            (&["begin"][..], Session::Begin),
            (&["start", "transaction"], Session::Begin),
            (&["commit"], Session::Commit),
            (&["end"], Session::Commit),
            (&["rollback"], Session::Rollback),
            (&["abort"], Session::Rollback),
            (&["discard"], Session::Discard),
            (&["deallocate"], Session::Deallocate),
            (&["close"], Session::Close),
            (&["reset"], Session::Reset),
        ];
        for (words, session) in plain {
            if self.take(words) {
                self.rest();
                return Ok(Some(session));
            }
        }
        if !self.take(&["set"]) {
            return Ok(None);
        }
        let _ = self.take(&["session"]) || self.take(&["local"]);
        let words = self.rest();
        let split = words
            .iter()
            .position(|token| matches!(token, Token::Eq) || is_word(token, "to"))
            .unwrap_or(1.min(words.len()));
        let text = |tokens: &[Token]| {
            let words = tokens.iter().filter(|t| !matches!(t, Token::Eq) && !is_word(t, "to"));
            words.map(unquoted).collect::<Vec<_>>()
        };
        let name = text(&words[..split]).concat().to_lowercase();
        if name.is_empty() {
            return Err(self.expected("a parameter"));
        }
        Ok(Some(Session::Set { name, value: text(&words[split..]).join(" ") }))
    }

    fn rest(&mut self) -> Vec<Token> {
        let mut rest = Vec::new();
        loop {
            match self.parser.next_token().token {
                Token::EOF => return rest,
                token => rest.push(token),
            }
        }
    }
}

fn unquoted(token: &Token) -> String {
    match token {
        Token::SingleQuotedString(text) => text.clone(),
        Token::Word(word) => word.value.clone(),
        token => token.to_string(),
    }
}

/// What a statement that writes answers.
fn not_a_query() -> SqlError {
    SqlError::unsupported("rows can not be written with SQL yet")
        .with_hint("produce records to a topic that a source reads")
}

/// An identifier as SQL folds it.
pub(crate) fn fold(ident: &ast::Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// sqlparser writes the place into the message.
fn from_parser(error: &ParserError) -> SqlError {
    let message = match error {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => message,
        ParserError::RecursionLimitExceeded => return too_deep(),
    };
    let (text, place) = message.rsplit_once(" at Line: ").unwrap_or((message, ""));
    let place = place.split_once(", Column: ").and_then(|(line, column)| {
        Some(Location { line: line.trim().parse().ok()?, column: column.trim().parse().ok()? })
    });
    let text = text.strip_prefix("Expected: ").map_or_else(
        || text.to_owned(),
        |rest| {
            format!(
                "expected {}",
                rest.replace("found: EOF", "found the end of the statement")
                    .replace("found: ", "found ")
            )
        },
    );
    SqlError::new(ErrorKind::Invalid, sqlstate::SYNTAX, text).at(place.and_then(position))
}

/// The kind of object that a statement names, if it names one.
pub(crate) fn object_kind(cursor: &mut Cursor<'_>) -> Option<DropKind> {
    if cursor.take(&["source"]) {
        Some(DropKind::Source)
    } else if cursor.take(&["table"]) {
        Some(DropKind::Table)
    } else if ddl::take_view(cursor) {
        Some(DropKind::View)
    } else {
        None
    }
}
