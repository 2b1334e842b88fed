"""Starts `python -m services.local` and talks to it as a user does: over REST, and by signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from redis import Redis

from services.local import valkey
from syncline import keys

QUICKSTART = Path("services/local/quickstart").resolve()
_TERMINAL = ("succeeded", "failed", "cancelled")


def small_spec(**changes: Any) -> dict[str, Any]:
    """A run of a dozen quick steps on the quickstart's model."""
    return {
        "name": "small",
        "model": {"path": str(QUICKSTART / "seed-model")},
        "algorithm": {"name": "dpo", "beta": 0.1},
        "sync": {"period": 4, "lag": 0},
        "steps": 12,
        "prompts_per_step": 8,
        "generation": {"samples_per_prompt": 4, "max_tokens": 5},
        "tasks": [{"name": "add", "data": str(QUICKSTART / "train.jsonl"), "reward": {"type": "math"}}],
        "optimizer": {"lr": 3e-5, "eps": 1e-8, "weight_decay": 0.0, "grad_clip": 1.0},
        "checkpoints": {"every": 4, "keep": 2},
        **changes,
    }


class LocalStack:
    """A stack in a folder of its own, on a free port."""

    def __init__(
        self,
        folder: Path,
        *,
        project: Path,
        generators: int = 1,
        engine: str = "transformers",
        reward_model: Path | None = None,
        start_within_s: float = 180,
        **settings: str,
    ) -> None:
        """`settings` are SYNCLINE_* variables of all services, without their prefix."""
        self.folder = folder
        self._settings = {f"SYNCLINE_{name.upper()}": value for name, value in settings.items()}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._command = [
            *(sys.executable, "-m", "services.local", "--folder", str(folder), "--port", str(port)),
            *("--generators", str(generators), "--engine", engine, "--project", str(project)),
            *(("--reward-model", str(reward_model)) if reward_model else ()),
        ]
        self.reward_model_address = f"http://127.0.0.1:{port + 1}/v1"
        self._start_within_s = start_within_s
        self.api = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10)

    def __enter__(self) -> LocalStack:
        quick = {"SYNCLINE_LEASE_S": "2", "SYNCLINE_MEMBERSHIP_TTL_S": "2"}
        # Tests bring prompt files of their own.
        environment = os.environ | quick | {"SYNCLINE_DATA_ROOT": "/"} | self._settings
        with (self.folder / "supervisor.log").open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environment)
        ready = self._start_within_s
        self.until(lambda: self._state().get("state") == "ready", within_s=ready, what="the stack to be ready")
        return self

    def __exit__(self, *error: object) -> None:
        self.api.close()
        self._process.terminate()
        self._process.wait(timeout=40)

    # -- runs ----------------------------------------------------------------------------------

    def submit(self, spec: dict[str, Any]) -> str:
        response = self.api.post("/v1/runs", json=spec)
        assert response.status_code == 202, response.text
        run_id: str = response.json()["id"]
        return run_id

    def run(self, run_id: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self.api.get(f"/v1/runs/{run_id}").json()
        except httpx.TransportError:
            return {"state": "unknown: the coordinator does not answer", "progress": {"step": -1}}
        return found

    def finish(self, run_id: str, *, state: str = "succeeded", within_s: float = 120) -> dict[str, Any]:
        """Wait for a terminal state and insist on `state`."""
        self.until(lambda: self.run(run_id)["state"] in _TERMINAL, within_s=within_s, what=f"{run_id} to end")
        run = self.run(run_id)
        assert run["state"] == state, run["reason"] + "\n" + self.logs()
        return run

    def steps(self, run_id: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.api.get(f"/v1/runs/{run_id}/steps", params={"page_size": 1000}).json()[
            "steps"
        ]
        return rows

    def events(self, run_id: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.api.get(f"/v1/runs/{run_id}/events", params={"page_size": 1000}).json()[
            "events"
        ]
        return rows

    def at_step(self, run_id: str, step: int) -> None:
        """Wait until the run has made `step` updates."""
        self.until(lambda: self.run(run_id)["progress"]["step"] >= step, what=f"step {step} of {run_id}")

    def final_weights(self, run_id: str) -> bytes:
        return (Path(self.run(run_id)["model_folder"]) / "model.safetensors").read_bytes()

    # -- fleet ---------------------------------------------------------------------------------

    def scale(self, generators: int, *, wait: bool = True) -> None:
        """As `syncline scale` does; waits until that many generators are registered."""
        response = self.api.patch("/v1/fleet", json={"replicas": generators})
        assert response.status_code == 202, response.text
        assert response.json()["replicas"] == generators
        if wait:
            self.until(lambda: len(self.generators()) == generators, what=f"{generators} generators")

    def generators(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.api.get("/v1/fleet").json()["inference"]
        return found

    def kill(self, child: str) -> None:
        """SIGKILL a child; the supervisor will start it anew."""
        self.signal(child, signal.SIGKILL)

    def signal(self, child: str, number: signal.Signals) -> None:
        os.kill(self._state()["children"][child]["pid"], number)

    def children(self) -> list[str]:
        """Names of all children that run at the moment."""
        return [name for name, child in self._state()["children"].items() if child["phase"] == "ready"]

    def kill_redis(self, *, wipe: bool) -> None:
        """SIGKILL the Redis server; with `wipe` the one that comes after it starts without any data."""
        if wipe:  # before the kill: the supervisor starts the next server within moments
            shutil.rmtree(self.folder / "redis" / "appendonlydir")
        self.kill("redis")

    def redis(self) -> Redis:
        return Redis.from_url(valkey.url(self.folder / "redis"))

    def streams_are_empty(self) -> bool:
        """Nothing of any run is left; the one stream that all runs share has no entry."""
        with self.redis() as redis:
            left = {name.decode() for name in redis.keys("syncline:*") if b":member:" not in name}
            return left <= {keys.ROLLOUTS} and redis.xlen(keys.ROLLOUTS) == 0

    # -- waiting -------------------------------------------------------------------------------

    def until(self, condition: Callable[[], bool], *, what: str, within_s: float = 60) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert self._process.poll() is None, f"the stack ended while waiting for {what}\n{self.logs()}"
            assert time.monotonic() < deadline, f"waited {within_s:g} s for {what}\n{self.logs()}"
            time.sleep(0.05)

    def logs(self) -> str:
        """The ends of all logs, for the message of a failed test."""
        files = [self.folder / "supervisor.log", *sorted((self.folder / "logs").glob("*.log"))]
        return "\n".join(
            f"== {file.name}\n{file.read_text(errors='replace')[-2000:]}" for file in files if file.exists()
        )

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads((self.folder / "stack.json").read_text())
            return state
        except FileNotFoundError:
            return {}
