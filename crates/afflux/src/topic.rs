//! `afflux topic`: over Kafka's admin API.

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication, TopicResult},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    types::RDKafkaErrorCode,
};
use serde_json::json;

use crate::{
    args::{TopicArgs, TopicCommand},
    failure::{Failure, Status},
    kafka,
    terminal::say,
};

/// Runs the command.
pub(crate) fn run(args: TopicArgs) -> Result<(), Failure> {
    match args.command {
        TopicCommand::List { node, json } => list(&node.kafka, json),
        TopicCommand::Create { topic, partitions, config, node, json } => {
            create(&node.kafka, &[topic.as_str()], partitions, &config, false)?;
            done(&topic, "created", json);
            Ok(())
        }
        TopicCommand::Describe { topic, node, json } => describe(&node.kafka, &topic, json),
        TopicCommand::Delete { topic, node, json } => {
            delete(&node.kafka, &topic)?;
            done(&topic, "deleted", json);
            Ok(())
        }
    }
}

fn done(topic: &str, what: &str, json: bool) {
    if json {
        say!("{}", json!({ "topic": topic, what: true }));
    } else {
        say!("topic \"{topic}\" is {what}");
    }
}

fn consumer(address: &str) -> Result<BaseConsumer, Failure> {
    kafka::config(address).create().map_err(|error| kafka::failure(address, &error))
}

fn list(address: &str, json: bool) -> Result<(), Failure> {
    let consumer = consumer(address)?;
    let metadata = kafka::topics(address, consumer.client())?;
    let mut topics: Vec<_> =
        metadata.topics().iter().map(|topic| (topic.name(), topic.partitions().len())).collect();
    topics.sort_unstable();
    if json {
        for (topic, partitions) in topics {
            say!("{}", json!({ "topic": topic, "partitions": partitions }));
        }
    } else if topics.is_empty() {
        say!("no topics");
    } else {
        let width = topics.iter().map(|(topic, _)| topic.len()).max().unwrap_or(0).max(5);
        say!("{:width$}  partitions", "topic");
        for (topic, partitions) in topics {
            say!("{topic:width$}  {partitions:>10}");
        }
    }
    Ok(())
}

fn describe(address: &str, topic: &str, json: bool) -> Result<(), Failure> {
    let consumer = consumer(address)?;
    let partitions = kafka::partitions(address, consumer.client(), topic)?;
    if !json {
        say!("partition       start         end     records");
    }
    for partition in partitions {
        let (start, end) = consumer
            .fetch_watermarks(topic, partition, kafka::ANSWER_WITHIN)
            .map_err(|error| kafka::failure(address, &error))?;
        if json {
            say!(
                "{}",
                json!({ "topic": topic, "partition": partition, "start": start, "end": end })
            );
        } else {
            say!("{partition:>9}  {start:>10}  {end:>10}  {:>10}", end - start);
        }
    }
    Ok(())
}

/// Creates topics with some settings; those that are there may be fine.
pub(crate) fn create(
    address: &str,
    topics: &[&str],
    partitions: i32,
    config: &[(String, String)],
    exist_fine: bool,
) -> Result<(), Failure> {
    let new: Vec<_> = topics
        .iter()
        .map(|topic| {
            let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
            config.iter().fold(new, |new, (name, value)| new.set(name, value))
        })
        .collect();
    let outcomes = admin(address, async |admin, options| admin.create_topics(&new, options).await)?;
    for (topic, outcome) in topics.iter().zip(outcomes) {
        match outcome {
            Ok(_) => {}
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) if exist_fine => {}
            Err((_, code)) => return Err(refused(topic, code)),
        }
    }
    Ok(())
}

fn delete(address: &str, topic: &str) -> Result<(), Failure> {
    let outcomes =
        admin(address, async |admin, options| admin.delete_topics(&[topic], options).await)?;
    for outcome in outcomes {
        outcome.map_err(|(_, code)| refused(topic, code))?;
    }
    Ok(())
}

fn admin(
    address: &str,
    act: impl AsyncFnOnce(
        &AdminClient<DefaultClientContext>,
        &AdminOptions,
    ) -> rdkafka::error::KafkaResult<Vec<TopicResult>>,
) -> Result<Vec<TopicResult>, Failure> {
    let failed = |error| kafka::failure(address, &error);
    let client: AdminClient<_> = kafka::config(address).create().map_err(failed)?;
    let options = AdminOptions::new()
        .request_timeout(Some(kafka::ANSWER_WITHIN))
        .operation_timeout(Some(kafka::ANSWER_WITHIN));
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Status::Failed, error.to_string()))?
        .block_on(act(&client, &options))
        .map_err(failed)
}

fn refused(topic: &str, code: RDKafkaErrorCode) -> Failure {
    use RDKafkaErrorCode as Code;
    match code {
        Code::UnknownTopicOrPartition | Code::UnknownTopic => {
            Failure::new(Status::Failed, format!("there is no topic \"{topic}\""))
                .hint("`afflux topic list` shows those there are")
        }
        Code::TopicAlreadyExists => {
            Failure::new(Status::Failed, format!("topic \"{topic}\" exists already"))
        }
        Code::InvalidTopic => {
            Failure::new(Status::Failed, format!("\"{topic}\" is not a topic name"))
                .hint("use 1 to 249 letters, digits, '.', '_' or '-'")
        }
        Code::InvalidConfig => {
            Failure::new(Status::Failed, format!("topic \"{topic}\" can not be set up that way"))
                .hint("docs/topic-settings.md lists the settings, and what each takes")
        }
        code => Failure::new(Status::Failed, format!("topic \"{topic}\": {code}")),
    }
}
