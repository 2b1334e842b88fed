"""Whole stacks in trouble: the run goes on, trains every prompt once, and ends with the bytes of one in peace."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.learner.state import saved_steps
from syncline.membership import Role
from syncline.storage import FolderStorage
from tests.chaos.small_disk import SmallDisk, small_disk
from tests.e2e.local_stack import LocalStack, small_spec
from tests.e2e.test_a_run import assert_trained_exactly_once

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SPEC = small_spec(steps=60)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with LocalStack(tmp_path_factory.mktemp("stack"), project=Path.cwd(), generators=2) as stack:
        yield stack


@pytest.fixture(scope="module")
def undisturbed(stack: LocalStack) -> bytes:
    """The weights that SPEC ends with."""
    run_id = stack.submit(SPEC)
    stack.finish(run_id)
    return stack.final_weights(run_id)


def assert_as_undisturbed(stack: LocalStack, run_id: str, undisturbed: bytes) -> None:
    stack.finish(run_id)
    assert_trained_exactly_once(stack, run_id, SPEC)
    assert stack.final_weights(run_id) == undisturbed
    stack.until(stack.streams_are_empty, what="empty streams", within_s=20)


def members(stack: LocalStack, role: Role) -> list[str]:
    return [member["id"] for member in stack.api.get("/v1/fleet").json()[role]]


@pytest.mark.parametrize("wipe", [False, True], ids=["data kept", "data wiped"])
def test_a_killed_redis_server_comes_back_and_the_run_goes_on(
    stack: LocalStack, undisturbed: bytes, wipe: bool
) -> None:
    run_id = stack.submit(SPEC)
    for step in (2, 9, 31):
        stack.at_step(run_id, step)
        stack.until(lambda: "redis" in stack.children(), what="a Redis to kill")
        stack.kill_redis(wipe=wipe)
    assert_as_undisturbed(stack, run_id, undisturbed)


def test_a_generator_that_froze_for_longer_than_its_lease_hands_over_nothing_that_is_not_its_own(
    stack: LocalStack, undisturbed: bytes
) -> None:
    run_id = stack.submit(SPEC)
    stack.at_step(run_id, 5)
    stack.signal("inference-0", signal.SIGSTOP)
    try:
        # The other one takes over what it held, and the run goes on without it
        stack.until(lambda: members(stack, "inference") == ["inference-1"], what="the frozen one to be forgotten")
        stack.at_step(run_id, 20)
    finally:
        stack.signal("inference-0", signal.SIGCONT)
    stack.until(lambda: len(members(stack, "inference")) == 2, what="the thawed one to be known again")
    assert_as_undisturbed(stack, run_id, undisturbed)


def test_reports_that_a_killed_coordinator_had_not_read_are_told_again(stack: LocalStack, undisturbed: bytes) -> None:
    """The learner trains and saves on with nobody to listen, and a step that is saved is never made again."""
    run_id = stack.submit(SPEC)
    stack.at_step(run_id, 6)
    _freeze_with_reports_unread(stack, stack.folder / "runs" / run_id)
    stack.kill("coordinator")
    assert_as_undisturbed(stack, run_id, undisturbed)


def _freeze_with_reports_unread(stack: LocalStack, run_dir: Path) -> None:
    """Freeze the coordinator where the learner's saved state is ahead of the record of steps."""
    for _ in range(100):
        stack.signal("coordinator", signal.SIGSTOP)
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline:
            recorded = (run_dir / "steps.jsonl").read_bytes().count(b"\n")
            if (saved := saved_steps(FolderStorage(run_dir))) and saved[-1] > recorded:
                return
            time.sleep(0.01)
        stack.signal("coordinator", signal.SIGCONT)  # the learner waits for it: try at another moment
        time.sleep(0.1)
    raise AssertionError("the learner never got ahead of the coordinator")


def test_coordinator_and_learner_killed_together_go_on(stack: LocalStack, undisturbed: bytes) -> None:
    run_id = stack.submit(SPEC)
    stack.at_step(run_id, 10)
    stack.kill("coordinator")
    stack.kill("learner")
    assert_as_undisturbed(stack, run_id, undisturbed)


def test_a_paused_run_is_paused_still_when_its_coordinator_was_killed(stack: LocalStack, undisturbed: bytes) -> None:
    run_id = stack.submit(SPEC)
    stack.at_step(run_id, 4)
    assert stack.api.post(f"/v1/runs/{run_id}:pause").status_code == 200
    stack.kill("coordinator")
    stack.until(lambda: stack.run(run_id)["state"] not in ("paused", "running"), what="the kill to be seen")
    stack.until(lambda: stack.run(run_id)["state"] == "paused", what="the run to be held again")
    held_at = stack.run(run_id)["progress"]["step"]
    assert held_at < SPEC["steps"]
    assert stack.api.post(f"/v1/runs/{run_id}:resume").status_code == 200
    assert_as_undisturbed(stack, run_id, undisturbed)


def test_a_full_disk_fails_the_run_in_words_and_the_freed_disk_lets_it_go_on(
    tmp_path_factory: pytest.TempPathFactory, undisturbed: bytes
) -> None:
    folder = tmp_path_factory.mktemp("small")
    with small_disk(folder / "runs", megabytes=24) as disk, LocalStack(folder, project=Path.cwd()) as stack:
        _fill_in_mid_run(stack, disk, undisturbed)


def _fill_in_mid_run(stack: LocalStack, disk: SmallDisk, undisturbed: bytes) -> None:
    # Given a run whose disk fills up
    run_id = stack.submit(SPEC)
    stack.at_step(run_id, 9)
    disk.fill()
    # Then it ends with a word, and the coordinator is there and refuses more with the same one
    run = stack.finish(run_id, state="failed")
    assert "No space left on device" in run["reason"]
    assert "free space" in run["reason"].lower()
    refused = stack.api.post("/v1/runs", json=SPEC)
    assert refused.status_code == 507
    assert "No space left on device" in refused.json()["detail"]
    assert stack.api.post(f"/v1/runs/{run_id}:resume").status_code == 507
    assert [run["id"] for run in stack.api.get("/v1/runs").json()["runs"]] == [run_id]
    # And with space again it goes on from its saved state
    disk.empty()
    resumed = stack.api.post(f"/v1/runs/{run_id}:resume")
    assert resumed.status_code == 200, resumed.text
    assert_as_undisturbed(stack, run_id, undisturbed)
