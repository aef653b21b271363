//! What a node has to be told.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::CrashPlan;

/// How a node is to run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where everything is kept. Created if it is not there.
    pub data_dir: PathBuf,
    /// Where to listen. Port 0 is any free one.
    pub listen: Addresses,
    /// Host and port that Kafka clients are told to connect to; none for where the node listens.
    pub kafka_advertised: Option<(String, u16)>,
    /// What holds for Kafka clients, by Kafka's names: see `docs/node-settings.md`.
    pub kafka_settings: Vec<(String, String)>,
    /// The most bytes of journal files; none for nine tenths of the room that there is.
    pub log_bytes_max: Option<u64>,
    /// Names that HTTP clients may know the node by, beside loopback names and its address.
    pub http_hosts: Vec<String>,
    /// Receives the bound addresses as JSON once the node serves.
    pub ready_file: Option<PathBuf>,
    /// For tests: when to end the process by SIGKILL.
    pub crash: Option<CrashPlan>,
}

/// One address for each listener. As JSON: `{"kafka":"127.0.0.1:9092","postgres":…,"http":…}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Kafka clients.
    pub kafka: SocketAddr,
    /// Postgres clients.
    pub postgres: SocketAddr,
    /// HTTP clients.
    pub http: SocketAddr,
}
