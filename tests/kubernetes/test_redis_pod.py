"""Redis as its pod starts it: the chart's own command and settings, as a process of this machine."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, ConnectionError

from services.local import valkey
from tests.kubernetes.chart import DEFAULT, environment, find, render
from tests.kubernetes.free_port import free_port

NAME = "rl-syncline-redis"
PASSWORD = "the-password"


def test_redis_asks_for_its_password_and_keeps_what_it_is_told(tmp_path: Path) -> None:
    manifests = render(DEFAULT)
    (container,) = find(manifests, "StatefulSet", NAME)["spec"]["template"]["spec"]["containers"]
    assert "secretKeyRef" in environment(container)["REDISCLI_AUTH"]
    port = free_port()
    settings = find(manifests, "ConfigMap", NAME)["data"]["redis.conf"]
    (tmp_path / "redis.conf").write_text(settings.replace("dir /data", f"dir {tmp_path}") + f"port {port}\n")
    (tmp_path / "tmp").mkdir()
    *shell, script = container["command"]
    script = script.replace("/etc/redis", str(tmp_path)).replace("/tmp/redis", f"{tmp_path}/tmp/redis")

    server = Path(valkey.command(tmp_path)[0])
    variables = {"PATH": f"{server.parent}:{os.environ['PATH']}", "REDISCLI_AUTH": PASSWORD}
    process = subprocess.Popen([*shell, script], env=variables, stdout=subprocess.DEVNULL)
    try:
        client = Redis(port=port, password=PASSWORD)
        until_it_answers(client, process)
        with pytest.raises(AuthenticationError):
            Redis(port=port).ping()
        assert client.config_get("appendonly", "maxmemory-policy", "maxmemory") == {
            "appendonly": "yes",
            "maxmemory-policy": "noeviction",
            "maxmemory": str(1 << 30),
        }
        assert PASSWORD not in Path(f"/proc/{process.pid}/cmdline").read_text()
        assert (tmp_path / "tmp/redis.conf").stat().st_mode & 0o077 == 0
        client.close()
    finally:
        process.terminate()
        assert process.wait(timeout=20) == 0  # the server itself is the pod's first process: SIGTERM reaches it


def until_it_answers(client: Redis, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30.0
    while True:
        try:
            client.ping()
            return
        except ConnectionError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
