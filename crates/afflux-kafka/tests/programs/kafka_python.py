"""kafka-python, which speaks the protocol by itself."""

import re
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Thread

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition, errors
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.structs import OffsetAndMetadata
from lines import PATIENCE, Record, place, serve, until


class Member:
    """A consumer that polls by itself, in a thread of its own.

    This client forgets a join that ends between two polls, and joins again (3.0.12,
    `join_group_async`). Two members that one thread polls in turn can so begin one rebalance after
    another without an end, whatever the broker: each joins while the other polls.
    """

    def __init__(self, consumer):
        self.consumer = consumer
        self.calls = SimpleQueue()
        self.polled = SimpleQueue()
        Thread(target=self._run, daemon=True).start()

    def _run(self):
        closed = False
        while not closed:
            try:
                name, arguments, done = self.calls.get_nowait()
            except Empty:
                name, arguments, done = "poll", [50], Future()
                self.polled.put(done)
            try:
                done.set_result(getattr(self.consumer, name)(*arguments))
            except Exception as error:  # it is of the one who asks
                done.set_exception(error)
            closed = name == "close"

    def call(self, name, *arguments):
        """The answer of a method, called between two polls."""
        done = Future()
        self.calls.put((name, arguments, done))
        return done.result(PATIENCE)

    def poll(self):
        """What is assigned, and what all polls brought that nobody has asked for, one at least."""
        assigned = self.call("assignment")
        polls = [self.polled.get(timeout=PATIENCE)]
        while not self.polled.empty():
            polls.append(self.polled.get())
        return assigned, [record for poll in polls for record in unpacked(poll.result(PATIENCE))]


def unpacked(polled):
    return [
        Record(got.partition, got.key, got.value, got.timestamp, got.headers)
        for batch in polled.values()
        for got in batch
    ]


class Client:
    def connect(self, bootstrap):
        self.servers = {"bootstrap_servers": bootstrap}
        self.admin = KafkaAdminClient(**self.servers)
        self.members, self.producers = {}, {}

    # Producers

    def producer(self, name, codec, transactional_id):
        ids = {"transactional_id": transactional_id} if transactional_id != "~" else {}
        codec = None if codec == "none" else codec
        made = KafkaProducer(**self.servers, **ids, compression_type=codec, linger_ms=20)
        self.producers[name] = made
        if ids:
            made.init_transactions()

    def send(self, name, topic, *records):
        producer = self.producers[name]
        sent = [
            producer.send(
                topic,
                record.value,
                record.key,
                record.headers,
                partition=record.partition,
                timestamp_ms=record.time,
            )
            for record in map(Record.parse, records)
        ]
        producer.flush(PATIENCE)
        return [one.get(PATIENCE).offset for one in sent]

    def begin(self, name):
        self.producers[name].begin_transaction()

    def offset_in_transaction(self, name, member, topic, offset):
        positions = {TopicPartition(topic, 0): OffsetAndMetadata(int(offset), "", -1)}
        metadata = self.members[member].call("group_metadata")
        self.producers[name].send_offsets_to_transaction(positions, metadata)

    def end(self, name, how):
        producer = self.producers[name]
        (producer.commit_transaction if how == "commit" else producer.abort_transaction)()

    # Consumers

    def _consumer(self, group, **settings):
        common = {"enable_auto_commit": False, "auto_offset_reset": "earliest"}
        return KafkaConsumer(**self.servers, **common, group_id=group, **settings)

    def read(self, topic, offset, count, isolation):
        member = self._consumer(None, isolation_level=isolation)
        at = TopicPartition(topic, 0)
        member.assign([at])
        member.seek(at, int(offset))
        records = []
        while len(records) < int(count):
            records += until(lambda: unpacked(member.poll(50)))
        member.close()
        return records

    def join(self, name, group, topic, _protocol):
        consumer = self._consumer(group, heartbeat_interval_ms=200)
        consumer.subscribe([topic])
        self.members[name] = Member(consumer)

    def poll(self, name):
        assigned, records = self.members[name].poll()
        return [len(assigned), *records]

    def commit(self, name, topic, *offsets):
        at = {
            TopicPartition(topic, partition): OffsetAndMetadata(offset, "", -1)
            for partition, offset in map(place, offsets)
        }
        self.members[name].call("commit", at)

    def committed(self, name, topic, partitions):
        member = self.members[name]
        all_of_it = [TopicPartition(topic, at) for at in range(int(partitions))]
        return [member.call("committed", at) for at in all_of_it]

    def leave(self, name):
        self.members.pop(name).call("close")

    # Administration

    def _check(self, outcome):
        """An outcome is "OK", or names an error."""
        if outcome != "OK":
            raise getattr(errors, re.search(r"\w+Error", outcome)[0])(outcome)

    def create(self, topic, partitions, setting, value):
        self.admin.create_topics([NewTopic(topic, int(partitions), 1, None, {setting: value})])

    def grow(self, topic, partitions):
        self.admin.create_partitions({topic: int(partitions)})

    def delete(self, topic):
        self.admin.delete_topics([topic])

    def partitions(self, topic):
        return [len(self.admin.describe_topics([topic])[0]["partitions"])]

    def missing(self, topic):
        raise errors.for_code(self.admin.describe_topics([topic])[0]["error_code"])

    def describe(self, topic, setting):
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, [setting])
        found = self.admin.describe_configs([resource], config_filter="all")
        return [found["topic"][topic][setting]["value"]]

    def alter(self, topic, setting, value):
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, {setting: value})
        self._check(self.admin.alter_configs([resource])["topic"][topic])

    def delete_records(self, topic, offset):
        at = TopicPartition(topic, 0)
        return [self.admin.delete_records({at: int(offset)})[at]["low_watermark"]]

    def groups(self):
        return [group["group_id"] for group in self.admin.list_groups()]

    def state(self, group):
        found = self.admin.describe_groups([group])
        return [found[group]["group_state"]]

    def delete_group(self, group):
        self._check(self.admin.delete_groups([group])[group])

    def offset(self, topic, time):
        at, ends = TopicPartition(topic, 0), {"earliest": -2, "latest": -1}
        spec = ends[time] if time in ends else int(time)
        return [self.admin.list_partition_offsets({at: spec})[at].offset]


def code(error):
    return error.errno if isinstance(error, errors.KafkaError) else "~"


serve(Client(), code)
