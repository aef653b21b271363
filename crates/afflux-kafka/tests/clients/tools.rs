//! Apache Kafka's command line tools, which are its Java client's, each in a process of its own.
//!
//! What they must print is what they print of Apache Kafka: the same runs against it.

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
            "--topic tools --num-records 1000 --record-size 100 --throughput -1",
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
}
