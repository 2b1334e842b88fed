"""Whole runs on a whole stack: the schedule is exact, work is done once, and who does it does not matter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from syncline.algo.schedule import Schedule
from tests.e2e.local_stack import QUICKSTART, LocalStack, small_spec


def assert_trained_exactly_once(stack: LocalStack, run_id: str, spec: dict[str, Any]) -> None:
    """Every prompt of every step is in the history once (trained, or without a pair), on the scheduled version."""
    schedule = Schedule(period=spec["sync"]["period"], lag=spec["sync"]["lag"], steps=spec["steps"])
    steps = stack.steps(run_id)
    assert [row["step"] for row in steps] == list(range(spec["steps"]))
    for row in steps:
        assert row["trained"] == sorted(set(row["trained"])), row
        assert len(row["trained"]) + sum(row["dropped"].values()) == row["groups"] == spec["prompts_per_step"], row
        assert row["version"] == schedule.version_for_step(row["step"])
        assert row["staleness"] == schedule.staleness(row["step"])
        assert row["refused"].get("stale", 0) == 0


@pytest.mark.parametrize(
    ("period", "lag", "algorithm", "reference_sync"),
    [
        (1, 0, {"name": "dpo"}, True),
        (4, 0, {"name": "dpo"}, False),
        (4, 1, {"name": "dpo"}, True),
        (1, 1, {"name": "grpo", "beta": 0.001}, False),
        (5, 0, {"name": "grpo"}, False),
        ("never", 0, {"name": "dpo"}, False),
    ],
)
def test_every_regime_trains_every_prompt_once_on_the_scheduled_version(
    stack: LocalStack, period: Any, lag: int, algorithm: dict[str, Any], reference_sync: bool
) -> None:
    stack.scale(1)
    spec = small_spec(
        algorithm=algorithm, sync={"period": period, "lag": lag}, reference={"sync": reference_sync}, steps=10
    )
    run_id = stack.submit(spec)
    stack.finish(run_id)
    assert_trained_exactly_once(stack, run_id, spec)
    if reference_sync and lag == 0 and period == 1:
        # with policy and reference equal the margin of eq. 3 is 0, and the loss is ln 2 a pair
        for row in stack.steps(run_id):
            assert row["metrics"]["loss"] * spec["prompts_per_step"] == pytest.approx(
                0.6931472 * row["pairs"], rel=1e-4
            )


def test_two_runs_end_with_the_same_bytes_whatever_the_number_of_generators(stack: LocalStack) -> None:
    finals = []
    for generators in (1, 3):
        stack.scale(generators)
        run_id = stack.submit(small_spec())
        stack.finish(run_id)
        finals.append(stack.final_weights(run_id))
    assert finals[0] == finals[1]


def test_a_generator_that_joins_in_mid_run_gets_the_weights_and_works(stack: LocalStack) -> None:
    stack.scale(1)
    spec = small_spec(steps=250)
    run_id = stack.submit(spec)
    stack.at_step(run_id, 1)
    stack.scale(2, wait=False)
    stack.finish(run_id)
    (joiner,) = [generator for generator in stack.generators() if generator["id"] == "inference-1"]
    assert joiner["groups_total"] > 0, "the joiner did no work"
    assert_trained_exactly_once(stack, run_id, spec)


def test_a_generator_killed_in_mid_run_changes_nothing(stack: LocalStack) -> None:
    stack.scale(2)
    spec = small_spec(steps=40)
    undisturbed = stack.submit(spec)
    stack.finish(undisturbed)
    killed = stack.submit(spec)
    stack.at_step(killed, 5)
    stack.kill("inference-0")
    stack.finish(killed)
    assert_trained_exactly_once(stack, killed, spec)
    assert stack.final_weights(killed) == stack.final_weights(undisturbed)


def test_a_cancelled_run_stops_within_seconds_and_the_next_one_works(stack: LocalStack) -> None:
    stack.scale(1)
    run_id = stack.submit(small_spec(steps=10_000))
    stack.at_step(run_id, 2)
    assert stack.api.post(f"/v1/runs/{run_id}:cancel").json()["state"] == "cancelled"
    stack.until(
        lambda: stack.api.get("/v1/fleet").json()["learner"][0]["phase"] == "idle",
        what="the learner to stop",
        within_s=10,
    )
    stack.until(stack.streams_are_empty, what="empty streams", within_s=10)
    summary = json.loads(Path(stack.run(run_id)["summary_path"]).read_text())
    assert summary["state"] == "cancelled"
    assert 2 <= summary["steps"] < 10_000
    after = stack.submit(small_spec(steps=4))
    stack.finish(after)


def test_nothing_is_left_in_redis_after_a_run(stack: LocalStack) -> None:
    stack.scale(2)
    stack.finish(stack.submit(small_spec(steps=6)))
    stack.until(stack.streams_are_empty, what="empty streams", within_s=10)


def test_evaluation_before_during_and_after_touches_no_training(stack: LocalStack) -> None:
    stack.scale(1)
    heldout = {"name": "heldout", "data": str(QUICKSTART / "heldout.jsonl"), "temperature": 0.0, "every": 5}
    plain = stack.submit(small_spec(sync={"period": "never", "lag": 0}))
    stack.finish(plain)
    spec = small_spec(sync={"period": "never", "lag": 0}, evaluation=[heldout])
    evaluated = stack.submit(spec)
    run = stack.finish(evaluated)
    rows = stack.api.get(f"/v1/runs/{evaluated}/evaluations").json()["evaluations"]
    assert [row["version"] for row in sorted(rows, key=lambda row: row["version"])] == [0, 5, 10, 12]
    assert all(row["prompts"] == row["samples"] > 100 for row in rows)
    summary = json.loads(Path(run["summary_path"]).read_text())
    assert summary["syncs"] == 0, "publishing for evaluation is no sync"
    assert summary["evaluation"]["before"]["heldout"]["score"]["mean"] > 0.3
    assert_trained_exactly_once(stack, evaluated, spec)
    assert stack.final_weights(evaluated) == stack.final_weights(plain)


def test_a_killed_learner_goes_on_from_its_saved_state_to_the_same_bytes(stack: LocalStack) -> None:
    stack.scale(1)
    spec = small_spec(steps=30)
    undisturbed = stack.submit(spec)
    stack.finish(undisturbed)
    killed = stack.submit(spec)
    stack.at_step(killed, 6)
    stack.kill("learner")
    stack.finish(killed)
    assert stack.run(killed)["attempts"] >= 2
    assert_trained_exactly_once(stack, killed, spec)
    assert stack.final_weights(killed) == stack.final_weights(undisturbed)


@pytest.mark.parametrize("child", ["coordinator", "reward"])
def test_a_killed_service_comes_back_and_the_run_ends_with_the_same_bytes(stack: LocalStack, child: str) -> None:
    stack.scale(1)
    spec = small_spec(steps=30)
    undisturbed = stack.submit(spec)
    stack.finish(undisturbed)
    killed = stack.submit(spec)
    stack.at_step(killed, 6)
    stack.kill(child)
    stack.finish(killed)
    assert_trained_exactly_once(stack, killed, spec)
    assert stack.final_weights(killed) == stack.final_weights(undisturbed)


def test_a_redis_that_loses_all_its_data_is_refilled(stack: LocalStack) -> None:
    stack.scale(1)
    spec = small_spec(steps=40)
    undisturbed = stack.submit(spec)
    stack.finish(undisturbed)
    disturbed = stack.submit(spec)
    stack.at_step(disturbed, 5)
    with stack.redis() as redis:
        redis.flushall()
    stack.finish(disturbed)
    assert_trained_exactly_once(stack, disturbed, spec)
    assert stack.final_weights(disturbed) == stack.final_weights(undisturbed)


def test_a_prompt_too_long_for_the_model_is_counted_and_skipped(stack: LocalStack) -> None:
    stack.scale(1)
    data = stack.folder / "with-a-long-prompt.jsonl"
    rows = [{"prompt": "12+34=", "answer": "46"}] * 7 + [{"prompt": "1+" * 2000 + "1=", "answer": "2001"}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = small_spec(steps=4, tasks=[{"name": "add", "data": str(data), "reward": {"type": "math"}}])
    run_id = stack.submit(spec)
    stack.finish(run_id)
    assert stack.run(run_id)["skipped_prompts"] == {"add": 1}
    assert_trained_exactly_once(stack, run_id, spec)
