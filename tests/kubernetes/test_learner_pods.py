"""A learner of two pods as the chart starts it: its own command lines, as processes of this machine, over gloo."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.integration.learner_ranks import Torchrun
from tests.integration.learner_world import groups_of, kinds, spec_of
from tests.integration.tiny_models import make_tiny_model
from tests.kubernetes.chart import DEFAULT, environment, find, render
from tests.kubernetes.free_port import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NAME = "rl-syncline-learner"


class Pods:
    """The two pods: what the manifest says, but for addresses, folders and the name of the first pod."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        values = {"learner": {"nodes": 2, "gpu": {"count": 0}}}
        self.set = find(render(DEFAULT, values=values), "StatefulSet", NAME)
        (container,) = self.set["spec"]["template"]["spec"]["containers"]
        master = f"--master-addr={NAME}-0.{NAME}.lab.svc --master-port=29500"
        assert master in container["args"][-1]
        here = f"--master-addr=127.0.0.1 --master-port={free_port()}"
        self._args = [*container["args"][:-1], container["args"][-1].replace(master, here)]
        self._variables = environment(container) | {
            "SYNCLINE_REDIS_URL": redis_url,
            "SYNCLINE_BIND": "127.0.0.1:0",
            "SYNCLINE_ADVERTISE": "",
            "SYNCLINE_METRICS_BIND": "",
            "SYNCLINE_MEMBERSHIP_TTL_S": "2",
            "HOME": str(folder),
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        self._folder = folder

    def log(self, ordinal: int) -> Path:
        return self._folder / f"pod-{ordinal}.log"

    @asynccontextmanager
    async def pod(self, ordinal: int) -> AsyncIterator[asyncio.subprocess.Process]:
        """The pod of that ordinal; killed at the end if it is still there."""
        variables = self._variables | {"POD_NAME": f"{NAME}-{ordinal}"}
        expanded = {
            name: re.sub(r"\$\((\w+)\)", lambda found: str(variables[found[1]]), value)
            for name, value in variables.items()
            if isinstance(value, str)
        }
        with self.log(ordinal).open("ab") as log:
            pod = await asyncio.create_subprocess_exec(
                *self._args, env=expanded, stdout=log, stderr=log, start_new_session=True
            )
            try:
                yield pod
            finally:
                await kill(pod)


async def kill(pod: asyncio.subprocess.Process) -> None:
    """End all processes of the pod at once. torchrun puts each rank into a session of its own."""
    if pod.returncode is None:
        for pid in (pod.pid, *_children(pod.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await pod.wait()


def _children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


async def test_two_pods_are_one_learner_which_outlives_one_of_them(
    redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    model = make_tiny_model(tmp_path / "seed", seed=0, hidden=16, layers=1, heads=1)
    spec = spec_of(model, steps=2, prompts_per_step=4, sync={"period": 1})
    pods = Pods(redis_url, tmp_path)
    async with pods.pod(0) as first:
        learner = Torchrun(first, redis, pods.log(0))
        async with pods.pod(1) as second:
            member = await learner.registered()
            assert member.id == f"{NAME}-0"  # rank 0, in the first pod, and nobody else
            assert await redis.keys("syncline:member:learner:*") == [f"syncline:member:learner:{NAME}-0".encode()]
            events = await learner.train(spec, groups_of(spec, range(2)), run_dir=tmp_path / "one")
            assert kinds(events)[-1] == "finished 2"
            await kill(second)
        async with pods.pod(1):
            await _another(learner, than=member.pid)
            again: list[Any] = await learner.train(spec, groups_of(spec, range(2)), run_dir=tmp_path / "two")
            assert kinds(again)[-1] == "finished 2"


async def test_the_pod_of_rank_0_dies_and_the_pods_meet_anew(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "seed", seed=0, hidden=16, layers=1, heads=1)
    spec = spec_of(model, steps=2, prompts_per_step=4, sync={"period": 1})
    pods = Pods(redis_url, tmp_path)
    async with pods.pod(0) as first, _kept(pods, 1):
        member = await Torchrun(first, redis, pods.log(0)).registered()
        await kill(first)  # with it goes what the ranks meet at
        async with pods.pod(0) as again:
            learner = Torchrun(again, redis, pods.log(0))
            await _another(learner, than=member.pid)
            events: list[Any] = await learner.train(spec, groups_of(spec, range(2)), run_dir=tmp_path / "run")
            assert kinds(events)[-1] == "finished 2"


@asynccontextmanager
async def _kept(pods: Pods, ordinal: int) -> AsyncIterator[None]:
    """A pod whose container is started again when it ends, as a kubelet does."""

    async def keep() -> None:
        while True:
            async with pods.pod(ordinal) as pod:
                await pod.wait()
            await asyncio.sleep(1.0)

    keeping = asyncio.create_task(keep())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def _another(learner: Torchrun, *, than: int) -> None:
    """Wait until the ranks have met anew: rank 0 is another process then."""
    async with asyncio.timeout(240):
        while (await learner.registered()).pid == than:
            await asyncio.sleep(0.2)
