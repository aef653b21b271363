//! Fetch: reads durable batches, waiting for them if there are too few.
//!
//! 1. Each partition's bounds say whether there is anything to read; only then is it read: at once
//!    as long as it is in memory, then on a thread that may wait for the disk.
//! 2. With fewer bytes than the client wants, though there was room for more, the answer waits
//!    until more became durable, the client's patience ends, or the node stops. A request for many
//!    hundred partitions has a second's patience at most.
//! 3. The answer is encoded around the batches, which are passed on where they lie.
//!
//! Sessions are declined (the answer's session is 0): with one node a client's list of partitions
//! is short.

use std::{sync::Arc, time::Duration};

use afflux_log::{
    Batches, Bounds, EmbeddedLog, Isolation, Log as _, Sweep, Topic, error::ReadError,
};
use afflux_types::{Offset, TopicPartition};
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::{ResponseError, messages::FetchRequest, protocol::StrBytes};

use crate::{
    broker::{Broker, Context, blocking},
    budget, code, list_offsets,
    wire::Answer,
};

/// How long a request waits that takes a place which others may wait for: a client's patience is what it
/// waits at most, and it asks again.
const LONG_WAIT_MAX: Duration = Duration::from_secs(1);
/// The version that names topics by their ids.
const BY_ID: i16 = 13;

/// One partition, as it was asked for.
#[derive(Debug, Clone)]
struct Wanted {
    index: i32,
    at: Result<TopicPartition, ResponseError>,
    /// Whether the client knows which leader epoch it is.
    epoch: Result<(), ResponseError>,
    from: Offset,
    bytes_max: usize,
}

/// A topic, as it was asked for.
struct WantedTopic {
    /// What it was then.
    topic: Option<Arc<Topic>>,
    name: StrBytes,
    id: uuid::Uuid,
    partitions: Vec<Wanted>,
}

/// What a partition gives.
type Got = Result<Batches, ResponseError>;

/// Reads what is wanted, or waits for it.
pub(crate) async fn answer(
    broker: &Arc<Broker>,
    context: &Context,
    request: FetchRequest,
) -> Answer {
    // Whoever begins or ends a session names all that it wants.
    if !matches!(request.session_epoch, -1 | 0) {
        let error = ResponseError::FetchSessionIdNotFound;
        return encode(context, error.code(), &[], Vec::new());
    }
    let isolation = list_offsets::isolation(request.isolation_level);
    let bytes_min = usize::try_from(request.min_bytes).unwrap_or(0);
    let bytes_max =
        usize::try_from(request.max_bytes).unwrap_or(0).min(broker.options.fetch_bytes_max);
    let patience = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let patience = if context.is_long { patience.min(LONG_WAIT_MAX) } else { patience };
    let mut topics = resolve(broker, context, request);

    let mut durable = broker.log.durable();
    let stopping = broker.stopping();
    tokio::pin!(stopping);
    let mut is_late = patience.is_zero();
    let mut patience = broker.env.clock.sleep(patience);
    loop {
        // What becomes durable from here on wakes the wait below.
        durable.borrow_and_update();
        let (room, mut paid) = broker.budget.answer(bytes_max);
        let got = read(broker, &topics, room, isolation).await;
        let bytes: usize = got.iter().flatten().flat_map(|got| &got.batches).map(Bytes::len).sum();
        // What there was no room for now has none after a wait either.
        let is_full = got.iter().flatten().any(|got| got.next < got.bounds.shown(isolation));
        // Who asks for nothing is about to close its connection, and waits for the answer.
        let is_settled = is_full || got.is_empty() || got.iter().any(Result::is_err);
        if bytes >= bytes_min || is_settled || is_late {
            budget::refund(&mut paid, bytes);
            return encode(context, 0, &topics, got).paid(paid);
        }
        // Not while it waits.
        drop(paid);
        tokio::select! {
            biased;
            () = &mut stopping => return encode(context, 0, &topics, got),
            // Before what others write, which may never pause.
            () = &mut patience => is_late = true,
            changed = durable.changed() => {
                if changed.is_err() {
                    return encode(context, 0, &topics, got);
                }
            }
        }
        if context.version >= BY_ID {
            forget_gone(broker, &mut topics);
        }
    }
}

/// One that was deleted while it was waited for may have a namesake by now.
fn forget_gone(broker: &Broker, topics: &mut [WantedTopic]) {
    let is_gone = |wanted: &&mut WantedTopic| {
        let then = wanted.topic.as_ref();
        then.is_some_and(|then| broker.log.topic(&then.name).is_none_or(|now| now.id != then.id))
    };
    for topic in topics.iter_mut().filter(is_gone) {
        topic.partitions.iter_mut().for_each(|at| at.at = Err(ResponseError::UnknownTopicId));
    }
}

fn resolve(broker: &Broker, context: &Context, request: FetchRequest) -> Vec<WantedTopic> {
    let by_id = context.version >= BY_ID;
    let wanted = request.topics.into_iter().map(|asked| {
        let (topic, unknown) = if by_id {
            (broker.topic_by_id(asked.topic_id), ResponseError::UnknownTopicId)
        } else {
            (broker.topic(&asked.topic), ResponseError::UnknownTopicOrPartition)
        };
        let partitions = asked.partitions.into_iter().map(|partition| Wanted {
            index: partition.partition,
            at: match &topic {
                Some(topic) => Ok(TopicPartition::new(topic.name.clone(), partition.partition)),
                None => Err(unknown),
            },
            epoch: broker.check_epoch(partition.current_leader_epoch),
            from: Offset(partition.fetch_offset),
            bytes_max: usize::try_from(partition.partition_max_bytes).unwrap_or(0),
        });
        let partitions = partitions.collect();
        WantedTopic { topic, name: asked.topic.0, id: asked.topic_id, partitions }
    });
    wanted.collect()
}

/// Reads all partitions once, in the order in which they were asked for.
async fn read(
    broker: &Arc<Broker>,
    topics: &[WantedTopic],
    bytes_max: usize,
    isolation: Isolation,
) -> Vec<Got> {
    let wanted = topics.iter().flat_map(|topic| &topic.partitions);
    let looked: Vec<_> =
        wanted.map(|wanted| (wanted, look(&broker.log, wanted, isolation))).collect();
    let partitions = looked.iter().filter(|(_, at)| matches!(at, Ok(at) if at.has_more)).count();
    let mut room = Room { bytes: bytes_max, is_first: true, partitions };
    let mut got: Vec<Got> = Vec::with_capacity(looked.len());
    for (wanted, at) in &looked {
        let fetch =
            |at: &_, from, most, _: Option<&_>| broker.log.fetch_hot(at, from, most, isolation);
        match read_one(wanted, at, (&mut room, None), fetch) {
            Ok(None) => break,
            one => got.extend(one.transpose()),
        }
    }
    if got.len() == looked.len() {
        return got;
    }
    // In their order, for the room is given out in it.
    let on_disk = looked.into_iter().skip(got.len());
    let on_disk: Vec<_> = on_disk.map(|(wanted, at)| (wanted.clone(), at)).collect();
    let count = on_disk.len();
    let task = blocking(&broker.log, move |log| {
        let old = on_disk.iter().filter(|(_, at)| matches!(at, Ok(at) if at.has_more));
        let old = old.filter_map(|(wanted, _)| Some((wanted.at.as_ref().ok()?, wanted.from)));
        let sweep = log.sweep(old, room.bytes);
        let fetch = |at: &_, from, most, sweep: Option<&_>| {
            let got = match sweep {
                Some(sweep) => log.fetch_along(sweep, at, from, most, isolation),
                None => log.fetch(at, from, most, isolation),
            };
            got.map(Some)
        };
        let read = |mut room: Room, sweep: Option<&_>| {
            let read = on_disk.iter().map(|(wanted, at)| {
                let got = read_one(wanted, at, (&mut room, sweep), fetch)?;
                got.ok_or(ResponseError::UnknownServerError)
            });
            read.collect::<Vec<_>>()
        };
        let got = read(room, sweep.as_ref());
        // Nobody is held up by one that can not be read, and so never comes further.
        let is_stuck = on_disk.iter().zip(&got).any(|((_, at), got)| at.is_ok() && got.is_err());
        if sweep.is_some() && is_stuck { read(room, None) } else { got }
    });
    got.extend(task.await.unwrap_or_else(|_| vec![Err(ResponseError::UnknownServerError); count]));
    got
}

/// What is left for an answer's batches. Partitions share it, so that none waits for another, and
/// who reads old records of many comes through the log with all of them at once.
#[derive(Clone, Copy)]
struct Room {
    bytes: usize,
    /// So many have something, and have not had their part.
    partitions: usize,
    /// Nothing was found yet. The first batch of the first partition that has any is passed on
    /// however large it is, so that nobody is stuck behind it.
    is_first: bool,
}

impl Room {
    /// Takes what there is room for.
    fn admit(&mut self, wanted: &Wanted, mut got: Batches) -> Batches {
        let bytes: usize = got.batches.iter().map(Bytes::len).sum();
        // One batch may be more than a part.
        if bytes > self.most(wanted) && !self.is_first {
            got.batches.clear();
            got.next = wanted.from;
            got.aborted.clear();
        } else if bytes > 0 {
            self.is_first = false;
            self.bytes = self.bytes.saturating_sub(bytes);
        }
        got
    }

    /// The most that a partition may have.
    fn most(&self, wanted: &Wanted) -> usize {
        wanted.bytes_max.min(self.bytes)
    }

    /// What it should have.
    fn part(&self, wanted: &Wanted) -> usize {
        wanted.bytes_max.min(self.bytes / self.partitions.max(1))
    }
}

/// Reads one partition within the room that is left, of which who goes along a sweep takes what it
/// finds there; `None` if `fetch` gives nothing.
fn read_one(
    wanted: &Wanted,
    at: &Result<At, ResponseError>,
    (room, sweep): (&mut Room, Option<&Sweep>),
    fetch: impl Fn(&TopicPartition, Offset, usize, Option<&Sweep>) -> Result<Option<Batches>, ReadError>,
) -> Result<Option<Batches>, ResponseError> {
    let At { bounds, has_more } = at.as_ref().map_err(|error| *error)?;
    let partition = wanted.at.as_ref().map_err(|error| *error)?;
    if !has_more || (room.most(wanted) == 0 && !room.is_first) {
        let (batches, aborted) = (Vec::new(), Vec::new());
        return Ok(Some(Batches { batches, aborted, next: wanted.from, bounds: *bounds }));
    }
    let sweep = sweep.filter(|sweep| sweep.takes(partition));
    let most = if sweep.is_some() { room.most(wanted) } else { room.part(wanted) };
    let got = fetch(partition, wanted.from, most, sweep);
    if !matches!(got, Ok(None)) {
        room.partitions -= 1;
    }
    Ok(got.map_err(|error| report(&error))?.map(|got| room.admit(wanted, got)))
}

/// Where a partition stands, and whether there is something to read.
struct At {
    bounds: Bounds,
    has_more: bool,
}

fn look(log: &EmbeddedLog, wanted: &Wanted, isolation: Isolation) -> Result<At, ResponseError> {
    let partition = wanted.at.as_ref().map_err(|error| *error)?;
    let bounds = log.bounds(partition).map_err(|error| code::of_read(&error))?;
    wanted.epoch?;
    // Behind the stable end, or the durable one, there is nothing to show yet, but no error: records
    // of relaxed topics are acknowledged before they are durable.
    if wanted.from < bounds.start || wanted.from > bounds.end {
        return Err(ResponseError::OffsetOutOfRange);
    }
    Ok(At { bounds, has_more: wanted.from < bounds.shown(isolation) })
}

fn report(error: &ReadError) -> ResponseError {
    if !matches!(error, ReadError::OffsetOutOfRange { .. } | ReadError::UnknownPartition(_)) {
        tracing::error!(%error, "a fetch failed");
    }
    code::of_read(error)
}

/// Encodes an answer around the batches:
///
/// ```text
/// answer     correlation:i32 [tags] throttle:i32 {7: error:i16 session:i32} topics [tags]
/// topic      {..12: name | 13..: id} partitions [tags]
/// partition  index:i32 error:i16 durable:i64 stable:i64 {5: start:i64} aborted {11: replica:i32}
///            records [tags]
/// aborted    producer:i64 first:i64 [tags]
/// ```
/// From version 12 on lengths are varints and `[tags]` is there.
fn encode(context: &Context, error: i16, topics: &[WantedTopic], got: Vec<Got>) -> Answer {
    let mut out = Encoder {
        version: context.version,
        flexible: context.version >= 12,
        pieces: Vec::new(),
        head: BytesMut::with_capacity(256),
    };
    out.head.put_i32(context.correlation);
    out.tags();
    out.head.put_i32(0);
    if out.version >= 7 {
        out.head.put_i16(error);
        out.head.put_i32(0);
    }
    let mut got = got.into_iter();
    out.length(topics.len());
    for topic in topics {
        if out.version >= 13 {
            out.head.put_slice(topic.id.as_bytes());
        } else if out.flexible {
            out.length(topic.name.len());
            out.head.put_slice(topic.name.as_bytes());
        } else {
            out.head.put_i16(topic.name.len() as i16);
            out.head.put_slice(topic.name.as_bytes());
        }
        out.length(topic.partitions.len());
        for wanted in &topic.partitions {
            let got = got.next().unwrap_or(Err(ResponseError::UnknownServerError));
            out.partition(wanted.index, got);
        }
        out.tags();
    }
    out.tags();
    out.finish()
}

struct Encoder {
    version: i16,
    flexible: bool,
    pieces: Vec<Bytes>,
    head: BytesMut,
}

impl Encoder {
    fn partition(&mut self, index: i32, got: Got) {
        self.head.put_i32(index);
        self.head.put_i16(code::number(&got));
        let (bounds, batches, aborted) = match got {
            Ok(got) => (Some(got.bounds), got.batches, got.aborted),
            Err(_) => (None, Vec::new(), Vec::new()),
        };
        self.head.put_i64(bounds.map_or(-1, |bounds| bounds.durable.0));
        self.head.put_i64(bounds.map_or(-1, |bounds| bounds.stable.0));
        if self.version >= 5 {
            self.head.put_i64(bounds.map_or(-1, |bounds| bounds.start.0));
        }
        self.length(aborted.len());
        for transaction in aborted {
            self.head.put_i64(transaction.producer.0);
            self.head.put_i64(transaction.first.0);
            self.tags();
        }
        if self.version >= 11 {
            self.head.put_i32(-1);
        }
        self.length(batches.iter().map(Bytes::len).sum());
        if !batches.is_empty() {
            self.pieces.push(self.head.split().freeze());
            self.pieces.extend(batches);
        }
        self.tags();
    }

    /// The length of an array or of bytes.
    fn length(&mut self, length: usize) {
        if !self.flexible {
            self.head.put_i32(length as i32);
            return;
        }
        let mut rest = length + 1;
        while rest >= 0x80 {
            self.head.put_u8(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.head.put_u8(rest as u8);
    }

    fn tags(&mut self) {
        if self.flexible {
            self.head.put_u8(0);
        }
    }

    fn finish(mut self) -> Answer {
        self.pieces.push(self.head.freeze());
        Answer::framed(self.pieces)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use afflux_env::{Disk as _, OpenMode, sim::Sim};
    use afflux_log::{AbortedTransaction, Entry, Group, LogOptions, TopicSpec};
    use afflux_record::{Compression, batch::Builder};
    use afflux_types::{ProducerId, Timestamp, TopicName};
    use bytes::Buf;
    use kafka_protocol::{
        messages::{FetchResponse, ResponseHeader},
        protocol::{Decodable, HeaderVersion},
    };

    use super::*;
    use crate::{Options, fuzzing::broker::alone};

    #[test]
    fn answers_decode_as_kafkas_in_every_version() {
        let bounds = Bounds {
            start: Offset(1),
            stable: Offset(4),
            durable: Offset(5),
            decided: Offset(4),
            end: Offset(9),
        };
        let wanted = |index| Wanted {
            index,
            epoch: Ok(()),
            at: Err(ResponseError::UnknownServerError),
            from: Offset(1),
            bytes_max: 1,
        };
        let id = uuid::Uuid::from_u128(7);
        let topics = [WantedTopic {
            topic: None,
            name: StrBytes::from_static_str("topic"),
            id,
            partitions: vec![wanted(0), wanted(3)],
        }];
        let aborted =
            AbortedTransaction { producer: ProducerId(77), first: Offset(2), marker: Offset(3) };
        let batches = vec![Bytes::from(vec![1; 200]), Bytes::from_static(b"two")];
        for version in 4..=16 {
            let context = Context {
                version,
                correlation: 42,
                client: StrBytes::new(),
                peer: "127.0.0.1:1".parse().unwrap(),
                is_long: false,
            };
            let got = vec![
                Ok(Batches {
                    batches: batches.clone(),
                    aborted: vec![aborted],
                    next: Offset(5),
                    bounds,
                }),
                Err(ResponseError::OffsetOutOfRange),
            ];
            let mut bytes: Bytes = encode(&context, 0, &topics, got).into_parts().0.concat().into();
            assert_eq!(bytes.get_i32() as usize, bytes.len());
            let header_version = FetchResponse::header_version(version);
            let header = ResponseHeader::decode(&mut bytes, header_version).unwrap();
            assert_eq!(header.correlation_id, 42);
            let response = FetchResponse::decode(&mut bytes, version).unwrap();
            assert!(bytes.is_empty(), "version {version}");
            let topic = &response.responses[0];
            if version >= 13 {
                assert_eq!(topic.topic_id, id);
            } else {
                assert_eq!(&**topic.topic, "topic");
            }
            let [first, second] = &topic.partitions[..] else { panic!("two partitions") };
            assert_eq!((first.partition_index, first.error_code), (0, 0));
            assert_eq!((first.high_watermark, first.last_stable_offset), (5, 4));
            assert_eq!(first.log_start_offset, if version >= 5 { 1 } else { -1 });
            let listed = first.aborted_transactions.as_deref().unwrap_or_default();
            let listed: Vec<_> =
                listed.iter().map(|one| (one.producer_id.0, one.first_offset)).collect();
            assert_eq!(listed, [(77, 2)]);
            assert_eq!(first.records.as_deref(), Some(&batches.concat()[..]));
            assert_eq!((second.partition_index, second.error_code), (3, 1));
            assert_eq!(second.records.as_deref(), Some(&b""[..]));
        }
    }

    #[test]
    fn what_is_not_yet_durable_is_waited_for() {
        let (sim, name) = (Sim::new(1), TopicName::new("t").unwrap());
        let options = LogOptions::default();
        let log = EmbeddedLog::open_stepped(&sim.env(), Path::new("/data"), options).unwrap();
        log.create_topic(&TopicSpec { name: name.clone(), partitions: 1 }).unwrap();
        let mut builder = Builder::new(Compression::None);
        builder.push(Timestamp(1), None, Some(b"v"));
        let partition = TopicPartition::new(name, 0);
        let batch = builder.finish().unwrap();
        let _ticket =
            log.append(&Group { entries: vec![Entry { partition: partition.clone(), batch }] });
        let look_at = |from| {
            let at = Ok(partition.clone());
            let wanted = Wanted { index: 0, epoch: Ok(()), at, from: Offset(from), bytes_max: 1 };
            look(&log, &wanted, Isolation::Uncommitted).map(|at| at.has_more)
        };
        assert_eq!(
            [0, 1, 2].map(look_at),
            [Ok(false), Ok(false), Err(ResponseError::OffsetOutOfRange)]
        );
        while log.step() {}
        assert_eq!([0, 1].map(look_at), [Ok(true), Ok(false)]);
    }

    #[tokio::test]
    async fn nobody_is_held_up_by_who_can_not_be_read() {
        const RECORDS: i64 = 200;
        let sim = Sim::new(1);
        let at = |p| TopicPartition::new(TopicName::new("t").unwrap(), p);
        let broker = alone(&sim, Options::default());
        let spec = TopicSpec { name: at(0).topic, partitions: 2 };
        broker.log.create_topic(&spec).unwrap();
        for n in 0..RECORDS {
            for p in 0..2 {
                let mut builder = Builder::new(Compression::None);
                let value = format!("{n} of {p} {}", "v".repeat(1_000));
                builder.push(Timestamp(1), None, Some(value.as_bytes()));
                let entry = Entry { partition: at(p), batch: builder.finish().unwrap() };
                broker.log.append(&Group { entries: vec![entry] }).wait().unwrap();
            }
        }
        let files = || sim.disk.list(Path::new("/data/journal")).unwrap().into_iter();
        let first = files().find(|path| path.extension().is_some_and(|is| is == "journal"));
        let first = first.unwrap();
        while !files().any(|path| path == first.with_extension("index")) {
            std::thread::yield_now();
        }
        drop(broker);
        let file = sim.disk.open(&first, OpenMode::Write).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let value = bytes.windows(6).position(|part| part == b"0 of 0").unwrap();
        file.write_all_at(b"1", value as u64).unwrap();

        let broker = alone(&sim, Options::default());
        let mut next = Offset(0);
        for _ in 0..RECORDS {
            let wanted = |(index, from)| Wanted {
                index,
                epoch: Ok(()),
                at: Ok(at(index)),
                from,
                bytes_max: 1 << 20,
            };
            let topics = [WantedTopic {
                topic: None,
                name: StrBytes::from_static_str("t"),
                id: uuid::Uuid::nil(),
                partitions: [(0, Offset(0)), (1, next)].map(wanted).into(),
            }];
            let got = read(&broker, &topics, 4 << 10, Isolation::Uncommitted).await;
            assert_eq!(got[0].as_ref().err(), Some(&ResponseError::KafkaStorageError));
            next = got[1].as_ref().unwrap().next;
            if next == Offset(RECORDS) {
                return;
            }
        }
        panic!("the other comes to {next} of {RECORDS}");
    }
}
