"""What the pool and its processes say to each other. No pickle: fixed structs and lines of JSON."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Literal

BUNCH = 8
"""Outcomes that a worker may tell together: one wake-up of the service for several short checks."""
END_OF_QUESTIONS = b"\n"
"""Nothing more is on its way: the worker tells all outcomes that it has."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one check may use. CPU time, not wall time: a verdict must not depend on how busy the machine is."""

    cpu_s: float
    memory_mb: int
    """Address space of a worker, its interpreter and libraries included."""


@dataclass(frozen=True, slots=True)
class Question:
    """One check. Equal questions have equal outcomes."""

    verifier: str
    """Its name in the registry."""
    gold: str
    answer: str
    """The completion, or what was cut out of it."""
    options: str = "{}"
    """JSON object with sorted keys."""

    def to_line(self, *, cpu_s: float) -> bytes:
        return json.dumps([cpu_s, self.verifier, self.gold, self.answer, self.options]).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> tuple[Question, float]:
        """The question, and how many CPU seconds it may take."""
        cpu_s, *question = json.loads(line)
        return cls(*question), cpu_s


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one check. `gold`: the gold answer itself cannot be read, which is an error of the data."""

    status: Literal["scored", "unparsable", "timeout", "gold"]
    score: float = 0.0
    cause: str = ""
    seconds: float = 0.0
    """Wall seconds in the worker."""
    bug: bool = False
    """The verifier failed in a way that it should not."""
    accident: bool = False
    """Not the doing of the answer: another try may end otherwise."""
    last: bool = False
    """The worker ends after this check, because it has grown too large."""

    def ending(self) -> Outcome:
        """The same, from a worker that ends after it."""
        return replace(self, last=True)

    def to_line(self) -> bytes:
        fields = [self.status, self.score, self.cause, self.seconds, self.bug, self.accident, self.last]
        return json.dumps(fields).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Outcome:
        return cls(*json.loads(line))


class Kind(IntEnum):
    """Messages between the pool and the zygote."""

    START = 1
    """Pool: fork a worker that talks over the attached socket; `code` is its niceness."""
    KILL = 2
    """Pool: kill worker `pid`, if it lives."""
    READY = 3
    """Zygote: all imports are done."""
    STARTED = 4
    """Zygote: worker `pid` answers the oldest START."""
    EXITED = 5
    """Zygote: worker `pid` ended with `code` (minus the signal's number if it was killed)."""


_MESSAGE = struct.Struct("!BiiQ?")
MESSAGE_BYTES = _MESSAGE.size


@dataclass(frozen=True, slots=True)
class Message:
    kind: Kind
    pid: int = 0
    code: int = 0
    begun: int = 0
    """Checks that a worker that ended had begun."""
    grown: bool = False
    """Whether a worker that ended held more memory than one may keep."""

    def to_bytes(self) -> bytes:
        return _MESSAGE.pack(self.kind, self.pid, self.code, self.begun, self.grown)

    @classmethod
    def from_bytes(cls, data: bytes) -> Message:
        kind, *fields = _MESSAGE.unpack(data)
        return cls(Kind(kind), *fields)
