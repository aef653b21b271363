"""A live group of confluent-kafka moves to the consumer protocol and back.

    python group_protocols.py BOOTSTRAP
"""

import sys
import time

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

TOPIC, PATIENCE = "python", 60.0


def settled(members, count):
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


def whole(bootstrap):
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
    settled([old], 4)
    new = member("consumer")
    new.subscribe([TOPIC])
    settled([old, new], 4)
    old.close()
    settled([new], 4)
    other = member("consumer")
    other.subscribe([TOPIC])
    settled([new, other], 4)
    producer = Producer({"bootstrap.servers": bootstrap})
    for number in range(100):
        producer.produce(TOPIC, str(number), partition=number % 4)
    assert producer.flush(PATIENCE) == 0
    numbers, deadline = set(), time.monotonic() + PATIENCE
    while len(numbers) < 100:
        assert time.monotonic() < deadline, numbers
        for at in (new, other):
            message = at.poll(0.05)
            if message is not None:
                numbers.add(int(message.value()))
    new.commit(asynchronous=False)
    other.commit(asynchronous=False)
    other.close()
    settled([new], 4)
    back = member("classic")
    back.subscribe([TOPIC])
    settled([new, back], 4)
    new.close()
    settled([back], 4)
    back.close()


whole(sys.argv[1])
