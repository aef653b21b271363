//! A connection's bytes, in and out.
//!
//! 1. A pump reads what the client sends into a bounded pipe, also while a statement runs. So a
//!    client that goes away is noticed at once and what it waited for is cancelled.
//! 2. Answers collect in a buffer that is written when it is full or when the client waits. A
//!    client that takes nothing for [`STALL_MAX`] is disconnected, with what it holds pinned.

use std::{io, time::Duration};

use afflux_env::Connection;
use bytes::BytesMut;
use pgwire::messages::PgWireBackendMessage;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, SimplexStream, WriteHalf, simplex, split},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::frontend::{self, Malformed, Opening, Request};

/// How long a client may leave an answer untouched.
const STALL_MAX: Duration = Duration::from_mins(1);
/// What waits between the pump and the session.
const PIPE_BYTES: usize = 64 << 10;
/// Answers are written once they are this long.
const FLUSH_BYTES: usize = 64 << 10;

pub(super) struct Wire {
    input: ReadHalf<SimplexStream>,
    output: WriteHalf<Box<dyn Connection>>,
    incoming: BytesMut,
    outgoing: BytesMut,
    message_bytes_max: usize,
    gone: CancellationToken,
    pump: JoinHandle<()>,
}

/// Why there is no message.
#[derive(Debug)]
pub(super) enum Broken {
    /// The client has gone, or does not read.
    Gone(io::Error),
    /// What it sent is no message.
    Malformed(Malformed),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

impl From<Malformed> for Broken {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

impl Wire {
    pub(super) fn new(connection: Box<dyn Connection>, message_bytes_max: usize) -> Self {
        let (mut from_client, output) = split(connection);
        let (input, mut pipe) = simplex(PIPE_BYTES);
        let gone = CancellationToken::new();
        let noticed = gone.clone();
        let pump = tokio::spawn(async move {
            // A broken connection ends like a closed one: nothing more will come.
            let _ = tokio::io::copy(&mut from_client, &mut pipe).await;
            noticed.cancel();
            let _ = pipe.shutdown().await;
        });
        Self {
            input,
            output,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            message_bytes_max,
            gone,
            pump,
        }
    }

    /// Is cancelled once the client has gone.
    pub(super) fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// The next packet before the session; none if the client has gone.
    pub(super) async fn opening(&mut self) -> Result<Option<Opening>, Broken> {
        loop {
            if let Some(opening) = frontend::opening(&mut self.incoming)? {
                return Ok(Some(opening));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// The next request of the session; none if the client has gone.
    pub(super) async fn request(&mut self) -> Result<Option<Request>, Broken> {
        loop {
            if let Some(request) = frontend::request(&mut self.incoming, self.message_bytes_max)? {
                return Ok(Some(request));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    async fn fill(&mut self) -> Result<bool, Broken> {
        Ok(self.input.read_buf(&mut self.incoming).await? > 0)
    }

    /// Adds a message to the answer.
    pub(super) async fn send(&mut self, message: PgWireBackendMessage) -> Result<(), Broken> {
        message.encode(&mut self.outgoing).map_err(io::Error::from)?;
        if self.outgoing.len() >= FLUSH_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Adds bytes as they are to the answer.
    pub(super) fn send_raw(&mut self, bytes: &[u8]) {
        self.outgoing.extend_from_slice(bytes);
    }

    /// Writes what has collected.
    pub(super) async fn flush(&mut self) -> Result<(), Broken> {
        while !self.outgoing.is_empty() {
            let written = timeout(STALL_MAX, self.output.write_buf(&mut self.outgoing))
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            if written == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
        }
        self.output.flush().await?;
        Ok(())
    }

    /// Writes what has collected and says that nothing follows.
    pub(super) async fn close(&mut self) {
        if self.flush().await.is_ok() {
            let _ = self.output.shutdown().await;
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.pump.abort();
    }
}
