//! SQL through a whole node: each `slt/*.slt` runs on a fresh one, over the Postgres wire.
//!
//! Every `CREATE MATERIALIZED VIEW` in them is checked twice: by the expectations in the file,
//! and by this runner, which compares the view, kept up to date by the dataflow, with the answer
//! to its query, computed in one batch by DataFusion. A view marked `-- stream only` on its first
//! line has a query that only a view can have.

use std::{fmt, net::SocketAddr, path::Path};

use afflux_server::{Addresses, Config, Node};
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

const STREAM_ONLY: &str = "-- stream only";
const CREATE_VIEW: &str = "create materialized view ";

struct Session(Client);

#[derive(Debug)]
enum SessionError {
    Postgres(tokio_postgres::Error),
    Differs { view: String, kept: Vec<Vec<String>>, batch: Vec<Vec<String>> },
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(error) => match error.as_db_error() {
                Some(error) => write!(f, "{}: {}", error.code().code(), error.message()),
                None => error.fmt(f),
            },
            Self::Differs { view, kept, batch } => {
                write!(f, "{view} holds {kept:?}, its query in one batch gives {batch:?}")
            }
        }
    }
}

impl std::error::Error for SessionError {}

impl Session {
    async fn connect(address: SocketAddr) -> Self {
        let config = format!("host={} port={} user=slt dbname=slt", address.ip(), address.port());
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await.expect("connects");
        tokio::spawn(connection);
        Self(client)
    }

    async fn rows(&self, sql: &str) -> Result<DBOutput<DefaultColumnType>, SessionError> {
        let messages = self.0.simple_query(sql).await.map_err(SessionError::Postgres)?;
        let mut columns = None;
        let mut rows = Vec::new();
        for message in messages {
            match message {
                SimpleQueryMessage::RowDescription(description) => {
                    columns = Some(description.len());
                }
                SimpleQueryMessage::Row(row) => rows.push(
                    (0..row.len())
                        .map(|nth| match row.get(nth) {
                            None => "NULL".to_owned(),
                            Some("") => "(empty)".to_owned(),
                            Some(text) => text.to_owned(),
                        })
                        .collect(),
                ),
                _ => {}
            }
        }
        Ok(match columns {
            Some(columns) => DBOutput::Rows { types: vec![DefaultColumnType::Any; columns], rows },
            None => DBOutput::StatementComplete(0),
        })
    }

    async fn sorted(&self, sql: &str) -> Result<Vec<Vec<String>>, SessionError> {
        match self.rows(sql).await? {
            DBOutput::Rows { mut rows, .. } => {
                rows.sort();
                Ok(rows)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Compares a view that was just made with its query.
    async fn compare(&self, sql: &str) -> Result<(), SessionError> {
        let definition = &sql[CREATE_VIEW.len()..];
        let definition = definition.trim_start_matches("IF NOT EXISTS ");
        let (view, query) = definition.split_once(" AS").expect("CREATE MATERIALIZED VIEW … AS");
        let kept = self.sorted(&format!("SELECT * FROM {view}")).await?;
        let batch = self.sorted(query).await?;
        if kept == batch {
            return Ok(());
        }
        Err(SessionError::Differs { view: view.to_owned(), kept, batch })
    }
}

#[async_trait::async_trait]
impl AsyncDB for Session {
    type Error = SessionError;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<Self::ColumnType>, Self::Error> {
        let output = self.rows(sql).await?;
        let is_view =
            sql.get(..CREATE_VIEW.len()).is_some_and(|text| text.eq_ignore_ascii_case(CREATE_VIEW));
        if is_view && !sql.contains(STREAM_ONLY) {
            self.compare(sql).await?;
        }
        Ok(output)
    }

    async fn shutdown(&mut self) {}

    fn error_sql_state(error: &Self::Error) -> Option<String> {
        match error {
            SessionError::Postgres(error) => error.code().map(|code| code.code().to_owned()),
            SessionError::Differs { .. } => None,
        }
    }
}

async fn run(file: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let node = Node::start(Config {
        kafka_advertised: None,
        kafka_settings: Vec::new(),
        log_bytes_max: None,
        http_hosts: Vec::new(),
        data_dir: dir.path().to_owned(),
        listen: Addresses { kafka: any, postgres: any, http: any },
        ready_file: None,
        crash: None,
    })
    .await
    .expect("a node");
    let address = node.addresses().postgres;
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt");
    let mut runner = Runner::new(async || Ok(Session::connect(address).await));
    runner.set_var("DATA".to_owned(), tests.join("data").display().to_string());
    let outcome = runner.run_file_async(tests.join(file)).await;
    drop(runner);
    node.stop().await;
    if let Err(error) = outcome {
        panic!("{}", error.display(false));
    }
}

macro_rules! files {
    ($($name:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                run(concat!(stringify!($name), ".slt")).await;
            }
        )*

        #[test]
        fn every_file_is_run() {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt");
            let mut found: Vec<_> = std::fs::read_dir(dir)
                .expect("the directory")
                .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
                .filter_map(|name| name.strip_suffix(".slt").map(str::to_owned))
                .collect();
            found.sort();
            let mut run = vec![$(stringify!($name)),*];
            run.sort_unstable();
            assert_eq!(found, run);
        }
    };
}

files!(aggregates, errors, expressions, joins, statements, views, windows);
