//! Produce.
//!
//! A batch is checked where it lies in the request (header, length, checksum, and each record:
//! `intake`), then handed to the log as it is; nothing is copied or packed again unless the topic's
//! settings ask for it.
//! Each partition of a request is a group of its own, for each succeeds or fails by itself. The log
//! takes them together when the request is read, so that they keep the order of requests; the answer
//! waits for its tickets alone, so that many requests of one connection share a sync. It keeps
//! nothing of the request, whose memory is read into again (`connection`).

use std::sync::Arc;

use afflux_log::{Entry, Log as _, Ticket, TicketSender, Topic, settings::Rules};
use afflux_record::{Compression, Header, batch, compression::UNPACKED_BYTES_MAX};
use afflux_types::{Timestamp, TopicPartition};
use bytes::Bytes;
use kafka_protocol::{
    ResponseError,
    messages::{
        ProduceRequest, ProduceResponse, TopicName as WireTopicName,
        produce_request::TopicProduceData,
        produce_response::{
            BatchIndexAndErrorMessage, PartitionProduceResponse, TopicProduceResponse,
        },
    },
};

use crate::{
    broker::{Broker, Context, Outcome, Pending, aside, check_changeable, text},
    code,
    intake::{self, Refused, Taken},
    transaction::{Identity, TransactionalId},
    transactions::Writing,
};

/// A partition's append, taken or refused.
struct Part {
    index: i32,
    partition: Option<TopicPartition>,
    taken: Result<Appending, Refused>,
}

/// A batch in the log's hands, and the time that its records got, if not the client's.
type Appending = (Ticket, Option<Timestamp>);

impl Refused {
    fn new(error: ResponseError, reason: impl Into<String>) -> Self {
        Self { error, reason: reason.into(), records: Vec::new() }
    }
}

/// Behind so many bytes that were unpacked or packed for one request others have their turn.
const REPACKED_BYTES: usize = 4 << 20;

/// The first version whose clients pack with zstd (KIP-110).
const PACKS_ZSTD: i16 = 7;

/// What becomes of a request's batches.
struct Intake {
    /// The request's version.
    version: i16,
    /// To be handed to the log.
    batches: Vec<(Entry, TicketSender)>,
    /// How much was unpacked or packed.
    repacked: usize,
}

impl Intake {
    /// A few bytes may unpack to many, and a request may have many of those.
    fn take(
        &mut self,
        batch: Bytes,
        header: &Header,
        rules: &Rules,
        now: Timestamp,
    ) -> Result<Taken, Refused> {
        let take = || intake::take(batch, header, rules, now);
        let taken = if self.repacked > REPACKED_BYTES { aside(take) } else { take() };
        self.repacked += match &taken {
            Ok(taken) => taken.repacked,
            Err(_) => UNPACKED_BYTES_MAX,
        };
        taken
    }
}

/// Appends what the request brings; answers once it is durable.
pub(crate) fn start(broker: &Arc<Broker>, context: Context, request: ProduceRequest) -> Pending {
    let acks = request.acks;
    let is_known = (-1..=1).contains(&acks);
    let refusal = (!is_known).then_some(ResponseError::InvalidRequiredAcks);
    let id = request.transactional_id.as_ref().map(|id| TransactionalId::from(&***id));
    let writing = id.map(|id| Writing::produce(id, context.version));
    let mut intake = Intake { version: context.version, batches: Vec::new(), repacked: 0 };
    let topics: Vec<(TopicProduceResponse, Vec<Part>)> = request
        .topic_data
        .into_iter()
        .map(|topic| {
            let response = TopicProduceResponse::default()
                .with_name(WireTopicName(text(&topic.name)))
                .with_topic_id(topic.topic_id);
            let parts =
                append_topic(broker, &context, writing.as_ref(), (topic, refusal), &mut intake);
            (response, parts)
        })
        .collect();
    broker.log.append_each(intake.batches);
    let broker = Arc::clone(broker);
    Box::pin(async move {
        let mut answer = ProduceResponse::default();
        let mut failed = None;
        for (topic, parts) in topics {
            let mut responses = Vec::with_capacity(parts.len());
            for part in parts {
                let response = settle(&broker, part).await;
                if response.error_code != 0 {
                    failed = Some(response.error_code);
                }
                responses.push(response);
            }
            answer.responses.push(topic.with_partition_responses(responses));
        }
        match failed {
            // Nobody reads an answer; closing is the only way to tell, and Kafka's.
            Some(code) if acks == 0 => {
                let error = ResponseError::try_from_code(code)
                    .map_or_else(|| code.to_string(), |error| error.to_string());
                Outcome::Close(format!("a produce request without acknowledgement failed: {error}"))
            }
            None if acks == 0 => Outcome::Silent,
            _ => context.respond(&answer),
        }
    })
}

fn append_topic(
    broker: &Broker,
    context: &Context,
    writing: Option<&Writing>,
    (request, refusal): (TopicProduceData, Option<ResponseError>),
    intake: &mut Intake,
) -> Vec<Part> {
    let by_id = context.version >= 13;
    let topic =
        if by_id { broker.topic_by_id(request.topic_id) } else { broker.topic(&request.name) };
    let unknown =
        if by_id { ResponseError::UnknownTopicId } else { ResponseError::UnknownTopicOrPartition };
    request
        .partition_data
        .into_iter()
        .map(|data| {
            let partition =
                topic.as_ref().map(|topic| TopicPartition::new(topic.name.clone(), data.index));
            let taken = match (&partition, refusal) {
                (_, Some(error)) => Err(Refused::new(error, error.to_string())),
                (None, _) => Err(Refused::new(unknown, "there is no such topic")),
                (Some(partition), None) => check_changeable(&partition.topic)
                    .map_err(|(error, reason)| Refused::new(error, reason))
                    .and_then(|()| {
                        append(broker, writing, topic.as_deref(), (partition, data.records), intake)
                    }),
            };
            Part { index: data.index, partition, taken }
        })
        .collect()
}

/// Checks one batch, and hands it to the log or puts it to those that are to be.
fn append(
    broker: &Broker,
    writing: Option<&Writing>,
    topic: Option<&Topic>,
    (partition, records): (&TopicPartition, Option<Bytes>),
    intake: &mut Intake,
) -> Result<Appending, Refused> {
    let batch = records.filter(|records| !records.is_empty()).ok_or_else(|| {
        Refused::new(ResponseError::InvalidRecord, "the request has no records for the partition")
    })?;
    let header = batch::check(&batch)
        .map_err(|error| Refused::new(code::of_batch(&error), error.to_string()))?;
    if header.is_control() {
        return Err(Refused::new(ResponseError::InvalidRecord, "clients write no control batches"));
    }
    if header.delete_horizon().is_some() {
        let reason = "clients set no horizon for tombstones: compaction does";
        return Err(Refused::new(ResponseError::InvalidRecord, reason));
    }
    if i64::from(header.record_count) != i64::from(header.last_offset_delta) + 1 {
        return Err(Refused::new(
            ResponseError::InvalidRecord,
            "the batch's record count does not fit its offsets",
        ));
    }
    if header.base_offset.0 != 0 {
        let reason = format!("a batch begins at offset 0, not at {}", header.base_offset.0);
        return Err(Refused::new(ResponseError::InvalidRecord, reason));
    }
    let packed = header.compression();
    let packed = packed.map_err(|error| Refused::new(code::of_batch(&error), error.to_string()))?;
    if packed == Compression::Zstd && intake.version < PACKS_ZSTD {
        let reason = format!("zstd comes with Produce {PACKS_ZSTD} or newer (KIP-110)");
        return Err(Refused::new(ResponseError::UnsupportedCompressionType, reason));
    }
    let rules = topic.map(|topic| topic.settings.rules()).ok_or_else(|| {
        Refused::new(ResponseError::UnknownTopicOrPartition, "there is no such topic")
    })?;
    let taken = intake.take(batch, &header, rules, broker.env.clock.now())?;
    let entry = Entry { partition: partition.clone(), batch: taken.batch };
    if !header.is_transactional() {
        let (sender, ticket) = Ticket::new();
        intake.batches.push((entry, sender));
        return Ok((ticket, taken.append_time));
    }
    let writing = writing.ok_or_else(|| {
        let error = ResponseError::TransactionalIdAuthorizationFailed;
        Refused::new(error, "the batch is part of a transaction, and the request of none")
    })?;
    let who = Identity { id: header.producer_id.0, epoch: header.producer_epoch.0 };
    match broker.transactions.append(broker, writing, who, entry, || {}) {
        Ok(ticket) => Ok((ticket, taken.append_time)),
        Err(error) => Err(Refused::new(error, error.to_string())),
    }
}

/// Waits for an append and says what became of it.
async fn settle(broker: &Broker, part: Part) -> PartitionProduceResponse {
    let response = PartitionProduceResponse::default().with_index(part.index);
    let outcome = match part.taken {
        Ok((ticket, time)) => ticket
            .await
            .map(|appended| (appended, time))
            .map_err(|error| Refused::new(code::of_append(&error), error.to_string())),
        Err(refusal) => Err(refusal),
    };
    match outcome {
        Ok((appended, time)) => {
            let base = appended.base_offsets.first().map_or(-1, |offset| offset.0);
            let start = part
                .partition
                .and_then(|partition| broker.log.bounds(&partition).ok())
                .map_or(-1, |bounds| bounds.start.0);
            response
                .with_base_offset(base)
                .with_log_append_time_ms(time.map_or(-1, |time| time.0))
                .with_log_start_offset(start)
        }
        Err(refusal) => response
            .with_error_code(refusal.error.code())
            .with_base_offset(-1)
            .with_error_message(Some(text(&refusal.reason)))
            .with_record_errors(refusal.records.iter().map(record_error).collect()),
    }
}

fn record_error((place, reason): &(i32, String)) -> BatchIndexAndErrorMessage {
    BatchIndexAndErrorMessage::default()
        .with_batch_index(*place)
        .with_batch_index_error_message(Some(text(reason)))
}
