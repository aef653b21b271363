//! librdkafka as the load: with its defaults, which are acknowledgements by all.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::{
    ClientConfig, ClientContext, Message,
    error::KafkaError,
    producer::{
        BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer,
    },
    types::RDKafkaErrorCode,
};

use super::wire::PATIENCE;
use crate::sample::Durations;

/// Records that are handed over before deliveries are looked at.
const TURN: u32 = 1000;

/// What was acknowledged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) records: u64,
    /// From the first send call to the last acknowledgement.
    pub(crate) elapsed: Duration,
}

#[derive(Default)]
struct Count {
    delivered: AtomicU64,
    failed: AtomicU64,
}

impl ClientContext for Count {}

impl ProducerContext for Count {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let counter = if result.is_ok() { &self.delivered } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends as fast as it can for a time, to each partition in turn.
pub(crate) fn throughput(
    address: &str,
    topic: &str,
    partitions: i32,
    bytes: usize,
    length: Duration,
) -> Result<Sent> {
    let producer: BaseProducer<Count> = ClientConfig::new()
        .set("bootstrap.servers", address)
        .create_with_context(Count::default())?;
    let value = value(bytes);
    let send = |partition| loop {
        let record = BaseRecord::<(), [u8]>::to(topic).partition(partition).payload(&value);
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                producer.poll(Duration::from_millis(10));
            }
            Err((error, _)) => return Err(error).context("send a record"),
        }
    };
    // The connection, and what it asks first.
    send(0)?;
    producer.flush(PATIENCE).context("wait for the first acknowledgement")?;
    let before = producer.context().delivered.load(Ordering::Relaxed);
    let started = Instant::now();
    loop {
        for number in 0..TURN {
            send(number as i32 % partitions)?;
        }
        producer.poll(Duration::ZERO);
        if started.elapsed() >= length {
            break;
        }
    }
    producer.flush(PATIENCE).context("wait for the acknowledgements")?;
    let elapsed = started.elapsed();
    let failed = producer.context().failed.load(Ordering::Relaxed);
    ensure!(failed == 0, "{failed} records were not taken");
    Ok(Sent { records: producer.context().delivered.load(Ordering::Relaxed) - before, elapsed })
}

/// How long acknowledgements take.
#[derive(Default)]
struct Waits(Mutex<(Durations, Option<String>)>);

impl ClientContext for Waits {}

impl ProducerContext for Waits {
    type DeliveryOpaque = Box<Instant>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Instant>) {
        let waited = sent.elapsed();
        let mut waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(_) => waits.0.push(waited),
            Err((error, record)) => {
                waits.1 = Some(format!("partition {}: {error}", record.partition()));
            }
        }
    }
}

/// A producer that sends at a rate without lingering.
pub(crate) struct Paced {
    producer: ThreadedProducer<Waits>,
    topic: String,
    partitions: i32,
    value: Vec<u8>,
}

impl Paced {
    pub(crate) fn new(address: &str, topic: &str, partitions: i32, bytes: usize) -> Result<Self> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", address)
            .set("linger.ms", "0")
            .create_with_context(Waits::default())?;
        Ok(Self { producer, topic: topic.to_owned(), partitions, value: value(bytes) })
    }

    /// Sends so many records a second for a time; from each send call to its acknowledgement.
    pub(crate) fn round(&mut self, rate: u32, length: Duration) -> Result<Durations> {
        let gap = Duration::from_secs(1) / rate;
        let records = (length.as_secs_f64() * f64::from(rate)) as u32;
        let started = Instant::now();
        for number in 0..records {
            let early = (started + gap * number).saturating_duration_since(Instant::now());
            if !early.is_zero() {
                thread::sleep(early);
            }
            let sent = Box::new(Instant::now());
            let record = BaseRecord::<(), [u8], _>::with_opaque_to(&self.topic, sent)
                .partition(number as i32 % self.partitions)
                .payload(&self.value);
            self.producer.send(record).map_err(|(error, _)| error).context("send a record")?;
        }
        let reached = f64::from(records) / started.elapsed().as_secs_f64();
        ensure!(reached > 0.98 * f64::from(rate), "only {reached:.0} records/s: no such figure");
        self.producer.flush(PATIENCE).context("wait for the acknowledgements")?;
        let waits = &self.producer.context().0;
        let (waits, failed) =
            std::mem::take(&mut *waits.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(failed) = failed {
            bail!("a record was not taken: {failed}");
        }
        ensure!(waits.len() == records as usize, "{} of {records} were acknowledged", waits.len());
        Ok(waits)
    }
}

fn value(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}
