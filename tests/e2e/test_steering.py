"""Steering a run while it goes: another period, a pause, a second life."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

from syncline import runspec
from tests.e2e.local_stack import QUICKSTART, LocalStack, small_spec
from tests.hanging_file import HangingFile


def test_the_period_changes_at_the_next_window_and_the_steps_show_it(stack: LocalStack) -> None:
    stack.scale(1)
    run_id = stack.submit(small_spec(steps=60, sync={"period": 10, "lag": 0}))
    stack.at_step(run_id, 3)
    changed = stack.api.patch(f"/v1/runs/{run_id}", json={"sync": {"period": 2}})
    assert changed.status_code == 200, changed.text
    stack.finish(run_id)
    spec = runspec.parse(stack.run(run_id)["spec"])
    (change,) = spec.sync.changes
    assert change.period == 2
    schedule = spec.schedule()
    steps = stack.steps(run_id)
    assert [row["version"] for row in steps] == [schedule.version_for_step(step) for step in range(60)]
    assert {row["staleness"] for row in steps[change.step + 10 :]} == {0, 1}
    assert [row["sync_period"] for row in steps] == [schedule.period_at(step) for step in range(60)]
    told = [event["data"] for event in stack.events(run_id) if event["type"] == "period"]
    assert told == [{"from_step": schedule.last_start, "period": 2}]


def test_a_run_whose_period_changed_while_it_waited_follows_the_new_one(stack: LocalStack) -> None:
    stack.scale(1)
    first = stack.submit(small_spec(steps=3000))
    stack.at_step(first, 1)
    waiting = stack.submit(small_spec(steps=8))
    changed = stack.api.patch(f"/v1/runs/{waiting}", json={"sync": {"period": 1}})
    assert (changed.status_code, changed.json()["state"]) == (200, "pending")
    stack.api.post(f"/v1/runs/{first}:cancel")
    stack.finish(waiting)
    assert [(row["version"], row["refused"]) for row in stack.steps(waiting)] == [(step, {}) for step in range(8)]


def test_offline_can_become_online(stack: LocalStack) -> None:
    stack.scale(1)
    run_id = stack.submit(small_spec(steps=80, sync={"period": "never", "lag": 0}))
    stack.at_step(run_id, 2)
    assert stack.api.patch(f"/v1/runs/{run_id}", json={"sync": {"period": 1}}).status_code == 200
    stack.finish(run_id)
    staleness = [row["staleness"] for row in stack.steps(run_id)]
    assert staleness[:10] == list(range(10))
    assert staleness[-10:] == [0] * 10


def test_a_change_that_makes_no_sense_is_refused(stack: LocalStack) -> None:
    run_id = stack.submit(small_spec(steps=2, sync={"period": 2, "lag": 0}))
    for body in ({"sync": {"period": 0}}, {"steps": 7}, {"sync": {}}):
        assert stack.api.patch(f"/v1/runs/{run_id}", json=body).status_code == 422
    stack.finish(run_id)
    assert stack.api.patch(f"/v1/runs/{run_id}", json={"sync": {"period": 3}}).status_code == 409


def test_a_paused_run_holds_and_goes_on_to_the_same_bytes(stack: LocalStack) -> None:
    stack.scale(1)
    spec = small_spec(steps=40)
    undisturbed = stack.submit(spec)
    stack.finish(undisturbed)
    paused = stack.submit(spec)
    stack.at_step(paused, 4)
    assert stack.api.post(f"/v1/runs/{paused}:pause").json()["state"] == "paused"

    def learner() -> dict[str, Any]:
        found: dict[str, Any] = stack.api.get("/v1/fleet").json()["learner"][0]
        return found

    stack.until(lambda: "paused" in str(learner().get("detail", "")), what="the learner to hold")
    held_at = learner()["step"]
    assert held_at < 40
    stack.scale(2)  # a process starts and registers: the learner has registered many times meanwhile
    assert (learner()["step"], stack.run(paused)["progress"]["step"]) == (held_at, held_at)
    assert stack.api.post(f"/v1/runs/{paused}:resume").json()["state"] == "running"
    stack.finish(paused)
    assert stack.final_weights(paused) == stack.final_weights(undisturbed)


def test_a_run_that_is_paused_after_its_last_update_succeeds(tmp_path: Path) -> None:
    seed = shutil.copytree(QUICKSTART / "seed-model", tmp_path / "seed")
    (tmp_path / "stack").mkdir()
    with LocalStack(tmp_path / "stack", project=Path.cwd(), model_root="/") as stack:
        # Given a run whose only update is made, and whose last publication takes long
        stack.scale(0)
        no_reference = {"name": "grpo", "beta": 0.0}  # or it would read the seed model once more, before the update
        run_id = stack.submit(
            small_spec(steps=1, model={"path": str(seed)}, algorithm=no_reference, sync={"period": 1})
        )
        stack.until(lambda: stack.run(run_id)["state"] in ("running", "stalled"), what="version 0")
        config = HangingFile(seed / "config.json")
        stack.scale(1)
        stack.until(config.is_read, what="the last publication")
        # When it is paused
        assert stack.api.post(f"/v1/runs/{run_id}:pause").json()["state"] == "paused"
        # Then it is no less at its end
        config.answer()
        stack.finish(run_id)


def test_a_cancelled_run_can_be_resumed_from_its_saved_state(stack: LocalStack) -> None:
    stack.scale(1)
    spec = small_spec(steps=40)
    undisturbed = stack.submit(spec)
    stack.finish(undisturbed)
    cancelled = stack.submit(spec)
    stack.at_step(cancelled, 9)
    stack.api.post(f"/v1/runs/{cancelled}:cancel")
    assert stack.api.post(f"/v1/runs/{cancelled}:resume").json()["state"] == "pending"
    stack.finish(cancelled)
    assert stack.final_weights(cancelled) == stack.final_weights(undisturbed)
    assert stack.api.post(f"/v1/runs/{cancelled}:resume").status_code == 409, "success is final"


def test_a_run_waits_for_a_learner_that_still_writes_for_another_one(tmp_path: Path) -> None:
    seed = shutil.copytree(QUICKSTART / "seed-model", tmp_path / "seed")
    (tmp_path / "stack").mkdir()
    quick = {"stop_timeout_s": "0.2", "max_attempts": "1"}  # one attempt that counts would fail the run
    with LocalStack(tmp_path / "stack", project=Path.cwd(), model_root="/", **quick) as stack:
        # Given a cancelled run whose learner is in the middle of a write
        first = stack.submit(small_spec(steps=3000, model={"path": str(seed)}))
        stack.at_step(first, 1)
        config = HangingFile(seed / "config.json")
        stack.until(config.is_read, what="the next publication")
        stack.api.post(f"/v1/runs/{first}:cancel")
        # When the next one has been turned away a few times
        second = stack.submit(small_spec(steps=2, sync={"period": 1, "lag": 0}))
        busy = f"is still publishing for run {first}"
        stack.until(
            lambda: sum(busy in str(event["data"].get("reason", "")) for event in stack.events(second)) >= 3,
            what="a few refusals",
        )
        assert stack.run(second)["state"] == "starting"
        # Then it trains as soon as the learner is free
        config.answer()
        stack.finish(second)


def test_a_run_waits_for_a_learner_however_long_that_is_away(tmp_path: Path) -> None:
    (tmp_path / "stack").mkdir()
    quick = {"stall_after_s": "0.5", "max_attempts": "1"}  # one attempt that counts would fail the run
    with LocalStack(tmp_path / "stack", project=Path.cwd(), **quick) as stack:
        # Given a learner that nobody hears of any more
        stack.signal("learner", signal.SIGSTOP)
        stack.until(lambda: not stack.api.get("/v1/fleet").json()["learner"], what="the learner to be missed")
        # When a run wants it, the run stalls and says so
        run_id = stack.submit(small_spec(steps=4))
        stack.until(lambda: stack.run(run_id)["state"] == "stalled", what="the run to stall")
        assert stack.run(run_id)["reason"] == "waiting for a learner to register"
        # Then it trains as soon as the learner is back
        stack.signal("learner", signal.SIGCONT)
        stack.finish(run_id)
        states = [event["data"]["state"] for event in stack.events(run_id) if event["type"] == "state"]
        assert states[:5] == ["pending", "starting", "stalled", "starting", "running"]


def test_a_run_that_cannot_use_its_newest_state_says_so_and_goes_on_from_the_one_before(stack: LocalStack) -> None:
    stack.scale(1)
    spec = small_spec(steps=40, checkpoints={"every": 4, "keep": 3})
    undisturbed = stack.submit(spec)
    stack.finish(undisturbed)
    cancelled = stack.submit(spec)
    stack.at_step(cancelled, 13)
    stack.api.post(f"/v1/runs/{cancelled}:cancel")
    stack.until(lambda: stack.api.get("/v1/fleet").json()["learner"][0]["phase"] == "idle", what="the learner to stop")
    *_, before, newest = sorted((stack.folder / "runs" / cancelled / "state").glob("step-*"))
    os.truncate(newest / "tensors-00000.safetensors", 1000)
    stack.api.post(f"/v1/runs/{cancelled}:resume")
    stack.finish(cancelled)
    (warning,) = [event["data"] for event in stack.events(cancelled) if event["type"] == "warning"]
    assert f"{newest.name}/tensors-00000.safetensors is 1000 bytes" in warning["problem"]
    assert f"the run goes on from step {int(before.name[-6:])}" in warning["allowed"]
    assert stack.final_weights(cancelled) == stack.final_weights(undisturbed)


def test_a_run_can_start_from_another_runs_checkpoint(stack: LocalStack) -> None:
    stack.scale(1)
    first = stack.submit(small_spec(steps=8))
    stack.finish(first)
    second = stack.submit(small_spec(steps=4, model={"path": f"run://{first}/final"}))
    stack.finish(second)
    seed = (stack.folder / "runs" / second / "checkpoints" / "v000000" / "model.safetensors").read_bytes()
    assert seed == stack.final_weights(first)
    refused = stack.api.post("/v1/runs", json=small_spec(model={"path": f"run://{first}/v3"}))
    assert refused.status_code == 422
    assert "there are: v" in refused.json()["errors"][0]["problem"]
