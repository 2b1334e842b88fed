"""The numbers of a run, sent to real trackers and read back from what they wrote."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from services.coordinator.records.run import Run
from syncline.state import RunEvent
from tests.integration.coordinator_thread import Coordinator
from tests.integration.evaluated import HELD_OUT, evaluate

ROOT = Path(__file__).parents[2]


@pytest.fixture
def coordinator(tmp_path: Path, redis_url: str) -> Iterator[Coordinator]:
    coordinator = Coordinator(tmp_path, redis_url)
    yield coordinator
    coordinator.close()


@pytest.fixture
def run(coordinator: Coordinator) -> Run:
    """Four steps and an evaluation, of which the last two steps were lost and made anew; then it ended."""
    run = coordinator.run(RunEvent.START, RunEvent.TRAIN, sync={"period": "never"}, evaluation=[HELD_OUT])

    def train() -> None:
        for step, reward in ((0, 0.25), (1, 0.5), (2, 0.9), (3, 0.9), (2, 0.75), (3, None)):
            run.emit("step", step_row(step, reward))

    coordinator.do(train)
    coordinator.wait_for(evaluate(run, 2, 1.0))
    coordinator.do(lambda: run.apply(RunEvent.SUCCEED))
    return run


def step_row(step: int, reward: float | None) -> dict[str, Any]:
    of_all = {"reward_mean": reward, "dropped": {"no_pair": 3}}
    return {
        **of_all,
        "step": step,
        "version": 0,
        "sync_period": "never",
        "metrics": {"loss": 0.7},
        "tasks": [{"task": "add", **of_all, "verdicts": {}, "metrics": {"entropy": 1.5}}],
    }


def track(coordinator: Coordinator, folder: Path, *arguments: str, **environment: str) -> str:
    """What the command said."""
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", "track", "--server", coordinator.url, *arguments],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        | {"PYTHONPATH": os.pathsep.join([str(ROOT / "shared"), str(ROOT)])}
        | environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def read_tensorboard(folder: Path) -> dict[str, dict[int, float]]:
    """tag -> update -> number, as TensorBoard shows it."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: {one.step: one.value for one in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_each_step_once_as_the_run_ended_also_when_it_is_told_twice(
    coordinator: Coordinator, run: Run, tmp_path: Path
) -> None:
    for _ in range(2):
        said = track(coordinator, tmp_path, run.id)
    assert "7 steps and evaluations tracked" in said
    assert "tensorboard --logdir tracked" in said
    found = read_tensorboard(tmp_path / "tracked" / run.id)
    assert found["train/reward_mean"] == {1: 0.25, 2: 0.5, 3: 0.75}, "no number for a step without a reward"
    assert found["train/loss"] == dict.fromkeys((1, 2, 3, 4), pytest.approx(0.7))
    assert found["train/dropped/no_pair"] == dict.fromkeys((1, 2, 3, 4), 3.0)
    assert found["tasks/add/entropy"] == dict.fromkeys((1, 2, 3, 4), 1.5)
    assert found["evaluation/heldout/score"] == {2: 1.0}
    assert found["evaluation/heldout/score_low"] == {2: pytest.approx(0.4385, abs=1e-4)}  # Wilson's, of 3 of 3
    assert found["evaluation/heldout/pass_at_1"] == {2: 1.0}
    assert "train/sync_period" not in found, "never is no number"


def test_wandb_keeps_the_run_offline_where_there_is_no_key(coordinator: Coordinator, run: Run, tmp_path: Path) -> None:
    said = track(coordinator, tmp_path, run.id, "--to", "wandb", "--folder", "kept", HOME=str(tmp_path))
    place = re.search(r"look at them: wandb sync (\S+)", said)
    assert place, said
    (file,) = (tmp_path / place[1]).glob("*.wandb")
    records = list(read_wandb(file.read_bytes()))
    (begun,) = [record.run for record in records if record.HasField("run")]
    assert (begun.run_id, begun.project) == (run.id, "syncline")
    assert {update.key for update in begun.config.update} >= {"algorithm", "sync", "tasks"}
    rows = [{"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in r.history.item} for r in records]
    told = [(row["updates"], row["train/reward_mean"]) for row in rows if "train/reward_mean" in row]
    assert told == [(1, 0.25), (2, 0.5), (3, 0.9), (4, 0.9), (3, 0.75)], "it takes nothing back"
    assert [row["updates"] for row in rows if row.get("evaluation/heldout/score") == 1.0] == [2]


def read_wandb(data: bytes) -> Iterator[Record]:
    """The records of an offline file: a LevelDB log of 32 KiB blocks behind a header of seven bytes."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield Record.FromString(record)
            record = b""


def test_a_place_that_cannot_be_written_and_a_wrong_key_are_told_in_a_line(
    coordinator: Coordinator, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AssertionError, match=r"^error: tensorboard cannot write below file \(.*Not a directory"):
        track(coordinator, tmp_path, run.id, "--folder", "file")
    with pytest.raises(AssertionError, match="error: W&B refuses"):
        track(
            coordinator, tmp_path, run.id, "--to", "wandb", WANDB_API_KEY="no-key", WANDB_BASE_URL="http://127.0.0.1:9"
        )


def test_an_unknown_tracker_is_refused_with_those_that_there_are(
    coordinator: Coordinator, run: Run, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match="there are: tensorboard, wandb"):
        track(coordinator, tmp_path, run.id, "--to", "paper")
    assert not (tmp_path / "tracked").exists()
