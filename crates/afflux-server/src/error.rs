//! Why a node does not start, one variant a fact.

use std::{fmt, io, net::SocketAddr, path::PathBuf};

use afflux_types::{Classified, ErrorKind};

/// The three listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// For Kafka clients.
    Kafka,
    /// For Postgres clients.
    Postgres,
    /// For HTTP clients.
    Http,
}

impl Listener {
    fn flag(self) -> &'static str {
        match self {
            Self::Kafka => "--kafka",
            Self::Postgres => "--postgres",
            Self::Http => "--http",
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kafka => "Kafka",
            Self::Postgres => "Postgres",
            Self::Http => "HTTP",
        })
    }
}

/// A node that can not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A listener's address is taken.
    #[error("the address {address} for {listener} clients is in use")]
    AddressInUse {
        /// Which listener.
        listener: Listener,
        /// The address.
        address: SocketAddr,
    },
    /// A listener's address can not be bound.
    #[error("the address {address} for {listener} clients can not be listened at: {source}")]
    Address {
        /// Which listener.
        listener: Listener,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The data directory can not be made or used.
    #[error("the data directory {path} can not be used: {source}")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The log can not be opened.
    #[error(transparent)]
    Log(#[from] afflux_log::error::OpenError),
    /// The engine can not start.
    #[error(transparent)]
    Engine(#[from] afflux_engine::StartError),
    /// What is to hold for Kafka clients can not be.
    #[error(transparent)]
    KafkaSetting(#[from] afflux_kafka::NodeSettingError),
    /// What groups and transactions have stored can not be read.
    #[error(transparent)]
    Kafka(#[from] afflux_kafka::StartError),
    /// The readers' servers can not start.
    #[error(transparent)]
    Serve(#[from] afflux_serve::ServeError),
    /// The ready file can not be written.
    #[error("the ready file {path} can not be written: {source}")]
    ReadyFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Classified for StartError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::AddressInUse { .. } => ErrorKind::Unavailable,
            Self::Address { .. } | Self::DataDir { .. } | Self::ReadyFile { .. } => {
                ErrorKind::Invalid
            }
            Self::Log(error) => error.kind(),
            Self::Engine(error) => error.kind(),
            Self::KafkaSetting(error) => error.kind(),
            Self::Kafka(error) => error.kind(),
            Self::Serve(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::AddressInUse { listener, address } => Some(format!(
                "stop what listens there, or choose another with {} HOST:PORT; port 0 is any free \
                 one ({}:0)",
                listener.flag(),
                address.ip()
            )),
            Self::Address { listener, .. } => Some(format!(
                "choose an address of this machine with {} HOST:PORT",
                listener.flag()
            )),
            Self::DataDir { .. } => {
                Some("choose a directory that you may write with --data-dir DIR".to_owned())
            }
            Self::Log(error) => error.hint(),
            Self::Engine(error) => error.hint(),
            Self::KafkaSetting(error) => error.hint(),
            Self::Kafka(error) => error.hint(),
            Self::Serve(error) => error.hint(),
            Self::ReadyFile { .. } => {
                Some("choose a file in a directory that you may write with --ready-file".to_owned())
            }
        }
    }
}
