"""Members of confluent-kafka come and go, and partitions move one by one (`cooperative-sticky`).

    python cooperative.py BOOTSTRAP

Whoever must give a partition up commits first, so that nobody sees a record again.
"""

import sys
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

TOPIC, PARTITIONS, PATIENCE = "cooperative", 6, 60.0


class Member:
    def __init__(self, bootstrap):
        settings = {
            "bootstrap.servers": bootstrap,
            "group.id": TOPIC,
            "partition.assignment.strategy": "cooperative-sticky",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "heartbeat.interval.ms": 200,
        }
        self.consumer = Consumer(settings)
        # What it has, and what was given to it and taken from it since somebody asked.
        self.held, self.given, self.taken = set(), set(), set()
        self.consumer.subscribe(
            [TOPIC], on_assign=self.assign, on_revoke=self.revoke, on_lost=self.lose
        )

    def assign(self, _, places):
        new = {at.partition for at in places}
        assert not new & self.held, "what it is given it does not have"
        self.held |= new
        self.given |= new

    def revoke(self, _, places):
        self.commit()
        old = {at.partition for at in places}
        assert old <= self.held, "what is taken it has"
        self.held -= old
        self.taken |= old

    def lose(self, _, places):
        raise AssertionError(f"lost: {places}")

    def commit(self):
        try:
            self.consumer.commit(asynchronous=False)
        except KafkaException as error:
            # It has read nothing since.
            if error.args[0].code() != KafkaError._NO_OFFSET:
                raise

    def poll(self):
        message = self.consumer.poll(0.02)
        if message is None:
            return []
        assert message.error() is None, message.error()
        assert message.partition() in self.held, "it reads what it has"
        return [int(message.value())]


class World:
    def __init__(self, bootstrap):
        self.bootstrap, self.members, self.read, self.written = bootstrap, [], [], 0
        admin = AdminClient({"bootstrap.servers": bootstrap})
        admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])[TOPIC].result(PATIENCE)
        self.producer = Producer({"bootstrap.servers": bootstrap})

    def write(self):
        for number in range(self.written, self.written + 60):
            self.producer.produce(TOPIC, str(number), partition=number % PARTITIONS)
        self.written += 60
        assert self.producer.flush(PATIENCE) == 0

    def settle(self):
        """Until all partitions are shared evenly, and all is read."""
        deadline = time.monotonic() + PATIENCE
        share = PARTITIONS // len(self.members)
        while True:
            shares = [member.held for member in self.members]
            if all(len(held) == share for held in shares) and len(self.read) >= self.written:
                assert set().union(*shares) == set(range(PARTITIONS)), shares
                # Exactly: nobody has seen any twice.
                assert sorted(self.read) == list(range(self.written)), sorted(self.read)
                return
            assert time.monotonic() < deadline, (shares, len(self.read), self.written)
            for member in self.members:
                self.read += member.poll()

    def come(self):
        before = {member: set(member.held) for member in self.members}
        new = Member(self.bootstrap)
        self.members.append(new)
        self.write()
        self.settle()
        moved = set()
        for member, held in before.items():
            # It gives up what is over its share, keeps all else, and is given nothing.
            assert member.taken == held - member.held and not member.given, (held, member.taken)
            moved |= member.taken
        assert not before or new.given == moved == new.held, (new.given, moved)
        assert not new.taken
        self.forget()

    def go(self):
        gone = self.members.pop()
        held = set(gone.held)
        self.write()
        gone.consumer.close()
        self.settle()
        given = [member.given for member in self.members]
        assert set().union(*given) == held and sum(map(len, given)) == len(held), (given, held)
        assert not any(member.taken for member in self.members), "nobody else gives anything up"
        self.forget()

    def forget(self):
        for member in self.members:
            member.given, member.taken = set(), set()


world = World(sys.argv[1])
for step in [world.come, world.come, world.come, world.go, world.go, world.come, world.go]:
    step()
world.members.pop().consumer.close()
