"""What a user of transactions does with confluent-kafka: commit, abort, fence, and process a topic
into another exactly once.

    python transactions.py BOOTSTRAP
"""

import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

BOOTSTRAP, PATIENCE = sys.argv[1], 60.0
COMMITTED, ABORTED = 300, 150


def producer(name):
    made = Producer({"bootstrap.servers": BOOTSTRAP, "transactional.id": name})
    made.init_transactions(PATIENCE)
    return made


def consumer(group, isolation):
    return Consumer(
        {
            "bootstrap.servers": BOOTSTRAP,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "heartbeat.interval.ms": 200,
            "isolation.level": isolation,
        }
    )


def poll(member):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        message = member.poll(0.05)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        return message
    raise AssertionError("a record did not come")


def read(topic, group, isolation, count):
    """The numbers of a topic; fails if there are more than that."""
    member = consumer(group, isolation)
    member.subscribe([topic])
    numbers = sorted(int(poll(member).value()) for _ in range(count))
    assert member.poll(0.5) is None, "there are more"
    member.close()
    return numbers


def write(by, topic, numbers):
    for number in numbers:
        by.produce(topic, key=f"key-{number % 13}", value=str(number))
        by.poll(0)


def commit_and_abort():
    by = producer("writer")
    for begin in range(0, COMMITTED + ABORTED, 50):
        by.begin_transaction()
        write(by, "in", range(begin, begin + 50))
        if begin % 150 == 50:
            by.flush(PATIENCE)
            by.abort_transaction(PATIENCE)
        else:
            by.commit_transaction(PATIENCE)
    expected = [n for n in range(COMMITTED + ABORTED) if n // 50 % 3 != 1]
    assert read("in", "committed", "read_committed", COMMITTED) == expected
    everything = read("in", "all", "read_uncommitted", COMMITTED + ABORTED)
    assert everything == list(range(COMMITTED + ABORTED))
    return by, expected


def fence(old):
    old.begin_transaction()
    write(old, "in", [-1])
    old.flush(PATIENCE)
    new = producer("writer")
    try:
        old.commit_transaction(PATIENCE)
    except KafkaException as error:
        assert error.args[0].fatal(), error
    else:
        raise AssertionError("what a newer instance has fenced commits")
    new.begin_transaction()
    new.commit_transaction(PATIENCE)


def process(expected):
    """Doubles what is in `in`; now and then a transaction is aborted and done again."""
    member, by = consumer("processor", "read_committed"), producer("processor")
    member.subscribe(["in"])
    done, turn = 0, 0
    while done < len(expected):
        by.begin_transaction()
        batch = [poll(member) for _ in range(25)]
        write(by, "out", [2 * int(message.value()) for message in batch])
        positions = member.position(member.assignment())
        by.send_offsets_to_transaction(positions, member.consumer_group_metadata(), PATIENCE)
        turn += 1
        if turn % 4 == 2:
            by.abort_transaction(PATIENCE)
            for at in member.committed(member.assignment(), PATIENCE):
                at.offset = max(at.offset, 0)
                member.seek(at)
        else:
            by.commit_transaction(PATIENCE)
            done += len(batch)
    committed = member.committed(member.assignment(), PATIENCE)
    assert committed == member.position(member.assignment()), committed
    member.close()
    doubled = read("out", "out", "read_committed", len(expected))
    assert doubled == [2 * number for number in expected]


admin = AdminClient({"bootstrap.servers": BOOTSTRAP})
for made in admin.create_topics([NewTopic(topic, 3, 1) for topic in ("in", "out")]).values():
    made.result(PATIENCE)
writer, numbers = commit_and_abort()
fence(writer)
process(numbers)
