//! Apache Kafka's command line tools, which are its Java client's, each in a process of its own.
//!
//! What they must print is what they print of Apache Kafka: the same runs against it.

use std::{io::Read, process::Stdio};

use crate::{java, run};

/// Tool, arguments, input, what it prints.
type Run<'a> = (&'a str, &'a str, &'a str, &'a [&'a str]);

/// Runs all tools, in turn, on a topic of theirs.
pub(crate) fn check(bootstrap: &str) {
    let directory = tempfile::tempdir().unwrap();
    let offsets = directory.path().join("offsets.json");
    let delete = r#"{"version":1,"partitions":[{"topic":"tools","partition":0,"offset":3}]}"#;
    std::fs::write(&offsets, delete).unwrap();
    let delete = format!("--offset-json-file {}", offsets.display());
    let lines = "key:0 key:1 key:2 key:3 key:4 key:5 key:6 key:7 key:8 key:9".replace(' ', "\n");
    let keyed = "--topic tools --reader-property parse.key=true --reader-property key.separator=:";
    let tool = |name: &str| format!("org.apache.kafka.tools.{name}");
    let runs: &[Run<'_>] = &[
        (
            &tool("TopicCommand"),
            "--create --topic tools --partitions 1 --config retention.ms=3600000",
            "",
            &["Created topic tools."],
        ),
        (
            &tool("TopicCommand"),
            "--describe --topic tools",
            "",
            &["PartitionCount: 1\tReplicationFactor: 1", "retention.ms=3600000", "Leader: 1"],
        ),
        (&tool("ConsoleProducer"), keyed, &lines, &[]),
        (
            &tool("consumer.ConsoleConsumer"),
            "--topic tools --group tools --from-beginning --max-messages 10 \
             --formatter-property print.key=true --formatter-property print.offset=true",
            "",
            &["Offset:0\tkey\t0\n", "Offset:9\tkey\t9\n"],
        ),
        (&tool("GetOffsetShell"), "--topic tools", "", &["tools:0:10\n"]),
        (
            &tool("consumer.group.ConsumerGroupCommand"),
            "--describe --group tools",
            "",
            &["LOG-END-OFFSET"],
        ),
        (
            &tool("consumer.group.ConsumerGroupCommand"),
            "--reset-offsets --to-offset 4 --group tools --topic tools --execute",
            "",
            &["NEW-OFFSET"],
        ),
        (
            &tool("consumer.ConsoleConsumer"),
            "--topic tools --group tools --max-messages 1",
            "",
            &["4\n"],
        ),
        (&tool("GroupsCommand"), "--list", "", &["tools"]),
        (
            &tool("consumer.group.ConsumerGroupCommand"),
            "--delete --group tools",
            "",
            &["was successful"],
        ),
        (&tool("DeleteRecordsCommand"), &delete, "", &["partition: tools-0\tlow_watermark: 3"]),
        (
            &tool("LogDirsCommand"),
            "--describe --topic-list tools",
            "",
            &[r#""partition":"tools-0","size":"#, r#""offsetLag":0,"isFuture":false"#],
        ),
        (
            "kafka.admin.ConfigCommand",
            "--entity-type topics --entity-name tools --alter --add-config max.message.bytes=50000",
            "",
            &["Completed updating config for topic tools."],
        ),
        (
            "kafka.admin.ConfigCommand",
            "--entity-type topics --entity-name tools --describe",
            "",
            &["max.message.bytes=50000", "DYNAMIC_TOPIC_CONFIG:max.message.bytes=50000"],
        ),
        (
            "kafka.admin.ConfigCommand",
            "--entity-type groups --entity-name tools --alter \
             --add-config consumer.session.timeout.ms=50000",
            "",
            &["Completed updating config for group tools."],
        ),
        (
            "kafka.admin.ConfigCommand",
            "--entity-type groups --describe",
            "",
            &["configs for group tools", "DYNAMIC_GROUP_CONFIG:consumer.session.timeout.ms=50000"],
        ),
        (
            &tool("TransactionsCommand"),
            "describe-producers --topic tools --partition 0",
            "",
            &["ProducerId\tProducerEpoch"],
        ),
        (&tool("TransactionsCommand"), "list", "", &["TransactionalId"]),
        (&tool("TopicCommand"), "--alter --topic tools --partitions 3", "", &[]),
        (
            &tool("ProducerPerformance"),
            "--topic tools --num-records 1000 --record-size 100 --throughput -1 \
             --transactional-id tools",
            "",
            &["1000 records sent"],
        ),
        (
            &tool("ConsumerPerformance"),
            "--topic tools --num-records 1007 --timeout 60000",
            "",
            &[", 1007, "],
        ),
    ];
    for (class, arguments, input, expected) in runs {
        let mut command = java::kafka(class);
        command.args(["--bootstrap-server", bootstrap]).args(arguments.split_whitespace());
        let said = run(&mut command, input);
        for part in *expected {
            assert!(said.contains(part), "{class} {arguments}: no {part:?} in\n{said}");
        }
    }
    for (topic, formatter, parts) in RECORDS {
        prints(bootstrap, topic, formatter, parts);
    }
}

/// What Kafka's formatters make of what the runs have left in the node's own topics.
const RECORDS: &[(&str, &str, &[&str])] = &[
    (
        "__consumer_offsets",
        "OffsetsMessageFormatter",
        &[
            r#""group":"tools","topic":"tools","partition":0}},"value":{"version":4,"data":{"offset":10,"#,
        ],
    ),
    (
        "__consumer_offsets",
        "GroupMetadataMessageFormatter",
        &[
            r#""group":"tools"}},"value":{"version":3,"data":{"protocolType":"consumer","generation":1,"#,
            r#""clientId":"console-consumer","clientHost":"/127.0.0.1","#,
        ],
    ),
    (
        "__transaction_state",
        "TransactionLogMessageFormatter",
        &[
            r#""transactionalId":"tools"}},"value":{"version":1,"data":{"producerId":"#,
            r#""transactionPartitions":[{"topic":"tools","partitionIds":["#,
            // It is committed.
            r#""transactionStatus":4"#,
        ],
    ),
];

/// Reads a topic until there are all parts in what is printed, which has no lines.
fn prints(bootstrap: &str, topic: &str, formatter: &str, parts: &[&str]) {
    let mut command = java::kafka("org.apache.kafka.tools.consumer.ConsoleConsumer");
    let formatter = format!("org.apache.kafka.tools.consumer.{formatter}");
    command.args(["--bootstrap-server", bootstrap, "--topic", topic, "--formatter", &formatter]);
    // Without a group, which would leave more of its own there. It ends if nothing comes so long.
    command.args(["--partition", "0", "--offset", "earliest", "--timeout-ms", "20000"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let (mut said, mut piece) = (String::new(), [0; 4 << 10]);
    let has_all = |said: &str| parts.iter().all(|part| said.contains(part));
    while !has_all(&said) {
        let bytes = output.read(&mut piece).unwrap();
        if bytes == 0 {
            break;
        }
        said += std::str::from_utf8(&piece[..bytes]).unwrap();
    }
    // It may have ended.
    let _ = child.kill();
    child.wait().unwrap();
    assert!(has_all(&said), "{formatter}: not all of {parts:?} in\n{said}");
}
