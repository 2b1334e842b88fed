"""What the learner keeps of the groups that it trained on, and what happens when it cannot."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from syncline import recording
from syncline.rollout_rows import RolloutRow, group_of
from syncline.storage import FolderStorage
from syncline.v1.rollout_pb2 import ScoredGroup
from tests.integration.learner_world import (
    World,
    digest_of,
    final_digest,
    groups_of,
    kinds,
    learner_world,
    spec_of,
    steps_of,
    until_idle,
)
from tests.integration.tiny_models import make_tiny_model

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("seed"), seed=0, hidden=16, layers=1, heads=1)


@pytest.fixture
async def world(redis: Redis, tmp_path: Path) -> AsyncIterator[World]:
    async with learner_world(redis, tmp_path / "run") as world:
        yield world


def recorded(run_dir: Path) -> list[dict[str, Any]]:
    steps = recording.recorded_steps(FolderStorage(run_dir))
    return [json.loads(line) for step in steps for line in recording.read_step(FolderStorage(run_dir), step)]


async def test_every_group_that_trained_is_recorded_in_order_whatever_its_order_of_arrival(
    model: Path, world: World
) -> None:
    spec = spec_of(model)
    await world.train_on(spec, reversed(groups_of(spec, range(4))))
    rows = recorded(world.run_dir)
    assert [(row["step"], row["prompt_index"]) for row in rows] == [(s, i) for s in range(4) for i in range(4)]
    assert [row["version"] for row in rows] == [0] * 8 + [2] * 8
    for row, group in zip(rows, groups_of(spec, range(4)), strict=True):
        again = group_of(RolloutRow.model_validate(row), key=group.group.task.key).group
        assert [s.token_ids for s in again.samples] == [s.token_ids for s in group.group.samples]
        assert [s.log_probs for s in again.samples] == [s.log_probs for s in group.group.samples]


@pytest.mark.parametrize("algorithm", ["dpo", "group_dpo", "grpo"])
async def test_the_pairs_of_the_record_are_those_that_trained(model: Path, world: World, algorithm: str) -> None:
    spec = spec_of(model, algorithm={"name": algorithm})
    reports = steps_of(await world.train_on(spec, groups_of(spec, range(4))))
    rows = recorded(world.run_dir)
    for report in reports:
        pairs = [len(row["pairs"]) for row in rows if row["step"] == report.step]
        assert sum(pairs) == sum(task.pairs for task in report.tasks)
    for row in rows:
        for better, worse in row["pairs"]:
            assert row["samples"][better]["reward"] > row["samples"][worse]["reward"]
    assert any(row["pairs"] for row in rows) == (algorithm != "grpo")
    # The learner shows people the first pair of a step as it trained.
    for report in reports:
        if [sample.role for sample in report.samples] == ["chosen", "rejected"]:
            first = next(row for row in rows if row["step"] == report.step and row["pairs"])
            texts = [first["samples"][index]["text"] for index in first["pairs"][0]]
            assert texts == [sample.completion for sample in report.samples]


async def test_a_group_that_was_given_up_has_nothing_to_record(model: Path, world: World) -> None:
    spec = spec_of(model)
    groups = groups_of(spec, range(4))
    groups[5].CopyFrom(ScoredGroup(group={"task": groups[5].group.task}, dropped_cause="poison"))
    await world.train_on(spec, groups)
    assert len(recorded(world.run_dir)) == 15


async def test_a_run_that_shall_not_record_keeps_nothing(model: Path, world: World) -> None:
    spec = spec_of(model, rollouts={"record": False})
    await world.train_on(spec, groups_of(spec, range(4)))
    assert recording.recorded_steps(FolderStorage(world.run_dir)) == []


async def test_a_resumed_run_records_the_steps_that_it_repeats_anew(model: Path, redis: Redis, tmp_path: Path) -> None:
    # Given an attempt that ends after step 2, of which the state before step 2 is saved
    spec, run_dir = spec_of(model), tmp_path / "run"
    async with learner_world(redis, run_dir) as world:
        await world.add(groups_of(spec, range(4)))
        await world.train(spec, until=lambda event: event.HasField("step") and event.step.step == 2)
        await until_idle(world)
    assert recording.recorded_steps(FolderStorage(run_dir))[-1] >= 2
    recording.write_step(FolderStorage(run_dir), 2, [])  # what the next attempt must not trust
    recording.write_step(FolderStorage(run_dir), 9, [])
    # When another one goes on
    async with learner_world(redis, run_dir) as world:
        events = await world.train_on(spec, groups_of(spec, range(4)))
    assert events[0].loaded.first_step == 2
    # Then the record is that of an undisturbed run
    async with learner_world(redis, tmp_path / "undisturbed") as world:
        await world.train_on(spec, groups_of(spec, range(4)))
    assert recorded(run_dir) == recorded(tmp_path / "undisturbed")
    assert recording.recorded_steps(FolderStorage(run_dir)) == [0, 1, 2, 3]


async def test_storage_that_refuses_the_record_stops_the_run_before_the_step_counts_and_costs_no_byte(
    model: Path, redis: Redis, tmp_path: Path
) -> None:
    # Given a run folder in which nothing can be recorded
    spec, run_dir = spec_of(model), tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "rollouts").write_text("a file where the folder should be")
    async with learner_world(redis, run_dir) as world:
        events = await world.train_on(spec, groups_of(spec, range(4)))
        # Then the run says what to do, and the step is not reported
        assert kinds(events)[-1] == "failed run_failed"
        assert "rollouts of step 0 could not be recorded" in events[-1].failed.message
        assert "resume the run" in events[-1].failed.message
        assert steps_of(events) == []
        # And when the storage is mended, it ends as if nothing had been
        (run_dir / "rollouts").unlink()
        events = await world.train(spec)
    assert len(recorded(run_dir)) == 16
    assert final_digest(events) == await digest_of(redis, tmp_path / "other", spec, groups_of(spec, range(4)))
