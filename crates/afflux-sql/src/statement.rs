//! What a statement asks for.

use afflux_catalog::Source;
use afflux_plan::Column;
use datafusion::sql::sqlparser::ast;

/// One statement, checked as far as it can be without a catalog. Names are folded as SQL folds
/// identifiers: lower case unless quoted.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    /// `CREATE SOURCE`.
    CreateSource(CreateSource),
    /// `CREATE TABLE … FROM 'file.csv'`.
    CreateTable(CreateTable),
    /// `CREATE MATERIALIZED VIEW`.
    CreateView(CreateView),
    /// `DROP`.
    Drop(Drop),
    /// `SHOW`.
    Show(Show),
    /// `DESCRIBE name`.
    Describe {
        /// The object's name.
        name: String,
    },
    /// `EXPLAIN` of a query, also of the one in a `CREATE MATERIALIZED VIEW`. Plans and runs
    /// nothing else.
    Explain(Query),
    /// `SELECT`, `VALUES`, `TABLE name`, `WITH …`.
    Query(Query),
    /// What PostgreSQL clients say to set up a session. There is nothing to do for it here.
    Session(Session),
}

/// `CREATE SOURCE`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateSource {
    /// Its name.
    pub name: String,
    /// Whether it is no error that the name is taken.
    pub if_not_exists: bool,
    /// What it is.
    pub source: Source,
    /// The statement as written.
    pub sql: String,
}

/// `CREATE TABLE … FROM 'file.csv'`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateTable {
    /// Its name.
    pub name: String,
    /// Whether it is no error that the name is taken.
    pub if_not_exists: bool,
    /// Its columns, if declared; else they follow from the file.
    pub columns: Option<Vec<Column>>,
    /// The positions of the primary key's columns, if one is declared.
    pub key: Option<Vec<usize>>,
    /// Where its rows come from.
    pub file: CsvFile,
    /// The statement as written.
    pub sql: String,
}

/// A CSV file (RFC 4180).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvFile {
    /// Where it is, as written.
    pub path: String,
    /// Whether the first row holds the columns' names.
    pub header: bool,
    /// What separates fields: an ASCII character.
    pub delimiter: u8,
    /// The text of a field that is null. The empty text: an empty field is null.
    pub null: String,
}

/// `CREATE MATERIALIZED VIEW`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateView {
    /// Its name.
    pub name: String,
    /// Whether it is no error that the name is taken.
    pub if_not_exists: bool,
    /// What it shows.
    pub query: Query,
    /// The statement as written.
    pub sql: String,
}

/// `DROP SOURCE | TABLE | MATERIALIZED VIEW`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drop {
    /// What kind of object the name must be.
    pub kind: DropKind,
    /// Its name.
    pub name: String,
    /// Whether it is no error that there is none.
    pub if_exists: bool,
}

/// The kinds of objects, as statements name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropKind {
    /// A source.
    Source,
    /// A static table.
    Table,
    /// A materialised view.
    View,
}

impl DropKind {
    /// As SQL writes it: `SOURCE`, `TABLE`, `MATERIALIZED VIEW`.
    pub fn words(self) -> &'static str {
        match self {
            Self::Source => "SOURCE",
            Self::Table => "TABLE",
            Self::View => "MATERIALIZED VIEW",
        }
    }
}

/// `SHOW`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Show {
    /// `SHOW SOURCES`.
    Sources,
    /// `SHOW TABLES`.
    Tables,
    /// `SHOW [MATERIALIZED] VIEWS`.
    Views,
    /// `SHOW TOPICS`.
    Topics,
    /// `SHOW PIPELINES`.
    Pipelines,
    /// `SHOW CREATE [SOURCE | TABLE | MATERIALIZED VIEW] name`.
    Create {
        /// The object's name.
        name: String,
    },
    /// A session parameter such as `server_version`, lower case; `all` for every one.
    Parameter(String),
}

/// Session statements, which change nothing here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// `SET name = value`.
    Set {
        /// The parameter, lower case.
        name: String,
        /// The value as written, without quotes.
        value: String,
    },
    /// `RESET name`.
    Reset,
    /// `BEGIN`, `START TRANSACTION`.
    Begin,
    /// `COMMIT`, `END`.
    Commit,
    /// `ROLLBACK`, `ABORT`.
    Rollback,
    /// `DISCARD …`.
    Discard,
    /// `DEALLOCATE …`.
    Deallocate,
    /// `CLOSE …`.
    Close,
}

impl Session {
    /// PostgreSQL's command tag for it.
    pub fn tag(&self) -> &'static str {
        match self {
            Self::Set { .. } => "SET",
            Self::Reset => "RESET",
            Self::Begin => "BEGIN",
            Self::Commit => "COMMIT",
            Self::Rollback => "ROLLBACK",
            Self::Discard => "DISCARD ALL",
            Self::Deallocate => "DEALLOCATE",
            Self::Close => "CLOSE CURSOR",
        }
    }
}

/// A query, parsed and not yet planned.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    pub(crate) text: String,
    pub(crate) ast: Box<ast::Query>,
    /// The columns' names in `CREATE MATERIALIZED VIEW name (…)`; empty where not given.
    pub(crate) columns: Vec<ast::Ident>,
    /// How deep it nests, at most and about.
    pub(crate) depth: usize,
}

impl Query {
    /// The query as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The query as the parser has it.
    pub fn ast(&self) -> &ast::Query {
        &self.ast
    }
}
