"""What the command line does with the local stack of its folder: find it, describe it, read its logs."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from services.cli import stack
from services.cli.options import DEFAULT_SERVER
from syncline.errors import NotFound
from tests.unit.cli.test_cli_command import SPEC, syncline


@contextmanager
def living(folder: Path, **state: Any) -> Iterator[None]:
    """A folder that looks as if a stack ran in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stack.json").write_text(json.dumps({"state": "ready", **state}))
    with (folder / "stack.pid").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_commands_find_the_stack_of_their_folder_unless_a_server_is_named(tmp_path: Path) -> None:
    with living(tmp_path / ".run", address="http://127.0.0.1:9"):
        done = syncline("list", folder=tmp_path)
        assert "nothing answers at http://127.0.0.1:9 " in done.stderr
        (tmp_path / "specs" / "mine").mkdir(parents=True)
        done = syncline("list", folder=tmp_path / "specs" / "mine")
        assert "nothing answers at http://127.0.0.1:9 " in done.stderr, "nor in a folder below"
        done = syncline("list", folder=tmp_path, SYNCLINE_SERVER="http://127.0.0.1:11")
        assert "nothing answers at http://127.0.0.1:11 " in done.stderr
        done = syncline("list", "--server", "http://127.0.0.1:10", folder=tmp_path)
        assert "nothing answers at http://127.0.0.1:10 " in done.stderr


def test_without_a_stack_the_default_port_is_asked(tmp_path: Path) -> None:
    assert stack.server_here(tmp_path / "none", otherwise=DEFAULT_SERVER) == DEFAULT_SERVER
    with living(tmp_path, address="http://127.0.0.1:9"):
        pass
    assert stack.server_here(tmp_path, otherwise=DEFAULT_SERVER) == DEFAULT_SERVER, "it is gone"


def test_a_stack_that_is_up_is_described(tmp_path: Path) -> None:
    children = {"coordinator": {}, "inference-0": {}, "inference-1": {}}
    with living(tmp_path / ".run", address="http://127.0.0.1:9", engine="transformers", children=children):
        done = syncline("up", "--engine", "vllm", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "http://127.0.0.1:9\n")
    assert "it is up already, and stays as it is (engine transformers, 2 generators)" in done.stderr


@pytest.mark.parametrize("arguments", [["up"], ["run", "tiny.yaml"]])
@pytest.mark.parametrize("folder", ["a-file", "/proc/stack"])
def test_a_folder_that_can_hold_no_stack_is_told_in_words(tmp_path: Path, arguments: list[str], folder: str) -> None:
    (tmp_path / "a-file").write_text("")
    (tmp_path / "tiny.yaml").write_text(SPEC)
    done = syncline(*arguments, "--folder", folder, "--port", "18231", folder=tmp_path)
    assert done.returncode == 1
    assert "can hold no stack (" in done.stderr
    assert "name another folder with --folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_ends_of_logs_are_printed(tmp_path: Path) -> None:
    logs = tmp_path / ".run" / "logs"
    logs.mkdir(parents=True)
    (logs / "learner.log").write_text("".join(f"line {n}\n" for n in range(100)))
    (logs / "reward.log").write_text("ready\n")
    done = syncline("logs", "learner", "-n", "2", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "line 98\nline 99\n")
    assert "ready" in syncline("logs", folder=tmp_path).stdout
    with pytest.raises(NotFound, match=r"no log of 'lerner'; it has: learner, reward"):
        stack.log_files(tmp_path / ".run", "lerner")
    assert syncline("logs", folder=logs).returncode == 1


def test_an_empty_run_is_an_error_and_never_the_newest(tmp_path: Path) -> None:
    for command in ("status", "cancel", "watch", "delete"):
        done = syncline(command, "", "--server", "http://127.0.0.1:9", folder=tmp_path)
        assert done.returncode == 2, command
        assert "it is empty; name a run" in done.stderr


def test_a_checkpoint_and_a_model_at_once_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SPEC)
    done = syncline("submit", "tiny.yaml", "--from", "x/best", "--set", "model.path=seed", folder=tmp_path)
    assert done.returncode == 1
    assert "--from: it names the model, and so does --set model.path=seed" in done.stderr


def test_validate_says_which_files_are_not_here(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SPEC)
    (tmp_path / "seed").mkdir()
    done = syncline("validate", "tiny.yaml", folder=tmp_path)
    assert done.returncode == 0
    assert f"warning: tasks.0.data: {tmp_path / 'train.jsonl'} is not here; files are checked where" in done.stderr
    assert "model.path" not in done.stderr


def test_what_the_stack_of_a_run_could_not_read_is_refused_before_it_starts(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "tiny.yaml").write_text(SPEC)
    elsewhere = f"tasks.0.data={tmp_path / 'elsewhere.jsonl'}"
    done = syncline("run", "tiny.yaml", "--set", elsewhere, "--port", "18232", folder=project)
    assert done.returncode == 1
    assert f"tasks.0.data: {tmp_path / 'elsewhere.jsonl'} lies outside {project}" in done.stderr
    assert "SYNCLINE_DATA_ROOT=FOLDER" in done.stderr
    assert not (project / ".run").exists()


def test_the_version_is_told(tmp_path: Path) -> None:
    done = syncline("--version", folder=tmp_path)
    assert (done.returncode, done.stdout.split()[0]) == (0, "syncline")
