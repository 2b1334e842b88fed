"""A coordinator for tests that look at it from outside and move its runs by hand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from services.coordinator.app import create_app
from services.coordinator.cluster.fleet import Fleet
from services.coordinator.control.runs import Runs
from services.coordinator.records.run import Run
from services.coordinator.records.store import RunStore
from services.coordinator.rest import RestServer
from services.coordinator.settings import CoordinatorSettings
from syncline import redis_client, runspec
from syncline.state import RunEvent

T = TypeVar("T")


class Coordinator:
    """A real coordinator that serves REST on a free port, in a thread of its own. No worker moves its runs."""

    def __init__(self, folder: Path, redis_url: str, *, token: str = "") -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="coordinator", daemon=True)
        self._thread.start()
        self._serving = False
        self.url = self.wait_for(self._start(folder, redis_url, token))

    async def _start(self, folder: Path, redis_url: str, token: str) -> str:
        settings = CoordinatorSettings(run_root=folder / "runs", model_root=folder, data_root=folder)
        self._redis = redis_client.connect(redis_url)
        fleet = Fleet(self._redis, load_deadline_s=10)
        self.runs = Runs(RunStore(settings.run_root), redis=self._redis, fleet=fleet, settings=settings)
        app = create_app(runs_=self.runs, fleet_=fleet, redis=self._redis, token=token)
        self._server = RestServer(app, host="127.0.0.1", port=0)
        await self._server.start()
        self._serving = True
        return self._server.address

    def do(self, action: Callable[[], T]) -> T:
        """Run something in the coordinator's own thread."""

        async def call() -> T:
            return action()

        return self.wait_for(call())

    def run(self, *events: RunEvent, reason: str = "", **changes: Any) -> Run:
        """A new run in the state that the events lead to."""
        task = {"name": "add", "data": "train.jsonl", "reward": {"type": "math"}}
        small = {"name": "small", "model": {"path": "model"}, "algorithm": {"name": "dpo"}, "tasks": [task]}
        spec = runspec.parse({**small, "sync": {"period": 4}, "steps": 12, **changes})

        def create() -> Run:
            run = self.runs.store.create(f"small-{len(self.runs.store.all())}", spec)
            for event in events:
                run.apply(event, reason)
            return run

        return self.do(create)

    def stop_serving(self) -> None:
        if self._serving:
            self._serving = False
            self.wait_for(self._server.stop(1.0))

    def close(self) -> None:
        self.stop_serving()
        self.wait_for(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    async def _finish(self) -> None:
        await self._redis.aclose()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something in the coordinator's own loop, to its end."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=15)
