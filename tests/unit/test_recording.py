"""What is recorded of a step is there in full or not at all."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from syncline import recording
from syncline.errors import StorageError
from syncline.rollout_rows import RolloutRow
from syncline.storage import FolderStorage
from tests.unit.test_rollout_rows import MINIMAL


def rows(*prompts: str) -> list[RolloutRow]:
    return [RolloutRow.model_validate(MINIMAL | {"prompt": prompt}) for prompt in prompts]


def test_steps_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    recording.write_step(FolderStorage(tmp_path), 0, rows("a\u2028b", "c"))
    recording.write_step(FolderStorage(tmp_path), 1, [])
    lines = list(recording.read_step(FolderStorage(tmp_path), 0))
    assert [RolloutRow.model_validate_json(line) for line in lines] == rows("a\u2028b", "c")
    assert list(recording.read_step(FolderStorage(tmp_path), 1)) == []
    assert recording.recorded_steps(FolderStorage(tmp_path)) == [0, 1]


def test_a_repeated_step_replaces_what_was_there(tmp_path: Path) -> None:
    recording.write_step(FolderStorage(tmp_path), 3, rows("before"))
    recording.write_step(FolderStorage(tmp_path), 3, rows("after"))
    (line,) = recording.read_step(FolderStorage(tmp_path), 3)
    assert RolloutRow.model_validate_json(line).prompt == "after"


def test_equal_rows_give_equal_bytes_and_files_in_a_row_are_one_file(tmp_path: Path) -> None:
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        for step in range(2):
            recording.write_step(FolderStorage(tmp_path / run), step, rows(f"prompt {step}"))
    packed = [b"".join(path.read_bytes() for path in sorted((tmp_path / run).rglob("*.gz"))) for run in ("a", "b")]
    assert packed[0] == packed[1]
    assert gzip.decompress(packed[0]).decode() == "".join(
        line for step in range(2) for line in recording.read_step(FolderStorage(tmp_path / "a"), step)
    )


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording.write_step(FolderStorage(tmp_path), 0, rows("before"))

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="No space left"):
        recording.write_step(FolderStorage(tmp_path), 0, rows("after"))
    (line,) = recording.read_step(FolderStorage(tmp_path), 0)
    assert RolloutRow.model_validate_json(line).prompt == "before"
    assert len(list((tmp_path / "rollouts").iterdir())) == 1


def test_what_lies_beyond_a_step_can_be_forgotten(tmp_path: Path) -> None:
    for step in range(4):
        recording.write_step(FolderStorage(tmp_path), step, rows("a"))
    recording.forget_from(FolderStorage(tmp_path), 2)
    assert recording.recorded_steps(FolderStorage(tmp_path)) == [0, 1]
    recording.forget_from(FolderStorage(tmp_path / "no-such-run"), 0)
