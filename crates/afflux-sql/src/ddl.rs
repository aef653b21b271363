//! `CREATE` and `DROP`.

use afflux_catalog::{Format, LatePolicy, Source, Start, Watermark};
use afflux_plan::Column;
use afflux_types::{Classified, TopicName};
use arrow::datatypes::DataType;
use datafusion::sql::sqlparser::{ast, parser::Parser, tokenizer::Token};

use crate::{
    CreateSource, CreateTable, CreateView, CsvFile, Drop, Position, SOURCE_OPTIONS, SqlError,
    Statement, TABLE_OPTIONS,
    error::{nearest, sqlstate},
    options::{OptionSpec, Options},
    parser::{Cursor, fold, object_kind},
    planner::duplicate_column,
    types::{column_type, duration_ms, interval_ms},
};

/// What stands behind `CREATE`.
pub(crate) fn create(cursor: &mut Cursor<'_>) -> Result<Statement, SqlError> {
    let at = cursor.position();
    if cursor.take(&["or", "replace"]) {
        return Err(SqlError::unsupported("CREATE OR REPLACE is not there yet")
            .with_hint("drop the object, then create it")
            .at(at));
    }
    if cursor.take(&["source"]) {
        return source(cursor);
    }
    if cursor.take(&["table"]) {
        return table(cursor);
    }
    if cursor.take(&["materialized", "view"]) {
        return view(cursor);
    }
    let hint = if cursor.peek(&["view"]) {
        "write CREATE MATERIALIZED VIEW: every view here is kept up to date"
    } else {
        "CREATE makes a SOURCE, a TABLE or a MATERIALIZED VIEW"
    };
    match cursor.next() {
        Token::Word(word) => {
            let what = word.value.to_uppercase();
            Err(SqlError::unsupported(format!("there is no CREATE {what}")).with_hint(hint).at(at))
        }
        _ => Err(cursor.expected("SOURCE, TABLE or MATERIALIZED VIEW")),
    }
}

/// Steps over `[MATERIALIZED] VIEW`, if it is next.
pub(crate) fn take_view(cursor: &mut Cursor<'_>) -> bool {
    cursor.take(&["materialized", "view"]) || cursor.take(&["view"])
}

/// What stands behind `DROP`.
pub(crate) fn drop(cursor: &mut Cursor<'_>) -> Result<Statement, SqlError> {
    let Some(kind) = object_kind(cursor) else {
        return Err(cursor.expected("SOURCE, TABLE or MATERIALIZED VIEW"));
    };
    let if_exists = cursor.take(&["if", "exists"]);
    let name = cursor.name()?;
    let at = cursor.position();
    if *cursor.next() == Token::Comma {
        return Err(SqlError::unsupported("DROP takes one name")
            .with_hint("write one DROP for each")
            .at(at));
    }
    if cursor.take(&["cascade"]) {
        return Err(SqlError::unsupported("DROP … CASCADE is not there yet")
            .with_hint("drop the views that read it first")
            .at(at));
    }
    cursor.take(&["restrict"]);
    Ok(Statement::Drop(Drop { kind, name, if_exists }))
}

fn view(cursor: &mut Cursor<'_>) -> Result<Statement, SqlError> {
    let if_not_exists = cursor.if_not_exists();
    let name = cursor.name()?;
    let mut columns = Vec::new();
    if cursor.take_token(&Token::LParen) {
        columns = cursor.with(|parser| parser.parse_comma_separated(Parser::parse_identifier))?;
        cursor.expect_token(&Token::RParen)?;
    }
    if cursor.peek(&["with"]) {
        return Err(
            SqlError::unsupported("a materialized view takes no options yet").at(cursor.position())
        );
    }
    cursor.expect(&["as"])?;
    let mut query = cursor.query()?;
    query.columns = columns;
    Ok(Statement::CreateView(CreateView { name, if_not_exists, query, sql: cursor.text() }))
}

/// `WATERMARK FOR column AS column [- INTERVAL …]`, not yet checked against the columns.
struct WatermarkClause {
    column: String,
    delay_ms: u64,
    at: Option<Position>,
}

/// What stands in the parentheses behind a name.
#[derive(Default)]
struct Items {
    columns: Vec<Column>,
    watermark: Option<WatermarkClause>,
    /// The names in `PRIMARY KEY`, and where it is.
    key: Option<(Vec<String>, Option<Position>)>,
}

impl Items {
    fn set_key(&mut self, names: Vec<String>, at: Option<Position>) -> Result<(), SqlError> {
        if self.key.replace((names, at)).is_some() {
            return Err(SqlError::invalid(sqlstate::INVALID_TABLE, "two primary keys")
                .with_hint("write PRIMARY KEY (a, b) for a key of several columns")
                .at(at));
        }
        Ok(())
    }

    /// The columns of the key, which then have no nulls.
    fn take_key(&mut self) -> Result<Option<Vec<usize>>, SqlError> {
        let Some((names, at)) = self.key.take() else { return Ok(None) };
        let mut key = Vec::new();
        for name in names {
            let column = position_of(&self.columns, &name, "table").map_err(|e| e.at(at))?;
            if key.contains(&column) {
                return Err(duplicate_column(&name).at(at));
            }
            self.columns[column].nullable = false;
            key.push(column);
        }
        Ok(Some(key))
    }
}

/// The column of a name.
fn position_of(columns: &[Column], name: &str, of: &str) -> Result<usize, SqlError> {
    columns.iter().position(|column| column.name == name).ok_or_else(|| {
        let error = SqlError::invalid(
            sqlstate::UNDEFINED_COLUMN,
            format!("the {of} has no column \"{name}\""),
        );
        match nearest(name, columns.iter().map(|column| column.name.as_str())) {
            Some(near) => error.with_hint(format!("did you mean \"{near}\"?")),
            None => error,
        }
    })
}

fn source(cursor: &mut Cursor<'_>) -> Result<Statement, SqlError> {
    let if_not_exists = cursor.if_not_exists();
    let name = cursor.name()?;
    let mut items = items(cursor, false)?;
    let mut options = None;
    loop {
        if options.is_none() && cursor.peek(&["with"]) {
            options = Some(with(cursor, SOURCE_OPTIONS)?);
        } else if items.watermark.is_none() && cursor.peek(&["watermark"]) {
            items.watermark = Some(watermark(cursor)?);
        } else {
            break;
        }
    }
    if items.columns.is_empty() {
        return Err(SqlError::invalid(
            sqlstate::INVALID_TABLE,
            format!("the source \"{name}\" has no columns"),
        )
        .with_hint("write its columns with their types behind the name"));
    }
    let source = definition(items, &options.unwrap_or_default())?;
    Ok(Statement::CreateSource(CreateSource { name, if_not_exists, source, sql: cursor.text() }))
}

fn definition(items: Items, options: &Options) -> Result<Source, SqlError> {
    let topic = options.required("topic", "'name'")?;
    let topic = TopicName::new(topic).map_err(|error| {
        SqlError::invalid(sqlstate::INVALID_PARAMETER, error.to_string())
            .with_hint(error.hint().unwrap_or_default())
            .at(options.position("topic"))
    })?;
    if topic.is_internal() {
        return Err(SqlError::invalid(
            sqlstate::INVALID_PARAMETER,
            format!("\"{topic}\" is one of Afflux's own topics"),
        )
        .at(options.position("topic")));
    }
    options.required("format", "'json'")?;
    let format = options.one_of("format", &[("json", Format::Json)], Format::Json)?;
    let starts = [
        ("earliest", Start::Earliest),
        ("latest", Start::Latest),
        ("earliest-offset", Start::Earliest),
        ("latest-offset", Start::Latest),
    ];
    let start = options.one_of("scan_startup_mode", &starts, Start::Earliest)?;
    let late = options.one_of("late", &[("drop", LatePolicy::Drop)], LatePolicy::Drop)?;
    let idle_timeout_ms = match options.get("idle_timeout") {
        None => 30_000,
        Some(text) => duration_ms(text).map_err(|e| e.at(options.position("idle_timeout")))? as u64,
    };
    let watermark =
        items.watermark.map(|clause| resolve_watermark(&items.columns, &clause)).transpose()?;
    Ok(Source { topic, format, columns: items.columns, watermark, start, idle_timeout_ms, late })
}

fn resolve_watermark(columns: &[Column], clause: &WatermarkClause) -> Result<Watermark, SqlError> {
    let column = position_of(columns, &clause.column, "source").map_err(|e| e.at(clause.at))?;
    match columns[column].column_type.0 {
        DataType::Timestamp(..) => Ok(Watermark { column, delay_ms: clause.delay_ms }),
        _ => Err(SqlError::invalid(
            sqlstate::DATATYPE_MISMATCH,
            format!("the watermark's column \"{}\" is no TIMESTAMP", clause.column),
        )
        .at(clause.at)),
    }
}

fn watermark(cursor: &mut Cursor<'_>) -> Result<WatermarkClause, SqlError> {
    const HINT: &str = "write WATERMARK FOR ts AS ts - INTERVAL '5' SECOND";
    cursor.expect(&["watermark", "for"])?;
    let at = cursor.position();
    let column = cursor.identifier()?;
    cursor.expect(&["as"])?;
    let expr_at = cursor.position();
    let expr = cursor.with(Parser::parse_expr)?;
    let is_column =
        |expr: &ast::Expr| matches!(expr, ast::Expr::Identifier(ident) if fold(ident) == column);
    let delay = match &expr {
        expr if is_column(expr) => Ok(0),
        ast::Expr::BinaryOp { left, op: ast::BinaryOperator::Minus, right } if is_column(left) => {
            interval_ms(right)
        }
        _ => Err(SqlError::unsupported(format!("the watermark can not be {expr}"))),
    };
    let delay = delay.map_err(|error| error.or_hint(HINT).at(expr_at))?;
    Ok(WatermarkClause { column, delay_ms: delay as u64, at })
}

/// Columns and what goes with them; `keyed`: also a primary key.
fn items(cursor: &mut Cursor<'_>, keyed: bool) -> Result<Items, SqlError> {
    let mut items = Items::default();
    if !cursor.take_token(&Token::LParen) {
        return Ok(items);
    }
    loop {
        if cursor.peek(&["watermark", "for"]) {
            let at = cursor.position();
            if items.watermark.replace(watermark(cursor)?).is_some() {
                return Err(SqlError::invalid(sqlstate::SYNTAX, "two watermarks").at(at));
            }
        } else if keyed && cursor.peek(&["primary", "key"]) {
            let at = cursor.position();
            cursor.expect(&["primary", "key"])?;
            cursor.expect_token(&Token::LParen)?;
            let mut names = vec![cursor.identifier()?];
            while cursor.take_token(&Token::Comma) {
                names.push(cursor.identifier()?);
            }
            cursor.expect_token(&Token::RParen)?;
            items.set_key(names, at)?;
        } else {
            column(cursor, &mut items, keyed)?;
        }
        if !cursor.take_token(&Token::Comma) {
            break;
        }
    }
    cursor.expect_token(&Token::RParen)?;
    Ok(items)
}

fn column(cursor: &mut Cursor<'_>, items: &mut Items, keyed: bool) -> Result<(), SqlError> {
    let at = cursor.position();
    let constraint = ["primary", "unique", "foreign", "constraint", "check"]
        .into_iter()
        .find(|word| cursor.peek(&[word]));
    let name = cursor.identifier()?;
    if let Some(word) = constraint
        && (cursor.peek(&["key"]) || *cursor.next() == Token::LParen || word == "constraint")
    {
        return Err(no_constraint(&word.to_uppercase()).at(at));
    }
    if items.columns.iter().any(|column| column.name == name) {
        return Err(duplicate_column(&name).at(at));
    }
    let type_at = cursor.position();
    if matches!(cursor.next(), Token::Comma | Token::RParen) {
        return Err(cursor.expected(&format!("the type of \"{name}\"")));
    }
    let data_type = cursor.with(Parser::parse_data_type)?;
    let data_type = column_type(&data_type).map_err(|error| error.at(type_at))?;
    if matches!(data_type, DataType::Interval(_)) {
        return Err(SqlError::unsupported("a column can not be an INTERVAL").at(type_at));
    }
    let mut nullable = true;
    loop {
        let at = cursor.position();
        if cursor.take(&["not", "null"]) {
            nullable = false;
        } else if keyed && cursor.take(&["primary", "key"]) {
            items.set_key(vec![name.clone()], at)?;
        } else if !cursor.take(&["null"]) {
            break;
        }
    }
    if !matches!(cursor.next(), Token::Comma | Token::RParen) {
        let error = match cursor.next() {
            Token::Word(word) if word.quote_style.is_none() => {
                no_constraint(&word.value.to_uppercase())
            }
            _ => return Err(cursor.expected("\",\" or \")\"")),
        };
        return Err(error.at(cursor.position()));
    }
    items.columns.push(Column::new(name, data_type, nullable));
    Ok(())
}

fn no_constraint(word: &str) -> SqlError {
    SqlError::unsupported(format!("a column can not have {word} yet"))
        .with_hint("columns take a type and NOT NULL, those of a table PRIMARY KEY too")
}

fn table(cursor: &mut Cursor<'_>) -> Result<Statement, SqlError> {
    let if_not_exists = cursor.if_not_exists();
    let name = cursor.name()?;
    let mut items = items(cursor, true)?;
    let key = items.take_key()?;
    if let Some(watermark) = items.watermark {
        return Err(SqlError::invalid(
            sqlstate::INVALID_TABLE,
            "a table is static and has no watermark",
        )
        .at(watermark.at));
    }
    let mut options = Options::default();
    if cursor.take(&["from"]) {
        let at = cursor.position();
        let Token::SingleQuotedString(path) = cursor.next().clone() else {
            return Err(cursor.expected("a file's path in single quotes"));
        };
        cursor.skip();
        options.insert(TABLE_OPTIONS, "path", path, at)?;
    }
    if cursor.peek(&["as"]) {
        return Err(SqlError::unsupported("a table can not be made from a query")
            .with_hint("write CREATE MATERIALIZED VIEW name AS SELECT …")
            .at(cursor.position()));
    }
    if cursor.peek(&["with"]) {
        let at = cursor.position();
        let from = options.get("path").map(str::to_owned);
        options = with(cursor, TABLE_OPTIONS)?;
        if let Some(path) = from {
            options.insert(TABLE_OPTIONS, "path", path, at)?;
        }
    }
    if options.get("path").is_none() {
        return Err(SqlError::invalid(
            sqlstate::INVALID_TABLE,
            format!("the table \"{name}\" has no file"),
        )
        .with_hint("write CREATE TABLE name (columns) FROM 'file.csv'")
        .at(cursor.position()));
    }
    let file = csv_file(&options)?;
    let columns = (!items.columns.is_empty()).then_some(items.columns);
    Ok(Statement::CreateTable(CreateTable {
        name,
        if_not_exists,
        columns,
        key,
        file,
        sql: cursor.text(),
    }))
}

fn csv_file(options: &Options) -> Result<CsvFile, SqlError> {
    let path = options.required("path", "'file.csv'")?.to_owned();
    options.one_of("format", &[("csv", ())], ())?;
    let header = options.one_of("header", &[("true", true), ("false", false)], true)?;
    let delimiter = match options.get("delimiter").unwrap_or(",") {
        "\\t" => b'\t',
        text => match text.as_bytes() {
            [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => *byte,
            _ => {
                return Err(SqlError::invalid(
                    sqlstate::INVALID_PARAMETER,
                    format!("the option delimiter can not be '{text}'"),
                )
                .with_hint("use one ASCII character, such as ',' or ';', or '\\t'")
                .at(options.position("delimiter")));
            }
        },
    };
    let null = options.get("null").unwrap_or_default().to_owned();
    Ok(CsvFile { path, header, delimiter, null })
}

/// `WITH (name = value, …)`.
fn with(cursor: &mut Cursor<'_>, specs: &'static [OptionSpec]) -> Result<Options, SqlError> {
    let mut options = Options::default();
    cursor.expect(&["with"])?;
    cursor.expect_token(&Token::LParen)?;
    loop {
        let at = cursor.position();
        let name = if let Token::SingleQuotedString(name) = cursor.next().clone() {
            cursor.skip();
            name
        } else {
            let mut name = cursor.identifier()?;
            while cursor.take_token(&Token::Period) {
                name = format!("{name}.{}", cursor.identifier()?);
            }
            name
        };
        cursor.expect_token(&Token::Eq)?;
        let value = match cursor.next().clone() {
            Token::SingleQuotedString(text) | Token::Number(text, _) => text,
            Token::Word(word) if word.quote_style.is_none() => word.value,
            _ => return Err(cursor.expected("a value in single quotes")),
        };
        cursor.skip();
        options.insert(specs, &name, value, at)?;
        if !cursor.take_token(&Token::Comma) {
            break;
        }
    }
    cursor.expect_token(&Token::RParen)?;
    Ok(options)
}
