//! Sends the replay through librdkafka, in event-time order, at its pace.
//!
//! 1. [`Pace`] says which minute of the replay it is. Its clock stands while the node is away, so
//!    that a restart delays the replay rather than compressing what follows.
//! 2. [`Sender::pump`] hands the client every record that is due. When the client's queue is full
//!    it waits: the node takes no more for now, or is away.
//! 3. The client retries for ever and is idempotent, so every record arrives once and those of a
//!    partition in order, whatever happens to the node.
//!
//! Only failed deliveries are reported one by one; what the queue no longer holds is acknowledged.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext},
};

use crate::{
    args::Speed,
    demo::{
        flights::{MINUTES_A_DAY, Timeline, Topic},
        watch::Watch,
    },
    failure::Failure,
    kafka,
};

/// How many records may wait for their acknowledgement. At full speed this is what a record's
/// latency mostly consists of, so it is no larger than throughput needs.
const QUEUE_RECORDS_MAX: &str = "50000";
/// At full speed, one landing in so many is a latency sample.
const SAMPLED: u64 = 16;
/// How many records are handed over before anything else is looked at.
const TURN: u64 = 2_000;

/// Keeps the first delivery that failed for good.
#[derive(Default, Clone)]
struct Failed(Arc<Mutex<Option<KafkaError>>>);

impl ClientContext for Failed {}

impl ProducerContext for Failed {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert_with(|| error.clone());
        }
    }
}

/// Which minute of the replay it is.
pub(crate) struct Pace {
    speed: Speed,
    passed: Duration,
    running_since: Option<Instant>,
}

impl Pace {
    /// A clock that stands at the first record.
    pub(crate) fn new(speed: Speed) -> Self {
        Self { speed, passed: Duration::ZERO, running_since: None }
    }

    /// Lets it run or stand.
    pub(crate) fn run(&mut self, runs: bool, now: Instant) {
        match (self.running_since, runs) {
            (Some(since), false) => {
                self.passed += now.saturating_duration_since(since);
                self.running_since = None;
            }
            (None, true) => self.running_since = Some(now),
            _ => {}
        }
    }

    /// Minutes of event time since the first record.
    pub(crate) fn minute(&self, now: Instant) -> i64 {
        let running = self.running_since.map_or(Duration::ZERO, |since| now - since);
        match self.speed {
            Speed::Max => i64::MAX,
            Speed::DaysASecond(days) => {
                ((self.passed + running).as_secs_f64() * days * MINUTES_A_DAY as f64) as i64
            }
        }
    }
}

/// Hands records to the client.
pub(crate) struct Sender<'a> {
    producer: BaseProducer<Failed>,
    failed: Failed,
    timeline: &'a Timeline,
    watch: Watch,
    address: String,
    sample_every: u64,
    landings: Vec<u64>,
    scratch: Vec<u8>,
    dropped: Option<u64>,
    next: u64,
    departures_sent: u64,
    arrivals_sent: u64,
}

impl<'a> Sender<'a> {
    /// A sender that stands before the first record.
    pub(crate) fn new(
        address: String,
        timeline: &'a Timeline,
        watch: Watch,
        speed: Speed,
        dropped: Option<u64>,
    ) -> Result<Self, Failure> {
        let failed = Failed::default();
        let (sample_every, linger_ms) = match speed {
            Speed::Max => (SAMPLED, "2"),
            // 20 days a second are about 36,000 records a second.
            Speed::DaysASecond(days) if days > 20.0 => (SAMPLED, "1"),
            Speed::DaysASecond(_) => (1, "0"),
        };
        let producer = kafka::config(&address)
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("delivery.report.only.error", "true")
            .set("queue.buffering.max.messages", QUEUE_RECORDS_MAX)
            .set("linger.ms", linger_ms)
            .set("batch.num.messages", "20000")
            .set("message.timeout.ms", "0")
            .set("retry.backoff.ms", "20")
            .set("retry.backoff.max.ms", "200")
            .create_with_context(failed.clone())
            .map_err(|error| kafka::failure(&address, &error))?;
        let landings = vec![0; timeline.routes().len()];
        Ok(Self {
            producer,
            failed,
            timeline,
            watch,
            address,
            sample_every,
            landings,
            scratch: Vec::new(),
            dropped,
            next: 0,
            departures_sent: 0,
            arrivals_sent: 0,
        })
    }

    /// Hands over what is due, at most a turn of it; true if there may be more at once.
    pub(crate) fn pump(&mut self, end: u64, due_minute: i64) -> Result<bool, Failure> {
        let turn_ends = self.next.saturating_add(TURN).min(end);
        while self.next < turn_ends {
            if due_minute != i64::MAX && self.timeline.minutes_until(self.next) > due_minute {
                return Ok(false);
            }
            if !self.send_next()? {
                return Ok(false);
            }
        }
        self.producer.poll(Duration::ZERO);
        self.check()?;
        Ok(self.next < end)
    }

    /// False if the client's queue is full.
    fn send_next(&mut self) -> Result<bool, Failure> {
        let record = self.timeline.record(self.next, &mut self.scratch);
        if self.dropped != Some(self.next) {
            let message = BaseRecord::to(record.topic.name())
                .key(record.key)
                .payload(record.payload)
                .timestamp(record.timestamp);
            let count = self.landings[record.route as usize] + 1;
            let sampled =
                record.topic == Topic::Arrivals && count.is_multiple_of(self.sample_every);
            let at = sampled.then(Instant::now);
            match self.producer.send(message) {
                Ok(()) => {}
                Err((error, _))
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) =>
                {
                    return Ok(false);
                }
                Err((error, _)) => return Err(kafka::failure(&self.address, &error)),
            }
            match record.topic {
                Topic::Departures => self.departures_sent += 1,
                Topic::Arrivals => {
                    self.arrivals_sent += 1;
                    self.landings[record.route as usize] = count;
                    if let Some(at) = at {
                        self.watch.expect(record.route, count, at);
                    }
                }
            }
        }
        self.next += 1;
        Ok(true)
    }

    /// Waits a moment for deliveries.
    pub(crate) fn wait(&self, at_most: Duration) {
        self.producer.poll(at_most);
    }

    /// How many records are not acknowledged yet.
    pub(crate) fn unacknowledged(&self) -> u64 {
        u64::try_from(self.producer.in_flight_count()).unwrap_or(0)
    }

    /// The number of the next record; so many were dealt with.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// How many departures and arrivals were sent.
    pub(crate) fn sent(&self) -> (u64, u64) {
        (self.departures_sent, self.arrivals_sent)
    }

    /// An error if a record was lost for good.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let first = self.failed.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*first {
            Some(error) => Err(kafka::failure(&self.address, error)),
            None => Ok(()),
        }
    }

    /// Forgets what is not acknowledged, so that the end does not wait for it.
    pub(crate) fn abandon(&self) {
        self.producer.purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_stands_while_the_node_is_away() {
        let mut pace = Pace::new(Speed::DaysASecond(2.0));
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        assert_eq!(pace.minute(at(0)), 0);
        pace.run(true, at(0));
        assert_eq!(pace.minute(at(500)), 1440);
        pace.run(false, at(1_000));
        assert_eq!(pace.minute(at(9_000)), 2880);
        pace.run(true, at(9_000));
        pace.run(true, at(9_100));
        assert_eq!(pace.minute(at(9_500)), 4320);
        assert_eq!(Pace::new(Speed::Max).minute(at(0)), i64::MAX);
    }
}
