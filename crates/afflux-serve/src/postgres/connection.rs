//! One Postgres session, from its first packet to its last.
//!
//! 1. Opening: TLS and GSSAPI encryption are declined, a cancel request is carried out and that
//!    is all; a start-up begins the session. Any user and any database will do.
//! 2. A simple query runs its statements one after the other, up to the first error.
//! 3. In the extended protocol, after an error everything up to the next `Sync` is skipped.
//! 4. `BEGIN` and `COMMIT` are accepted, as drivers send them unasked; every statement stands for
//!    itself all the same.
//!
//! Rows are encoded as they are sent: neither the session nor a portal holds more of an answer
//! than a batch.

use std::{collections::HashMap, sync::Arc, time::Duration};

use afflux_sql::{Session as SessionStatement, Statement};
use pgwire::{
    error::ErrorInfo,
    messages::{
        PgWireBackendMessage as Message,
        response::{
            CommandComplete, EmptyQueryResponse, ErrorResponse, NoticeResponse, ReadyForQuery,
            TransactionStatus,
        },
        startup::{
            Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, SecretKey,
        },
    },
};
use tokio::time::timeout;

use super::{
    Postgres,
    cancel::Entry,
    extended::{Portal, Prepared},
    frontend::{Malformed, Opening, Request},
    rows::{Rows, Shape},
    wire::{Broken, Wire},
};
use crate::{
    QueryError,
    node::BatchStream,
    read::{Answer, Identity, Session},
};

/// How long a client may take to start a session.
const OPENING_MAX: Duration = Duration::from_secs(30);

/// Why a request was not answered in full.
pub(super) enum Failure {
    /// The client is told and goes on.
    Query(Box<QueryError>),
    /// There is nobody to tell.
    Broken(Broken),
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        Self::Query(Box::new(error))
    }
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// A session that has started.
pub(super) struct Connection {
    pub(super) wire: Wire,
    pub(super) session: Session,
    pub(super) transaction: TransactionStatus,
    pub(super) statements: HashMap<String, Arc<Prepared>>,
    pub(super) portals: HashMap<String, Portal>,
    /// Errors say where in this text they are.
    pub(super) text: String,
    cancel: Entry,
    skip_to_sync: bool,
}

/// Rows on their way: a portal's, or a simple query's.
pub(super) struct Flow {
    pub(super) shape: Shape,
    pub(super) batches: BatchStream,
    pub(super) rows: Option<Rows>,
    pub(super) tag: &'static str,
}

/// Serves a connection until its end.
pub(super) async fn serve(server: Arc<Postgres>, mut wire: Wire) {
    let opened = timeout(OPENING_MAX, open(&server, &mut wire)).await;
    let parameters = match opened {
        Ok(Ok(Some(parameters))) => parameters,
        Ok(Err(Broken::Malformed(error))) => return refuse(&mut wire, malformed(&error)).await,
        _ => return,
    };
    let mut connection = match Connection::start(&server, wire, parameters).await {
        Ok(connection) => connection,
        Err(broken) => return tracing::debug!(?broken, "a session did not start"),
    };
    let outcome = tokio::select! {
        outcome = connection.run() => outcome,
        () = server.stop.cancelled() => {
            let error = QueryError::new(afflux_types::ErrorKind::Unavailable, "the node is stopping")
                .with_sqlstate("57P01");
            return refuse(&mut connection.wire, error).await;
        }
    };
    match outcome {
        Ok(()) => connection.wire.close().await,
        Err(Broken::Malformed(error)) => refuse(&mut connection.wire, malformed(&error)).await,
        Err(Broken::Gone(error)) => tracing::debug!(%error, "a client has gone"),
    }
}

fn malformed(error: &Malformed) -> QueryError {
    QueryError::invalid(error.to_string()).with_sqlstate("08P01")
}

/// Says why and closes.
pub(super) async fn refuse(wire: &mut Wire, error: QueryError) {
    let response = ErrorResponse::from(info("FATAL", &error, None));
    if wire.send(Message::ErrorResponse(response)).await.is_ok() {
        wire.close().await;
    }
}

fn info(severity: &str, error: &QueryError, text: Option<&str>) -> ErrorInfo {
    let mut info =
        ErrorInfo::new(severity.to_owned(), error.sqlstate.to_owned(), error.message.clone());
    info.severity_nonlocalized = Some(severity.to_owned());
    info.hint.clone_from(&error.hint);
    let position = error.position.zip(text).and_then(|(at, text)| at.characters(text));
    info.position = position.map(|position| position.to_string());
    info
}

/// The parameters of a start-up; none if there is no session to be.
async fn open(server: &Postgres, wire: &mut Wire) -> Result<Option<Vec<(String, String)>>, Broken> {
    loop {
        match wire.opening().await? {
            None => return Ok(None),
            Some(Opening::Tls | Opening::Gss) => {
                wire.send_raw(b"N");
                wire.flush().await?;
            }
            Some(Opening::Cancel { process, secret }) => {
                server.cancels.cancel(process, &secret);
                return Ok(None);
            }
            Some(Opening::Startup { version, parameters }) => {
                if version >> 16 != 3 {
                    return Err(Malformed::Body("only version 3 of the protocol is spoken").into());
                }
                let unknown: Vec<_> = parameters
                    .iter()
                    .filter(|(name, _)| name.starts_with("_pq_."))
                    .map(|(name, _)| name.clone())
                    .collect();
                if version & 0xffff != 0 || !unknown.is_empty() {
                    let answer = NegotiateProtocolVersion::new(0, unknown);
                    wire.send(Message::NegotiateProtocolVersion(answer)).await?;
                }
                return Ok(Some(parameters));
            }
        }
    }
}

/// The `-c name=value` of the start-up's `options`.
fn options(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split_whitespace()
        .map(|word| word.strip_prefix("-c").or(word.strip_prefix("--")).unwrap_or(word))
        .filter_map(|word| word.split_once('='))
}

impl Connection {
    async fn start(
        server: &Arc<Postgres>,
        mut wire: Wire,
        parameters: Vec<(String, String)>,
    ) -> Result<Self, Broken> {
        let value = |wanted: &str| {
            parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
        };
        let user = value("user").unwrap_or_else(|| "afflux".to_owned());
        let database = value("database").unwrap_or_else(|| user.clone());
        let identity = Identity { user, database };
        let queries = Arc::clone(&server.queries);
        let mut session = Session::new(queries, identity, server.options.statement_timeout);
        let user = session.identity.user.clone();
        // Session_authorization is what the client says it is.
        let _ = session.settings.set("session_authorization", &user);
        let given = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let listed = value("options").unwrap_or_default();
        for (name, value) in given.chain(options(&listed)) {
            let name = name.to_lowercase();
            if matches!(name.as_str(), "user" | "database" | "options" | "replication") {
                continue;
            }
            // Drivers send what they like here (a time zone, a date style). What can not be had
            // is not: the parameters reported below tell them.
            if let Err(error) = session.settings.set(&name, value) {
                if name == "client_encoding" {
                    refuse(&mut wire, error).await;
                    return Err(std::io::Error::from(std::io::ErrorKind::InvalidInput).into());
                }
                tracing::debug!(name, value, %error, "a start-up parameter is ignored");
            }
        }
        let cancel = server.cancels.enter(server.random.as_ref());
        wire.send(Message::Authentication(Authentication::Ok)).await?;
        for (name, value) in session.settings.reported() {
            let status = ParameterStatus::new(name.to_owned(), value.to_owned());
            wire.send(Message::ParameterStatus(status)).await?;
        }
        let key = BackendKeyData::new(cancel.process, SecretKey::I32(cancel.secret));
        wire.send(Message::BackendKeyData(key)).await?;
        let mut connection = Self {
            wire,
            session,
            transaction: TransactionStatus::Idle,
            statements: HashMap::new(),
            portals: HashMap::new(),
            text: String::new(),
            cancel,
            skip_to_sync: false,
        };
        connection.ready().await?;
        Ok(connection)
    }

    async fn run(&mut self) -> Result<(), Broken> {
        while let Some(request) = self.wire.request().await? {
            if self.skip_to_sync && !matches!(request, Request::Sync | Request::Terminate) {
                continue;
            }
            let simple = matches!(request, Request::Query(_));
            let outcome = match request {
                Request::Terminate => return Ok(()),
                Request::Sync => {
                    self.skip_to_sync = false;
                    if self.transaction == TransactionStatus::Idle {
                        self.portals.clear();
                    }
                    self.ready().await?;
                    Ok(())
                }
                Request::Query(text) => self.simple(text).await,
                other => self.extended(other).await,
            };
            match outcome {
                Ok(()) => {}
                Err(Failure::Broken(broken)) => return Err(broken),
                Err(Failure::Query(error)) => {
                    self.skip_to_sync = !simple;
                    self.error(&error).await?;
                }
            }
            if simple {
                self.ready().await?;
            }
        }
        Ok(())
    }

    async fn ready(&mut self) -> Result<(), Broken> {
        self.wire.send(Message::ReadyForQuery(ReadyForQuery::new(self.transaction))).await?;
        self.wire.flush().await
    }

    async fn error(&mut self, error: &QueryError) -> Result<(), Broken> {
        if self.transaction == TransactionStatus::Transaction {
            self.transaction = TransactionStatus::Error;
        }
        let response = ErrorResponse::from(info("ERROR", error, Some(&self.text)));
        self.wire.send(Message::ErrorResponse(response)).await?;
        self.wire.flush().await
    }

    async fn simple(&mut self, text: String) -> Result<(), Failure> {
        // A simple query replaces the unnamed statement and portal.
        self.statements.remove("");
        self.portals.remove("");
        self.text = text;
        let statements = self.session.parse(&self.text).await?;
        if statements.is_empty() {
            self.wire.send(Message::EmptyQueryResponse(EmptyQueryResponse::new())).await?;
        }
        for statement in &statements {
            let answer = self.answer(statement, Vec::new()).await?;
            let Some((schema, batches, tag)) = self.complete(statement, answer).await? else {
                continue;
            };
            let shape = Shape::new(&schema, &[])?;
            self.wire.send(Message::RowDescription(shape.description())).await?;
            let mut flow = Flow { shape, batches, rows: None, tag };
            let count = self.send_rows(&mut flow, 0).await?.0;
            self.cancel.end();
            self.done(format!("{tag} {count}")).await?;
        }
        Ok(())
    }

    /// Runs a statement, cancellable from now until [`Connection::ended`].
    pub(super) async fn answer(
        &mut self,
        statement: &Arc<Statement>,
        parameters: Vec<datafusion::scalar::ScalarValue>,
    ) -> Result<Answer, Failure> {
        let ends = matches!(
            statement.as_ref(),
            Statement::Session(SessionStatement::Commit | SessionStatement::Rollback)
        );
        if self.transaction == TransactionStatus::Error && !ends {
            let error = "the transaction has failed, what follows is ignored until it ends";
            return Err(QueryError::invalid(error)
                .with_sqlstate("25P02")
                .with_hint("send ROLLBACK")
                .into());
        }
        let running = self.wire.gone().child_token();
        self.cancel.begin(running.clone());
        Ok(self.session.run(statement, parameters, running).await?)
    }

    /// What was run has ended: a late cancel request means nothing.
    pub(super) fn ended(&self) {
        self.cancel.end();
    }

    /// Answers all but rows, which are given back.
    pub(super) async fn complete(
        &mut self,
        statement: &Statement,
        answer: Answer,
    ) -> Result<Option<(arrow::datatypes::SchemaRef, BatchStream, &'static str)>, Failure> {
        let tag = match answer {
            Answer::Rows { schema, batches, tag } => return Ok(Some((schema, batches, tag))),
            Answer::Done(outcome) => {
                for notice in outcome.notices {
                    let info = ErrorInfo::new("NOTICE".to_owned(), "00000".to_owned(), notice);
                    self.wire.send(Message::NoticeResponse(NoticeResponse::from(info))).await?;
                }
                outcome.tag
            }
            Answer::Begin => {
                self.transaction = TransactionStatus::Transaction;
                "BEGIN".to_owned()
            }
            Answer::End { tag } => {
                let failed = self.transaction == TransactionStatus::Error;
                self.transaction = TransactionStatus::Idle;
                if failed { "ROLLBACK" } else { tag }.to_owned()
            }
        };
        self.ended();
        if let Statement::Session(statement) = statement {
            self.report(statement).await?;
        }
        self.done(tag).await?;
        Ok(None)
    }

    /// Tells of a parameter that has changed.
    async fn report(&mut self, statement: &SessionStatement) -> Result<(), Failure> {
        match statement {
            SessionStatement::Set { name, .. } => {
                if let Some((name, value)) = self.session.settings.reported_one(name) {
                    let status = ParameterStatus::new(name.to_owned(), value.to_owned());
                    self.wire.send(Message::ParameterStatus(status)).await?;
                }
            }
            SessionStatement::Discard | SessionStatement::Deallocate => self.statements.clear(),
            _ => {}
        }
        Ok(())
    }

    pub(super) async fn done(&mut self, tag: String) -> Result<(), Failure> {
        Ok(self.wire.send(Message::CommandComplete(CommandComplete::new(tag))).await?)
    }

    /// Sends rows, at most so many (0 for all). Answers how many, and whether more may come.
    pub(super) async fn send_rows(
        &mut self,
        flow: &mut Flow,
        rows_max: usize,
    ) -> Result<(usize, bool), Failure> {
        use futures::StreamExt;
        let mut count = 0;
        loop {
            if flow.rows.is_none() {
                match flow.batches.next().await {
                    Some(batch) => flow.rows = Some(flow.shape.rows(&batch?)?),
                    None => return Ok((count, false)),
                }
            }
            let Some(rows) = &mut flow.rows else { continue };
            while rows_max == 0 || count < rows_max {
                let Some(row) = rows.next_row() else { break };
                self.wire.send(Message::DataRow(row?)).await?;
                count += 1;
            }
            if rows_max != 0 && count == rows_max {
                return Ok((count, true));
            }
            flow.rows = None;
        }
    }
}
