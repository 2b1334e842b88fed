"""Redis as its pod starts it: the chart's own command and settings, as a process of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, ConnectionError, ResponseError

from services.local import valkey
from tests.kubernetes.chart import DEFAULT, environment, find, render
from tests.kubernetes.free_port import free_port
from tests.kubernetes.tools import missing

NAME = "rl-syncline-redis"
PASSWORD = "the-password"


class Pod:
    """The container of Redis on this machine: its command, its settings, its variables. It keeps its data."""

    def __init__(self, folder: Path, *, port: int = 6379) -> None:
        manifests = render(DEFAULT)
        (self._container,) = find(manifests, "StatefulSet", NAME)["spec"]["template"]["spec"]["containers"]
        assert "secretKeyRef" in environment(self._container)["REDISCLI_AUTH"]
        settings = find(manifests, "ConfigMap", NAME)["data"]["redis.conf"]
        (folder / "redis.conf").write_text(settings.replace("dir /data", f"dir {folder}") + f"port {port}\n")
        (folder / "tmp").mkdir()
        self._folder = folder
        server = Path(valkey.command(folder)[0])
        self._variables = {"PATH": f"{server.parent}:{os.environ['PATH']}", "REDISCLI_AUTH": PASSWORD}
        self.client = Redis(port=port, password=PASSWORD)

    @contextmanager
    def running(self, *within: str) -> Iterator[subprocess.Popen[bytes]]:
        """The container, `within` some other command."""
        *shell, script = self._container["command"]
        script = script.replace("/etc/redis", str(self._folder)).replace("/tmp/redis", f"{self._folder}/tmp/redis")
        command = [*within, *shell, script]
        process = subprocess.Popen(command, env=self._variables, stdout=subprocess.DEVNULL)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def probe(self, about: Literal["readiness", "liveness"], within: list[str], **variables: str) -> bool:
        """The answer to a probe's own command."""
        command = self._container[f"{about}Probe"]["exec"]["command"]
        environment = {"PATH": "/usr/bin:/bin", "REDISCLI_AUTH": PASSWORD, **variables}
        done = subprocess.run([*within, *command], env=environment, capture_output=True, timeout=30)
        return done.returncode == 0


def test_redis_asks_for_its_password_and_keeps_what_it_is_told(tmp_path: Path) -> None:
    port = free_port()
    pod = Pod(tmp_path, port=port)
    with pod.running() as process:
        until_it_answers(pod.client, process)
        with pytest.raises(AuthenticationError):
            Redis(port=port).ping()
        assert pod.client.config_get("appendonly", "maxmemory-policy", "maxmemory") == {
            "appendonly": "yes",
            "maxmemory-policy": "noeviction",
            "maxmemory": str(1 << 30),
        }
        assert PASSWORD not in Path(f"/proc/{process.pid}/cmdline").read_text()
        assert (tmp_path / "tmp/redis.conf").stat().st_mode & 0o077 == 0
        pod.client.xadd("work", {"payload": "kept"})
        process.terminate()
        assert process.wait(timeout=20) == 0  # the server itself is the pod's first process: SIGTERM reaches it


def test_a_redis_that_is_killed_comes_back_with_its_work(tmp_path: Path) -> None:
    pod = Pod(tmp_path, port=free_port())
    with pod.running() as process:
        until_it_answers(pod.client, process)
        pod.client.xadd("work", {"payload": "kept"})
        pod.client.xgroup_create("work", "workers", "0")
        pod.client.xreadgroup("workers", "one", {"work": ">"})
        process.kill()
        process.wait()
    with pod.running() as process:
        until_it_answers(pod.client, process)
        assert pod.client.xlen("work") == 1
        assert pod.client.xpending("work", "workers")["pending"] == 1  # also who had it


NETWORK = ["unshare", "--net", "--", "sh", "-c", 'ip link set lo up; exec "$@"', "in-a-network"]


@pytest.fixture
def client_of_redis_7() -> None:
    """Debian's redis-cli 7.0, and networks of their own, in which servers may take the port that probes ask."""
    if shutil.which("redis-cli") is None:
        missing("redis-cli is not installed; on Debian: apt-get install redis-tools")
    if os.geteuid() != 0:
        missing("a network of its own needs root")


def beside(process: subprocess.Popen[bytes]) -> list[str]:
    """In the network of a process."""
    return ["nsenter", "--net", f"--target={process.pid}"]


@pytest.mark.usefixtures("client_of_redis_7")
def test_the_probes_are_such_that_a_client_of_redis_7_understands(tmp_path: Path) -> None:
    pod = Pod(tmp_path)
    with pod.running(*NETWORK) as process:
        until(lambda: pod.probe("readiness", beside(process)), process)
        assert pod.probe("liveness", beside(process))
        assert not pod.probe("readiness", beside(process), REDISCLI_AUTH="another")
        assert pod.probe("liveness", beside(process), REDISCLI_AUTH="another")  # a refusal is a reply
    with pod.running(*NETWORK[:3], "sleep", "60") as process:  # nobody listens
        assert not pod.probe("readiness", beside(process))
        assert not pod.probe("liveness", beside(process))


@pytest.mark.usefixtures("client_of_redis_7")
def test_a_server_that_cannot_write_its_file_is_not_ready_and_lives(tmp_path: Path) -> None:
    pod = Pod(tmp_path)
    settings = tmp_path / "redis.conf"
    settings.write_text(settings.read_text() + "save 3600 1\nunixsocket /proc/self/cwd/socket\n")
    with pod.running(*NETWORK) as process:
        until(lambda: pod.probe("readiness", beside(process)), process)
        client = Redis(unix_socket_path=str(tmp_path / "socket"), password=PASSWORD)
        (tmp_path / "dump.rdb").mkdir()  # where its file should be, for root cannot be refused a folder
        client.bgsave()
        until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", process)
        with pytest.raises(ResponseError, match="MISCONF"):
            client.ping()
        assert not pod.probe("readiness", beside(process))
        assert pod.probe("liveness", beside(process))


def until_it_answers(client: Redis, process: subprocess.Popen[bytes]) -> None:
    def answers() -> bool:
        with suppress(ConnectionError):
            return bool(client.ping())
        return False

    until(answers, process)


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30.0
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
