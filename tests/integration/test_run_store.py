"""The record of a run on a disk that is really full."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.coordinator.records.run import Run
from services.coordinator.records.store import RunStore
from syncline import runspec
from syncline.errors import StorageError
from syncline.state import RunEvent, RunState
from tests.chaos.small_disk import SmallDisk, small_disk

SPEC = runspec.parse(
    {
        "name": "stored",
        "model": {"path": "m"},
        "algorithm": {"name": "dpo"},
        "sync": {"period": 4},
        "steps": 8,
        "tasks": [{"name": "add", "data": "d.jsonl", "reward": {"type": "math"}}],
    }
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        yield disk


@pytest.fixture
def run(disk: SmallDisk) -> Run:
    run = RunStore(disk.folder).create("run-1", SPEC)
    run.apply(RunEvent.START)
    return run


def again(disk: SmallDisk) -> Run:
    """The run as a coordinator reads it that starts anew."""
    return RunStore(disk.folder).get("run-1")


@pytest.mark.parametrize("damage", ["empty", "a spec that is refused"])
def test_a_record_that_cannot_be_read_keeps_no_other_run_from_being_served(tmp_path: Path, damage: str) -> None:
    store = RunStore(tmp_path)
    for name in ("run-1", "run-2"):
        store.create(name, SPEC)
    record = tmp_path / "run-1" / "run.json"
    broken = record.read_text().replace('"period": 4', '"period": 1000')
    assert broken != record.read_text()
    record.write_text("" if damage == "empty" else broken)
    assert [run.id for run in RunStore(tmp_path).all()] == ["run-2"]
    assert (tmp_path / "run-1" / "events.jsonl").is_file(), "nothing is deleted"


def test_a_folder_that_cannot_be_written_is_told_with_who_should_own_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        StorageError, match=rf"cannot be written by user {os.getuid()}, group \d+: Not a directory; give"
    ):
        RunStore(tmp_path / "file" / "runs")


def test_a_run_that_was_paused_is_starting_until_it_is_taken_up(tmp_path: Path) -> None:
    run = RunStore(tmp_path).create("run-1", SPEC)
    for event in (RunEvent.START, RunEvent.TRAIN, RunEvent.PAUSE):
        run.apply(event)
    again = RunStore(tmp_path).get("run-1")
    assert again.state is RunState.STARTING
    assert again.record.paused


def test_rows_are_appended_whole_or_not_at_all(disk: SmallDisk, run: Run) -> None:
    run.append("steps", {"step": 0})
    disk.fill()
    long = {"step": 1, "text": "x" * 10_000}  # some of it fits into the last page of the file
    with pytest.raises(StorageError, match=r"steps\.jsonl could not be written: No space left on device; free space"):
        run.append("steps", long)
    assert run.series["steps"] == again(disk).series["steps"] == [{"step": 0}]
    disk.empty()
    run.append("steps", long)
    assert again(disk).series["steps"] == [{"step": 0}, long]


def test_a_full_disk_keeps_no_run_from_ending_and_no_other_change_is_half_made(disk: SmallDisk, run: Run) -> None:
    disk.fill()
    with pytest.raises(StorageError):
        run.apply(RunEvent.TRAIN)
    assert run.state is RunState.STARTING
    run.apply(RunEvent.FAIL, "the disk is full")
    assert (run.state, run.record.reason) == (RunState.FAILED, "the disk is full")
    # A coordinator that starts anew knows of no end, and goes on
    assert again(disk).state is RunState.STARTING
    disk.empty()
    run.apply(RunEvent.RESUME)
    assert again(disk).state is RunState.PENDING


def test_a_run_that_cannot_be_recorded_is_not_taken_on(disk: SmallDisk, run: Run) -> None:
    store = RunStore(disk.folder)
    disk.fill()
    with pytest.raises(StorageError):
        store.create("run-2", SPEC)
    assert [run.id for run in store.all()] == ["run-1"]
    assert sorted(path.name for path in disk.folder.glob("run-*")) == ["run-1"]


def test_a_line_that_a_crash_cut_short_is_dropped(disk: SmallDisk, run: Run) -> None:
    run.append("steps", {"step": 0}, {"step": 1})
    file = run.folder / "steps.jsonl"
    for torn in (b'{"step": 2, "tr', b'{"step": 2}'):  # the second lacks only its end of line
        with file.open("ab") as steps:
            steps.write(torn)
        disk.fill()  # also where nothing can be written
        assert again(disk).series["steps"] == [{"step": 0}, {"step": 1}]
        disk.empty()
        assert file.read_bytes().count(b"\n") == 2
        assert file.read_bytes().endswith(b"\n")
