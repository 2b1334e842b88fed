"""The one error tree of Syncline.

    SynclineError
    |- InvalidSpec            a run spec (or a file that it names) is wrong; nothing was started
    |- NotFound               no such run, checkpoint or member
    |- Conflict               the request does not fit the present state
    |- Unauthorized           no bearer token, or a wrong one
    |- Unavailable            a peer does not answer at the moment; trying again is right
    |  |- PeerTimeout         a deadline passed; the message names the peer
    |  `- StoreUnreachable    an object store or a model hub does not answer
    |- StorageError           what belongs to a run cannot be written or read; most often the disk is full
    |  `- StoreRefused        an object store or a model hub says no: no such bucket, no right, no credentials
    |- CheckpointError        a checkpoint cannot be trusted
    |  |- DigestMismatch      the bytes are not those of the handle
    |  `- ProbeMismatch       the engine does not compute what the learner computed
    |- EngineError            the inference engine
    |  |- LoadFailed          weights could not be staged; the old version still serves
    |  `- EngineDead          the engine cannot go on; it has to be built anew
    `- RunFailed              the run cannot go on; the message says what to do

Each class fixes a stable `code`, a gRPC status (by name, so that this module
needs no grpc), and an HTTP status. One interceptor (`syncline.rpc`) and one
exception handler (the coordinator's) do all the mapping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One thing wrong with one field of a run spec.

    `path` is dotted (`tasks.0.data`), `problem` says what is wrong, `allowed` what would be right.
    """

    path: str
    problem: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; allowed: {self.allowed}"


class SynclineError(Exception):
    """Base of every error that Syncline raises on purpose."""

    code: ClassVar[str] = "internal"
    grpc_status: ClassVar[str] = "INTERNAL"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidSpec(SynclineError):
    """The run spec was refused. Every problem is listed, so that one round of mending is enough."""

    code = "invalid_spec"
    grpc_status = "INVALID_ARGUMENT"
    http_status = 422

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class NotFound(SynclineError):
    """The named thing does not exist."""

    code = "not_found"
    grpc_status = "NOT_FOUND"
    http_status = 404


class Conflict(SynclineError):
    """The request does not fit the present state; the message names that state."""

    code = "conflict"
    grpc_status = "FAILED_PRECONDITION"
    http_status = 409


class Unauthorized(SynclineError):
    """The bearer token is missing or wrong."""

    code = "unauthorized"
    grpc_status = "UNAUTHENTICATED"
    http_status = 401


class Unavailable(SynclineError):
    """A peer does not answer at the moment."""

    code = "unavailable"
    grpc_status = "UNAVAILABLE"
    http_status = 503
    retryable = True


class PeerTimeout(Unavailable):
    """A deadline passed while waiting for a peer; the message names the peer and the seconds."""

    code = "peer_timeout"
    grpc_status = "DEADLINE_EXCEEDED"
    http_status = 504


class StoreUnreachable(Unavailable):
    """An object store or a model hub did not answer, the bounded retries included; the message names the URL."""

    code = "store_unreachable"


class StorageError(SynclineError):
    """What belongs to a run cannot be written or read. What was written before is as it was."""

    code = "storage_error"
    grpc_status = "RESOURCE_EXHAUSTED"
    http_status = 507


class StoreRefused(StorageError):
    """An object store or a model hub answers, and refuses; trying again is of no use. The message names the URL."""

    code = "store_refused"
    grpc_status = "FAILED_PRECONDITION"
    http_status = 502


class CheckpointError(SynclineError):
    """A checkpoint is missing, incomplete or not what its handle says."""

    code = "checkpoint_error"
    grpc_status = "DATA_LOSS"


class DigestMismatch(CheckpointError):
    """The bytes of a checkpoint differ from those that its handle names."""

    code = "digest_mismatch"


class ProbeMismatch(CheckpointError):
    """The engine's log-probabilities for the probe differ from the learner's beyond the tolerance."""

    code = "probe_mismatch"


class EngineError(SynclineError):
    """The inference engine refused or failed."""

    code = "engine_error"


class LoadFailed(EngineError):
    """Weights could not be staged or read; the engine was not touched and serves its old version."""

    code = "load_failed"


class EngineDead(EngineError):
    """The engine cannot serve any more; close it and load again."""

    code = "engine_dead"
    grpc_status = "UNAVAILABLE"
    http_status = 503
    retryable = True


class RunFailed(SynclineError):
    """The run cannot go on."""

    code = "run_failed"
    grpc_status = "ABORTED"


def all_errors() -> tuple[type[SynclineError], ...]:
    """Every class of the tree, the base first."""

    def below(cls: type[SynclineError]) -> list[type[SynclineError]]:
        return [cls, *(found for child in cls.__subclasses__() for found in below(child))]

    return tuple(below(SynclineError))
