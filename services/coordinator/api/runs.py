"""Routes under /v1/runs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from services.coordinator.api.bodies import document, read_as
from services.coordinator.api.resources import page, run_resource
from services.coordinator.control.runs import Runs
from services.coordinator.records.best import best_version
from services.coordinator.records.export import Form, exported
from services.coordinator.records.run import Run
from services.coordinator.records.series import Series
from services.coordinator.records.summary import summarize
from syncline import published
from syncline.errors import Conflict
from syncline.run_parts import SyncPeriod
from syncline.spec_part import Part

router = APIRouter(prefix="/v1/runs", tags=["runs"])


def runs_of(request: Request) -> Runs:
    runs: Runs = request.app.state.runs
    return runs


def run_of(run_id: str, request: Request) -> Run:
    return runs_of(request).store.get(run_id)


class NewSync(Part):
    """What of the schedule can be changed."""

    period: SyncPeriod


class RunChange(Part):
    """What of a run can be changed."""

    sync: NewSync


TheRuns = Annotated[Runs, Depends(runs_of)]
TheRun = Annotated[Run, Depends(run_of)]
PageSize = Annotated[int, Query(ge=1, le=1000, description="rows of a page")]
PageToken = Annotated[str, Query(description="next_page_token of the page before")]


@router.post("", status_code=202, operation_id="createRun", summary="Submit a run")
async def create_run(
    runs: TheRuns,
    response: Response,
    spec: Annotated[Any, Depends(document)],
    idempotency_key: Annotated[str, Header(max_length=200)] = "",
) -> dict[str, Any]:
    """Checks the run spec against files, model and rewards, and queues the run. Nothing starts if it is refused.

    A judge or reward model that does not answer is no refusal, but one of the run's `warnings`.
    """
    run = await runs.submit(spec, idempotency_key=idempotency_key)
    response.headers["Location"] = f"/v1/runs/{run.id}"
    return run_resource(run)


@router.get("", operation_id="listRuns", summary="List runs, newest first")
async def list_runs(runs: TheRuns, page_size: PageSize = 50, page_token: PageToken = "") -> dict[str, Any]:
    rows, following = page(list(reversed(runs.store.all())), size=page_size, token=page_token)
    return {"runs": [run_resource(run) for run in rows], "next_page_token": following}


@router.get("/{run_id}", operation_id="getRun", summary="One run")
async def get_run(run: TheRun) -> dict[str, Any]:
    return run_resource(run)


@router.post("/{run_id}:cancel", operation_id="cancelRun", summary="Cancel a run")
async def cancel_run(run_id: str, runs: TheRuns) -> dict[str, Any]:
    """Idempotent; 409 for a run that ended otherwise."""
    return run_resource(runs.cancel(run_id))


@router.post("/{run_id}:pause", operation_id="pauseRun", summary="Hold a run")
async def pause_run(run_id: str, runs: TheRuns) -> dict[str, Any]:
    """What is generated stays; the learner waits before its next step. Idempotent."""
    return run_resource(await runs.pause(run_id))


@router.post("/{run_id}:resume", operation_id="resumeRun", summary="Continue a paused, failed or cancelled run")
async def resume_run(run_id: str, runs: TheRuns) -> dict[str, Any]:
    """A paused run goes on where it is; a failed or cancelled one is queued and goes on from its saved state."""
    return run_resource(await runs.resume(run_id))


@router.patch("/{run_id}", operation_id="changeRun", summary="Change the sync period of a run")
async def change_run(
    run_id: str, runs: TheRuns, change: Annotated[RunChange, Depends(read_as(RunChange))]
) -> dict[str, Any]:
    """Takes effect at the next window of which no prompt is admitted yet."""
    return run_resource(await runs.change_period(run_id, change.sync.period))


@router.delete("/{run_id}", status_code=204, operation_id="deleteRun", summary="Delete a run that is over")
def delete_run(run_id: str, runs: TheRuns) -> Response:
    """With its records, checkpoints and rollouts. 409 for a run that is not over, or whose weights another one uses."""
    runs.delete(run_id)
    return Response(status_code=204)


@router.get("/{run_id}/summary", operation_id="getSummary", summary="What came of a run, in one document")
def get_summary(run: TheRun) -> dict[str, Any]:
    """What summary.json in its folder holds. 409 for a run that is not over."""
    if not run.state.terminal:
        raise Conflict(f"run {run.id} is {run.state.value}, and its summary is for the end; see its steps until then")
    return summarize(run)


@router.get("/{run_id}/steps", operation_id="listSteps", summary="Steps with version, staleness and numbers")
async def list_steps(run: TheRun, page_size: PageSize = 100, page_token: PageToken = "") -> dict[str, Any]:
    return _series(run, "steps", page_size, page_token)


@router.get("/{run_id}/samples", operation_id="listSamples", summary="Completions to read")
async def list_samples(run: TheRun, page_size: PageSize = 100, page_token: PageToken = "") -> dict[str, Any]:
    return _series(run, "samples", page_size, page_token)


@router.get("/{run_id}/checkpoints", operation_id="listCheckpoints", summary="Published weights on storage")
def list_checkpoints(run: TheRun, page_size: PageSize = 100, page_token: PageToken = "") -> dict[str, Any]:
    """`best` marks the best one so far. `kept` ones stay on storage when newer ones come: that, and the seed."""
    versions, following = page(published.versions(run.storage), size=page_size, token=page_token)
    best = (best_version(run) or {}).get("version")
    rows = []
    for version in versions:
        name = published.name_of(version)
        manifest = run.storage.manifest(name)
        rows.append(
            {
                "version": version,
                "best": version == best,
                "kept": version in (0, best) or run.state.terminal,
                "folder": run.storage.place_of(name),
                "manifest_digest": manifest.digest,
                "bytes": sum(size for size, _ in manifest.files.values()),
            }
        )
    return {"checkpoints": rows, "next_page_token": following}


@router.get("/{run_id}/rollouts", operation_id="exportRollouts", summary="What the run trained on, as NDJSON")
def export_rollouts(
    run: TheRun,
    form: Annotated[
        Form, Query(alias="format", description="whole groups, or {prompt, chosen, rejected}")
    ] = "rollouts",
    task: Annotated[str, Query(description="only this task's rows")] = "",
) -> StreamingResponse:
    """All steps made so far. 404 for a run that recorded none."""
    return StreamingResponse(exported(run, form, task=task), media_type="application/x-ndjson")


def _series(run: Run, name: Series, size: int, token: str) -> dict[str, Any]:
    rows, following = page(run.series[name], size=size, token=token)
    return {name: rows, "next_page_token": following}
