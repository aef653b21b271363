//! The extended protocol: prepared statements with parameters, and portals.

use std::sync::Arc;

use afflux_sql::Statement;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::scalar::ScalarValue;
use pgwire::{
    api::Type,
    messages::{
        PgWireBackendMessage as Message,
        data::{NoData, ParameterDescription},
        extendedquery::{BindComplete, CloseComplete, ParseComplete, PortalSuspended},
        response::EmptyQueryResponse,
    },
};

use super::{
    connection::{Connection, Failure, Flow},
    frontend::{Bind, Request, Target},
    parameters,
    rows::{Shape, alike, parameter_type},
};
use crate::QueryError;

/// The most text of all statements that a session has prepared, names included.
const PREPARED_BYTES_MAX: usize = 16 << 20;
/// What a statement counts beside its text: its plan's columns, its place in the table.
const PREPARED_BYTES_EACH: usize = 1 << 10;
/// The most portals that a session has open.
const PORTALS_MAX: usize = 1_000;

/// A statement that has been parsed and described.
pub(super) struct Prepared {
    text: String,
    /// None for an empty text.
    statement: Option<Arc<Statement>>,
    /// As the plan has them, and as the client sends them.
    parameters: Vec<(DataType, Type)>,
    /// None if it answers no rows.
    schema: Option<SchemaRef>,
}

/// A statement with its parameters, and its answer as far as it has been taken.
pub(super) struct Portal {
    prepared: Arc<Prepared>,
    parameters: Vec<ScalarValue>,
    formats: Vec<i16>,
    state: State,
}

enum State {
    Bound,
    Running(Box<Flow>),
    Finished,
}

fn missing(what: &str, name: &str, sqlstate: &'static str) -> Failure {
    QueryError::new(afflux_types::ErrorKind::NotFound, format!("there is no {what} \"{name}\""))
        .with_sqlstate(sqlstate)
        .into()
}

fn protocol(message: String) -> Failure {
    QueryError::invalid(message).with_sqlstate("08P01").into()
}

impl Connection {
    pub(super) async fn extended(&mut self, request: Request) -> Result<(), Failure> {
        match request {
            Request::Parse { name, query, types } => self.parse(name, query, &types).await,
            Request::Bind(bind) => self.bind(bind).await,
            Request::Describe(Target::Statement, name) => self.describe_statement(&name).await,
            Request::Describe(Target::Portal, name) => self.describe_portal(&name).await,
            Request::Execute { portal, rows_max } => self.execute(&portal, rows_max).await,
            Request::Close(target, name) => {
                match target {
                    Target::Statement => drop(self.statements.remove(&name)),
                    Target::Portal => drop(self.portals.remove(&name)),
                }
                Ok(self.wire.send(Message::CloseComplete(CloseComplete::new())).await?)
            }
            Request::Flush => Ok(self.wire.flush().await?),
            // Left over from a COPY that was refused, or a password nobody asked for; and what
            // the session has dealt with.
            Request::Other(b'd' | b'c' | b'f' | b'p')
            | Request::Query(_)
            | Request::Sync
            | Request::Terminate => Ok(()),
            Request::Other(tag) => Err(protocol(format!("messages of type {tag} are not known"))),
        }
    }

    async fn parse(&mut self, name: String, text: String, types: &[u32]) -> Result<(), Failure> {
        if !name.is_empty() && self.statements.contains_key(&name) {
            return Err(QueryError::new(
                afflux_types::ErrorKind::AlreadyExists,
                format!("there is a prepared statement \"{name}\" already"),
            )
            .with_sqlstate("42P05")
            .into());
        }
        let cost = |name: &str, text: &str| name.len() + text.len() + PREPARED_BYTES_EACH;
        let held = self.statements.iter().map(|(name, prepared)| cost(name, &prepared.text));
        if held.sum::<usize>() + cost(&name, &text) > PREPARED_BYTES_MAX {
            return Err(QueryError::new(
                afflux_types::ErrorKind::Full,
                "the session has prepared too many statements",
            )
            .with_sqlstate("53000")
            .with_hint("close some of them, or send DEALLOCATE ALL")
            .into());
        }
        self.text = text;
        let mut statements = self.session.parse(&self.text).await?;
        if statements.len() > 1 {
            return Err(QueryError::invalid("a prepared statement is one statement, not several")
                .with_sqlstate("42601")
                .with_hint("send them one by one")
                .into());
        }
        let statement = statements.pop();
        let known =
            types.iter().map(|oid| parameters::given(*oid)).collect::<Result<Vec<_>, _>>()?;
        let (data_types, schema) = match &statement {
            Some(statement) => self.session.describe(statement, &known).await?,
            None => (Vec::new(), None),
        };
        let client_type = |(n, data_type): (usize, DataType)| {
            let named = types.get(n).filter(|oid| **oid != 0).and_then(|oid| Type::from_oid(*oid));
            let pg = named.filter(|pg| *pg != Type::UNKNOWN);
            let pg = pg.unwrap_or_else(|| parameter_type(&data_type));
            (data_type, pg)
        };
        let parameters = data_types.into_iter().enumerate().map(client_type).collect();
        let prepared = Prepared { text: self.text.clone(), statement, parameters, schema };
        self.statements.insert(name, Arc::new(prepared));
        Ok(self.wire.send(Message::ParseComplete(ParseComplete::new())).await?)
    }

    async fn bind(&mut self, bind: Bind) -> Result<(), Failure> {
        let Some(prepared) = self.statements.get(&bind.statement).map(Arc::clone) else {
            return Err(missing("prepared statement", &bind.statement, "26000"));
        };
        self.text.clone_from(&prepared.text);
        let (given, wanted) = (bind.parameters.len(), prepared.parameters.len());
        if given != wanted {
            return Err(protocol(format!("{given} parameters are given, {wanted} are needed")));
        }
        let formats = &bind.parameter_formats;
        if formats.len() > 1 && formats.len() != given {
            let count = formats.len();
            return Err(protocol(format!("{count} formats are given for {given} parameters")));
        }
        if !bind.portal.is_empty() && self.portals.contains_key(&bind.portal) {
            return Err(QueryError::new(
                afflux_types::ErrorKind::AlreadyExists,
                format!("there is a portal \"{}\" already", bind.portal),
            )
            .with_sqlstate("42P03")
            .into());
        }
        if self.portals.len() >= PORTALS_MAX && !self.portals.contains_key(&bind.portal) {
            return Err(QueryError::new(
                afflux_types::ErrorKind::Full,
                format!("the session has {PORTALS_MAX} portals open"),
            )
            .with_sqlstate("53000")
            .into());
        }
        let value = |(n, (data_type, pg)): (usize, &(DataType, Type))| {
            let format = formats.get(n).or(formats.first()).copied().unwrap_or(0);
            let bytes = bind.parameters[n].as_ref();
            parameters::value(n + 1, pg, data_type, format == 1, bytes)
        };
        let parameters =
            prepared.parameters.iter().enumerate().map(value).collect::<Result<_, _>>()?;
        if let Some(schema) = &prepared.schema {
            Shape::new(schema, &bind.result_formats)?;
        }
        let portal =
            Portal { prepared, parameters, formats: bind.result_formats, state: State::Bound };
        self.portals.insert(bind.portal, portal);
        Ok(self.wire.send(Message::BindComplete(BindComplete::new())).await?)
    }

    async fn describe_statement(&mut self, name: &str) -> Result<(), Failure> {
        let Some(prepared) = self.statements.get(name).map(Arc::clone) else {
            return Err(missing("prepared statement", name, "26000"));
        };
        let oids = prepared.parameters.iter().map(|(_, pg)| pg.oid()).collect();
        let parameters = ParameterDescription::new(oids);
        self.wire.send(Message::ParameterDescription(parameters)).await?;
        self.describe_rows(prepared.schema.as_ref(), &[]).await
    }

    async fn describe_portal(&mut self, name: &str) -> Result<(), Failure> {
        let Some(portal) = self.portals.get(name) else {
            return Err(missing("portal", name, "34000"));
        };
        let (schema, formats) = (portal.prepared.schema.clone(), portal.formats.clone());
        self.describe_rows(schema.as_ref(), &formats).await
    }

    async fn describe_rows(
        &mut self,
        schema: Option<&SchemaRef>,
        formats: &[i16],
    ) -> Result<(), Failure> {
        let message = match schema {
            Some(schema) => Message::RowDescription(Shape::new(schema, formats)?.description()),
            None => Message::NoData(NoData::new()),
        };
        Ok(self.wire.send(message).await?)
    }

    async fn execute(&mut self, name: &str, rows_max: usize) -> Result<(), Failure> {
        // Taken out while it runs; a portal that fails is gone.
        let Some(mut portal) = self.portals.remove(name) else {
            return Err(missing("portal", name, "34000"));
        };
        self.text.clone_from(&portal.prepared.text);
        if matches!(portal.state, State::Bound) {
            let Some(flow) = self.begin(&mut portal).await? else {
                portal.state = State::Finished;
                self.portals.insert(name.to_owned(), portal);
                return Ok(());
            };
            portal.state = State::Running(Box::new(flow));
        }
        match &mut portal.state {
            State::Running(flow) => {
                let (count, more) = self.send_rows(flow, rows_max).await?;
                if more {
                    self.wire.send(Message::PortalSuspended(PortalSuspended::new())).await?;
                } else {
                    self.ended();
                    let tag = format!("{} {count}", flow.tag);
                    portal.state = State::Finished;
                    self.done(tag).await?;
                }
            }
            State::Bound | State::Finished => self.done("SELECT 0".to_owned()).await?,
        }
        self.portals.insert(name.to_owned(), portal);
        Ok(())
    }

    /// Runs a portal's statement; none if it is done with that.
    async fn begin(&mut self, portal: &mut Portal) -> Result<Option<Flow>, Failure> {
        let prepared = Arc::clone(&portal.prepared);
        let Some(statement) = &prepared.statement else {
            self.wire.send(Message::EmptyQueryResponse(EmptyQueryResponse::new())).await?;
            return Ok(None);
        };
        let answer = self.answer(statement, std::mem::take(&mut portal.parameters)).await?;
        let Some((schema, batches, tag)) = self.complete(statement, answer).await? else {
            return Ok(None);
        };
        // The client reads the rows by what it was told when it prepared.
        if !prepared.schema.as_ref().is_some_and(|described| alike(described, &schema)) {
            return Err(QueryError::new(
                afflux_types::ErrorKind::Fenced,
                "the columns have changed since the statement was prepared",
            )
            .with_sqlstate("0A000")
            .with_hint("prepare it again")
            .into());
        }
        let shape = Shape::new(&schema, &portal.formats)?;
        Ok(Some(Flow { shape, batches, rows: None, tag }))
    }
}
