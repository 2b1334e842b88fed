"""A group becomes a row and a group again, and what trains is the same to the last bit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from pydantic import ValidationError

from services.learner import door
from syncline.algo.schedule import Schedule
from syncline.rollout_rows import RolloutRow, group_of, row_of
from syncline.v1.rollout_pb2 import VERDICT_STATUS_UNPARSABLE, ScoredGroup, TaskKey
from tests.unit.rollout_strategies import scored_groups

MINIMAL: dict[str, Any] = {
    "prompt": "1+1=",
    "prompt_token_ids": [5, 6],
    "task": "math",
    "samples": [{"text": "2", "token_ids": [7, 2], "log_probs": [-0.5, -0.25], "reward": 1}] * 2,
}


def trip(group: ScoredGroup, *, key: TaskKey) -> ScoredGroup:
    line = row_of(group, rewards=door.rewards_of(group)).model_dump_json()
    return group_of(RolloutRow.model_validate_json(line), key=key)


@given(scored_groups())
def test_what_trains_survives_the_trip_through_a_row(group: ScoredGroup) -> None:
    back = trip(group, key=group.group.task.key)
    assert back.group.task == group.group.task
    assert list(back.group.samples) == list(group.group.samples), "log-probabilities to the last bit"
    assert door.rewards_of(back) == door.rewards_of(group)
    assert [(v.status, v.raw_score, v.cause) for v in back.verdicts] == [
        (v.status, v.raw_score, v.cause) for v in group.verdicts
    ]


@given(scored_groups())
def test_a_sample_without_a_score_has_none_after_the_trip(group: ScoredGroup) -> None:
    group.verdicts[-1].status = VERDICT_STATUS_UNPARSABLE
    group.verdicts[-1].ClearField("score")
    back = trip(group, key=group.group.task.key)
    assert len(group.verdicts) - 1 not in door.rewards_of(back)
    assert door.rewards_of(back) == door.rewards_of(group)


@given(scored_groups(version=7))
def test_a_group_of_any_version_trains_as_version_0_of_its_new_run(group: ScoredGroup) -> None:
    key = TaskKey(run_id="run-b", step=3, prompt_index=1)
    back = trip(group, key=key)
    assert back.group.task.key == key
    schedule = Schedule(period="never", lag=0, steps=10)
    assert door.refusal(back, run_id="run-b", step=3, schedule=schedule, prompts_per_step=2, weights={}) is None
    door.check(back, tasks={"math"}, vocabulary=2**32)


@given(scored_groups())
def test_a_row_is_one_line(group: ScoredGroup) -> None:
    line = row_of(group, rewards=door.rewards_of(group)).model_dump_json()
    assert "\n" not in line
    assert json.loads(line)["samples"][0]["text"] == group.group.samples[0].text


def test_a_row_made_elsewhere_needs_only_what_trains() -> None:
    row = RolloutRow.model_validate(MINIMAL)
    assert (row.samples[0].verdict, row.samples[0].finish_reason, row.version) == ("scored", "stop", 0)
    assert group_of(row, key=TaskKey()).verdicts[0].raw_score == 1.0


@pytest.mark.parametrize(
    "sample",
    [
        {"log_probs": [-0.5]},
        {"token_ids": [], "log_probs": []},
        {"token_ids": [-1, 2]},
        {"token_ids": [7, 2**32]},
        {"log_probs": [-0.5, float("nan")]},
        {"reward": float("inf")},
        {"reward": None},
        {"verdict": "unavailable"},
        {"reward": "1"},
        {"token_ids": ["7", 2]},
        {"finish_raeson": "length"},
    ],
)
def test_a_sample_that_cannot_train_is_no_row(sample: dict[str, Any]) -> None:
    good = MINIMAL["samples"][0]
    with pytest.raises(ValidationError):
        RolloutRow.model_validate(MINIMAL | {"samples": [good, good | sample]})
