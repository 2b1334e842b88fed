"""What rank 0 tells the other ranks, and what they answer: JSON and protobuf in length-prefixed frames."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from syncline.v1.rollout_pb2 import ScoredGroup

LENGTH = struct.Struct("!Q")
"""In front of every frame: the bytes that follow."""


@dataclass(frozen=True, slots=True)
class Order:
    """One thing that every rank does now, rank 0 included."""

    name: str
    """A method of `Participant`."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    groups: Sequence[ScoredGroup] = ()

    def encode(self) -> bytes:
        bodies = [group.SerializeToString() for group in self.groups]
        head = {"name": self.name, "fields": self.fields, "sizes": [len(body) for body in bodies]}
        encoded = json.dumps(head).encode()
        return b"".join([LENGTH.pack(len(encoded)), encoded, *bodies])

    @classmethod
    def decode(cls, data: bytes) -> Order:
        (stop,) = LENGTH.unpack_from(data)
        stop += LENGTH.size
        head = json.loads(data[LENGTH.size : stop])
        groups = []
        for size in head["sizes"]:
            groups.append(ScoredGroup.FromString(data[stop : stop + size]))
            stop += size
        return cls(head["name"], head["fields"], groups)


@dataclass(frozen=True, slots=True)
class Answer:
    """An order is carried out, or why not."""

    problem: str = ""
    """Empty when all is well."""
    code: str = ""
    """Of the error, as in `syncline.errors`."""
    leaving: bool = False
    """The rank ends: it may be out of step with the others."""

    def encode(self) -> bytes:
        return json.dumps({"problem": self.problem, "code": self.code, "leaving": self.leaving}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Answer:
        return cls(**json.loads(data))


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame of a connection."""

    token: str
    """Proves that the caller is a rank of this learner."""
    rank: int
    name: str
    """For people: rank, process and host."""

    def encode(self) -> bytes:
        return json.dumps({"token": self.token, "rank": self.rank, "name": self.name}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Hello:
        return cls(**json.loads(data))


def frame(payload: bytes) -> bytes:
    return LENGTH.pack(len(payload)) + payload
