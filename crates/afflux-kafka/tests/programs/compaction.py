"""A compacted topic with confluent-kafka: keys, transactions, and what a reader finds.

    python compaction.py BOOTSTRAP
"""

import sys

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

TOPIC, PATIENCE = "python-compacted", 60.0


def alter(admin, name, value):
    """A change of settings lets the log look at once."""
    change = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, TOPIC, incremental_configs=[change])
    admin.incremental_alter_configs([resource])[resource].result(PATIENCE)


def write(bootstrap):
    keyless, outcomes = Producer({"bootstrap.servers": bootstrap}), []
    keyless.produce(TOPIC, value="no key", callback=lambda error, _: outcomes.append(error.code()))
    assert keyless.flush(PATIENCE) == 0
    assert outcomes == [KafkaError.INVALID_RECORD], outcomes
    writer = Producer({"bootstrap.servers": bootstrap, "transactional.id": "compacted"})
    writer.init_transactions(PATIENCE)
    for turn in range(3):
        writer.begin_transaction()
        for key in range(5):
            writer.produce(TOPIC, key=f"key {key}", value=f"turn {turn}")
        if turn == 2:
            writer.abort_transaction(PATIENCE)
        else:
            writer.commit_transaction(PATIENCE)
    last = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
    last.produce(TOPIC, key="key 0", value="last")
    last.produce(TOPIC, key="key 1", value=None)
    assert last.flush(PATIENCE) == 0


def read(bootstrap, isolation):
    """Keys and values from the topic's beginning to its end."""
    reader = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "reader",
            "isolation.level": isolation,
            "enable.partition.eof": True,
        }
    )
    reader.assign([TopicPartition(TOPIC, 0, OFFSET_BEGINNING)])
    found = []
    while True:
        message = reader.poll(PATIENCE)
        assert message is not None, found
        if message.error():
            assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
            reader.close()
            return found
        value = message.value()
        found.append((message.key().decode(), value and value.decode()))


def whole(bootstrap):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    compacted = {"cleanup.policy": "compact", "segment.ms": "1"}
    admin.create_topics([NewTopic(TOPIC, 1, 1, config=compacted)])[TOPIC].result(PATIENCE)
    write(bootstrap)
    expected = [(f"key {key}", "turn 1") for key in range(2, 5)]
    expected += [("key 0", "last"), ("key 1", None)]
    share = 0.5
    while read(bootstrap, "read_committed") != expected:
        share /= 2
        alter(admin, "min.cleanable.dirty.ratio", str(share))
    # What was aborted is gone for everybody.
    assert read(bootstrap, "read_uncommitted") == expected


whole(sys.argv[1])
