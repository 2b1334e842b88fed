"""Runs of services that share no disk: model, data and checkpoints lie in an object store."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli.__main__ import app
from tests.e2e.local_stack import QUICKSTART, LocalStack, small_spec
from tests.e2e.own_disks import OwnDisks
from tests.object_store import ObjectStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CHANGES: dict[str, Any] = {"reference": {"sync": True}, "checkpoints": {"every": 4, "keep": 2}}


def evaluated_on(data: str) -> list[dict[str, Any]]:
    return [{"name": "heldout", "data": data, "every": 4, "max_tokens": 5}]


@pytest.fixture(scope="module")
def apart(object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnDisks]:
    bucket = object_store.bucket()
    object_store.put_folder(f"{bucket}/models/seed", QUICKSTART / "seed-model")
    object_store.put(f"{bucket}/data/train.jsonl", (QUICKSTART / "train.jsonl").read_bytes())
    heldout = (QUICKSTART / "heldout.jsonl").read_text().splitlines(keepends=True)[:8]
    object_store.put(f"{bucket}/data/heldout.jsonl", "".join(heldout).encode())
    folder = tmp_path_factory.mktemp("apart")
    with (
        tempfile.TemporaryDirectory(prefix="syncline-") as redis,
        OwnDisks(folder, redis_folder=Path(redis), store=object_store, bucket=bucket, generators=2) as services,
    ):
        yield services


@pytest.fixture(scope="module")
def spec(apart: OwnDisks) -> dict[str, Any]:
    return small_spec(
        model={"path": f"{apart.bucket}/models/seed"},
        tasks=[{"name": "add", "data": f"{apart.bucket}/data/train.jsonl", "reward": {"type": "math"}}],
        evaluation=evaluated_on(f"{apart.bucket}/data/heldout.jsonl"),
        **CHANGES,
    )


@pytest.fixture(scope="module")
def on_a_disk(stack: LocalStack, apart: OwnDisks) -> bytes:
    """The final weights of the same run on a disk that all services share."""
    data = stack.folder / "heldout.jsonl"
    data.write_bytes(apart.store.get(f"{apart.bucket}/data/heldout.jsonl"))
    run_id = stack.submit(small_spec(evaluation=evaluated_on(str(data)), **CHANGES))
    stack.finish(run_id)
    return stack.final_weights(run_id)


def weights(apart: OwnDisks, run: dict[str, Any]) -> bytes:
    return apart.store.get(f"{run['model_folder']}/model.safetensors")


def test_a_run_without_a_shared_disk_ends_with_the_bytes_of_one_on_a_disk(
    apart: OwnDisks, spec: dict[str, Any], on_a_disk: bytes
) -> None:
    run_id = apart.submit(spec)
    run = apart.finish(run_id)
    store = f"{apart.bucket}/runs/{run_id}"
    assert run["model_folder"] == f"{store}/checkpoints/v000012"
    assert weights(apart, run) == on_a_disk
    assert run["best"]["folder"].startswith(f"{store}/checkpoints/v")
    # Retention and evaluation work as on a disk: the seed, the best one, and the newest two.
    kept = {name.partition("/")[0] for name in apart.store.keys(f"{store}/checkpoints")}
    assert kept == {"v000000", "v000008", "v000012", f"v{run['best']['version']:06d}"}
    listed = apart.api.get(f"/v1/runs/{run_id}/checkpoints").json()["checkpoints"]
    assert {row["folder"].rpartition("/")[2] for row in listed} == kept
    assert {row["version"] for row in apart.api.get(f"/v1/runs/{run_id}/evaluations").json()["evaluations"]} == {
        0,
        4,
        8,
        12,
    }
    # Nothing large stays with the coordinator.
    records = apart.folder / "records" / run_id
    assert not [path for path in records.rglob("*") if path.suffix in (".safetensors", ".bin")]


def test_its_rollouts_are_exported_and_trained_on_again_from_the_store(
    apart: OwnDisks, spec: dict[str, Any], tmp_path: Path
) -> None:
    offline = spec | {"sync": {"period": "never"}, "evaluation": [], "reference": {"sync": False}}
    first = apart.submit(offline)
    trained = weights(apart, apart.finish(first))
    file = tmp_path / "rollouts.jsonl.gz"
    done = CliRunner().invoke(app, ["export", "rollouts", first, "--server", apart.address, "-o", str(file)])
    assert done.exit_code == 0, done.output
    assert "96 rows" in done.stderr
    url = f"{apart.bucket}/data/{file.name}"
    apart.store.put(url, file.read_bytes())
    again = apart.finish(apart.submit(offline | {"rollouts": {"from": url}}))
    assert again["rollouts"]["from"] == url
    assert weights(apart, again) == trained


def test_a_run_starts_from_the_end_of_another_one(apart: OwnDisks, spec: dict[str, Any]) -> None:
    short = spec | {"steps": 4, "evaluation": []}
    first = apart.submit(short)
    ended = weights(apart, apart.finish(first))
    second = apart.finish(apart.submit(short | {"model": {"path": f"run://{first}/final"}}))
    assert second["spec"]["model"]["path"] == f"{apart.bucket}/runs/{first}/checkpoints/v000004"
    seed = f"{apart.bucket}/runs/{second['id']}/checkpoints/v000000/model.safetensors"
    assert apart.store.get(seed) == ended


def test_services_that_are_killed_and_come_back_with_empty_disks_end_with_the_same_bytes(
    apart: OwnDisks, spec: dict[str, Any], on_a_disk: bytes
) -> None:
    run_id = apart.submit(spec)
    apart.until(lambda: apart.run(run_id)["progress"]["step"] >= 5, what="step 5")
    apart.replace("learner")
    apart.replace("inference-0")
    run = apart.finish(run_id)
    assert run["attempts"] > 1
    assert weights(apart, run) == on_a_disk


def test_what_is_not_permitted_or_not_there_is_refused_with_the_field(apart: OwnDisks, spec: dict[str, Any]) -> None:
    (task,) = spec["tasks"]
    missing = f"{apart.bucket}/data/missing.jsonl"
    refused = apart.api.post(
        "/v1/runs", json=spec | {"model": {"path": "s3://other/model"}, "tasks": [task | {"data": missing}]}
    )
    assert refused.status_code == 422, refused.text
    problems = {error["path"]: error for error in json.loads(refused.text)["errors"]}
    assert "SYNCLINE_REMOTE_PREFIXES" in problems["model.path"]["problem"]
    assert f"{apart.bucket}/models" in problems["model.path"]["allowed"]
    assert problems["tasks.0.data"]["problem"] == f"{missing} does not exist"
