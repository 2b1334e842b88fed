"""Groups as padded tensors, ordered by lengths and prompt indices, so that a result never depends on arrival."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from syncline.algo.algorithm import GroupPlan
from syncline.v1.rollout_pb2 import ScoredGroup


@dataclass(frozen=True, slots=True)
class PlannedGroup:
    """One group and what it contributes."""

    scored: ScoredGroup
    plan: GroupPlan

    @property
    def longest(self) -> int:
        """Tokens of the longest row to forward, prompt included."""
        group = self.scored.group
        return len(group.task.prompt_token_ids) + max(len(group.samples[i].token_ids) for i in self.plan.rows)


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Rows of prompt + completion, padded on the right. W is the width in tokens, T the last columns that are targets.

    Padding on the right needs no attention mask: a causal model never looks at what comes after, and what it says
    about padding is masked out. The first target column is where the shortest prompt ends.
    """

    input_ids_RW: Tensor
    mask_RT: Tensor
    """True at completion tokens, end-of-text included where it was sampled."""
    generator_RT: Tensor
    """Log-probabilities that the generator reported, 0 elsewhere."""
    num_tokens: int
    """Positions that hold a token; the others are padding."""

    @property
    def num_targets(self) -> int:
        return self.mask_RT.shape[1]

    @property
    def targets_RT(self) -> Tensor:
        return self.input_ids_RW[:, -self.num_targets :]


def token_rows(groups: Sequence[PlannedGroup], *, device: torch.device) -> TokenRows:
    """The rows that the plans name, group after group; without groups one short row of which nothing counts."""
    if not groups:
        return _filler(device)
    rows = [
        (list(group.scored.group.task.prompt_token_ids), group.scored.group.samples[i])
        for group in groups
        for i in group.plan.rows
    ]
    width = max(len(prompt) + len(sample.token_ids) for prompt, sample in rows)
    first_target = min(len(prompt) for prompt, _ in rows)
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    generator = torch.zeros(len(rows), width)
    for row, (prompt, sample) in enumerate(rows):
        start, stop = len(prompt), len(prompt) + len(sample.token_ids)
        input_ids[row, :stop] = torch.tensor([*prompt, *sample.token_ids])
        mask[row, start:stop] = True
        generator[row, start:stop] = torch.tensor(list(sample.log_probs))
    return TokenRows(
        input_ids_RW=input_ids.to(device),
        mask_RT=mask[:, first_target:].to(device),
        generator_RT=generator[:, first_target:].to(device),
        num_tokens=sum(len(prompt) + len(sample.token_ids) for prompt, sample in rows),
    )


def _filler(device: torch.device) -> TokenRows:
    return TokenRows(
        input_ids_RW=torch.zeros(1, 2, dtype=torch.long, device=device),
        mask_RT=torch.zeros(1, 1, dtype=torch.bool, device=device),
        generator_RT=torch.zeros(1, 1, device=device),
        num_tokens=0,
    )


def deal(groups: Sequence[PlannedGroup], *, ranks: int) -> list[list[PlannedGroup]]:
    """Whole groups to ranks, with about as many tokens each: the largest first, to whom has the least.

    The same groups are always dealt the same way. A rank gets its groups in their given order, and may get none.
    """
    if ranks == 1:
        return [list(groups)]
    tokens = [len(group.plan.rows) * group.longest for group in groups]
    loads = [0] * ranks
    rank_of = [0] * len(groups)
    for index in sorted(range(len(groups)), key=lambda i: (-tokens[i], i)):
        rank_of[index] = min(range(ranks), key=lambda rank: (loads[rank], rank))
        loads[rank_of[index]] += tokens[index]
    return [[group for group, owner in zip(groups, rank_of, strict=True) if owner == rank] for rank in range(ranks)]


def micro_batches(groups: Sequence[PlannedGroup], *, max_tokens: int) -> Iterator[list[PlannedGroup]]:
    """Groups of like length together, longest first, in batches of at most `max_tokens` tokens, padding included.

    A group that is larger by itself is cut where its plan allows it; else it is a batch of its own. What needs the most
    memory comes first: it runs out at once or not at all.
    """
    batch: list[PlannedGroup] = []
    num_rows, width = 0, 0
    parts = [
        replace(group, plan=part) for group in groups for part in group.plan.parts(max(1, max_tokens // group.longest))
    ]
    for group in sorted(parts, key=lambda group: -group.longest):
        rows, wider = num_rows + len(group.plan.rows), max(width, group.longest)
        if batch and rows * wider > max_tokens:
            yield batch
            batch, rows, wider = [], len(group.plan.rows), group.longest
        batch.append(group)
        num_rows, width = rows, wider
    if batch:
        yield batch
