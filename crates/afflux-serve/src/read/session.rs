//! One client's statements, whatever protocol they came by.

use std::{sync::Arc, time::Duration};

use afflux_sql::{Session as SessionStatement, Show, Statement};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::scalar::ScalarValue;
use tokio_util::sync::CancellationToken;

use super::{interrupt::Interrupt, query::Described, settings::Settings, show, threads::Queries};
use crate::{
    QueryError,
    node::{BatchStream, Outcome},
};

/// Who asks. Any name will do until security is switched on.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) user: String,
    pub(crate) database: String,
}

/// What a statement answers.
pub(crate) enum Answer {
    /// Rows, all of one tick.
    Rows {
        schema: SchemaRef,
        batches: BatchStream,
        /// Postgres's command tag, without the count.
        tag: &'static str,
    },
    /// It is done.
    Done(Outcome),
    /// A transaction begins. Nothing more happens: every statement stands for itself.
    Begin,
    /// A transaction ends.
    End {
        /// What to answer if no statement of it has failed.
        tag: &'static str,
    },
}

/// One client's session.
pub(crate) struct Session {
    queries: Arc<Queries>,
    pub(crate) identity: Identity,
    pub(crate) settings: Settings,
}

impl Session {
    /// A new session.
    pub(crate) fn new(
        queries: Arc<Queries>,
        identity: Identity,
        timeout: Option<Duration>,
    ) -> Self {
        Self { queries, identity, settings: Settings::new(timeout) }
    }

    /// The statements of a text.
    pub(crate) async fn parse(&self, text: &str) -> Result<Vec<Arc<Statement>>, QueryError> {
        self.queries.parse(text).await
    }

    /// Runs a statement until it answers. The token cancels it, its rows too.
    pub(crate) async fn run(
        &mut self,
        statement: &Arc<Statement>,
        parameters: Vec<ScalarValue>,
        cancel: CancellationToken,
    ) -> Result<Answer, QueryError> {
        let interrupt = Interrupt::new(cancel, self.settings.timeout());
        match statement.as_ref() {
            Statement::Query(_) => {
                let (schema, batches) =
                    self.queries.run(statement, parameters, &self.identity, interrupt).await?;
                Ok(Answer::Rows { schema, batches, tag: "SELECT" })
            }
            Statement::Show(asked) => {
                let table = self.show(asked)?;
                Ok(table.answer("SHOW"))
            }
            Statement::Describe { name } => {
                let catalog = self.queries.node().catalog();
                Ok(show::columns(show::find(&catalog, name)?).answer("DESCRIBE"))
            }
            Statement::Explain(_) => {
                let lines = self.queries.explain(statement, &self.identity).await?;
                Ok(show::explained(lines).answer("EXPLAIN"))
            }
            Statement::Session(statement) => self.session(statement),
            _ => Ok(Answer::Done(self.queries.change(statement).await?)),
        }
    }

    /// What a statement takes and answers; no schema if it answers no rows.
    pub(crate) async fn describe(
        &self,
        statement: &Arc<Statement>,
        known: &[Option<DataType>],
    ) -> Result<(Vec<DataType>, Option<SchemaRef>), QueryError> {
        let schema = match statement.as_ref() {
            Statement::Query(_) => {
                let Described { parameters, schema } =
                    self.queries.describe(statement, known, &self.identity).await?;
                return Ok((parameters, Some(schema)));
            }
            Statement::Show(asked) => Some(self.show(asked)?.schema()),
            Statement::Describe { .. } => Some(show::columns_schema()),
            Statement::Explain(_) => Some(show::explain_schema()),
            _ => None,
        };
        let known = known.iter().map(|t| t.clone().unwrap_or(DataType::Utf8)).collect();
        Ok((known, schema))
    }

    fn show(&self, asked: &Show) -> Result<show::Table, QueryError> {
        let node = self.queries.node();
        match asked {
            Show::Sources => Ok(show::sources(&node.catalog())),
            Show::Tables => Ok(show::tables(&node.catalog())),
            Show::Views => Ok(show::views(&node.catalog(), &node.pipelines())),
            Show::Topics => Ok(show::topics(&node.topics())),
            Show::Pipelines => Ok(show::pipelines(&node.pipelines())),
            Show::Create { name } => Ok(show::create(show::find(&node.catalog(), name)?)),
            Show::Parameter(name) if name == "all" => Ok(show::parameters(&self.settings)),
            Show::Parameter(name) => Ok(show::parameter(name, self.settings.get(name)?)),
        }
    }

    fn session(&mut self, statement: &SessionStatement) -> Result<Answer, QueryError> {
        match statement {
            SessionStatement::Set { name, value } => self.settings.set(name, value)?,
            SessionStatement::Reset | SessionStatement::Discard => self.settings.reset(),
            SessionStatement::Begin => return Ok(Answer::Begin),
            SessionStatement::Commit | SessionStatement::Rollback => {
                return Ok(Answer::End { tag: statement.tag() });
            }
            SessionStatement::Deallocate | SessionStatement::Close => {}
        }
        Ok(Answer::Done(Outcome { tag: statement.tag().to_owned(), notices: Vec::new() }))
    }
}
