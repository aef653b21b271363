//! A node's Kafka listener over the simulated disk and network.

use std::{path::Path, sync::Arc, time::Duration};

use afflux_env::{
    Connection, Env, Network,
    sim::{Sim, SimNetwork},
};
use afflux_kafka::{Options, StartError};
use afflux_log::{EmbeddedLog, LogOptions, error::OpenError};
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::{RequestHeader, ResponseHeader, TopicName},
    protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

pub(crate) struct Node {
    pub(crate) log: Arc<EmbeddedLog>,
    address: std::net::SocketAddr,
    network: Arc<SimNetwork>,
    stop: watch::Sender<bool>,
    pub(crate) serving: JoinHandle<Result<(), StartError>>,
}

/// Waits for something that must come about, and panics when it does not: `what` says what went
/// wrong then.
///
/// Patience is counted in waits instead of being one long one. A process that is stopped, or that
/// others leave no time, comes back to find one of them over, and goes on with what it was at; a
/// single one would be over with nothing done. None is over while a world lives undisturbed: that
/// wakes who waits, and a seed knows nothing of it.
pub(crate) async fn patiently<T>(what: &str, coming: impl Future<Output = T>) -> T {
    let mut coming = std::pin::pin!(coming);
    for _ in 0..10 {
        if let Ok(came) = timeout(Duration::from_secs(2), &mut coming).await {
            return came;
        }
    }
    panic!("{what}");
}

/// How a log is opened: with threads, or to be stepped.
type Open = fn(&Env, &Path, LogOptions) -> Result<EmbeddedLog, OpenError>;

/// Where nodes listen.
pub(crate) const ADDRESS: &str = "127.0.0.1:9092";

/// Sizes of which a world can fill many.
pub(crate) fn small() -> LogOptions {
    LogOptions {
        file_bytes: 64 << 10,
        first_file_bytes: 64 << 10,
        block_bytes: 4 << 10,
        block_cache_bytes: 16 << 10,
        write_bytes_max: 16 << 10,
        whole_group_bytes_max: 8 << 10,
        chunk_bytes: 4 << 10,
        free_bytes_min: 0,
        retention_check: Duration::from_millis(5),
        ..LogOptions::default()
    }
}

/// The log of a world.
pub(crate) fn open_log(sim: &Sim, open: Open, options: LogOptions) -> EmbeddedLog {
    open(&sim.env(), Path::new("/data"), options).unwrap()
}

impl Node {
    pub(crate) async fn start(sim: &Sim, log: EmbeddedLog, options: Options) -> Self {
        let (env, log) = (sim.env(), Arc::new(log));
        let listener = env.network.listen(ADDRESS.parse().unwrap()).await.unwrap();
        let address = listener.address();
        let (stop, stopping) = watch::channel(false);
        let serving =
            tokio::spawn(afflux_kafka::serve(env, Arc::clone(&log), listener, options, stopping));
        Self { log, address, network: Arc::clone(&sim.network), stop, serving }
    }

    pub(crate) async fn connect(&self) -> Box<dyn Connection> {
        self.network.connect(self.address).await.unwrap()
    }

    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        patiently("a handler hangs", self.serving).await.unwrap().unwrap();
        drop(self.log);
    }
}

pub(crate) fn wire_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

pub(crate) fn frame<R: Request>(version: i16, correlation: i32, request: &R) -> Bytes {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation);
    let mut body = BytesMut::new();
    header.encode(&mut body, R::header_version(version)).unwrap();
    request.encode(&mut body, version).unwrap();
    let mut frame = BytesMut::new();
    frame.put_i32(body.len() as i32);
    frame.put_slice(&body);
    frame.freeze()
}

pub(crate) async fn receive<T: Decodable + HeaderVersion>(
    stream: &mut Box<dyn Connection>,
    version: i16,
) -> (i32, T) {
    let length = stream.read_i32().await.expect("a connection that is not cut is answered");
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await.unwrap();
    let mut body = Bytes::from(body);
    let header = ResponseHeader::decode(&mut body, T::header_version(version)).unwrap();
    (header.correlation_id, T::decode(&mut body, version).unwrap())
}

pub(crate) async fn call<R: Request>(node: &Node, version: i16, request: &R) -> R::Response {
    let mut stream = node.connect().await;
    stream.write_all(&frame(version, 1, request)).await.unwrap();
    receive(&mut stream, version).await.1
}
