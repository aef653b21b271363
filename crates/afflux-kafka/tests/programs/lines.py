"""How the programs in Python are spoken to; `../clients/program.rs` says what is said.

A client is a class whose methods are named as the commands; each answer is a list of fields.
"""

import sys
import time
import traceback
from dataclasses import dataclass, field

PATIENCE = 30.0


def parse(text):
    return None if text == "~" else text.encode()


def show(value):
    return "~" if value is None else value.decode()


@dataclass
class Record:
    """A record as it is written on a line: `partition|key|value|time|name=value,name=value`."""

    partition: int
    key: bytes | None
    value: bytes | None
    time: int | None = None
    headers: list = field(default_factory=list)

    @classmethod
    def parse(cls, text):
        partition, key, value, when, headers = text.split("|")
        pairs = [pair.split("=") for pair in headers.split(",") if pair]
        return cls(
            int(partition),
            parse(key),
            parse(value),
            None if when == "~" else int(when),
            [(name, parse(text)) for name, text in pairs],
        )

    def __str__(self):
        headers = ",".join(f"{name}={show(value)}" for name, value in self.headers or [])
        return f"{self.partition}|{show(self.key)}|{show(self.value)}|{self.time}|{headers}"


def place(text):
    """Partition and offset, from `partition=offset`."""
    partition, offset = text.split("=")
    return int(partition), int(offset)


def until(value):
    """Calls until there is something, and gives that."""
    deadline = time.monotonic() + PATIENCE
    while not (got := value()):
        if time.monotonic() > deadline:
            raise TimeoutError("it does not come")
    return got


def serve(client, code):
    """Answers commands until there are no more; `code` gives that of an exception."""
    for line in sys.stdin:
        verb, *arguments = line.rstrip("\n").split("\t")
        try:
            fields = getattr(client, verb)(*arguments)
            answer = ["ok", *map(str, fields or [])]
        except Exception as error:  # whatever it is, it is the answer
            traceback.print_exc()
            answer = ["error", str(code(error)), repr(error).replace("\n", " ").replace("\t", " ")]
        print("\t".join(answer), flush=True)
