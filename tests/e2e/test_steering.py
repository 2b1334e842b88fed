"""Steering a run while it goes: another period, a pause, a second life."""

from __future__ import annotations

from syncline import runspec
from tests.e2e.local_stack import LocalStack, small_spec


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
    stack.until(
        lambda: "paused" in str(stack.api.get("/v1/fleet").json()["learner"][0].get("detail", "")),
        what="the learner to hold",
    )
    held_at = stack.run(paused)["progress"]["step"]
    assert held_at < 40
    assert stack.api.post(f"/v1/runs/{paused}:resume").json()["state"] == "running"
    stack.finish(paused)
    assert stack.final_weights(paused) == stack.final_weights(undisturbed)


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
