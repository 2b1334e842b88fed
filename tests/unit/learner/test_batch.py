"""Groups as padded tensors."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from services.learner.batch import PlannedGroup, micro_batches, token_rows
from syncline.algo.algorithm import GroupPlan
from tests.integration.learner_world import scored_group, spec_of

SPEC = spec_of(Path("unused"), steps=50, sync={"period": "never"})
plans = st.lists(
    st.sets(st.integers(0, 3), min_size=1).map(lambda rows: GroupPlan(rows=tuple(sorted(rows)))), min_size=1, max_size=6
)


def _planned(plans: list[GroupPlan]) -> list[PlannedGroup]:
    return [PlannedGroup(scored_group(SPEC, 7, index), plan) for index, plan in enumerate(plans)]


@given(plans)
def test_targets_are_exactly_the_completion_tokens_end_of_text_included(plans: list[GroupPlan]) -> None:
    groups = _planned(plans)
    rows = token_rows(groups, device=torch.device("cpu"))
    wanted = [group.scored.group.samples[i] for group in groups for i in group.plan.rows]
    assert rows.input_ids_RW.shape[0] == len(wanted)
    prompts = [len(group.scored.group.task.prompt_token_ids) for group in groups for _ in group.plan.rows]
    assert rows.num_tokens == sum(prompts) + sum(len(sample.token_ids) for sample in wanted)
    for row, sample in enumerate(wanted):
        inside = rows.mask_RT[row]
        assert rows.targets_RT[row][inside].tolist() == list(sample.token_ids)
        assert rows.generator_RT[row][inside].tolist() == list(sample.log_probs)


@given(plans, st.integers(1, 200))
def test_micro_batches_are_whole_groups_longest_first_within_the_budget(plans: list[GroupPlan], budget: int) -> None:
    groups = _planned(plans)
    batches = list(micro_batches(groups, max_tokens=budget))
    assert [group for batch in batches for group in batch] == sorted(groups, key=lambda one: -one.longest)
    for batch in batches:
        padded = sum(len(group.plan.rows) for group in batch) * max(group.longest for group in batch)
        assert padded <= budget or len(batch) == 1


@given(st.integers(1, 4), st.integers(1, 200))
def test_a_group_whose_rows_stand_alone_is_cut_to_the_budget(rows: int, budget: int) -> None:
    plan = GroupPlan(rows=tuple(range(rows)), advantages=tuple(map(float, range(rows))), separable=True)
    (group,) = _planned([plan])
    batches = list(micro_batches([group], max_tokens=budget))
    parts = [part.plan for batch in batches for part in batch]
    assert sorted(row for part in parts for row in part.rows) == list(plan.rows)
    assert {row: a for part in parts for row, a in zip(part.rows, part.advantages, strict=True)} == {
        row: float(row) for row in plan.rows
    }
    for batch in batches:
        padded = sum(len(part.plan.rows) for part in batch) * max(part.longest for part in batch)
        assert padded <= budget or [len(part.plan.rows) for part in batch] == [1]


def test_sorting_by_length_wastes_less_on_padding_than_the_order_of_prompts() -> None:
    groups = _planned([GroupPlan(rows=(0, 1, 2, 3))] * 40)
    by_prompt = [groups[start : start + 4] for start in range(0, 40, 4)]
    by_length = list(micro_batches(groups, max_tokens=16 * max(group.longest for group in groups)))
    assert _padded(by_length) < 0.8 * _padded(by_prompt)


def _padded(batches: list[list[PlannedGroup]]) -> int:
    tensors = [token_rows(batch, device=torch.device("cpu")) for batch in batches]
    return sum(rows.input_ids_RW.numel() - rows.num_tokens for rows in tensors)
