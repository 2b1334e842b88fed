"""The command itself: what --help loads, exit codes, what goes to which stream."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
HEAVY = {
    "boto3",
    "huggingface_hub",
    "torch",
    "vllm",
    "grpc",
    "fastapi",
    "redis",
    "transformers",
    "matplotlib",
    "httpx",
    "rich",
}
SPEC = """
name: tiny
model: {path: seed}
algorithm: {name: dpo}
steps: 20
tasks: [{name: math, data: train.jsonl, reward: {type: math}}]
"""


def syncline(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(REPOSITORY / "shared"), str(REPOSITORY)])
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    program = (
        "import sys, runpy\n"
        f"sys.argv = ['syncline', *{arguments!r}]\n"
        "try:\n    runpy.run_module('services.cli', run_name='__main__')\n"
        "except SystemExit as ended:\n    assert not ended.code, ended.code\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    path = os.pathsep.join([str(REPOSITORY / "shared"), str(REPOSITORY)])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: syncline" in done.stdout
    assert not HEAVY & set(done.stderr.split())


def test_validate_prints_the_spec_with_its_defaults(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SPEC)
    done = syncline("validate", "tiny.yaml", "--set", "sync.period=5", "-o", "json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["sync"]["period"], document["sync"]["lag"]) == (5, 0)
    assert document["model"]["path"] == str(tmp_path / "seed")


def test_a_refused_spec_exits_with_1_and_names_the_field(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SPEC)
    done = syncline("run", "tiny.yaml", "--set", "sync.period=0", folder=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "sync.period: 0 is out of range" in done.stderr
    assert "allowed: >= 1" in done.stderr
    assert not (tmp_path / ".run").exists()


def test_wrong_usage_exits_with_2(tmp_path: Path) -> None:
    assert syncline("run", folder=tmp_path).returncode == 2
    assert syncline("dance", folder=tmp_path).returncode == 2
    assert syncline("up", "--port", "0", folder=tmp_path).returncode == 2


def test_no_server_exits_with_1_and_says_how_to_get_one(tmp_path: Path) -> None:
    done = syncline("list", "--server", "http://127.0.0.1:9", folder=tmp_path)
    assert done.returncode == 1
    assert "make up" in done.stderr


def test_down_without_a_stack_is_no_error(tmp_path: Path) -> None:
    done = syncline("down", folder=tmp_path)
    assert done.returncode == 0
    assert "no stack runs" in done.stderr


def test_the_environment_names_the_folder_of_the_stack(tmp_path: Path) -> None:
    done = syncline("down", folder=tmp_path, SYNCLINE_STACK=str(tmp_path / "elsewhere"))
    assert done.returncode == 0
    assert f"no stack runs in {tmp_path / 'elsewhere'}" in done.stderr


def test_scale_without_a_stack_is_an_error(tmp_path: Path) -> None:
    done = syncline("scale", "2", "--server", "http://127.0.0.1:9", folder=tmp_path)
    assert done.returncode == 1
    assert "nothing answers at http://127.0.0.1:9" in done.stderr
