"""A learner of several ranks: real torchrun processes on the CPU, with the test as coordinator."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis

from syncline import keys
from syncline.membership import Member, members
from syncline.rpc import Client
from syncline.runspec import RunSpec
from syncline.streams import Streams
from syncline.v1.learner_service_pb2 import TrainRequest, TrainResponse
from syncline.v1.learner_service_pb2_grpc import LearnerServiceStub
from syncline.v1.rollout_pb2 import ScoredGroup
from tests.integration.learner_world import RUN

_START_S = 120.0


@dataclass
class Torchrun:
    """`torchrun -m services.learner`: the agent, and the ranks below it."""

    process: asyncio.subprocess.Process
    redis: Redis
    log: Path

    async def registered(self, *, but: str = "") -> Member:
        """The learner once it is registered at another address than `but`."""
        async with asyncio.timeout(_START_S):
            while True:
                assert self.process.returncode is None, f"torchrun ended: {self.log.read_text()[-4000:]}"
                for member in await members(self.redis, "learner"):
                    if member.address != but:
                        return member
                await asyncio.sleep(0.1)

    def pid_of(self, rank: int) -> int:
        """The process of a rank."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid and f"RANK={rank}".encode() in (folder / "environ").read_bytes().split(
                    b"\0"
                ):
                    return int(folder.name)
            except OSError:
                continue  # it ended meanwhile
        raise AssertionError(f"there is no rank {rank}")

    async def train(self, spec: RunSpec, groups: Iterable[ScoredGroup], *, run_dir: Path | str) -> list[TrainResponse]:
        """The events of an attempt on exactly these groups."""
        events: list[TrainResponse] = []
        await self.train_into(events, spec, groups, run_dir=run_dir)
        return events

    async def train_into(
        self, events: list[TrainResponse], spec: RunSpec, groups: Iterable[ScoredGroup], *, run_dir: Path | str
    ) -> None:
        """The same; `events` also has what came before an error."""
        member = await self.registered()
        streams = Streams(self.redis)
        await self.redis.delete(keys.scored(RUN))
        await streams.open_run(RUN)
        await streams.add_all(keys.scored(RUN), run_id=RUN, payloads=[one.SerializeToString() for one in groups])
        client = Client(member.address, peer=member.id)
        request = TrainRequest(run_id=RUN, spec_json=spec.model_dump_json(), run_dir=str(run_dir))
        try:
            async for event in client.stream(client.stub(LearnerServiceStub).Train, request):
                events.append(event)
        finally:
            await client.close()


@asynccontextmanager
async def torchrun(
    redis: Redis, redis_url: str, folder: Path, *, ranks: int, restarts: int = 0, **settings: str
) -> AsyncIterator[Torchrun]:
    """A learner of `ranks` ranks; `settings` are SYNCLINE_ variables in small letters."""
    environment = {
        **os.environ,
        "SYNCLINE_REDIS_URL": redis_url,
        "SYNCLINE_DEVICE": "cpu",
        "SYNCLINE_MEMBERSHIP_TTL_S": "2",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        **{f"SYNCLINE_{name.upper()}": value for name, value in settings.items()},
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += [f"--max-restarts={restarts}", "-m", "services.learner"]
    log = folder / f"torchrun-{ranks}.log"
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield Torchrun(process, redis, log)
        finally:
            if process.returncode is None:
                process.terminate()
                try:
                    await asyncio.wait_for(process.wait(), 40)
                except TimeoutError:
                    os.killpg(process.pid, signal.SIGKILL)
                    await process.wait()
