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
    for row, sample in enumerate(wanted):
        inside = rows.mask_RT[row]
        assert rows.targets_RT[row][inside].tolist() == list(sample.token_ids)
        assert rows.generator_RT[row][inside].tolist() == list(sample.log_probs)


@given(plans, st.integers(1, 200))
def test_micro_batches_are_whole_groups_in_order_within_the_budget(plans: list[GroupPlan], budget: int) -> None:
    groups = _planned(plans)
    batches = list(micro_batches(groups, max_tokens=budget))
    assert [group for batch in batches for group in batch] == groups
    for batch in batches:
        padded = sum(len(group.plan.rows) for group in batch) * max(group.longest for group in batch)
        assert padded <= budget or len(batch) == 1
