//! One client's connection.
//!
//! 1. The reader cuts frames off the byte stream. A frame's length is checked before anything is
//!    reserved for it, and room is reserved as its bytes arrive, in memory that is lent
//!    ([`crate::buffers`]). Small frames are copied out of it, so that the memory can be used for the
//!    next while an answer is waited for; a large one that keeps something of its frame keeps it all.
//! 2. A frame is paid for from the node's [`crate::budget`] as its bytes arrive, and as a whole once it
//!    is there, for what has come of it takes memory too; while that is used up, nothing more is read,
//!    and the client feels it. So does who produces while the log's own queue is full.
//! 3. A produce request is in the log's hands as soon as it was read; at most [`IN_FLIGHT_MAX`] wait
//!    for their answers. Each other one is begun when those before it have theirs, and nothing is taken
//!    behind it until it has its own: of those that may wait long there is one a connection.
//! 4. The writer answers in the order of requests, each answer once it is there; those that are there at
//!    the same time are written at once. A client that takes nothing of its answer for
//!    [`crate::Options::stall_max`], or less of it than [`TAKEN_BYTES`] a second all in all, is
//!    disconnected.
//!
//! Whatever is wrong with a request ends its connection and none other, with a line in the log
//! that names the client: the protocol has no other way to say so.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io, mem,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use afflux_env::Connection;
use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};

use crate::{
    Options,
    broker::{Broker, Outcome, Pending},
    budget::{Coming, Paid},
    buffers::BUFFER_BYTES,
    dispatch,
    wire::Unreadable,
};

/// The most requests of one connection that have no answer yet.
const IN_FLIGHT_MAX: usize = 64;
/// How much is read at once, at least.
const READ_BYTES: usize = 64 << 10;
/// What a connection that waits can take: a whole request of most kinds.
const FIRST_BYTES: usize = 1 << 10;
/// Answers are written at once until they have this many bytes.
const TOGETHER_BYTES: usize = 64 << 10;
/// Frames up to this length are copied out of what they were read into.
const COPIED_BYTES_MAX: usize = 4 << 10;
/// How much room is made for a frame at once, at most.
const RESERVE_BYTES_MAX: usize = 1 << 20;
/// What a client must take of a long answer in a second, on the average.
const TAKEN_BYTES: usize = 64 << 10;

/// A request on its way to its answer.
struct InFlight {
    pending: Pending,
    /// Its part of the budget, given back with the answer.
    _paid: Option<Paid>,
    /// Nothing is taken behind it as long as it has this.
    _turn: Option<OwnedSemaphorePermit>,
    /// As long as there is one, the connection is not idle.
    _busy: Arc<()>,
}

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("a request of {0} bytes is announced; at most {1} are taken")]
    TooLong(i64, usize),
    #[error("the request stopped coming in the middle, or came too slowly")]
    Stalled,
    #[error("the client does not take its answer, or too slowly")]
    Unread,
    #[error("no request came for a long time")]
    Idle,
    #[error("{0}")]
    Request(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves a connection until the client goes, does something wrong, or the node stops.
pub(crate) async fn serve(broker: Arc<Broker>, connection: Box<dyn Connection>, peer: SocketAddr) {
    let (reader, writer) = tokio::io::split(connection);
    let (queue, queued) = mpsc::channel(IN_FLIGHT_MAX);
    let mut client = String::new();
    let ended = {
        let reading = read(&broker, reader, peer, queue, &mut client);
        let writing = write(writer, queued, broker.options.stall_max);
        tokio::pin!(reading, writing);
        tokio::select! {
            biased;
            // The client has gone: nobody is left to answer.
            ended @ Err(_) = &mut reading => ended,
            ended = &mut writing => ended,
            else => Ok(()),
        }
    };
    match ended {
        Ok(()) => {}
        Err(error @ (Ended::Io(_) | Ended::Idle)) => {
            tracing::debug!(%peer, client, %error, "connection ended");
        }
        Err(error) => tracing::warn!(%peer, client, %error, "connection closed"),
    }
}

/// Reads requests and begins them. `Ok` once the node stops: then what is in flight may end.
async fn read(
    broker: &Arc<Broker>,
    mut reader: impl AsyncRead + Unpin,
    peer: SocketAddr,
    queue: mpsc::Sender<InFlight>,
    client: &mut String,
) -> Result<(), Ended> {
    let mut buffer = BytesMut::new();
    let busy = Arc::new(());
    let turns = Arc::new(Semaphore::new(1));
    let stopping = broker.stopping();
    tokio::pin!(stopping);
    loop {
        let (frame, coming, turn) = tokio::select! {
            biased;
            () = &mut stopping => return Ok(()),
            frame = next_frame(broker, &mut reader, &mut buffer, &busy, &turns) => frame?,
        };
        if client.is_empty() {
            *client = client_of(&frame);
        }
        let refused = |error: Unreadable| Ended::Request(error.to_string());
        let asked = dispatch::look_over(peer, frame).map_err(refused)?;
        let (produces, meets) = (asked.produces(), asked.meets_others());
        let paid = tokio::select! {
            biased;
            () = &mut stopping => return Ok(()),
            paid = broker.budget.whole(asked.cost, produces) => paid,
        };
        drop(coming);
        if produces {
            broker.log.ready().await;
        }
        let in_flight = InFlight {
            pending: dispatch::begin(broker, asked).map_err(refused)?,
            _paid: paid.filter(|_| !meets),
            _turn: turn.filter(|_| !produces),
            _busy: Arc::clone(&busy),
        };
        if queue.send(in_flight).await.is_err() {
            return Ok(());
        }
    }
}

/// Answers requests in their order. `Ok` once there are no more.
async fn write(
    mut writer: impl AsyncWrite + Unpin,
    mut queued: mpsc::Receiver<InFlight>,
    stall_max: Duration,
) -> Result<(), Ended> {
    let mut next = queued.recv().await;
    while let Some(mut first) = next.take() {
        let outcome = (&mut first.pending).await;
        let mut answers = Answers::default();
        answers.add(outcome, first);
        // What is ready goes along: one call, and the client is woken once.
        while answers.bytes < TOGETHER_BYTES
            && answers.ended.is_none()
            && let Ok(mut in_flight) = queued.try_recv()
        {
            match ready(in_flight.pending.as_mut()).await {
                Poll::Ready(outcome) => answers.add(outcome, in_flight),
                Poll::Pending => {
                    next = Some(in_flight);
                    break;
                }
            }
        }
        let patience = patience(&answers.pieces, stall_max);
        write_pieces(&mut writer, answers.pieces, stall_max, patience).await?;
        if let Some(reason) = answers.ended {
            return Err(Ended::Request(reason));
        }
        // What was paid for them is given back before the next is waited for.
        drop((answers.requests, answers.paid));
        if next.is_none() {
            next = queued.recv().await;
        }
    }
    writer.shutdown().await?;
    Ok(())
}

/// Answers that are written at once.
#[derive(Default)]
struct Answers {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    /// Kept until they are written.
    requests: Vec<InFlight>,
    paid: Vec<Paid>,
    /// Why the connection ends behind them.
    ended: Option<String>,
}

impl Answers {
    fn add(&mut self, outcome: Outcome, request: InFlight) {
        match outcome {
            Outcome::Respond(answer) => {
                let (pieces, paid) = answer.into_parts();
                self.paid.extend(paid);
                self.bytes += pieces.iter().map(Bytes::len).sum::<usize>();
                self.pieces.extend(pieces);
            }
            Outcome::Silent => {}
            Outcome::Close(reason) => self.ended = Some(reason),
        }
        self.requests.push(request);
    }
}

/// What a future gives, if it need not be waited for.
async fn ready<T>(mut future: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// How long a client may take for all of an answer.
fn patience(pieces: &VecDeque<Bytes>, stall_max: Duration) -> Duration {
    let bytes: usize = pieces.iter().map(Bytes::len).sum();
    stall_max + Duration::from_secs((bytes / TAKEN_BYTES) as u64)
}

/// Writes an answer that its client takes neither never nor for ever.
async fn write_pieces(
    writer: &mut (impl AsyncWrite + Unpin),
    pieces: VecDeque<Bytes>,
    stall_max: Duration,
    patience: Duration,
) -> Result<(), Ended> {
    let written = timeout(patience, write_all_pieces(writer, pieces, stall_max)).await;
    written.map_err(|_| Ended::Unread)?
}

async fn write_all_pieces(
    writer: &mut (impl AsyncWrite + Unpin),
    mut pieces: VecDeque<Bytes>,
    stall_max: Duration,
) -> Result<(), Ended> {
    while !pieces.is_empty() {
        let slices: Vec<io::IoSlice<'_>> =
            pieces.iter().take(64).map(|piece| io::IoSlice::new(piece)).collect();
        let mut written = timeout(stall_max, writer.write_vectored(&slices))
            .await
            .map_err(|_| Ended::Unread)??;
        if written == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
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
    Ok(writer.flush().await?)
}

/// The next whole frame, without its length, what was paid for its coming, and its turn.
async fn next_frame<'a>(
    broker: &'a Broker,
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    busy: &Arc<()>,
    turns: &Arc<Semaphore>,
) -> Result<(Bytes, Coming<'a>, Option<OwnedSemaphorePermit>), Ended> {
    let Options { stall_max, idle_max, frame_bytes_max, .. } = broker.options;
    while buffer.is_empty() {
        if buffer.capacity() == 0 {
            *buffer = broker.buffers.take();
        }
        buffer.reserve(BUFFER_BYTES);
        if let Poll::Ready(filled) = ready(pin!(fill(reader, buffer))).await {
            filled?;
            continue;
        }
        // Nothing has come: who waits holds no memory of others.
        broker.buffers.give(mem::take(buffer));
        let mut first = [0; FIRST_BYTES];
        match timeout(idle_max, reader.read(&mut first)).await {
            Ok(filled) => match filled? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                bytes => {
                    *buffer = broker.buffers.take();
                    buffer.extend_from_slice(&first[..bytes]);
                }
            },
            // Who waits for an answer is not idle.
            Err(_) if Arc::strong_count(busy) > 1 => {}
            Err(_) => return Err(Ended::Idle),
        }
    }
    let announced = timeout(stall_max, async {
        while buffer.len() < 4 {
            buffer.reserve(READ_BYTES);
            fill(reader, buffer).await?;
        }
        Ok::<_, Ended>(buffer.get_i32())
    });
    let announced = announced.await.map_err(|_| Ended::Stalled)??;
    let length = usize::try_from(announced)
        .ok()
        .filter(|length| *length <= frame_bytes_max)
        .ok_or(Ended::TooLong(i64::from(announced), frame_bytes_max))?;
    // Nobody ever closes it.
    let turn = Arc::clone(turns).acquire_owned().await.ok();
    let mut coming = broker.budget.coming();
    let mut patience = stall_max;
    while buffer.len() < length {
        let more = (length - buffer.len()).clamp(READ_BYTES, RESERVE_BYTES_MAX);
        if let Some(hurry) = coming.room((buffer.len() + more).min(length), length).await {
            patience = patience.min(hurry);
        }
        buffer.reserve(more);
        let begun = broker.env.clock.monotonic();
        timeout(patience, fill(reader, buffer)).await.map_err(|_| Ended::Stalled)??;
        let taken = broker.env.clock.monotonic().saturating_sub(begun);
        patience = patience.saturating_sub(taken);
    }
    let frame = buffer.split_to(length);
    // A request that waits for something is a small one, and must not keep the memory.
    let is_small = length <= COPIED_BYTES_MAX;
    Ok((if is_small { Bytes::copy_from_slice(&frame) } else { frame.freeze() }, coming, turn))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Answer;

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (mut client, mut server) = tokio::io::duplex(16);
        let answer = || Answer::framed(vec![Bytes::from(vec![7; 60])]).into_parts().0.into();
        let (short, long) = (Duration::from_millis(20), Duration::from_mins(1));
        let ended = write_pieces(&mut server, answer(), short, long).await;
        assert!(matches!(ended, Err(Ended::Unread)), "{ended:?}");
        // One that is slow but takes it gets all of it.
        let mut taken = vec![0; 16 + 64];
        let (written, read) = tokio::join!(
            write_pieces(&mut server, answer(), long, long),
            client.read_exact(&mut taken)
        );
        assert!(written.is_ok() && read.is_ok());
        assert_eq!(taken[16..20], 60_i32.to_be_bytes());
    }

    #[tokio::test]
    async fn a_client_that_takes_too_long_for_all_is_given_up() {
        let (mut client, mut server) = tokio::io::duplex(1 << 10);
        let pieces = VecDeque::from(vec![Bytes::from(vec![7; 64 << 10]); 100_000]);
        assert_eq!(patience(&pieces, Duration::from_secs(9)), Duration::from_secs(100_009));
        let taking = async {
            let mut taken = [0; 1 << 10];
            // It never stalls.
            while client.read(&mut taken).await.is_ok() {}
        };
        let (short, long) = (Duration::from_millis(20), Duration::from_mins(1));
        let ended = tokio::select! {
            ended = write_pieces(&mut server, pieces, long, short) => ended,
            () = taking => panic!("it could read on"),
        };
        assert!(matches!(ended, Err(Ended::Unread)), "{ended:?}");
    }
}
