"""The stack's folder: one owner at a time, state that is never half written, sockets that fit."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from services.cli import stack
from services.coordinator.cluster.scaling import FileScale
from services.local.folder import StackFolder, tail
from services.local.programs import Options, generator, redis_server, reward_model, services
from syncline.errors import Conflict


def test_a_living_owner_keeps_others_out(tmp_path: Path) -> None:
    owner = f"""
from pathlib import Path
from services.local.folder import StackFolder
folder = StackFolder(Path({str(tmp_path)!r}))
folder.own()
folder.write_state({{"state": "ready", "address": "http://here"}})
print("owned", flush=True)
input()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", owner]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "owned\n"
        assert stack.living(tmp_path) == {"state": "ready", "address": "http://here"}
        with pytest.raises(Conflict, match=f"process {process.pid}"):
            StackFolder(tmp_path).own()
        process.kill()
    assert stack.living(tmp_path) is None
    StackFolder(tmp_path).own()  # a dead owner's lock is gone with it


def test_sockets_fit_however_deep_the_folder_lies(tmp_path: Path) -> None:
    folder = StackFolder(tmp_path / ("deep-" * 20) / "stack")
    folder.own()
    try:
        address = folder.socket("inference-12").removeprefix("unix:")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(address)
        assert (folder.path / "sockets" / "inference-12.sock").exists()
        assert folder.redis.resolve() == folder.path / "redis"
        alias = Path(address).parents[2]
        assert alias.exists()
    finally:
        folder.leave()
    assert not alias.exists()
    assert folder.path.exists()


async def test_the_wanted_number_of_generators_is_what_the_coordinator_wrote(tmp_path: Path) -> None:
    folder = StackFolder(tmp_path)
    folder.own()
    try:
        assert folder.wanted_generators() is None
        folder.write_state({"state": "ready"})
        scale = FileScale(folder.wanted_generators_file)
        assert await scale.wanted() is None
        await scale.change(3)
        assert folder.wanted_generators() == await scale.wanted() == 3
        (tmp_path / "generators").write_text("many")
        assert folder.wanted_generators() is None
    finally:
        folder.leave()


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("".join(f"line {number}\n" for number in range(10_000)))
    assert tail(path, lines=2) == "line 9998\nline 9999"
    assert tail(tmp_path / "none.log") == ""


def test_programs_differ_from_a_cluster_in_addresses_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCLINE_METRICS_BIND", "127.0.0.1:9000")
    monkeypatch.setenv("SYNCLINE_DATA_ROOT", "/data")
    folder, options = StackFolder(tmp_path), Options(port=8123, generators=2, engine="transformers", project=tmp_path)
    programs = {program.name: program for program in services(folder, options)}
    assert set(programs) == {"coordinator", "reward", "learner"}
    second = generator(1, folder, options)
    assert second.environment["SYNCLINE_ENGINE"] == "transformers"
    assert second.environment["SYNCLINE_MEMBER_ID"] == second.name == "inference-1"
    assert second.health == second.environment["SYNCLINE_BIND"] == f"unix:{tmp_path}/sockets/inference-1.sock"
    coordinator = programs["coordinator"]
    assert coordinator.health == "http://127.0.0.1:8123/readyz"
    assert coordinator.environment["SYNCLINE_REST_BIND"] == "127.0.0.1:8123"
    for program in (*programs.values(), second):
        assert program.environment["SYNCLINE_REDIS_URL"] == redis_server(folder).health.removeprefix("redis+")
        assert program.environment["SYNCLINE_RUN_ROOT"] == str(tmp_path / "runs")
        assert program.environment["SYNCLINE_MODEL_ROOT"] == str(tmp_path)
        assert program.environment["SYNCLINE_DATA_ROOT"] == "/data"  # the user's own choice stands
        assert "SYNCLINE_METRICS_BIND" not in program.environment  # one port cannot serve them all


def test_an_external_redis_goes_to_every_service(tmp_path: Path) -> None:
    options = Options(redis_url="redis://elsewhere:6379/1")
    for program in services(StackFolder(tmp_path), options):
        assert program.environment["SYNCLINE_REDIS_URL"] == "redis://elsewhere:6379/1"


def test_a_reward_model_is_served_at_the_port_after_the_stacks_on_loopback(tmp_path: Path) -> None:
    model = tmp_path / "taste"
    model.mkdir()
    (model / "config.json").write_text('{"dtype": "float32"}')
    program = reward_model(model, Options(port=8123))
    command = " ".join(program.command)
    assert program.health == "http://127.0.0.1:8124/health"
    assert "--served-model-name taste --host 127.0.0.1 --port 8124 --dtype float32" in command
    assert "--runner pooling --convert classify" in command
