//! One client's connection.
//!
//! 1. The reader cuts frames off the byte stream. A frame's length is checked before anything is
//!    reserved for it, and room is reserved as its bytes arrive.
//! 2. A whole frame is paid for from the node's budget of request bytes; while that is used up,
//!    nothing more is read, and the client feels it. So it does while the log's own queue is full.
//! 3. Each request is begun in the order in which it came (a produce request is in the log's
//!    hands then) and queued, at most [`IN_FLIGHT_MAX`] of them.
//! 4. The writer answers in the same order, each answer once it is there.
//!
//! Whatever is wrong with a request ends its connection and none other, with a line in the log
//! that names the client: the protocol has no other way to say so.

use std::{io, net::SocketAddr, sync::Arc};

use afflux_env::Connection;
use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

use crate::{
    broker::{self, Broker, Outcome, Pending},
    wire::Answer,
};

/// The most requests of one connection that have no answer yet.
const IN_FLIGHT_MAX: usize = 64;
/// How much is read at once, at least.
const READ_BYTES: usize = 64 << 10;
/// How much room is made for a frame at once, at most.
const RESERVE_BYTES_MAX: usize = 1 << 20;
/// In what the budget of request bytes is counted.
pub(crate) const BUDGET_UNIT_BYTES: usize = 1 << 10;

/// A request on its way to its answer.
struct InFlight {
    pending: Pending,
    /// Its part of the budget, given back with the answer.
    _paid: OwnedSemaphorePermit,
}

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("a request of {0} bytes is announced; at most {1} are taken")]
    TooLong(i64, usize),
    #[error("the request stopped coming in the middle")]
    Stalled,
    #[error("{0}")]
    Request(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves a connection until the client goes, does something wrong, or the node stops.
pub(crate) async fn serve(
    broker: Arc<Broker>,
    budget: Arc<Semaphore>,
    connection: Box<dyn Connection>,
    peer: SocketAddr,
) {
    let (reader, writer) = tokio::io::split(connection);
    let (queue, queued) = mpsc::channel(IN_FLIGHT_MAX);
    let mut client = String::new();
    let ended = {
        let reading = read(&broker, &budget, reader, peer, queue, &mut client);
        let writing = write(writer, queued);
        tokio::pin!(reading, writing);
        tokio::select! {
            // The client has gone: nobody is left to answer.
            ended @ Err(_) = &mut reading => ended,
            ended = &mut writing => ended,
            else => Ok(()),
        }
    };
    match ended {
        Ok(()) => {}
        Err(Ended::Io(error)) => tracing::debug!(%peer, client, %error, "connection ended"),
        Err(error) => tracing::warn!(%peer, client, %error, "connection closed"),
    }
}

/// Reads requests and begins them. `Ok` once the node stops: then what is in flight may end.
async fn read(
    broker: &Arc<Broker>,
    budget: &Arc<Semaphore>,
    mut reader: impl AsyncRead + Unpin,
    peer: SocketAddr,
    queue: mpsc::Sender<InFlight>,
    client: &mut String,
) -> Result<(), Ended> {
    let mut shutdown = broker.shutdown.clone();
    let mut buffer = BytesMut::new();
    loop {
        let frame = tokio::select! {
            frame = next_frame(broker, &mut reader, &mut buffer) => frame?,
            _ = shutdown.wait_for(|stopping| *stopping) => return Ok(()),
        };
        if client.is_empty() {
            *client = client_of(&frame);
        }
        let cost = frame.len().div_ceil(BUDGET_UNIT_BYTES).max(1);
        let paid = Arc::clone(budget)
            .acquire_many_owned(cost as u32)
            .await
            .map_err(|error| Ended::Request(error.to_string()))?;
        broker.log.ready().await;
        let pending = broker::receive(broker, peer, frame)
            .map_err(|error| Ended::Request(error.to_string()))?;
        if queue.send(InFlight { pending, _paid: paid }).await.is_err() {
            return Ok(());
        }
    }
}

/// Answers requests in their order. `Ok` once there are no more.
async fn write(
    mut writer: impl AsyncWrite + Unpin,
    mut queued: mpsc::Receiver<InFlight>,
) -> Result<(), Ended> {
    while let Some(in_flight) = queued.recv().await {
        match in_flight.pending.await {
            Outcome::Respond(answer) => write_answer(&mut writer, answer).await?,
            Outcome::Silent => {}
            Outcome::Close(reason) => return Err(Ended::Request(reason)),
        }
    }
    writer.shutdown().await?;
    Ok(())
}

async fn write_answer(writer: &mut (impl AsyncWrite + Unpin), answer: Answer) -> io::Result<()> {
    let mut pieces: std::collections::VecDeque<Bytes> = answer.into_pieces().into();
    while !pieces.is_empty() {
        let slices: Vec<io::IoSlice<'_>> =
            pieces.iter().take(64).map(|piece| io::IoSlice::new(piece)).collect();
        let mut written = writer.write_vectored(&slices).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(first) = pieces.front_mut() {
            if written < first.len() {
                first.advance(written);
                break;
            }
            written -= first.len();
            pieces.pop_front();
        }
    }
    writer.flush().await
}

/// The next whole frame, without its length.
async fn next_frame(
    broker: &Broker,
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> Result<Bytes, Ended> {
    // Between requests a client may be silent for as long as it likes.
    while buffer.is_empty() {
        buffer.reserve(READ_BYTES);
        fill(reader, buffer).await?;
    }
    let rest = rest_of_frame(broker, reader, buffer);
    match tokio::time::timeout(broker.options.stall_max, rest).await {
        Ok(frame) => frame,
        Err(_) => Err(Ended::Stalled),
    }
}

async fn rest_of_frame(
    broker: &Broker,
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> Result<Bytes, Ended> {
    while buffer.len() < 4 {
        buffer.reserve(READ_BYTES);
        fill(reader, buffer).await?;
    }
    let announced = i32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
    let most = broker.options.frame_bytes_max;
    let length = usize::try_from(announced)
        .ok()
        .filter(|length| *length <= most)
        .ok_or(Ended::TooLong(i64::from(announced), most))?;
    while buffer.len() < 4 + length {
        let missing = 4 + length - buffer.len();
        buffer.reserve(missing.clamp(READ_BYTES, RESERVE_BYTES_MAX));
        fill(reader, buffer).await?;
    }
    buffer.advance(4);
    Ok(buffer.split_to(length).freeze())
}

/// Reads what there is; an error at the end of the stream.
async fn fill(reader: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> io::Result<()> {
    match reader.read_buf(buffer).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// What a client calls itself, for the log: the field behind key, version and correlation.
fn client_of(frame: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 64;
    let Some((length, rest)) = frame.get(8..).and_then(<[u8]>::split_first_chunk::<2>) else {
        return String::new();
    };
    let length = usize::try_from(i16::from_be_bytes(*length)).unwrap_or(0);
    let shown = rest.get(..length.min(SHOWN_BYTES_MAX)).unwrap_or_default();
    String::from_utf8_lossy(shown).escape_debug().to_string()
}
