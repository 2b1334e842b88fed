"""The local stack and `syncline run`, all services real: up, healing, scaling, training, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from tiny_models import make_tiny_model

from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).parents[2]
SPEC = """
name: tiny
model: {path: seed}
algorithm: {name: grpo}
sync: {period: 2}
steps: 4
prompts_per_step: 4
generation: {samples_per_prompt: 4, max_tokens: 8}
tasks: [{name: math, data: train.jsonl, reward: {type: math}}]
evaluation: [{name: held-out, data: held-out.jsonl, temperature: 0.0}]
"""


class Project:
    """A user's folder with a tiny spec, and the commands that are run in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack = path / ".run"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        make_tiny_model(path / "seed", seed=0)
        rows = [json.dumps({"prompt": f"{a}+{b}=", "answer": str(a + b)}) for a in range(8) for b in range(8)]
        (path / "train.jsonl").write_text("\n".join(rows[:56]))
        (path / "held-out.jsonl").write_text("\n".join(rows[56:]))
        (path / "spec.yaml").write_text(SPEC)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "shared"), str(REPOSITORY)]),
            "SYNCLINE_STACK": str(self.stack),  # everything that is started inherits it, which `processes` looks for
            "SYNCLINE_SERVER": self.address if arguments[0] not in ("run", "up") else "",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "services.cli", *arguments],
            cwd=self.path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell that runs CI in the background makes its children ignore Ctrl-C; these must hear it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def syncline(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments) as process:
            out, error = process.communicate(timeout=240)
            return subprocess.CompletedProcess(arguments, process.returncode, out, error)

    def up(self) -> None:
        done = self.syncline("up", "--port", str(self.port), "--engine", "transformers")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{self.address}\n"

    def children(self) -> dict[str, Any]:
        children: dict[str, Any] = json.loads((self.stack / "stack.json").read_text())["children"]
        return children

    def processes(self) -> list[str]:
        """Command lines of everything that was started here and still lives."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if str(self.stack).encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path)
    yield project
    project.syncline("down")
    assert project.processes() == []


def test_a_stack_heals_and_scales_and_dies_with_its_supervisor(project: Project) -> None:
    # Given a stack that is up; asking for it again is no error
    project.up()
    project.up()
    assert {child["phase"] for child in project.children().values()} == {"ready"}

    # When a child is killed, then it is back, and only it
    before = project.children()
    os.kill(before["reward"]["pid"], signal.SIGKILL)

    def is_back() -> bool:
        reward = project.children()["reward"]
        return bool(reward["restarts"] == 1 and reward["phase"] == "ready")

    wait_until(is_back)
    after = project.children()
    assert after["reward"]["pid"] != before["reward"]["pid"]
    assert [name for name in after if after[name]["pid"] != before[name]["pid"]] == ["reward"]

    # When another number of generators is wanted, then the fleet follows
    def generators() -> set[str]:
        return {member["id"] for member in httpx.get(f"{project.address}/v1/fleet").json()["inference"]}

    assert project.syncline("scale", "2").returncode == 0
    wait_until(lambda: generators() == {"inference-0", "inference-1"})
    assert project.syncline("scale", "1").returncode == 0
    wait_until(lambda: generators() == {"inference-0"})

    # When the supervisor is killed, then nothing is left
    os.kill(int((project.stack / "stack.pid").read_text()), signal.SIGKILL)
    wait_until(lambda: project.processes() == [], within_s=10.0)


def test_a_stack_refuses_bad_runs_and_down_leaves_nothing_behind(project: Project) -> None:
    project.up()
    (project.path / "train.jsonl").write_text('{"answer": "2"}\n')
    done = project.syncline("submit", "spec.yaml")
    assert (done.returncode, done.stdout) == (1, "")
    assert "tasks.0.data" in done.stderr
    assert json.loads(project.syncline("list", "-o", "json").stdout) == {"runs": []}

    done = project.syncline("down")
    assert (done.returncode, done.stderr) == (0, "stopped\n")
    assert project.processes() == []
    assert {child["phase"] for child in project.children().values()} == {"stopped"}


def test_a_run_trains_reports_and_ends_with_the_path_of_its_summary(project: Project) -> None:
    done = project.syncline("run", "spec.yaml", "--port", str(project.port), "--engine", "transformers")
    assert done.returncode == 0, done.stderr
    assert project.processes() == []

    # The last line is the path of a summary that parses
    path = Path(done.stdout.splitlines()[-1])
    summary = json.loads(path.read_text())
    assert (summary["state"], summary["steps"], summary["versions"]) == ("succeeded", 4, [0, 2])
    assert summary["groups"]["trained"] == 16
    assert set(summary["evaluation"]["before"]) == set(summary["evaluation"]["after"]) == {"held-out"}

    # Beside it lie the curve and an ordinary model folder
    with Image.open(path.parent / "learning-curve.png") as picture:
        assert picture.format == "PNG"
    model = Path(summary["model_folder"])
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in model.iterdir()}
    assert str(model) in done.stdout
    assert f"make up PORT={project.port} && curl {project.address}/v1/runs/" in done.stdout

    # Progress went to the other stream
    assert "step 4/4  reward" in done.stderr
    assert "step 4/4" not in done.stdout


def test_a_stack_that_was_started_for_a_run_stays_for_the_run_of_another_shell(project: Project) -> None:
    arguments = ["run", "spec.yaml", "--port", str(project.port), "--engine", "transformers"]
    with project.start(*arguments, "--set", "name=first", "--set", "steps=40") as first:
        assert first.stderr is not None
        next(line for line in first.stderr if line.startswith("step 1/"))
        # Given a second run that uses the stack of the first
        with project.start(*arguments, "--set", "name=second", "--set", "steps=40") as second:
            assert second.stderr is not None
            assert any("using the stack at" in line for line in [next(second.stderr)])
            queued = next(line for line in second.stderr if line.startswith("run second-")).split()[1]
            # When the first one ends, then it says that the stack stays, and the second one goes on
            _, said = first.communicate(timeout=120)
            assert first.returncode == 0, said
            assert f"the local stack stays up for {queued}; stop it with: syncline down" in said
            out, said = second.communicate(timeout=120)
            assert second.returncode == 0, said
            assert json.loads(Path(out.splitlines()[-1]).read_text())["state"] == "succeeded"
    assert project.syncline("down").stderr == "stopped\n"


def test_ctrl_c_cancels_the_run_and_leaves_nothing_behind(project: Project) -> None:
    arguments = ["run", "spec.yaml", "--set", "steps=100000", "--port", str(project.port), "--engine", "transformers"]
    with project.start(*arguments) as process:
        assert process.stderr is not None
        seen = next(line for line in process.stderr if line.startswith("step 1/"))
        assert seen
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "is cancelled; to go on: make up PORT=" in said.splitlines()[-1]
    assert project.processes() == []
    (record,) = (project.stack / "runs").glob("*/run.json")
    assert json.loads(record.read_text())["state"] == "cancelled"


def test_a_run_that_is_killed_takes_its_stack_along(project: Project) -> None:
    with project.start("run", "spec.yaml", "--port", str(project.port), "--engine", "transformers") as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "waiting for" in line)
        process.kill()
    wait_until(lambda: project.processes() == [], within_s=30.0)


def test_of_two_stacks_started_at_once_in_a_folder_one_is_refused_in_words(project: Project) -> None:
    arguments = ["up", "--port", str(project.port), "--engine", "transformers"]
    with project.start(*arguments) as first, project.start(*arguments) as second:
        ended = [(process.communicate(timeout=120)[1], process.returncode) for process in (first, second)]
    (refused,) = [said for said, code in ended if code == 1]
    assert str(project.stack) in refused
    assert "make down" in refused
    assert "{" not in refused, "the log is for machines"


def test_a_port_that_is_taken_is_told_with_the_way_out(project: Project) -> None:
    with socket.create_server(("127.0.0.1", project.port)):
        done = project.syncline("run", "spec.yaml", "--port", str(project.port), "--engine", "transformers")
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{project.port}" in done.stderr
    assert f"PORT={project.port + 1}" in done.stderr


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("SYNCLINE_MAX_ATTEMPTS", "coordinator ended with exit code 2 before it was ready; the end of"),
        ("SYNCLINE_LEASE_S", "the local stack did not start"),
    ],
)
def test_a_setting_that_is_wrong_is_told(
    project: Project, monkeypatch: pytest.MonkeyPatch, variable: str, told: str
) -> None:
    monkeypatch.setenv(variable, "-many")
    done = project.syncline("up", "--port", str(project.port), "--engine", "transformers")
    assert done.returncode == 1
    assert told in done.stderr
    assert f"{variable}: Input should be a valid" in done.stderr


def test_an_engine_that_there_is_not_is_told_with_those_that_there_are(project: Project) -> None:
    done = project.syncline("up", "--port", str(project.port), "--engine", "abacus")
    assert done.returncode == 1
    assert "no engine is called 'abacus'; there are: transformers, vllm" in done.stderr
    assert project.processes() == []
