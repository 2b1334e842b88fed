"""The REST API over real Redis: runs in pages, waiting, changed, over, deleted, and their best checkpoint."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import httpx
from redis.asyncio import Redis

from services.coordinator.records.best import update_standings
from services.coordinator.records.store import RunStore
from syncline import standings
from syncline.state import RunEvent
from syncline.storage import FolderStorage
from syncline.streams import Streams
from tests.integration.evaluated import HELD_OUT, evaluate
from tests.integration.published import publish
from tests.integration.rest_world import says, serving, spec, start_from
from tests.waiting import until


async def test_pages_lead_through_all_runs_newest_first(api: httpx.AsyncClient) -> None:
    created = [(await api.post("/v1/runs", json=spec())).json()["id"] for _ in range(5)]
    seen: list[str] = []
    token = ""
    while True:
        answer = (await api.get("/v1/runs", params={"page_size": 2, "page_token": token})).json()
        seen += [run["id"] for run in answer["runs"]]
        if not (token := answer["next_page_token"]):
            break
    assert seen == created[::-1]
    assert (await api.get("/v1/runs", params={"page_token": "nonsense"})).status_code == 422


async def test_a_pending_run_can_be_cancelled_once_and_for_all(api: httpx.AsyncClient) -> None:
    run = (await api.post("/v1/runs", json=spec())).json()
    for _ in range(2):
        cancelled = await api.post(f"/v1/runs/{run['id']}:cancel")
        assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    summary = json.loads(Path(run["summary_path"]).read_text())
    assert (summary["state"], summary["steps"]) == ("cancelled", 0)


async def test_a_run_that_waits_for_its_turn_says_for_which(project: Path, redis: Redis) -> None:
    async with serving(project, redis) as (client, runs):
        first, second = [(await client.post("/v1/runs", json=spec())).json()["id"] for _ in range(2)]
        runs.store.get(first).apply(RunEvent.START)
        assert (await client.get(f"/v1/runs/{first}")).json()["reason"] == ""
        assert (await client.get(f"/v1/runs/{second}")).json()["reason"] == f"waits for {first} (starting)"
        (queued,) = [event["data"] for event in runs.store.get(second).series["events"] if event["type"] == "queued"]
        assert queued == {"behind": first}
        runs.cancel(first)
        assert (await client.get(f"/v1/runs/{second}")).json()["reason"] == ""


async def test_work_that_a_run_left_open_is_closed_before_another_one_starts(project: Path, redis: Redis) -> None:
    # Given a run that was cancelled while Redis did not answer
    async with serving(project, redis) as (client, runs):
        run = (await client.post("/v1/runs", json=spec())).json()
        await client.post(f"/v1/runs/{run['id']}:cancel")
        await Streams(redis).open_run(run["id"])
        # When the coordinator looks for the next one
        driving = asyncio.create_task(runs.run())
        async with asyncio.timeout(10):
            while await Streams(redis).open_runs():
                await asyncio.sleep(0.01)
        driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)


async def test_a_run_that_is_over_can_be_deleted_and_no_other(project: Path, redis: Redis) -> None:
    async with serving(project, redis) as (client, runs):
        run = (await client.post("/v1/runs", json=spec())).json()
        publish(Path(run["folder"]), project / "model", version=0, run_id=run["id"], probe=[0.0] * 9)
        refused = await client.delete(f"/v1/runs/{run['id']}")
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
        await client.post(f"/v1/runs/{run['id']}:cancel")
        heir = (await client.post("/v1/runs", json=spec(model={"path": f"run://{run['id']}/final"}))).json()
        refused = await client.delete(f"/v1/runs/{run['id']}")
        assert f"run {heir['id']} is pending and starts from a checkpoint" in refused.json()["detail"]
        # Nor while the other one can be resumed
        await client.post(f"/v1/runs/{heir['id']}:cancel")
        refused = await client.delete(f"/v1/runs/{run['id']}")
        assert refused.json()["detail"].endswith(f"checkpoint of run {run['id']}; delete it first")
        assert (await client.delete(f"/v1/runs/{heir['id']}")).status_code == 204
        assert (await client.delete(f"/v1/runs/{run['id']}")).status_code == 204
        assert not Path(run["folder"]).exists()
        assert (await client.get(f"/v1/runs/{run['id']}")).status_code == 404
        assert (await client.delete(f"/v1/runs/{run['id']}")).status_code == 404
        assert RunStore(project / "runs").all() == runs.store.all() == []


async def test_a_run_that_was_paused_when_its_learner_went_away_can_be_resumed(project: Path, redis: Redis) -> None:
    async with serving(project, redis) as (api, runs):
        run = runs.store.get((await api.post("/v1/runs", json=spec())).json()["id"])
        for event in (RunEvent.START, RunEvent.TRAIN, RunEvent.PAUSE, RunEvent.LOSE_ATTEMPT, RunEvent.STALL):
            run.apply(event, "waiting for a learner to register")
        for verb, paused in (("pause", True), ("resume", False)):
            assert (await api.post(f"/v1/runs/{run.id}:{verb}")).status_code == 200
            assert (run.state, run.record.paused) == ("stalled", paused)


async def test_a_run_whose_prompts_have_changed_goes_on_when_they_are_put_back(project: Path, redis: Redis) -> None:
    """Another line would shuffle all of them anew: steps would train on prompts that earlier ones had trained on."""
    prompts = project / "train.jsonl"
    submitted = prompts.read_text()
    async with serving(project, redis) as (api, runs):
        run_id = (await api.post("/v1/runs", json=spec(evaluation=[HELD_OUT]))).json()["id"]
        await api.post(f"/v1/runs/{run_id}:cancel")
    # Given another life of the coordinator, which reads them anew
    async with serving(project, redis) as (api, runs):
        run = runs.store.get(run_id)
        driving = asyncio.create_task(runs.run())
        prompts.write_text(submitted + '{"prompt": "1+1=", "answer": "2"}\n')
        refused = await api.post(f"/v1/runs/{run.id}:resume")
        says_so = "tasks.0.data and evaluation.0.data no longer hold the rows that were submitted"
        assert (refused.status_code, refused.json()["detail"].startswith(says_so)) == (409, True)
        assert run.state == "cancelled"
        prompts.write_text(submitted)
        await api.post(f"/v1/runs/{run.id}:resume")
        await until(lambda: run.reason == "waiting for a learner to register", what="the run to look for a learner")
        driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)


async def test_versions_that_another_run_starts_from_are_told_to_the_learner(project: Path, redis: Redis) -> None:
    async with serving(project, redis) as (api, runs):
        run = runs.store.get((await api.post("/v1/runs", json=spec())).json()["id"])
        for version in (0, 2, 3):
            publish(run.folder, project / "model", version=version, run_id=run.id, probe=[0.0] * 9)
        await api.post(f"/v1/runs/{run.id}:cancel")
        heir = (await start_from(api, f"{run.id}/v2")).json()
        await api.post(f"/v1/runs/{heir['id']}:cancel")
        # When the older run goes on
        driving = asyncio.create_task(runs.run())
        await api.post(f"/v1/runs/{run.id}:resume")
        await until(lambda: standings.read(FolderStorage(run.folder)).lent, what="the learner to be told")
        assert standings.read(FolderStorage(run.folder)).lent == {2}
        driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)


async def test_a_period_that_does_not_fit_a_waiting_run_is_refused_and_a_new_coordinator_reads_the_record(
    project: Path, redis: Redis
) -> None:
    async with serving(project, redis) as (api, runs):
        path = f"/v1/runs/{(await api.post('/v1/runs', json=spec())).json()['id']}"
        refused = await api.patch(path, json={"sync": {"period": 1000}})
        assert refused.status_code == 422
        (error,) = refused.json()["errors"]
        assert error["path"] == "sync.period"
        assert error["problem"].startswith("1000 is more than the run's 4 steps")
        for period in (3, "never", 1):  # the last word holds
            assert (await api.patch(path, json={"sync": {"period": period}})).status_code == 200
        sync = (await api.get(path)).json()["spec"]["sync"]
        assert sync["changes"] == [{"step": 0, "period": 1}]
        (again,) = RunStore(runs.store.root).all()
        assert again.spec.sync.model_dump(mode="json") == sync


async def test_changing_a_resumed_run_that_waits_keeps_the_schedule_that_it_was_trained_on(
    project: Path, redis: Redis
) -> None:
    async with serving(project, redis) as (api, runs):
        created = await api.post("/v1/runs", json=spec(steps=60, sync={"period": 10}))
        run = runs.store.get(created.json()["id"])
        path = f"/v1/runs/{run.id}"
        # Given a run that was changed at step 10, cancelled after step 33 and resumed
        run.change_period(run.spec.with_period(10, 2))
        run.record.step = 34
        await api.post(f"{path}:cancel")
        await api.post(f"{path}:resume")
        before = run.spec.schedule()
        assert (await api.patch(path, json={"sync": {"period": 5}})).status_code == 200
        after = run.spec.schedule()
        assert [after.version_for_step(step) for step in range(34)] == [before.version_for_step(s) for s in range(34)]
        assert [after.period_at(step) for step in (0, 10, 33, 34)] == [10, 2, 2, 5]
        events = (await api.get(f"{path}/events")).json()["events"]
        told = [event["data"] for event in events if event["type"] == "period"]
        assert told == [{"from_step": 10, "period": 2}, {"from_step": 34, "period": 5}]


async def test_a_change_that_no_window_is_left_for_is_refused(project: Path, redis: Redis) -> None:
    async with serving(project, redis) as (api, runs):
        created = await api.post("/v1/runs", json=spec(steps=60, sync={"period": 50}))
        run = runs.store.get(created.json()["id"])
        run.record.step = 51
        refused = await api.patch(f"/v1/runs/{run.id}", json={"sync": {"period": 5}})
        assert refused.status_code == 409
        assert "would begin at step 100, and the run ends after 60" in refused.json()["detail"]
        assert run.spec.sync.changes == ()


async def test_the_best_checkpoint_is_marked_and_can_be_started_from(project: Path, redis: Redis) -> None:
    async with serving(project, redis) as (api, runs):
        run = runs.store.get((await api.post("/v1/runs", json=spec(evaluation=[HELD_OUT]))).json()["id"])
        await says(await start_from(api, f"{run.id}/best"), "is pending, so its best checkpoint is not known")
        run.apply(RunEvent.START)
        for version in (0, 2, 4):
            publish(run.folder, project / "model", version=version, run_id=run.id, probe=[0.0] * 9)
        for which in ("best", "final"):
            refused = await start_from(api, f"{run.id}/{which}")
            await says(refused, f"is starting, so its {which} checkpoint is not known; it has v0, v2, v4")
        for version, accuracy in ((0, 0.25), (2, 0.75), (4, 0.5)):
            await evaluate(run, version, accuracy)
        folder = str(run.folder.resolve() / "checkpoints" / "v000002")
        best = {"version": 2, "evaluation": "heldout", "metric": "score", "value": 0.75, "folder": folder}
        assert (await api.get(f"/v1/runs/{run.id}")).json()["best"] == best
        rows = (await api.get(f"/v1/runs/{run.id}/checkpoints")).json()["checkpoints"]
        assert [(row["version"], row["best"], row["kept"]) for row in rows] == [
            (0, False, True),
            (2, True, True),
            (4, False, False),
        ]
        await api.post(f"/v1/runs/{run.id}:cancel")
        assert (await start_from(api, f"{run.id}/best")).json()["spec"]["model"]["path"] == folder
        events = (await api.get(f"/v1/runs/{run.id}/events")).json()["events"]
        assert [event["data"]["version"] for event in events if event["type"] == "best"] == [0, 2]
        summary = json.loads((run.folder / "summary.json").read_text())
        assert summary["best"] == best
        assert summary["evaluation"]["before"]["heldout"]["score"]["mean"] == 0.25
        assert summary["evaluation"]["after"]["heldout"]["score"] == {"mean": 0.5, "low": 0.5, "high": 0.5}

        # and what was answered can be read, page by page
        path = f"/v1/runs/{run.id}/evaluations/heldout/2"
        first = (await api.get(path, params={"page_size": 2})).json()
        assert first["evaluation"]["score"]["mean"] == 0.75
        assert [one["prompt_index"] for one in first["answers"]] == [0, 1]
        assert first["answers"][0]["samples"][0]["completion"] == "46"
        rest = (await api.get(path, params={"page_size": 2, "page_token": first["next_page_token"]})).json()
        assert ([one["prompt_index"] for one in rest["answers"]], rest["next_page_token"]) == ([2], "")
        for missing in ("heldout/3", "other/2"):
            answer = await api.get(f"/v1/runs/{run.id}/evaluations/{missing}")
            assert answer.status_code == 404
            assert "it has: heldout/0, heldout/2, heldout/4" in answer.json()["detail"]


async def test_a_run_that_goes_back_forgets_what_it_will_evaluate_anew(project: Path, redis: Redis) -> None:
    async with serving(project, redis) as (api, runs):
        run = runs.store.get((await api.post("/v1/runs", json=spec(evaluation=[HELD_OUT]))).json()["id"])
        for version, accuracy in ((0, 0.25), (2, 0.5), (4, 0.75)):
            publish(run.folder, project / "model", version=version, run_id=run.id, probe=[0.0] * 9)
            await evaluate(run, version, accuracy)
        assert (await api.get(f"/v1/runs/{run.id}")).json()["best"]["version"] == 4
        # When an attempt goes on from step 3, and what was published beyond it is deleted
        shutil.rmtree(run.folder / "checkpoints" / "v000004")
        run.rewind(3)
        await update_standings(run)
        assert (await api.get(f"/v1/runs/{run.id}")).json()["best"]["version"] == 2
        assert standings.read(FolderStorage(run.folder)).of("heldout") == {0, 2}
