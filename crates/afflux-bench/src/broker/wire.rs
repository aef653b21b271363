//! Kafka's protocol as the benchmark needs it: a connection that sends frames and takes answers,
//! and what is done to topics.
//!
//! It is no client: nothing is retried, balanced or remembered.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    ResponseError,
    messages::{
        CreateTopicsRequest, DeleteTopicsRequest, ListOffsetsRequest, RequestHeader,
        ResponseHeader, TopicName,
        create_topics_request::{CreatableTopic, CreatableTopicConfig},
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
    },
    protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes},
};

/// An answer that takes longer will not come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Asks for the end of a partition instead of a time.
const LATEST: i64 = -1;

/// A connection.
#[derive(Debug)]
pub(crate) struct Wire(TcpStream);

impl Wire {
    pub(crate) fn connect(address: &str) -> Result<Self> {
        let stream =
            TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Self::over(stream)
    }

    /// Over a connection that is there, which may be silent for as long as it likes.
    pub(crate) fn over(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// Sends a whole frame.
    pub(crate) fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.0.write_all(frame).context("send a request")
    }

    /// Takes the next answer, without its length, into a buffer that is used again.
    pub(crate) fn receive(&mut self, answer: &mut Vec<u8>) -> Result<()> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).context("wait for an answer")?;
        let length = u64::from(u32::from_be_bytes(length));
        answer.clear();
        answer.reserve(length as usize);
        let read = (&mut self.0).take(length).read_to_end(answer).context("read an answer")?;
        ensure!(read as u64 == length, "the connection ended within an answer");
        Ok(())
    }

    /// The next answer, decoded.
    pub(crate) fn receive_as<R: Request>(&mut self, version: i16) -> Result<R::Response> {
        let mut answer = Vec::new();
        self.receive(&mut answer)?;
        decode::<R::Response>(answer.into(), version)
    }

    /// Sends a request and takes its answer.
    pub(crate) fn call<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response> {
        self.send(&frame(version, request)?)?;
        self.receive_as::<R>(version)
    }
}

/// A request with its length and header.
pub(crate) fn frame<R: Request>(version: i16, request: &R) -> Result<Bytes> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_client_id(Some(StrBytes::from_static_str("afflux-bench")));
    let mut frame = BytesMut::from(&[0; 4][..]);
    header.encode(&mut frame, R::header_version(version))?;
    request.encode(&mut frame, version)?;
    let length = u32::try_from(frame.len() - 4)?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame.freeze())
}

/// An answer behind its header.
pub(crate) fn decode<T: Decodable + HeaderVersion>(mut answer: Bytes, version: i16) -> Result<T> {
    ResponseHeader::decode(&mut answer, T::header_version(version))?;
    T::decode(&mut answer, version)
}

pub(crate) fn wire_name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// An error unless the code is none.
pub(crate) fn accepted(code: i16, what: &str) -> Result<()> {
    match ResponseError::try_from_code(code) {
        None => Ok(()),
        Some(error) => bail!("{what}: {error}"),
    }
}

/// Makes a topic and waits until all of it is served.
pub(crate) fn create_topic(
    address: &str,
    topic: &str,
    partitions: i32,
    settings: &[(&str, &str)],
) -> Result<()> {
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let settings = settings.iter().map(|(name, value)| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    });
    let wanted = CreatableTopic::default()
        .with_name(wire_name(topic))
        .with_num_partitions(partitions)
        .with_replication_factor(1)
        .with_configs(settings.collect());
    let mut wire = Wire::connect(address)?;
    let request = CreateTopicsRequest::default().with_topics(vec![wanted]).with_timeout_ms(30_000);
    let created = wire.call(5, &request)?;
    accepted(created.topics.first().map_or(0, |topic| topic.error_code), "create a topic")?;
    let started = Instant::now();
    loop {
        let Err(error) = ends(&mut wire, topic, partitions) else { return Ok(()) };
        if started.elapsed() > PATIENCE {
            return Err(error.context("a new topic is not served"));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Removes a topic.
pub(crate) fn delete_topic(address: &str, topic: &str) -> Result<()> {
    let request = DeleteTopicsRequest::default()
        .with_topic_names(vec![wire_name(topic)])
        .with_timeout_ms(30_000);
    let deleted = Wire::connect(address)?.call(5, &request)?;
    accepted(deleted.responses.first().map_or(0, |topic| topic.error_code), "remove a topic")
}

/// Where the partitions of a topic end.
pub(crate) fn ends(wire: &mut Wire, topic: &str, partitions: i32) -> Result<Vec<i64>> {
    let partition =
        |index| ListOffsetsPartition::default().with_partition_index(index).with_timestamp(LATEST);
    let topic = ListOffsetsTopic::default()
        .with_name(wire_name(topic))
        .with_partitions((0..partitions).map(partition).collect());
    let request =
        ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
    let answer = wire.call(5, &request)?;
    let mut ends = vec![0; partitions as usize];
    for partition in answer.topics.iter().flat_map(|topic| &topic.partitions) {
        accepted(partition.error_code, "ask for the end of a partition")?;
        let end = ends.get_mut(partition.partition_index as usize);
        *end.context("an answer for another partition")? = partition.offset;
    }
    Ok(ends)
}
