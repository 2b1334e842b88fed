"""A run's rollouts, taken away and trained on again: the same weights, to the byte, and no generator."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from services.cli.__main__ import app
from tests.e2e.local_stack import QUICKSTART, LocalStack, small_spec
from tests.e2e.test_a_run import assert_trained_exactly_once

OFFLINE = {"period": "never", "lag": 0}
STEPS = 30
TRAIN = QUICKSTART / "train.jsonl"


@pytest.fixture(scope="module")
def live(stack: LocalStack) -> str:
    """A finished offline run on live rollouts."""
    stack.scale(1)
    run_id = stack.submit(small_spec(sync=OFFLINE, steps=STEPS))
    stack.finish(run_id)
    return run_id


@pytest.fixture(scope="module")
def file(stack: LocalStack, live: str) -> Path:
    """Its rollouts, as `syncline export rollouts` writes them."""
    path = stack.folder / "rollouts.jsonl.gz"
    done = export(stack, live, "-o", str(path))
    assert f"{STEPS * 8} rows" in done.stderr
    return path


def export(stack: LocalStack, run_id: str, *options: str) -> Result:
    done = CliRunner().invoke(app, ["export", "rollouts", run_id, "--server", str(stack.api.base_url), *options])
    assert done.exit_code == 0, done.output
    return done


def unpacked(file: Path) -> str:
    return gzip.decompress(file.read_bytes()).decode()


def from_file(path: Path, **changes: Any) -> dict[str, Any]:
    """The same spec, but for where the rollouts come from."""
    return small_spec(sync=OFFLINE, **{"steps": STEPS, "rollouts": {"from": str(path)}, **changes})


def test_every_group_that_trained_is_in_the_file_once_in_the_order_of_training(file: Path) -> None:
    rows = [json.loads(line) for line in unpacked(file).splitlines()]
    assert [(row["step"], row["prompt_index"]) for row in rows] == [(s, i) for s in range(STEPS) for i in range(8)]
    prompts = {json.loads(line)["prompt"]: json.loads(line)["answer"] for line in TRAIN.read_text().splitlines()}
    for row in rows:
        assert row["version"] == 0
        assert prompts[row["prompt"]] == row["answer"], "a plain prompt is text"
        assert len(row["samples"]) == 4
        assert all(len(sample["log_probs"]) == len(sample["token_ids"]) > 0 for sample in row["samples"])
    assert {sample["reward"] for row in rows for sample in row["samples"]} == {0.0, 1.0}


def test_the_exported_pairs_are_those_that_trained(stack: LocalStack, live: str) -> None:
    pairs = [json.loads(line) for line in export(stack, live, "--format", "preferences").stdout.splitlines()]
    assert len(pairs) == sum(row["pairs"] for row in stack.steps(live)) > 0
    # The learner shows people the first pair of each step as it trained.
    samples = stack.api.get(f"/v1/runs/{live}/samples", params={"page_size": 1000}).json()["samples"]
    shown = {
        (chosen["prompt"], chosen["completion"], rejected["completion"])
        for chosen, rejected in pairwise(samples)
        if (chosen["role"], rejected["role"]) == ("chosen", "rejected")
    }
    assert len(shown) > STEPS // 2
    assert shown <= {(pair["prompt"], pair["chosen"], pair["rejected"]) for pair in pairs}


def test_a_run_from_the_file_needs_no_generator_and_ends_with_the_bytes_of_the_live_one(
    stack: LocalStack, live: str, file: Path
) -> None:
    stack.scale(0)
    spec = from_file(file, tasks=[{"name": "add", "reward": {"type": "math"}}])  # no prompt file either
    run_id = stack.submit(spec)
    run = stack.finish(run_id)
    assert_trained_exactly_once(stack, run_id, spec)
    assert stack.final_weights(run_id) == stack.final_weights(live)
    for told in (run, json.loads(Path(run["summary_path"]).read_text())):
        assert told["rollouts"]["from"] == str(file.resolve())
        assert told["rollouts"]["groups"] == {"add": STEPS * 8}
    stack.until(stack.streams_are_empty, what="empty streams", within_s=30)


def test_a_learner_killed_in_a_run_from_a_file_goes_on_to_the_same_bytes(
    stack: LocalStack, live: str, file: Path
) -> None:
    spec = from_file(file)
    run_id = stack.submit(spec)
    stack.at_step(run_id, 6)
    stack.kill("learner")
    stack.finish(run_id)
    assert stack.run(run_id)["attempts"] >= 2
    assert_trained_exactly_once(stack, run_id, spec)
    assert stack.final_weights(run_id) == stack.final_weights(live)
    assert export(stack, run_id).stdout == export(stack, live).stdout, "and it has recorded what the first run did"


def test_a_run_from_a_file_survives_a_redis_that_loses_all_and_a_killed_coordinator(
    stack: LocalStack, live: str, file: Path
) -> None:
    spec = from_file(file)
    run_id = stack.submit(spec)
    stack.at_step(run_id, 4)
    with stack.redis() as redis:
        redis.flushall()
    stack.at_step(run_id, 12)
    stack.kill("coordinator")
    stack.finish(run_id)
    assert_trained_exactly_once(stack, run_id, spec)
    assert stack.final_weights(run_id) == stack.final_weights(live)


def test_more_steps_than_the_file_has_are_later_passes_over_it(stack: LocalStack, file: Path) -> None:
    spec = from_file(file, steps=2 * STEPS)
    run_id = stack.submit(spec)
    stack.finish(run_id)
    assert_trained_exactly_once(stack, run_id, spec)
    prompts = [json.loads(line)["prompt_token_ids"] for line in export(stack, run_id).stdout.splitlines()]
    first, second = prompts[: STEPS * 8], prompts[STEPS * 8 :]
    assert sorted(first) == sorted(second), "each pass has every group once"
    assert first != second, "and the second one is shuffled"


def test_a_run_from_a_file_is_evaluated_by_generators_and_trains_the_same(
    stack: LocalStack, live: str, file: Path
) -> None:
    stack.scale(1)
    heldout = {"name": "heldout", "data": str(QUICKSTART / "heldout.jsonl"), "temperature": 0.0}
    run_id = stack.submit(from_file(file, evaluation=[heldout]))
    run = stack.finish(run_id)
    evaluation = json.loads(Path(run["summary_path"]).read_text())["evaluation"]
    assert evaluation["before"]["heldout"]["score"]["mean"] > 0.3
    assert evaluation["after"]["heldout"]["score"] != evaluation["before"]["heldout"]["score"]
    assert stack.final_weights(run_id) == stack.final_weights(live)


def test_the_period_of_a_run_from_a_file_cannot_be_changed(stack: LocalStack, file: Path) -> None:
    run_id = stack.submit(from_file(file, steps=10_000))
    refused = stack.api.patch(f"/v1/runs/{run_id}", json={"sync": {"period": 5}})
    assert refused.status_code == 409
    assert "never synced" in refused.json()["detail"]
    stack.api.post(f"/v1/runs/{run_id}:cancel")


def test_a_file_that_is_not_there_any_more_as_it_was_submitted_fails_the_run(stack: LocalStack, file: Path) -> None:
    ahead = stack.submit(from_file(file, steps=10_000))  # keeps the next one waiting
    copy = stack.folder / "changing.jsonl"
    copy.write_text(unpacked(file))
    waiting = stack.submit(from_file(copy))
    copy.write_text("".join(reversed(copy.read_text().splitlines(keepends=True))))
    stack.kill("coordinator")  # what it knew of the file is gone
    stack.until(lambda: stack.run(ahead)["state"] in ("running", "starting"), what="the coordinator to be back")
    stack.api.post(f"/v1/runs/{ahead}:cancel")
    run = stack.finish(waiting, state="failed")
    assert "is not the file that was submitted" in run["reason"]
