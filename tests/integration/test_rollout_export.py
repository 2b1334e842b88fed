"""Rollouts over REST and by the command line: given out whole or not at all, and read back with a reason to refuse."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from typer.testing import CliRunner

from services.cli.__main__ import app
from services.coordinator.records.run import Run
from syncline import recording
from syncline.errors import SynclineError
from syncline.rollout_rows import RolloutRow
from syncline.state import RunEvent
from syncline.storage import FolderStorage
from tests.integration.coordinator_thread import Coordinator
from tests.integration.rest_world import SEED_MODEL

DONE = (RunEvent.START, RunEvent.TRAIN, RunEvent.SUCCEED)
# "12+34=" and "46" as the quickstart's tokenizer writes them; see the fixture that checks it.
ROW: dict[str, Any] = {"prompt": "12+34=", "task": "add", "answer": "46"}


@pytest.fixture(scope="module")
def row() -> dict[str, Any]:
    """A row that fits the quickstart's model."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SEED_MODEL)
    samples = []
    for text, reward in (("46", 1.0), ("36", 0.0)):
        tokens = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        samples.append({"text": text, "token_ids": tokens, "log_probs": [-0.5] * len(tokens), "reward": reward})
    return ROW | {"prompt_token_ids": tokenizer(ROW["prompt"])["input_ids"], "samples": samples}


@pytest.fixture
def coordinator(tmp_path: Path, redis_url: str) -> Iterator[Coordinator]:
    shutil.copytree(SEED_MODEL, tmp_path / "model")
    coordinator = Coordinator(tmp_path, redis_url)
    yield coordinator
    coordinator.close()


@pytest.fixture
def run(coordinator: Coordinator, row: dict[str, Any]) -> Run:
    """A finished run of three steps with two groups each."""
    run = coordinator.run(*DONE)
    for step in range(3):
        rows = [RolloutRow.model_validate(row | {"step": step, "prompt_index": index}) for index in range(2)]
        recording.write_step(FolderStorage(run.folder), step, rows)
    run.record.step = 3
    return run


def syncline(coordinator: Coordinator, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["export", "rollouts", *arguments, "--server", coordinator.url])


def test_rest_streams_lines_of_json(coordinator: Coordinator, run: Run) -> None:
    answer = httpx.get(f"{coordinator.url}/v1/runs/{run.id}/rollouts")
    assert answer.headers["content-type"] == "application/x-ndjson"
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [(row["step"], row["prompt_index"]) for row in rows] == [(s, i) for s in range(3) for i in range(2)]
    pairs = httpx.get(f"{coordinator.url}/v1/runs/{run.id}/rollouts", params={"format": "preferences"})
    assert json.loads(pairs.text.splitlines()[0]) == {"prompt": "12+34=", "chosen": "46", "rejected": "36"}


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [({"task": "nothing"}, 404, "has no task 'nothing'"), ({"format": "csv"}, 422, "the request was refused")],
)
def test_what_cannot_be_exported_is_a_problem_document(
    coordinator: Coordinator, run: Run, options: dict[str, str], status: int, says: str
) -> None:
    answer = httpx.get(f"{coordinator.url}/v1/runs/{run.id}/rollouts", params=options)
    assert answer.status_code == status
    assert says in answer.json()["detail"]


def test_a_run_that_recorded_nothing_says_so(coordinator: Coordinator) -> None:
    run = coordinator.run(*DONE)
    run.record.step = 3
    answer = httpx.get(f"{coordinator.url}/v1/runs/{run.id}/rollouts")
    assert (answer.status_code, "rollouts.record is false" in answer.json()["detail"]) == (404, True)


def test_the_command_line_writes_to_standard_output_or_a_file(
    coordinator: Coordinator, run: Run, tmp_path: Path
) -> None:
    printed = syncline(coordinator, run.id)
    assert printed.exit_code == 0, printed.output
    assert len(printed.stdout.splitlines()) == 6
    plain, packed = tmp_path / "out" / "rollouts.jsonl", tmp_path / "out" / "rollouts.jsonl.gz"
    plain.parent.mkdir()
    for path in (plain, packed):
        done = syncline(coordinator, run.id, "-o", str(path))
        assert (done.stdout, "6 rows of" in done.stderr) == ("", True)
    assert plain.read_text() == gzip.decompress(packed.read_bytes()).decode() == printed.stdout
    assert sorted(path.name for path in plain.parent.iterdir()) == [plain.name, packed.name]


def test_an_export_that_breaks_off_leaves_the_file_that_was_there(
    coordinator: Coordinator, run: Run, tmp_path: Path
) -> None:
    target = tmp_path / "out" / "rollouts.jsonl"
    target.parent.mkdir()
    target.write_text("from before\n")
    (run.folder / "rollouts" / "step-000002.jsonl.gz").write_bytes(b"damaged on storage")
    done = syncline(coordinator, run.id, "-o", str(target))
    assert isinstance(done.exception, SynclineError)
    assert "broke off the export" in done.exception.message
    assert target.read_text() == "from before\n"
    assert list(target.parent.iterdir()) == [target]


# -- and back ----------------------------------------------------------------------------------------


def submit(coordinator: Coordinator, rows: list[dict[str, Any]], folder: Path, **changes: Any) -> httpx.Response:
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {
        "name": "again",
        "model": {"path": "model"},
        "algorithm": {"name": "dpo"},
        "sync": {"period": "never"},
        "rollouts": {"from": "rollouts.jsonl"},
        "steps": 4,
        "prompts_per_step": 2,
        "tasks": [{"name": "add", "reward": {"type": "math"}}],
        **changes,
    }
    return httpx.post(f"{coordinator.url}/v1/runs", json=spec, timeout=60)


def test_a_file_that_fits_is_accepted_and_the_run_says_where_its_rollouts_come_from(
    coordinator: Coordinator, row: dict[str, Any], tmp_path: Path
) -> None:
    answer = submit(coordinator, [row] * 3, tmp_path)
    assert answer.status_code == 202, answer.text
    told = answer.json()["rollouts"]
    assert (told["from"], told["groups"]) == (str(tmp_path / "rollouts.jsonl"), {"add": 3})
    assert len(told["sha256"]) == 64


def test_a_file_whose_tokens_do_not_fit_the_tokenizer_is_refused_with_the_reason(
    coordinator: Coordinator, row: dict[str, Any], tmp_path: Path
) -> None:
    # As if another tokenizer had numbered the same tokens otherwise
    shifted = [sample | {"token_ids": [token - 1 for token in sample["token_ids"]]} for sample in row["samples"]]
    refused = submit(coordinator, [row, row | {"samples": shifted}], tmp_path)
    assert refused.status_code == 422
    (error,) = refused.json()["errors"]
    assert error["path"] == "rollouts.from"
    assert "rollouts.jsonl line 2: the tokens of sample 0 read " in error["problem"]
    assert error["problem"].endswith("with the model's tokenizer, and the file says '46'")
    assert error["allowed"] == "rollouts whose token ids are those of the model's own tokenizer"

    beyond = [sample | {"token_ids": [50_000 for _ in sample["token_ids"]]} for sample in row["samples"]]
    (error,) = submit(coordinator, [row | {"samples": beyond}], tmp_path).json()["errors"]
    assert "line 1 has token 50000, and the model's vocabulary ends at" in error["problem"]
    assert httpx.get(f"{coordinator.url}/v1/runs").json()["runs"] == [], "nothing was started"


@pytest.mark.parametrize("path", ["/etc/passwd", "../rollouts.jsonl", "s3://bucket/rollouts.jsonl"])
def test_a_path_outside_the_data_root_is_refused(
    coordinator: Coordinator, row: dict[str, Any], tmp_path: Path, path: str
) -> None:
    (error,) = submit(coordinator, [row], tmp_path, rollouts={"from": path}).json()["errors"]
    assert error["path"] == "rollouts.from"
