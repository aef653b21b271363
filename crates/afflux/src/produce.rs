//! `afflux produce`: a record a line.

use std::{
    io::BufRead,
    sync::{Arc, Mutex},
    time::Duration,
};

use rdkafka::{
    ClientContext,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext},
};

use crate::{
    args::ProduceArgs,
    failure::{Failure, Status},
    kafka,
};

/// Keeps the first delivery that failed.
#[derive(Default, Clone)]
struct Deliveries(Arc<Mutex<Option<KafkaError>>>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result
            && let Ok(mut first) = self.0.lock()
        {
            first.get_or_insert_with(|| error.clone());
        }
    }
}

impl Deliveries {
    fn check(&self, address: &str) -> Result<(), Failure> {
        match self.0.lock().ok().and_then(|first| first.clone()) {
            Some(error) => Err(kafka::failure(address, &error)),
            None => Ok(()),
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &ProduceArgs) -> Result<(), Failure> {
    let address = &args.node.kafka;
    let failed = |error: &KafkaError| kafka::failure(address, error);
    let deliveries = Deliveries::default();
    let producer: BaseProducer<_> = kafka::config(address)
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "5")
        .set("message.timeout.ms", "30000")
        .create_with_context(deliveries.clone())
        .map_err(|error| failed(&error))?;
    kafka::partitions(address, producer.client(), &args.topic)?;

    let mut sent: u64 = 0;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| {
            Failure::new(Status::Failed, format!("line {} of the input: {error}", sent + 1))
        })?;
        let (key, value) = match &args.key_separator {
            None => (None, line.as_str()),
            Some(separator) => match line.split_once(separator.as_str()) {
                Some((key, value)) => (Some(key), value),
                None => {
                    return Err(Failure::new(
                        Status::Failed,
                        format!("line {} has no \"{separator}\"; {sent} records sent", sent + 1),
                    ));
                }
            },
        };
        let mut record = BaseRecord::<str, str>::to(&args.topic).payload(value);
        record.key = key;
        while let Err((error, again)) = producer.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(failed(&error));
            }
            producer.poll(Duration::from_millis(10));
            deliveries.check(address)?;
            record = again;
        }
        sent += 1;
        producer.poll(Duration::ZERO);
    }
    producer.flush(Duration::from_mins(1)).map_err(|error| failed(&error))?;
    deliveries.check(address)?;
    eprintln!("{sent} records sent");
    Ok(())
}
