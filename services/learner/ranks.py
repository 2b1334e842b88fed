"""The ranks of one learner: which one this process is, and the few things that all of them do together.

Alone (`Ranks()`) every call answers at once with what it was given, and nothing distributed is imported. What ranks
tell each other travels as JSON in tensors, never as pickled objects. A rank that does not take part within the
deadline of the process group is an error in all others.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from syncline.errors import InvalidSpec, RunFailed, SynclineError, all_errors

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's place among `size` ranks. Rank 0 is the service; it decides, writes and reports."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Place among the ranks of this node: the GPU that it uses."""
    one_node: bool = True
    """Whether all ranks run on this node."""

    def gather(self, value: Any) -> list[Any]:
        """The JSON `value` of every rank, in the order of ranks."""
        if self.size == 1:
            return [value]
        from torch import distributed  # here, so that one rank never loads it

        payload = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.long) for _ in range(self.size)]
        distributed.all_gather(lengths, torch.tensor([len(payload)]))
        longest = max(int(length) for length in lengths)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(payload)] = payload
        received = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(received, padded)
        return [json.loads(bytes(one[: int(length)].tolist())) for one, length in zip(received, lengths, strict=True)]

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on some rank: a question that must have one answer for all."""
        if self.size == 1:
            return flag
        from torch import distributed

        votes = torch.tensor([int(flag)])
        distributed.all_reduce(votes)
        return bool(votes.item())

    def together(self, work: Callable[[], Result]) -> Result:
        """Every rank does `work`, which must not wait for other ranks. Where one fails, all fail, with its name.

        Raises the rank's own SynclineError, or one of the same kind with that of another rank.
        """
        if self.size == 1:
            return work()
        result: Result | None = None
        failure: SynclineError | None = None
        try:
            result = work()
        except SynclineError as error:
            failure = error
        reports = self.gather([failure.code, failure.message] if failure else None)
        if failure is not None:
            raise failure
        for rank, report in enumerate(reports):
            if report is not None:
                raise _error_of(report[0], f"rank {rank} of {self.size}: {report[1]}")
        return result  # type: ignore[return-value]  # without a failure it is a Result

    def on_first(self, work: Callable[[], Result]) -> Result:
        """Rank 0 alone does `work`; every rank gets its JSON result. Raises on all ranks what it raises there."""
        result = self.together(work if self.rank == 0 else lambda: None)
        return self.gather(result)[0]  # type: ignore[no-any-return]


def _error_of(code: str, message: str) -> SynclineError:
    if code == InvalidSpec.code:  # made of fields, not of a message
        return RunFailed(message)
    return next((kind for kind in all_errors() if kind.code == code), RunFailed)(message)
