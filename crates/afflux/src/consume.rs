//! `afflux consume`: the records of a topic, alone or in a group.
//!
//! Alone, every partition is read from its beginning or its end. In a group, the group's
//! committed offsets say where to go on, and what was printed is committed.

use std::{
    fmt::Write as _,
    io::{self, Write},
    time::Duration,
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    message::{BorrowedMessage, Headers},
};
use serde_json::{Map, Value, json};

use crate::{
    args::ConsumeArgs,
    failure::{Failure, Status},
    interrupt::Interrupt,
    kafka,
};

/// How long a poll waits before it asks again whether Ctrl-C came.
const POLL: Duration = Duration::from_millis(100);

/// Runs the command.
pub(crate) fn run(args: &ConsumeArgs) -> Result<(), Failure> {
    let address = &args.node.kafka;
    let failed = |error: &rdkafka::error::KafkaError| kafka::failure(address, error);
    let interrupt = Interrupt::watch()?;
    // The client wants a group's name also where no group is joined.
    let consumer: BaseConsumer = kafka::config(address)
        .set("group.id", args.group.as_deref().unwrap_or("afflux-consume"))
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", if args.from_beginning { "earliest" } else { "latest" })
        .set("isolation.level", "read_committed")
        .create()
        .map_err(|error| failed(&error))?;
    let partitions = kafka::partitions(address, consumer.client(), &args.topic)?;
    if args.group.is_some() {
        consumer.subscribe(&[&args.topic]).map_err(|error| failed(&error))?;
    } else {
        let from = if args.from_beginning { Offset::Beginning } else { Offset::End };
        let mut assignment = TopicPartitionList::new();
        for partition in partitions {
            assignment
                .add_partition_offset(&args.topic, partition, from)
                .map_err(|error| failed(&error))?;
        }
        consumer.assign(&assignment).map_err(|error| failed(&error))?;
    }

    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut printed = 0;
    let mut outcome = Ok(());
    while !interrupt.came() && args.count.is_none_or(|count| printed < count) {
        // What is at hand is printed together; before waiting, all of it is shown.
        let mut polled = consumer.poll(Duration::ZERO);
        if polled.is_none() {
            outcome = out.flush().and_then(|()| commit(&consumer, args));
            if outcome.is_err() {
                break;
            }
            polled = consumer.poll(POLL);
        }
        match polled {
            None => {}
            Some(Ok(message)) => {
                outcome = print(&mut out, &message, args.json);
                if outcome.is_err() {
                    break;
                }
                consumer.store_offset_from_message(&message).map_err(|error| failed(&error))?;
                printed += 1;
            }
            Some(Err(error)) if is_passing(&error) => {}
            Some(Err(error)) => return Err(failed(&error)),
        }
    }
    match outcome.and_then(|()| out.flush()).and_then(|()| commit(&consumer, args)) {
        // Whoever reads us has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(Status::Failed, error.to_string())),
        Ok(()) => Ok(()),
    }
}

/// Whether the client itself will try again.
fn is_passing(error: &rdkafka::error::KafkaError) -> bool {
    use rdkafka::types::RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::PartitionEOF
        )
    )
}

fn commit(consumer: &BaseConsumer, args: &ConsumeArgs) -> io::Result<()> {
    use rdkafka::types::RDKafkaErrorCode as Code;
    if args.group.is_none() {
        return Ok(());
    }
    match consumer.commit_consumer_state(CommitMode::Sync) {
        Ok(()) => Ok(()),
        // Nothing new; or others came or went, and what was printed may be printed again by them.
        Err(error)
            if matches!(
                error.rdkafka_error_code(),
                Some(
                    Code::NoOffset
                        | Code::RebalanceInProgress
                        | Code::IllegalGeneration
                        | Code::UnknownMemberId
                )
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(io::Error::other(format!("committing the group's offsets: {error}"))),
    }
}

fn print(out: &mut impl Write, message: &BorrowedMessage<'_>, json: bool) -> io::Result<()> {
    if !json {
        out.write_all(message.payload().unwrap_or_default())?;
        return out.write_all(b"\n");
    }
    let mut headers = Map::new();
    for header in message.headers().iter().flat_map(|headers| headers.iter()) {
        headers.insert(header.key.to_owned(), text(header.value));
    }
    let record = json!({
        "topic": message.topic(),
        "partition": message.partition(),
        "offset": message.offset(),
        "timestamp": message.timestamp().to_millis(),
        "key": text(message.key()),
        "value": text(message.payload()),
        "headers": headers,
    });
    writeln!(out, "{record}")
}

/// Bytes as JSON: text if they are text, else `{"hex": "…"}`.
fn text(bytes: Option<&[u8]>) -> Value {
    let Some(bytes) = bytes else { return Value::Null };
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Value::from(text);
    }
    let mut hex = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(hex, "{byte:02x}");
    }
    json!({ "hex": hex })
}
