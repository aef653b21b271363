"""What an administrator does with confluent-kafka: settings, partitions, deleted records.

    python admin.py BOOTSTRAP
"""

import sys

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

TOPIC, PATIENCE = "python-admin", 60.0


def refused(future, code):
    """The answer must be that error."""
    try:
        future.result(PATIENCE)
    except KafkaException as error:
        assert error.args[0].code() == code, error
    else:
        raise AssertionError(f"{code} did not come")


def settings(admin):
    of_topic = ConfigResource(ResourceType.TOPIC, TOPIC)

    def shown(name):
        return admin.describe_configs([of_topic])[of_topic].result(PATIENCE)[name]

    def alter(operation, name, value):
        change = ConfigEntry(name, value, incremental_operation=operation)
        resource = ConfigResource(
            ResourceType.TOPIC, TOPIC, incremental_configs=[change]
        )
        return admin.incremental_alter_configs([resource])[resource]

    made = NewTopic(TOPIC, 1, 1, config={"retention.ms": "3600000"})
    admin.create_topics([made])[TOPIC].result(PATIENCE)
    assert shown("retention.ms").value == "3600000" and not shown("retention.ms").is_default
    alter(AlterConfigOpType.SET, "max.message.bytes", "2000").result(PATIENCE)
    alter(AlterConfigOpType.DELETE, "retention.ms", None).result(PATIENCE)
    assert shown("max.message.bytes").value == "2000"
    assert shown("retention.ms").value == "604800000" and shown("retention.ms").is_default
    refused(alter(AlterConfigOpType.SET, "cleanup.policy", "keep"), KafkaError.INVALID_CONFIG)
    refused(alter(AlterConfigOpType.SET, "moon.phase", "full"), KafkaError.INVALID_CONFIG)


def partitions(admin):
    admin.create_partitions([NewPartitions(TOPIC, 3)])[TOPIC].result(PATIENCE)
    described = admin.list_topics(TOPIC, PATIENCE).topics[TOPIC]
    assert sorted(described.partitions) == [0, 1, 2], described.partitions
    fewer = admin.create_partitions([NewPartitions(TOPIC, 2)])[TOPIC]
    refused(fewer, KafkaError.INVALID_PARTITIONS)


def records(bootstrap, admin):
    producer = Producer({"bootstrap.servers": bootstrap})
    for number in range(10):
        producer.produce(TOPIC, value=str(number), partition=2)
    assert producer.flush(PATIENCE) == 0
    before = TopicPartition(TOPIC, 2, 4)
    deleted = admin.delete_records([before])[before].result(PATIENCE)
    assert deleted.low_watermark == 4, deleted
    beyond = TopicPartition(TOPIC, 2, 11)
    refused(admin.delete_records([beyond])[beyond], KafkaError.OFFSET_OUT_OF_RANGE)
    at = TopicPartition(TOPIC, 2)
    earliest = admin.list_offsets({at: OffsetSpec.earliest()})[at].result(PATIENCE)
    assert earliest.offset == 4, earliest
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader"})
    reader.assign([TopicPartition(TOPIC, 2, 0)])
    reader.seek(TopicPartition(TOPIC, 2, 4))
    left = [int(message.value()) for message in reader.consume(6, PATIENCE)]
    assert left == [4, 5, 6, 7, 8, 9], left
    reader.close()


def whole(bootstrap):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    settings(admin)
    partitions(admin)
    records(bootstrap, admin)
    cluster = admin.describe_cluster().result(PATIENCE)
    assert len(cluster.nodes) == 1 and cluster.controller.id == cluster.nodes[0].id


whole(sys.argv[1])
