"""aiokafka: its own protocol, everything in one event loop."""

import asyncio
import threading
from functools import wraps

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition, errors
from aiokafka.admin import (
    AIOKafkaAdminClient,
    NewPartitions,
    NewTopic,
    RecordsToDelete,
)
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import OffsetAndMetadata
from lines import PATIENCE, Record, place, serve

# Heartbeats go on between commands.
LOOP = asyncio.new_event_loop()
threading.Thread(target=LOOP.run_forever, daemon=True).start()


def waits(method):
    """Makes an ordinary method of one that runs in the loop."""

    @wraps(method)
    def call(*arguments):
        return asyncio.run_coroutine_threadsafe(method(*arguments), LOOP).result(PATIENCE)

    return call


def check(number):
    if number:
        raise errors.for_code(number)(number)


class Client:
    @waits
    async def connect(self, bootstrap):
        self.servers = {"bootstrap_servers": bootstrap}
        self.admin = AIOKafkaAdminClient(**self.servers)
        self.members, self.joined, self.producers = {}, {}, {}
        await self.admin.start()

    # Producers

    @waits
    async def producer(self, name, codec, transactional_id):
        ids = {"transactional_id": transactional_id} if transactional_id != "~" else {}
        codec = None if codec == "none" else codec
        settings = {"compression_type": codec, "enable_idempotence": True, "linger_ms": 20}
        self.producers[name] = AIOKafkaProducer(**self.servers, **ids, **settings)
        await self.producers[name].start()

    @waits
    async def send(self, name, topic, *records):
        sent = [
            await self.producers[name].send(
                topic,
                record.value,
                record.key,
                record.partition,
                record.time,
                record.headers,
            )
            for record in map(Record.parse, records)
        ]
        return [(await one).offset for one in sent]

    @waits
    async def begin(self, name):
        await self.producers[name].begin_transaction()

    @waits
    async def offset_in_transaction(self, name, member, topic, offset):
        positions = {TopicPartition(topic, 0): OffsetAndMetadata(int(offset), "")}
        await self.producers[name].send_offsets_to_transaction(positions, self.joined[member])

    @waits
    async def end(self, name, how):
        producer = self.producers[name]
        await (producer.commit_transaction if how == "commit" else producer.abort_transaction)()

    # Consumers

    def _consumer(self, group, **settings):
        common = {"enable_auto_commit": False, "auto_offset_reset": "earliest"}
        return AIOKafkaConsumer(**self.servers, **common, group_id=group, **settings)

    async def _poll(self, member):
        return [
            Record(got.partition, got.key, got.value, got.timestamp, got.headers)
            for batch in (await member.getmany(timeout_ms=50)).values()
            for got in batch
        ]

    @waits
    async def read(self, topic, offset, count, isolation):
        member, at = self._consumer(None, isolation_level=isolation), TopicPartition(topic, 0)
        await member.start()
        member.assign([at])
        member.seek(at, int(offset))
        records = []
        while len(records) < int(count):
            records += await self._poll(member)
        await member.stop()
        return records

    @waits
    async def join(self, name, group, topic, _protocol):
        self.joined[name] = group
        self.members[name] = self._consumer(group, heartbeat_interval_ms=200)
        self.members[name].subscribe([topic])
        await self.members[name].start()

    @waits
    async def poll(self, name):
        member = self.members[name]
        records = await self._poll(member)
        return [len(member.assignment()), *records]

    @waits
    async def commit(self, name, topic, *offsets):
        at = {TopicPartition(topic, at): offset for at, offset in map(place, offsets)}
        await self.members[name].commit(at)

    @waits
    async def committed(self, name, topic, partitions):
        member = self.members[name]
        return [await member.committed(TopicPartition(topic, at)) for at in range(int(partitions))]

    @waits
    async def leave(self, name):
        await self.members.pop(name).stop()

    # Administration

    @waits
    async def create(self, topic, partitions, setting, value):
        new = NewTopic(topic, int(partitions), 1, topic_configs={setting: value})
        check((await self.admin.create_topics([new])).topic_errors[0][1])

    @waits
    async def grow(self, topic, partitions):
        response = await self.admin.create_partitions({topic: NewPartitions(int(partitions))})
        check(response.topic_errors[0][1])

    @waits
    async def delete(self, topic):
        check((await self.admin.delete_topics([topic])).topic_error_codes[0][1])

    @waits
    async def partitions(self, topic):
        return [len((await self.admin.describe_topics([topic]))[0]["partitions"])]

    @waits
    async def missing(self, topic):
        check((await self.admin.describe_topics([topic]))[0]["error_code"])

    @waits
    async def describe(self, topic, setting):
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, {setting: None})
        found = (await self.admin.describe_configs([resource]))[0].resources[0]
        check(found[0])
        return [found[4][0][1]]

    @waits
    async def alter(self, topic, setting, value):
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, {setting: value})
        check((await self.admin.alter_configs([resource]))[0].resources[0][0])

    @waits
    async def delete_records(self, topic, offset):
        at = TopicPartition(topic, 0)
        return [(await self.admin.delete_records({at: RecordsToDelete(int(offset))}))[at]]

    @waits
    async def groups(self):
        return [group[0] for group in await self.admin.list_consumer_groups()]

    @waits
    async def state(self, group):
        return [(await self.admin.describe_consumer_groups([group]))[0].groups[0][2]]

    @waits
    async def offset(self, topic, time):
        member, at = self._consumer(None), TopicPartition(topic, 0)
        await member.start()
        member.assign([at])
        if time == "earliest":
            found = (await member.beginning_offsets([at]))[at]
        elif time == "latest":
            found = (await member.end_offsets([at]))[at]
        else:
            found = (await member.offsets_for_times({at: int(time)}))[at]
            found = -1 if found is None else found.offset
        await member.stop()
        return [found]


def code(error):
    return getattr(error, "errno", "~") if isinstance(error, errors.KafkaError) else "~"


serve(Client(), code)
