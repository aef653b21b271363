"""kcat, which is librdkafka as Debian has it: a process for each command."""

import re
import subprocess

from lines import Record, serve

CODES = {"Unknown topic or partition": 3, "Message size too large": 10}


class Refused(Exception):
    pass


class Client:
    def connect(self, bootstrap):
        self.bootstrap, self.codecs = bootstrap, {}

    def _kcat(self, *arguments, lines=()):
        done = subprocess.run(
            ["kcat", "-b", self.bootstrap, *arguments],
            input="".join(f"{line}\n" for line in lines),
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise Refused(done.stderr)
        return done

    def producer(self, name, codec, _id):
        self.codecs[name] = codec

    def send(self, name, topic, *records):
        """Records of partition 0, without keys, headers and times."""
        values = [Record.parse(record).value.decode() for record in records]
        settings = ["-X", "enable.idempotence=true", "-X", "linger.ms=20"]
        done = self._kcat("-P", "-vvv", "-t", topic, "-p", "0", "-z", self.codecs[name], *settings, lines=values)
        return re.findall(r"delivered to partition 0 \(offset (\d+)\)", done.stderr)

    def read(self, topic, offset, count, isolation):
        where = ["-t", topic, "-p", "0", "-o", offset, "-c", count]
        shape = ["-f", "%p|~|%s|%T|\n", "-X", f"isolation.level={isolation}"]
        return self._kcat("-C", "-q", *where, *shape).stdout.splitlines()

    def missing(self, topic):
        self._kcat("-C", "-e", "-t", topic)


def code(error):
    return next((code for text, code in CODES.items() if text in str(error)), "~")


serve(Client(), code)
