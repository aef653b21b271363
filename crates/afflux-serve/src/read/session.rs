//! One client's statements, whatever protocol they came by.

use std::{sync::Arc, time::Duration};

use afflux_catalog::ObjectKind;
use afflux_sql::{Session as SessionStatement, Show, Statement};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::scalar::ScalarValue;
use tokio_util::sync::CancellationToken;

use super::{
    interrupt::Interrupt,
    query::{Described, Queries},
    settings::Settings,
    show,
};
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

/// The statements of a text.
pub(crate) fn parse(text: &str) -> Result<Vec<Statement>, QueryError> {
    Ok(afflux_sql::parse(text)?)
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

    /// Runs a statement until it answers. The token cancels it, its rows too.
    pub(crate) async fn run(
        &mut self,
        statement: &Statement,
        parameters: Vec<ScalarValue>,
        cancel: CancellationToken,
    ) -> Result<Answer, QueryError> {
        let interrupt = Interrupt::new(cancel, self.settings.timeout());
        match statement {
            Statement::Query(query) => {
                let (schema, batches) =
                    self.queries.run(query, parameters, &self.identity, &interrupt).await?;
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
            Statement::Explain(query) => Ok(self.explain(query).await?.answer("EXPLAIN")),
            Statement::Session(statement) => self.session(statement),
            // What changes the catalog is not interrupted: it would be done or not done without
            // its client knowing which.
            change => Ok(Answer::Done(self.queries.node().execute(change.clone()).await?)),
        }
    }

    /// What a statement takes and answers; no schema if it answers no rows.
    pub(crate) async fn describe(
        &self,
        statement: &Statement,
        known: &[Option<DataType>],
    ) -> Result<(Vec<DataType>, Option<SchemaRef>), QueryError> {
        let schema = match statement {
            Statement::Query(query) => {
                let Described { parameters, schema } =
                    self.queries.describe(query, known, &self.identity).await?;
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

    async fn explain(&self, query: &afflux_sql::Query) -> Result<show::Table, QueryError> {
        let catalog = self.queries.node().catalog();
        let reads_a_source = afflux_sql::query_objects(query, &catalog)
            .is_ok_and(|objects| objects.iter().any(|o| matches!(o.kind, ObjectKind::Source(_))));
        if reads_a_source {
            let plan = afflux_sql::plan_view(query, &catalog)?;
            return Ok(show::plan(&plan, &catalog));
        }
        let text = self.queries.explain(query, &self.identity).await?;
        Ok(show::explained(text.lines().map(str::to_owned).collect()))
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
