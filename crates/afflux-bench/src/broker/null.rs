//! A broker that acknowledges and throws away: what a client reaches when there is nothing to wait
//! for but the socket.
//!
//! It knows any topic. A topic's partitions are the number behind the last dash of its name. It
//! does only what a producer needs (`ApiVersions`, `Metadata`, `Produce`), a thread a connection,
//! and looks at nothing in a batch; whatever else is asked ends the connection.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    ResponseError,
    messages::{
        ApiKey, ApiVersionsResponse, MetadataRequest, MetadataResponse, ProduceRequest,
        ProduceResponse, RequestHeader, ResponseHeader,
        api_versions_response::ApiVersion,
        metadata_response::{
            MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
        },
        produce_response::{PartitionProduceResponse, TopicProduceResponse},
    },
    protocol::{Decodable, Encodable, HeaderVersion, StrBytes},
};

use super::wire::Wire;

/// What it says it serves. `Fetch` is there because librdkafka takes a broker without it for an
/// old one, and sends batches of another format.
const SERVED: &[(ApiKey, i16, i16)] = &[
    (ApiKey::Produce, 0, 7),
    (ApiKey::Fetch, 0, 11),
    (ApiKey::Metadata, 0, 4),
    (ApiKey::ApiVersions, 0, 3),
];

/// Serves until this program ends; where.
pub(crate) fn start() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listen on the loopback")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // An error is the client's end, or a request that the client will miss an answer to.
            thread::spawn(move || serve(stream, address));
        }
    });
    Ok(address)
}

fn serve(stream: TcpStream, address: SocketAddr) -> Result<()> {
    let mut wire = Wire::over(stream)?;
    loop {
        let mut request = Vec::new();
        wire.receive(&mut request)?;
        if let Some(answer) = answer(request.into(), address)? {
            wire.send(&answer)?;
        }
    }
}

fn answer(mut request: Bytes, address: SocketAddr) -> Result<Option<BytesMut>> {
    let key = request.first_chunk().map_or(-1, |key| i16::from_be_bytes(*key));
    let key = ApiKey::try_from(key).ok().context("an unknown request")?;
    let version = request.get(2..4).map_or(0, |bytes| i16::from_be_bytes([bytes[0], bytes[1]]));
    let header = RequestHeader::decode(&mut request, key.request_header_version(version))?;
    let correlation = header.correlation_id;
    match key {
        ApiKey::ApiVersions if version > 3 => {
            let error = ResponseError::UnsupportedVersion.code();
            encode(correlation, 0, &api_versions().with_error_code(error)).map(Some)
        }
        ApiKey::ApiVersions => encode(correlation, version, &api_versions()).map(Some),
        ApiKey::Metadata => {
            let request = MetadataRequest::decode(&mut request, version)?;
            encode(correlation, version, &metadata(&request, address)?).map(Some)
        }
        ApiKey::Produce => {
            let request = ProduceRequest::decode(&mut request, version)?;
            let answer = encode(correlation, version, &acknowledge(&request));
            if request.acks == 0 { Ok(None) } else { answer.map(Some) }
        }
        key => bail!("{key:?} is not served"),
    }
}

fn encode<T: Encodable + HeaderVersion>(
    correlation: i32,
    version: i16,
    body: &T,
) -> Result<BytesMut> {
    let mut frame = BytesMut::from(&[0; 4][..]);
    let header = ResponseHeader::default().with_correlation_id(correlation);
    header.encode(&mut frame, T::header_version(version))?;
    body.encode(&mut frame, version)?;
    let length = u32::try_from(frame.len() - 4)?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

fn api_versions() -> ApiVersionsResponse {
    let served = SERVED.iter().map(|(key, min, max)| {
        let api = ApiVersion::default().with_api_key(*key as i16);
        api.with_min_version(*min).with_max_version(*max)
    });
    ApiVersionsResponse::default().with_api_keys(served.collect())
}

fn metadata(request: &MetadataRequest, address: SocketAddr) -> Result<MetadataResponse> {
    let broker = MetadataResponseBroker::default()
        .with_node_id(1.into())
        .with_host(StrBytes::from_string(address.ip().to_string()))
        .with_port(i32::from(address.port()));
    let mut topics = Vec::new();
    for asked in request.topics.iter().flatten() {
        let name = asked.name.clone().context("a topic without a name")?;
        let count: i32 = name.rsplit_once('-').map_or(Ok(1), |(_, count)| count.parse())?;
        let partitions = (0..count).map(|index| {
            MetadataResponsePartition::default()
                .with_partition_index(index)
                .with_leader_id(1.into())
                .with_replica_nodes(vec![1.into()])
                .with_isr_nodes(vec![1.into()])
        });
        let topic = MetadataResponseTopic::default().with_name(Some(name));
        topics.push(topic.with_partitions(partitions.collect()));
    }
    Ok(MetadataResponse::default()
        .with_brokers(vec![broker])
        .with_controller_id(1.into())
        .with_topics(topics))
}

fn acknowledge(request: &ProduceRequest) -> ProduceResponse {
    let topics = request.topic_data.iter().map(|topic| {
        let partitions = topic.partition_data.iter().map(|partition| {
            PartitionProduceResponse::default().with_index(partition.index).with_base_offset(0)
        });
        TopicProduceResponse::default()
            .with_name(topic.name.clone())
            .with_partition_responses(partitions.collect())
    });
    ProduceResponse::default().with_responses(topics.collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::librdkafka;
    use super::*;

    #[test]
    fn a_client_is_acknowledged() {
        let address = start().unwrap().to_string();
        let sent = librdkafka::throughput(&address, "any-3", 3, 100, Duration::ZERO).unwrap();
        assert!(sent.records > 0);
    }
}
