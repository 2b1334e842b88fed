"""How a step is dealt to ranks, what they say to each other, and how shards become other shards."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.learner import shards
from services.learner.batch import PlannedGroup, deal, token_rows
from services.learner.orders import LENGTH, Answer, Hello, Order, frame
from services.learner.ranks import Ranks
from syncline.algo.algorithm import GroupPlan
from syncline.errors import CheckpointError
from syncline.v1.rollout_pb2 import ScoredGroup


def _group(index: int, tokens: int) -> PlannedGroup:
    scored = ScoredGroup()
    scored.group.task.key.prompt_index = index
    scored.group.task.prompt_token_ids.extend([1, 2])
    scored.group.samples.add(token_ids=[3] * tokens, log_probs=[-1.0] * tokens)
    return PlannedGroup(scored, GroupPlan(rows=(0,)))


def _indices(groups: list[PlannedGroup]) -> list[int]:
    return [group.scored.group.task.key.prompt_index for group in groups]


@given(st.lists(st.integers(1, 60), max_size=24), st.integers(1, 6))
def test_every_group_goes_to_one_rank_in_order_and_no_rank_has_a_group_too_many(lengths: list[int], ranks: int) -> None:
    groups = [_group(index, tokens) for index, tokens in enumerate(lengths)]
    dealt = deal(groups, ranks=ranks)
    assert len(dealt) == ranks
    assert sorted(chain.from_iterable(_indices(share) for share in dealt)) == list(range(len(groups)))
    assert all(_indices(share) == sorted(_indices(share)) for share in dealt)
    loads = [sum(group.longest for group in share) for share in dealt]
    # The rank with the most would be no better off without its last group.
    assert max(loads) - min(loads) <= max((group.longest for group in groups), default=0)
    assert [_indices(share) for share in deal(groups, ranks=ranks)] == [_indices(share) for share in dealt]


def test_no_groups_make_one_row_of_which_nothing_counts() -> None:
    rows = token_rows([], device=torch.device("cpu"))
    assert (rows.input_ids_RW.shape, rows.targets_RT.shape, bool(rows.mask_RT.any())) == ((1, 2), (1, 1), False)


def test_one_rank_is_alone_with_its_answers() -> None:
    alone = Ranks()
    assert (alone.gather(3), alone.any(True), alone.any(False)) == ([3], True, False)
    assert (alone.together(lambda: "mine"), alone.on_first(lambda: [1])) == ("mine", [1])
    with pytest.raises(CheckpointError, match="full"):
        alone.on_first(_fail)


def _fail() -> None:
    raise CheckpointError("the disk is full")


def test_orders_and_answers_arrive_as_they_were_sent() -> None:
    groups = [_group(index, 3).scored for index in range(3)]
    for order in (Order("update", {"step": 3, "version": 2}, groups), Order("close")):
        framed = frame(order.encode())
        assert LENGTH.unpack_from(framed) == (len(framed) - LENGTH.size,)
        arrived = Order.decode(framed[LENGTH.size :])
        assert (arrived.name, arrived.fields, list(arrived.groups)) == (order.name, order.fields, list(order.groups))
    for message in (Answer("out of memory", "run_failed", leaving=True), Hello("secret", 2, "rank 2 of 4")):
        assert type(message).decode(message.encode()) == message


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))
def test_shards_of_one_number_of_ranks_become_those_of_another(rows: int, saved_by: int, ranks: int) -> None:
    full = torch.arange(rows * 2.0).reshape(rows, 2)
    pieces = [shards.piece_of([full], rank=rank, size=saved_by) for rank in range(saved_by)]
    again = [shards.piece_of(pieces, rank=rank, size=ranks) for rank in range(ranks)]
    assert [len(piece) for piece in again][: len(full.chunk(ranks))] == [len(chunk) for chunk in full.chunk(ranks)]
    torch.testing.assert_close(torch.cat(again), full)
    assert shards.piece_of([torch.tensor(5.0)] * saved_by, rank=ranks - 1, size=ranks) == 5.0
