//! A client that does next to nothing: it sends requests whose bytes were made beforehand, and of
//! what it fetches it looks at the frames alone.
//!
//! Sending, on [`THREADS`] threads:
//! 1. A thread has some connections and [`IN_FLIGHT`] requests under way over all of them, as a
//!    Kafka producer has on one.
//! 2. With all of them under way it waits for the answer to the oldest, which must be without an
//!    error, and sends the next on the next connection.
//!
//! Reading, on one connection: a request asks for all partitions; of the answer's batches only
//! length, last offset and count are read, to know where to go on.

use std::{
    collections::VecDeque,
    thread,
    time::{Duration, Instant},
};

use afflux_record::{Compression, batch::Builder};
use afflux_types::Timestamp;
use anyhow::{Context, Result, ensure};
use bytes::{Buf, Bytes};
use kafka_protocol::{
    messages::{
        FetchRequest, ProduceRequest, ProduceResponse,
        fetch_request::{FetchPartition, FetchTopic},
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::Request,
};

use super::wire::{Wire, accepted, decode, ends, frame, wire_name};

pub(crate) const THREADS: usize = 4;
/// As much as there is time for.
pub(crate) const ENDLESS: u64 = u64::MAX;
/// Requests that a thread has under way.
const IN_FLIGHT: usize = 5;
/// A batch, as large as a Java producer makes it.
const BATCH_BYTES: usize = 16 << 10;
/// Partitions that a request has batches for, at most.
const PARTITIONS_MAX: i32 = 16;
const PRODUCE_VERSION: i16 = 9;
/// The last whose answers have lengths of fixed size.
const FETCH_VERSION: i16 = 11;
/// What a Java consumer asks for.
const FETCH_BYTES_MAX: i32 = 50 << 20;
const PARTITION_BYTES_MAX: i32 = 1 << 20;

/// What was acknowledged or read.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moved {
    pub(crate) records: u64,
    /// Of batches.
    pub(crate) bytes: u64,
    pub(crate) elapsed: Duration,
}

impl Moved {
    pub(crate) fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.elapsed.as_secs_f64()
    }
}

/// Requests that are sent over and over, which is fine: nobody numbers them.
#[derive(Debug)]
pub(crate) struct Load {
    requests: Vec<Bytes>,
    /// Of each request.
    records: u64,
    bytes: u64,
    connections: usize,
}

impl Load {
    /// Requests for all partitions of a topic, over one connection a thread.
    pub(crate) fn new(topic: &str, partitions: i32, record_bytes: usize) -> Result<Self> {
        let (batch, count) = batch(record_bytes)?;
        // All requests are of one size: the last wraps to the first partitions.
        let width = partitions.min(PARTITIONS_MAX);
        let turns = (0..partitions).step_by(width as usize);
        let requests = turns.map(|first| {
            let data = (first..first + width).map(|index| {
                PartitionProduceData::default()
                    .with_index(index % partitions)
                    .with_records(Some(batch.clone()))
            });
            let topic = TopicProduceData::default()
                .with_name(wire_name(topic))
                .with_partition_data(data.collect());
            let request = ProduceRequest::default()
                .with_acks(-1)
                .with_timeout_ms(30_000)
                .with_topic_data(vec![topic]);
            frame(PRODUCE_VERSION, &request)
        });
        Ok(Self {
            requests: requests.collect::<Result<_>>()?,
            records: count * width as u64,
            bytes: batch.len() as u64 * width as u64,
            connections: 1,
        })
    }

    /// Over so many connections a thread, each used in turn.
    pub(crate) fn connections(self, connections: usize) -> Self {
        Self { connections, ..self }
    }

    /// Bytes of batches that are under way at once.
    pub(crate) fn bytes_in_flight(&self) -> usize {
        self.bytes as usize * THREADS * IN_FLIGHT
    }

    /// Sends until a time is over or so many bytes are sent.
    pub(crate) fn send(&self, address: &str, length: Duration, bytes_max: u64) -> Result<Moved> {
        let links = || (0..self.connections).map(|_| Wire::connect(address));
        let links: Vec<Vec<Wire>> =
            (0..THREADS).map(|_| links().collect()).collect::<Result<_>>()?;
        let turns_max = bytes_max / self.bytes / THREADS as u64;
        let started = Instant::now();
        let sent = thread::scope(|scope| {
            let sending = links.into_iter().enumerate().map(|(number, links)| {
                let first = number * self.requests.len() / THREADS;
                scope.spawn(move || self.turns(links, first, started + length, turns_max))
            });
            let sending: Vec<_> = sending.collect();
            sending
                .into_iter()
                .map(|one| one.join().expect("a sender does not panic"))
                .sum::<Result<u64>>()
        })?;
        let elapsed = started.elapsed();
        Ok(Moved { records: sent * self.records, bytes: sent * self.bytes, elapsed })
    }

    /// One thread's part; how many requests were acknowledged.
    fn turns(
        &self,
        mut links: Vec<Wire>,
        first: usize,
        until: Instant,
        turns_max: u64,
    ) -> Result<u64> {
        let mut under_way = VecDeque::with_capacity(IN_FLIGHT);
        let mut answer = Vec::new();
        let mut take = |wire: &mut Wire| -> Result<()> {
            wire.receive(&mut answer)?;
            check(&answer)
        };
        let mut sent = 0;
        while sent < turns_max && Instant::now() < until {
            if under_way.len() == IN_FLIGHT
                && let Some(oldest) = under_way.pop_front()
            {
                take(&mut links[oldest])?;
            }
            let link = sent as usize % links.len();
            links[link].send(&self.requests[(first + sent as usize) % self.requests.len()])?;
            under_way.push_back(link);
            sent += 1;
        }
        for link in under_way {
            take(&mut links[link])?;
        }
        Ok(sent)
    }
}

/// An error if a partition of a produce request had one.
fn check(answer: &[u8]) -> Result<()> {
    let answer = Bytes::copy_from_slice(answer);
    let answer: <ProduceRequest as Request>::Response = decode(answer, PRODUCE_VERSION)?;
    let ProduceResponse { responses, .. } = answer;
    for partition in responses.iter().flat_map(|topic| &topic.partition_responses) {
        accepted(partition.error_code, "produce")?;
    }
    Ok(())
}

/// A batch of records of a size, and how many there are in it.
fn batch(record_bytes: usize) -> Result<(Bytes, u64)> {
    let now = std::time::UNIX_EPOCH.elapsed().context("the clock is before 1970")?;
    let value: Vec<u8> = (0..record_bytes).map(|at| (at % 251) as u8).collect();
    let count = (BATCH_BYTES / record_bytes).max(1);
    let mut builder = Builder::new(Compression::None);
    for _ in 0..count {
        builder.push(Timestamp(now.as_millis() as i64), None, Some(&value));
    }
    Ok((builder.finish()?, count as u64))
}

/// Reads a topic from its beginning to its end, over and over for a time, once at least.
pub(crate) fn read(address: &str, topic: &str, partitions: i32, length: Duration) -> Result<Moved> {
    let mut wire = Wire::connect(address)?;
    let ends = ends(&mut wire, topic, partitions)?;
    let mut moved = Moved::default();
    let mut answer = Vec::new();
    let started = Instant::now();
    while moved.bytes == 0 || started.elapsed() < length {
        let mut next = vec![0; partitions as usize];
        while next != ends {
            let before = moved.records;
            wire.send(&fetch(topic, &next, &ends)?)?;
            wire.receive(&mut answer)?;
            walk(&answer, &mut next, &mut moved).context("read what was fetched")?;
            ensure!(moved.records > before, "a fetch brought nothing, at {next:?} of {ends:?}");
        }
    }
    moved.elapsed = started.elapsed();
    Ok(moved)
}

/// Asks for the partitions that are not at their end.
fn fetch(topic: &str, next: &[i64], ends: &[i64]) -> Result<Bytes> {
    let wanted = (0..).zip(next.iter().zip(ends)).filter(|(_, (next, end))| next < end);
    let partitions = wanted.map(|(index, (next, _))| {
        FetchPartition::default()
            .with_partition(index)
            .with_fetch_offset(*next)
            .with_partition_max_bytes(PARTITION_BYTES_MAX)
    });
    let topic =
        FetchTopic::default().with_topic(wire_name(topic)).with_partitions(partitions.collect());
    let request = FetchRequest::default()
        .with_max_wait_ms(500)
        .with_min_bytes(1)
        .with_max_bytes(FETCH_BYTES_MAX)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    frame(FETCH_VERSION, &request)
}

/// Walks over an answer to a fetch of one topic:
///
/// ```text
/// answer     correlation:i32 throttle:i32 error:i16 session:i32 topics:i32 (name partitions:i32 ..)
/// partition  index:i32 error:i16 durable:i64 stable:i64 start:i64 aborted:i32 (i64 i64)..
///            replica:i32 bytes:i32 batches
/// batch      base:i64 length:i32 .. last:i32@23 .. count:i32@57 ..
/// ```
fn walk(mut answer: &[u8], next: &mut [i64], moved: &mut Moved) -> Result<()> {
    const HEADER_BYTES: usize = 61;
    let rest = &mut answer;
    rest.try_get_i64()?;
    accepted(rest.try_get_i16()?, "fetch")?;
    rest.try_get_i32()?;
    for _ in 0..rest.try_get_i32()? {
        let name = rest.try_get_i16()?;
        skip(rest, name as usize)?;
        for _ in 0..rest.try_get_i32()? {
            let index = rest.try_get_i32()? as usize;
            accepted(rest.try_get_i16()?, "fetch a partition")?;
            skip(rest, 24)?;
            let aborted = rest.try_get_i32()?.max(0);
            skip(rest, aborted as usize * 16 + 4)?;
            let bytes = rest.try_get_i32()?.max(0) as usize;
            let mut batches = rest.get(..bytes).context("batches end early")?;
            skip(rest, bytes)?;
            // The last may be cut off, if there was no room for more.
            while batches.len() >= HEADER_BYTES {
                let (base, length) = ((&batches[..]).get_i64(), (&batches[8..]).get_i32());
                let whole = 12 + length as usize;
                if whole > batches.len() {
                    break;
                }
                *next.get_mut(index).context("a partition that was not asked for")? =
                    base + i64::from((&batches[23..]).get_i32()) + 1;
                moved.records += (&batches[57..]).get_i32() as u64;
                moved.bytes += whole as u64;
                batches = &batches[whole..];
            }
        }
    }
    Ok(())
}

fn skip(rest: &mut &[u8], bytes: usize) -> Result<()> {
    *rest = rest.get(bytes..).context("the answer ends early")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use kafka_protocol::{
        messages::{
            FetchResponse, ResponseHeader,
            fetch_response::{FetchableTopicResponse, PartitionData},
        },
        protocol::Encodable,
    };

    use super::*;

    #[test]
    fn what_is_sent_is_counted() {
        let address = super::super::null::start().unwrap().to_string();
        for (partitions, record_bytes, records) in [(1, 100, 163), (3, 1000, 48), (40, 1000, 256)] {
            let load = Load::new(&format!("t-{partitions}"), partitions, record_bytes).unwrap();
            let load = load.connections(2);
            assert_eq!(load.records, records);
            let bytes = load.bytes * THREADS as u64 * 7;
            let sent = load.send(&address, Duration::from_mins(1), bytes).unwrap();
            assert_eq!((sent.bytes, sent.records), (bytes, records * THREADS as u64 * 7));
        }
    }

    #[test]
    fn batches_are_framed_and_cut_ones_left() {
        let (batch, count) = batch(1000).unwrap();
        let two = [&batch[..], &batch[..]].concat();
        let partition = |index, records: &[u8]| {
            PartitionData::default()
                .with_partition_index(index)
                .with_records(Some(Bytes::copy_from_slice(records)))
        };
        let topic =
            FetchableTopicResponse::default().with_topic(wire_name("t")).with_partitions(vec![
                partition(2, &two),
                partition(0, &batch[..100]),
                partition(1, &two[..20_000]),
            ]);
        let mut bytes = Vec::new();
        ResponseHeader::default().encode(&mut bytes, 0).unwrap();
        FetchResponse::default().with_responses(vec![topic]).encode(&mut bytes, 11).unwrap();
        let (mut next, mut moved) = ([5; 3], Moved::default());
        walk(&bytes, &mut next, &mut moved).unwrap();
        assert_eq!((moved.records, moved.bytes), (3 * count, 3 * batch.len() as u64));
        assert_eq!(next, [5, count as i64, count as i64]);
        assert!(walk(&bytes[..bytes.len() - 1], &mut next, &mut moved).is_err());
    }
}
