"""The four programs as on a cluster without shared volumes: each in a folder of its own, with an object store between.

Nothing is given to a program but its environment, and that names no folder of another one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from services.local import valkey
from tests.object_store import ObjectStore, free_port
from tests.redis_server import wait_until_up

_TERMINAL = ("succeeded", "failed", "cancelled")


class OwnDisks:
    """A coordinator, a reward service, a learner and generators."""

    def __init__(self, folder: Path, *, redis_folder: Path, store: ObjectStore, bucket: str, generators: int) -> None:
        self.folder = folder
        self.bucket = bucket
        self.store = store
        self._redis_folder = redis_folder
        self._names = ["coordinator", "reward", "learner", *(f"inference-{index}" for index in range(generators))]
        self._rest = f"127.0.0.1:{free_port()}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.address = f"http://{self._rest}"
        self.api = httpx.Client(base_url=self.address, timeout=20)

    def __enter__(self) -> OwnDisks:
        redis = subprocess.Popen(valkey.command(self._redis_folder), stdout=subprocess.DEVNULL)
        self._processes["redis"] = redis
        wait_until_up(self._redis_folder, redis)
        for name in self._names:
            self.start(name)
        self.until(self._ready, within_s=120, what="the services to be ready")
        return self

    def __exit__(self, *error: object) -> None:
        self.api.close()
        for process in reversed(self._processes.values()):
            process.terminate()
        for process in self._processes.values():
            process.wait(timeout=40)

    def start(self, name: str) -> None:
        """Start a program in a new, empty folder."""
        home = self.folder / name / str(time.monotonic_ns())
        home.mkdir(parents=True)
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("SYNCLINE_")},
            **self.store.environment,
            "HOME": str(home),
            "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path if path),
            "SYNCLINE_CACHE_ROOT": str(home / "cache"),
            "SYNCLINE_REDIS_URL": valkey.url(self._redis_folder),
            "SYNCLINE_MEMBER_ID": name,
            "SYNCLINE_MEMBERSHIP_TTL_S": "2",
            "SYNCLINE_LEASE_S": "2",
        }
        if name == "coordinator":  # its small records outlive it, as on a volume that nobody else mounts
            environment |= {
                "SYNCLINE_REST_BIND": self._rest,
                "SYNCLINE_RUN_ROOT": str(self.folder / "records"),
                "SYNCLINE_CHECKPOINT_STORE": f"{self.bucket}/runs",
                "SYNCLINE_REMOTE_PREFIXES": f"{self.bucket}/models,{self.bucket}/data",
            }
        if name.startswith("inference"):
            environment["SYNCLINE_ENGINE"] = "transformers"
        with (self.folder / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", f"services.{name.partition('-')[0]}"]
            self._processes[name] = subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=log)

    def replace(self, name: str) -> None:
        """SIGKILL a program, and start it again with an empty disk."""
        self._processes[name].kill()
        self._processes[name].wait(timeout=20)
        self.start(name)

    def submit(self, spec: dict[str, Any]) -> str:
        response = self.api.post("/v1/runs", json=spec)
        assert response.status_code == 202, response.text
        run_id: str = response.json()["id"]
        return run_id

    def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/v1/runs/{run_id}").json()
        return found

    def finish(self, run_id: str, *, within_s: float = 150) -> dict[str, Any]:
        """Wait for the end of a run and insist that it succeeded."""
        self.until(lambda: self.run(run_id)["state"] in _TERMINAL, within_s=within_s, what=f"{run_id} to end")
        run = self.run(run_id)
        assert run["state"] == "succeeded", run["reason"] + "\n" + self.logs()
        return run

    def until(self, condition: Callable[[], bool], *, within_s: float = 60, what: str) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, f"waited {within_s:g} s for {what}\n{self.logs()}"
            time.sleep(0.1)

    def logs(self) -> str:
        files = sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in files)

    def _ready(self) -> bool:
        try:
            fleet = self.api.get("/v1/fleet").json()
        except httpx.TransportError:
            return False
        generators = sum(name.startswith("inference") for name in self._names)
        return bool(len(fleet["inference"]) == generators and fleet["learner"] and fleet["reward"])
