"""The command line hands a run in to a real coordinator."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncline.state import RunEvent
from tests.e2e.local_stack import QUICKSTART
from tests.integration.coordinator_thread import Coordinator
from tests.integration.published import publish

SPEC = """
name: judged
model: {path: model}
algorithm: {name: dpo}
sync: {period: 4}
steps: 20
generation: {max_tokens: 5}
tasks: [{name: math, data: train.jsonl, reward: {type: math}}]
evaluation:
  - name: chat
    data: train.jsonl
    reward: {type: judge, mode: versus_seed, endpoint: "http://127.0.0.1:9/v1", model: judge-7b}
"""


@pytest.fixture
def coordinator(tmp_path: Path, redis_url: str) -> Iterator[Coordinator]:
    shutil.copytree(QUICKSTART / "seed-model", tmp_path / "model")
    (tmp_path / "train.jsonl").write_text('{"prompt": "12+34=", "answer": "46"}\n')
    (tmp_path / "spec.yaml").write_text(SPEC)
    coordinator = Coordinator(tmp_path, redis_url)
    yield coordinator
    coordinator.close()


def syncline(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    repository = Path(__file__).parents[2]
    path = os.pathsep.join([str(repository / "shared"), str(repository)])
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_judge_that_does_not_answer_is_told_at_once_and_in_the_status(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    done = syncline("submit", "spec.yaml", "--server", coordinator.url, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    told = "evaluation.0.reward.endpoint: GET http://127.0.0.1:9/v1/models failed: All connection attempts failed"
    assert f"warning: {told}; wanted: " in done.stderr
    run_id = done.stdout.strip()
    assert coordinator.runs.store.get(run_id).state.value == "pending", "a warning is no refusal"
    status = syncline("status", run_id, "--server", coordinator.url, folder=tmp_path)
    assert told in status.stdout
    as_json = syncline("status", run_id, "-o", "json", "--server", coordinator.url, folder=tmp_path)
    paths = [warning["path"] for warning in json.loads(as_json.stdout)["warnings"]]
    assert paths == ["rewards", "evaluation.0.reward.endpoint"], "nor is a reward service there"


def test_a_run_without_a_word_on_which_checkpoint_starts_from_the_final_one(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    first = coordinator.run(RunEvent.START)
    for version in (0, 4):
        publish(first.folder, tmp_path / "model", version=version, run_id=first.id, probe=[0.0] * 9)
    refused = syncline("submit", "spec.yaml", "--from", first.id, "--server", coordinator.url, folder=tmp_path)
    assert refused.returncode != 0
    assert f"run {first.id} is starting, so its final checkpoint is not known; it has v0, v4" in refused.stderr
    coordinator.do(lambda: first.apply(RunEvent.CANCEL))
    done = syncline("submit", "spec.yaml", "--from", first.id, "--server", coordinator.url, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    second = coordinator.runs.store.get(done.stdout.strip())
    assert second.spec.model.path == str((first.folder / "checkpoints" / "v000004").resolve())


def test_the_report_of_a_run_on_another_machine_is_made_in_the_present_folder(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    run = coordinator.run(RunEvent.START, RunEvent.TRAIN)
    early = syncline("report", run.id, "--server", coordinator.url, folder=tmp_path)
    assert "is running, and its report is for the end" in early.stderr
    coordinator.do(lambda: run.apply(RunEvent.SUCCEED))
    (run.folder / "run.json").unlink()  # as if the folder that the coordinator names were not on this machine
    (tmp_path / "here").mkdir()
    done = syncline("report", run.id, "--server", coordinator.url, folder=tmp_path / "here")
    assert done.returncode == 0, done.stderr
    summary = tmp_path / "here" / f"{run.id}-summary.json"
    assert done.stdout.splitlines()[-1] == str(summary)
    assert json.loads(summary.read_text())["state"] == "succeeded"
