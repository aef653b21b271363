"""What a user of confluent-kafka does: produce, form a group, rebalance, commit, resume.

    python conformance.py BOOTSTRAP first|second|modern

`first` leaves 1,000 records read and committed and 500 unread; `second`, after the broker was
restarted, reads exactly those.
"""

import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

TOPIC, GROUP, PATIENCE = "python", "python-group", 60.0


def produce(bootstrap, begin, end, codec):
    """Sends numbers, idempotently; fails unless each is acknowledged."""
    acknowledged = []

    def delivered(error, message):
        if error is not None:
            raise KafkaException(error)
        acknowledged.append((message.partition(), message.offset()))

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "compression.type": codec,
        }
    )
    for number in range(begin, end):
        headers = [("number", str(number).encode()), ("none", None)]
        producer.produce(
            TOPIC,
            key=f"key-{number % 13}",
            value=str(number),
            headers=headers,
            on_delivery=delivered,
        )
        producer.poll(0)
    assert producer.flush(PATIENCE) == 0
    assert len(set(acknowledged)) == end - begin


def consumer(bootstrap):
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": GROUP,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "heartbeat.interval.ms": 200,
        }
    )


def consume(consumers, count):
    """Polls until `count` records have come, then their numbers in order."""
    numbers, deadline = [], time.monotonic() + PATIENCE
    while len(numbers) < count:
        assert time.monotonic() < deadline, f"{count - len(numbers)} records did not come"
        for member in consumers:
            message = member.poll(0.05)
            if message is None:
                continue
            if message.error():
                raise KafkaException(message.error())
            number = int(message.value())
            assert message.key() == f"key-{number % 13}".encode()
            assert message.headers() == [("number", str(number).encode()), ("none", None)]
            numbers.append(number)
    return sorted(numbers)


def first(bootstrap):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(TOPIC, 4, 1)])[TOPIC].result(PATIENCE)
    produce(bootstrap, 0, 250, "none")
    produce(bootstrap, 250, 500, "zstd")

    one = consumer(bootstrap)
    one.subscribe([TOPIC])
    assert consume([one], 500) == list(range(500))
    one.commit(asynchronous=False)

    two = consumer(bootstrap)
    two.subscribe([TOPIC])
    deadline = time.monotonic() + PATIENCE
    while len(one.assignment()) != 2 or len(two.assignment()) != 2:
        assert time.monotonic() < deadline, "the second member got no share"
        assert one.poll(0.05) is None and two.poll(0.05) is None
    shares = {at.partition for member in (one, two) for at in member.assignment()}
    assert shares == {0, 1, 2, 3}
    produce(bootstrap, 500, 1000, "lz4")
    assert consume([one, two], 500) == list(range(500, 1000))
    one.commit(asynchronous=False)
    two.commit(asynchronous=False)

    group = admin.describe_consumer_groups([GROUP])[GROUP].result(PATIENCE)
    assert group.state.name == "STABLE" and len(group.members) == 2, group
    listed = admin.list_consumer_groups().result(PATIENCE)
    assert GROUP in [group.group_id for group in listed.valid]
    one.close()
    two.close()
    produce(bootstrap, 1000, 1500, "gzip")


def second(bootstrap):
    member = consumer(bootstrap)
    committed = member.committed([TopicPartition(TOPIC, at) for at in range(4)], PATIENCE)
    assert sum(at.offset for at in committed) == 1000, committed
    member.subscribe([TOPIC])
    assert consume([member], 500) == list(range(1000, 1500))
    member.commit(asynchronous=False)
    member.close()


def settled(admin, members, count):
    """Polls until the members hold `count` partitions between them, each at least one."""
    deadline = time.monotonic() + PATIENCE
    while True:
        shares = [{at.partition for at in member.assignment()} for member in members]
        if all(shares) and sum(map(len, shares)) == count == len(set().union(*shares)):
            return
        assert time.monotonic() < deadline, shares
        for member in members:
            message = member.poll(0.05)
            assert message is None or message.error() is None, message.error()


def modern(bootstrap):
    """The consumer protocol: a classic group moves to it, shares, and moves back."""

    def member(protocol):
        settings = {
            "bootstrap.servers": bootstrap,
            "group.id": "modern",
            "group.protocol": protocol,
            "auto.offset.reset": "earliest",
        }
        if protocol == "classic":
            settings["heartbeat.interval.ms"] = 200
        return Consumer(settings)

    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(TOPIC, 4, 1)])[TOPIC].result(PATIENCE)
    old = member("classic")
    old.subscribe([TOPIC])
    settled(admin, [old], 4)
    new = member("consumer")
    new.subscribe([TOPIC])
    settled(admin, [old, new], 4)
    old.close()
    settled(admin, [new], 4)
    other = member("consumer")
    other.subscribe([TOPIC])
    settled(admin, [new, other], 4)
    produce(bootstrap, 0, 100, "none")
    assert consume([new, other], 100) == list(range(100))
    new.commit(asynchronous=False)
    other.commit(asynchronous=False)
    other.close()
    settled(admin, [new], 4)
    back = member("classic")
    back.subscribe([TOPIC])
    settled(admin, [new, back], 4)
    new.close()
    settled(admin, [back], 4)
    back.close()


{"first": first, "second": second, "modern": modern}[sys.argv[2]](sys.argv[1])
