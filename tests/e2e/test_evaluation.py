"""Evaluations on a whole stack: several samples, intervals, pass@k, answers to read, and the best version kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from syncline.algo import evaluation as statistics
from tests.e2e.local_stack import QUICKSTART, LocalStack, small_spec

pytestmark = pytest.mark.timeout(300)

PROMPTS = 40
SAMPLES = 4


@pytest.fixture(scope="module")
def spec(stack: LocalStack) -> dict[str, Any]:
    """Offline, so that no schedule keeps old versions, and so fast that it gets better and then worse."""
    data = stack.folder / "few.jsonl"
    data.write_text("\n".join((QUICKSTART / "heldout.jsonl").read_text().splitlines()[:PROMPTS]) + "\n")
    sampling = {"samples": SAMPLES, "temperature": 0.8, "top_p": 0.95}
    return small_spec(
        sync={"period": "never", "lag": 0},
        optimizer={"lr": 3e-4, "eps": 1e-8, "weight_decay": 0.0, "grad_clip": 1.0},
        evaluation=[{"name": "heldout", "data": str(data), "every": 2, **sampling}],
        checkpoints={"every": 12, "keep": 2, "best": {"evaluation": "heldout", "metric": "score"}},
    )


@pytest.fixture(scope="module")
def run(stack: LocalStack, spec: dict[str, Any]) -> dict[str, Any]:
    """That run, when it is over."""
    stack.scale(1)
    return stack.finish(stack.submit(spec), within_s=240)


def rows_of(stack: LocalStack, run: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = stack.api.get(f"/v1/runs/{run['id']}/evaluations").json()["evaluations"]
    return rows


def test_every_version_has_an_interval_pass_at_k_and_a_length_that_its_answers_bear_out(
    stack: LocalStack, run: dict[str, Any]
) -> None:
    rows = rows_of(stack, run)
    assert [row["version"] for row in rows] == [0, 2, 4, 6, 8, 10, 12]
    for row in rows:
        answered = stack.api.get(f"/v1/runs/{run['id']}/evaluations/heldout/{row['version']}?page_size=1000").json()
        prompts = answered["answers"]
        assert answered["evaluation"] == row
        scores = [[sample["score"] for sample in prompt["samples"]] for prompt in prompts]
        assert [len(prompt) for prompt in scores] == [SAMPLES] * PROMPTS
        mean = statistics.mean_score(scores)
        assert row["measure"] == "accuracy"
        assert row["score"] == {"mean": mean.mean, "low": mean.low, "high": mean.high}
        assert row["score"]["low"] < row["score"]["mean"] < row["score"]["high"]
        assert row["pass_at"] == {str(k): statistics.pass_at(scores, k) for k in (1, 2, 4)}
        assert row["pass_at"]["1"] == pytest.approx(row["score"]["mean"])
        tokens = [sample["tokens"] for prompt in prompts for sample in prompt["samples"]]
        assert row["length_mean"] == pytest.approx(sum(tokens) / len(tokens))
    distinct = {sample["completion"] for prompt in prompts for sample in prompt["samples"]}
    assert len(distinct) > PROMPTS / 2, "sampled, not greedy"


def test_the_best_version_stays_on_storage_and_is_marked_although_few_are_kept(
    stack: LocalStack, run: dict[str, Any]
) -> None:
    rows = rows_of(stack, run)
    best = max(rows, key=lambda row: (row["score"]["mean"], -row["version"]))
    assert 0 < best["version"] < 10, f"this run was to be best in its middle: {[row['score']['mean'] for row in rows]}"
    listed = stack.api.get(f"/v1/runs/{run['id']}/checkpoints").json()["checkpoints"]
    assert [one["version"] for one in listed] == [0, best["version"], 10, 12]
    assert [one["version"] for one in listed if one["best"]] == [best["version"]]
    folder = str(stack.folder.resolve() / "runs" / run["id"] / "checkpoints" / f"v{best['version']:06d}")
    marked = {"version": best["version"], "evaluation": "heldout", "metric": "score", "folder": folder}
    assert run["best"] == marked | {"value": best["score"]["mean"]}
    summary = json.loads(Path(run["summary_path"]).read_text())
    assert summary["best"] == run["best"]
    assert summary["evaluation"]["after"]["heldout"]["score"] == rows[-1]["score"]


def test_a_run_can_start_from_the_best_version_on_the_command_line(
    stack: LocalStack, run: dict[str, Any], spec: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(spec | {"steps": 1, "evaluation": [], "checkpoints": {}}))
    command = [sys.executable, "-m", "services.cli", "submit", str(tmp_path / "spec.json"), "-o", "json"]
    command += ["--from", f"{run['id']}/best", "--server", str(stack.api.base_url).rstrip("/")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    started = stack.finish(json.loads(done.stdout)["id"])
    seed = stack.folder / "runs" / started["id"] / "checkpoints" / "v000000" / "model.safetensors"
    assert seed.read_bytes() == (Path(run["best"]["folder"]) / "model.safetensors").read_bytes()


SLOW_STANDINGS = """
import sys
if "services.coordinator" in sys.orig_argv:
    import time
    from services.coordinator.records import best
    quick = best._standings
    def slow(run):
        time.sleep(1.0)
        return quick(run)
    best._standings = slow
"""


def test_the_last_evaluation_counts_for_the_best_version_however_slow_the_storage_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given standings that take a second, as in a far object store, a run that gets better ends with its last version
    as the best one, and not with the one that was best a second before its end."""
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW_STANDINGS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "slow"))
    (tmp_path / "few.jsonl").write_text("\n".join((QUICKSTART / "heldout.jsonl").read_text().splitlines()[:100]) + "\n")
    held_out = {"name": "heldout", "data": str(tmp_path / "few.jsonl"), "samples": 1, "temperature": 0.0}
    (tmp_path / "stack").mkdir()
    with LocalStack(tmp_path / "stack", project=Path.cwd()) as stack:
        run = stack.finish(stack.submit(small_spec(steps=12, sync={"period": 1}, evaluation=[held_out])))
        before, after = (row["score"]["mean"] for row in rows_of(stack, run))
        assert before < after
        assert (run["best"]["version"], run["best"]["value"]) == (12, after)
