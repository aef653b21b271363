"""confluent-kafka-python, which is librdkafka."""

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
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
from lines import PATIENCE, Record, place, serve, until


class Client:
    def connect(self, bootstrap):
        self.servers = {"bootstrap.servers": bootstrap}
        self.admin = AdminClient(self.servers)
        self.members, self.producers = {}, {}

    # Producers

    def producer(self, name, codec, transactional_id):
        ids = {"transactional.id": transactional_id} if transactional_id != "~" else {}
        settings = {"compression.type": codec, "enable.idempotence": True, "linger.ms": 20}
        self.producers[name] = Producer({**self.servers, **settings, **ids})
        if ids:
            self.producers[name].init_transactions(PATIENCE)

    def send(self, name, topic, *records):
        producer, places = self.producers[name], []

        def delivered(error, message):
            places.append(error or message.offset())

        for record in map(Record.parse, records):
            time = {"timestamp": record.time} if record.time else {}
            producer.produce(
                topic,
                record.value,
                record.key,
                partition=record.partition,
                headers=record.headers,
                on_delivery=delivered,
                **time,
            )
        producer.flush(PATIENCE)
        for place in places:
            if not isinstance(place, int):
                raise KafkaException(place)
        return places

    def begin(self, name):
        self.producers[name].begin_transaction()

    def offset_in_transaction(self, name, member, topic, offset):
        positions = [TopicPartition(topic, 0, int(offset))]
        metadata = self.members[member].consumer_group_metadata()
        self.producers[name].send_offsets_to_transaction(positions, metadata, PATIENCE)

    def end(self, name, how):
        producer = self.producers[name]
        (producer.commit_transaction if how == "commit" else producer.abort_transaction)(PATIENCE)

    # Consumers

    def _consumer(self, group, **settings):
        common = {"enable.auto.commit": False, "auto.offset.reset": "earliest"}
        return Consumer({**self.servers, **common, "group.id": group, **settings})

    def _poll(self, member):
        message = member.poll(0.05)
        if message is None:
            return []
        if message.error():
            raise KafkaException(message.error())
        time, headers = message.timestamp()[1], message.headers()
        return [Record(message.partition(), message.key(), message.value(), time, headers)]

    def read(self, topic, offset, count, isolation):
        member = self._consumer("reader", **{"isolation.level": isolation})
        member.assign([TopicPartition(topic, 0, int(offset))])
        records = []
        while len(records) < int(count):
            records += until(lambda: self._poll(member))
        member.close()
        return records

    def join(self, name, group, topic, protocol):
        classic = {"heartbeat.interval.ms": 200} if protocol == "classic" else {}
        self.members[name] = self._consumer(group, **{"group.protocol": protocol}, **classic)
        self.members[name].subscribe([topic])

    def poll(self, name):
        member = self.members[name]
        records = self._poll(member)
        return [len(member.assignment()), *records]

    def commit(self, name, topic, *offsets):
        places = [TopicPartition(topic, *at) for at in map(place, offsets)]
        self.members[name].commit(offsets=places, asynchronous=False)

    def committed(self, name, topic, partitions):
        places = [TopicPartition(topic, at) for at in range(int(partitions))]
        return [at.offset for at in self.members[name].committed(places, PATIENCE)]

    def leave(self, name):
        self.members.pop(name).close()

    # Administration

    def create(self, topic, partitions, setting, value):
        new = NewTopic(topic, int(partitions), 1, config={setting: value})
        self.admin.create_topics([new])[topic].result(PATIENCE)

    def grow(self, topic, partitions):
        new = NewPartitions(topic, int(partitions))
        self.admin.create_partitions([new])[topic].result(PATIENCE)

    def delete(self, topic):
        self.admin.delete_topics([topic])[topic].result(PATIENCE)

    def partitions(self, topic):
        found = self.admin.list_topics(timeout=PATIENCE).topics.get(topic)
        return [len(found.partitions) if found else 0]

    def missing(self, topic):
        member = self._consumer("missing")
        member.subscribe([topic])
        until(lambda: self._poll(member))

    def describe(self, topic, setting):
        resource = ConfigResource(ResourceType.TOPIC, topic)
        return [self.admin.describe_configs([resource])[resource].result(PATIENCE)[setting].value]

    def alter(self, topic, setting, value):
        entry = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        self.admin.incremental_alter_configs([resource])[resource].result(PATIENCE)

    def delete_records(self, topic, offset):
        before = TopicPartition(topic, 0, int(offset))
        return [self.admin.delete_records([before])[before].result(PATIENCE).low_watermark]

    def groups(self):
        found = self.admin.list_consumer_groups().result(PATIENCE).valid
        return [group.group_id for group in found]

    def state(self, group):
        described = self.admin.describe_consumer_groups([group])[group]
        return [described.result(PATIENCE).state.name]

    def delete_group(self, group):
        self.admin.delete_consumer_groups([group])[group].result(PATIENCE)

    def offset(self, topic, time):
        ends = {"earliest": OffsetSpec.earliest, "latest": OffsetSpec.latest}
        spec = ends[time]() if time in ends else OffsetSpec.for_timestamp(int(time))
        at = TopicPartition(topic, 0)
        return [self.admin.list_offsets({at: spec})[at].result(PATIENCE).offset]


def code(error):
    return error.args[0].code() if isinstance(error, KafkaException) else "~"


serve(Client(), code)
