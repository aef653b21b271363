//! One client's connection.
//!
//! 1. The reader cuts frames off the byte stream. A frame's length is checked before anything is
//!    reserved for it, and room is reserved as its bytes arrive, in memory that is lent
//!    ([`crate::buffers`]). Small frames are copied out of it, so that the memory can be used for the
//!    next while an answer is waited for; a large one that keeps something of its frame keeps it all.
//! 2. A frame is paid for from the node's [`crate::budget`] as its bytes arrive, and as a whole once it
//!    is there, for what has come of it takes memory too; while that is used up, nothing more is read,
//!    and the client feels it. So does who produces while the log's own queue is full.
//! 3. A produce request is in the log's hands as soon as it was read; some [`IN_FLIGHT_MAX`] wait for
//!    their answers. Each other one is begun when those before it have theirs, and nothing is taken
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
use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};

use crate::{
    Options,
    broker::{Broker, Outcome, Pending},
    budget::{self, Budget, Coming, Paid, SHORT_BYTES},
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
    /// Its part of the budget.
    paid: Option<Paid>,
    held: Held,
}

/// What a request has until its answer is written.
struct Held {
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
        let writing = write(&broker, writer, queued);
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
        let (produces, waits) = (asked.produces(), asked.waits_for_others());
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
            paid: paid.filter(|_| !waits),
            held: Held { _turn: turn.filter(|_| !produces), _busy: Arc::clone(&busy) },
        };
        if queue.send(in_flight).await.is_err() {
            return Ok(());
        }
    }
}

/// Answers requests in their order. `Ok` once there are no more.
async fn write(
    broker: &Broker,
    mut writer: impl AsyncWrite + Unpin,
    mut queued: mpsc::Receiver<InFlight>,
) -> Result<(), Ended> {
    let (budget, stall_max) = (&broker.budget, broker.options.stall_max);
    let mut next = queued.recv().await;
    while let Some(mut first) = next.take() {
        let outcome = (&mut first.pending).await;
        let mut answers = Answers::default();
        answers.add(budget, outcome, first);
        // What is ready goes along: one call, and the client is woken once.
        while answers.bytes < TOGETHER_BYTES
            && answers.ended.is_none()
            && let Ok(mut in_flight) = queued.try_recv()
        {
            match ready(in_flight.pending.as_mut()).await {
                Poll::Ready(outcome) => answers.add(budget, outcome, in_flight),
                Poll::Pending => {
                    next = Some(in_flight);
                    break;
                }
            }
        }
        let patience = answers.patience(stall_max);
        write_pieces(&mut writer, answers.pieces, stall_max, patience).await?;
        if let Some(reason) = answers.ended {
            return Err(Ended::Request(reason));
        }
        // What was paid for them is given back before the next is waited for.
        drop((answers.held, answers.paid));
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
    /// Until they are written.
    held: Vec<Held>,
    paid: Vec<Paid>,
    /// Whether there was no room for one of them.
    hurries: bool,
    /// Why the connection ends behind them.
    ended: Option<String>,
}

impl Answers {
    /// What a request had of the budget is given back: its answer counts instead, unless it is short.
    /// If there is no room for that, it keeps it, and its client has to hurry.
    fn add(&mut self, budget: &Budget, outcome: Outcome, request: InFlight) {
        match outcome {
            Outcome::Respond(answer) => {
                let (pieces, paid) = answer.into_parts();
                let bytes = pieces.iter().map(Bytes::len).sum::<usize>();
                let paid = match paid {
                    None if bytes > SHORT_BYTES => budget.answered(bytes).or_else(|| {
                        self.hurries = true;
                        request.paid
                    }),
                    paid => paid,
                };
                self.paid.extend(paid);
                self.bytes += bytes;
                self.pieces.extend(pieces);
            }
            Outcome::Silent => {}
            Outcome::Close(reason) => self.ended = Some(reason),
        }
        self.held.push(request.held);
    }

    /// How long a client may take for all of them.
    fn patience(&self, stall_max: Duration) -> Duration {
        if self.hurries {
            budget::hurry(self.bytes)
        } else {
            stall_max + Duration::from_secs((self.bytes / TAKEN_BYTES) as u64)
        }
    }
}

/// What a future gives, if it need not be waited for.
async fn ready<T>(mut future: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
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
        if let Poll::Ready(filled) = ready(pin!(fill(reader, buffer, 0))).await {
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
            fill(reader, buffer, 0).await?;
        }
        Ok::<_, Ended>(buffer.get_i32())
    });
    let announced = announced.await.map_err(|_| Ended::Stalled)??;
    let length = usize::try_from(announced)
        .ok()
        .filter(|length| *length <= frame_bytes_max)
        .ok_or(Ended::TooLong(i64::from(announced), frame_bytes_max))?;
    let turn = turn(broker, buffer, turns).await;
    let mut coming = broker.budget.coming();
    let mut patience = stall_max;
    while buffer.len() < length {
        let more = (length - buffer.len()).clamp(READ_BYTES, RESERVE_BYTES_MAX);
        if let Some(hurry) = coming.room((buffer.len() + more).min(length), length).await {
            patience = patience.min(hurry);
        }
        buffer.reserve(more);
        let begun = broker.env.clock.monotonic();
        let missing = length - buffer.len();
        timeout(patience, fill(reader, buffer, missing)).await.map_err(|_| Ended::Stalled)??;
        let taken = broker.env.clock.monotonic().saturating_sub(begun);
        patience = patience.saturating_sub(taken);
    }
    let frame = buffer.split_to(length);
    // A request that waits for something is a short one, and must not keep the memory.
    let produces = frame.starts_with(&(ApiKey::Produce as i16).to_be_bytes());
    let is_small = length <= if produces { COPIED_BYTES_MAX } else { SHORT_BYTES };
    Ok((if is_small { Bytes::copy_from_slice(&frame) } else { frame.freeze() }, coming, turn))
}

/// Waits until the requests before are answered behind which nothing is taken. Meanwhile what has come
/// takes no more memory than it has bytes.
async fn turn(
    broker: &Broker,
    buffer: &mut BytesMut,
    turns: &Arc<Semaphore>,
) -> Option<OwnedSemaphorePermit> {
    if let Ok(turn) = Arc::clone(turns).try_acquire_owned() {
        return Some(turn);
    }
    let come = BytesMut::from(&buffer[..]);
    broker.buffers.give(mem::replace(buffer, come));
    // Nobody ever closes it.
    Arc::clone(turns).acquire_owned().await.ok()
}

/// Reads what there is, not far beyond a request; an error at the end of the stream.
async fn fill(
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    missing: usize,
) -> io::Result<()> {
    match reader.read_buf(&mut buffer.limit(missing.max(BUFFER_BYTES))).await? {
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

    #[tokio::test]
    async fn an_answer_counts_instead_of_its_request_or_has_to_hurry() {
        const MIB: usize = 1 << 20;
        let options =
            Options { request_bytes_max: 4 * MIB, answer_bytes_max: MIB, ..Options::default() };
        let budget = Budget::new(&options);
        let answered = async |bytes| {
            let in_flight = InFlight {
                pending: Box::pin(async { Outcome::Silent }),
                paid: budget.whole(MIB, false).await,
                held: Held { _turn: None, _busy: Arc::new(()) },
            };
            let answer = Answer::framed(vec![Bytes::from(vec![7; bytes])]);
            let mut answers = Answers::default();
            answers.add(&budget, Outcome::Respond(answer), in_flight);
            answers
        };
        let stall_max = Duration::from_secs(9);
        let (first, second) = (answered(600 << 10).await, answered(600 << 10).await);
        assert_eq!(first.patience(stall_max), Duration::from_secs(9 + 9));
        assert_eq!(second.patience(stall_max), Duration::from_secs(1 + 1));
        // A short one has no need of room.
        assert_eq!(answered(100).await.patience(stall_max), stall_max);
        // A quarter of the share each: the first has given its own back.
        let mut others = Vec::new();
        while let Poll::Ready(paid) = ready(pin!(budget.whole(MIB, false))).await {
            others.push(paid.unwrap());
        }
        assert_eq!(others.len(), 3);
        drop((first, others));
        assert_eq!(answered(600 << 10).await.patience(stall_max), Duration::from_secs(9 + 9));
    }
}
