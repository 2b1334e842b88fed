"""The generators: who is alive, and which version each of them holds.

One follower task a generator brings it to the wanted version and keeps it there. A joiner
gets the current handle as soon as it registers; one that fails is tried again with backoff
while the others serve; one whose lease runs out is forgotten. Nobody waits for anybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.coordinator.cluster.pods import Picture, Pod
from syncline import wanted
from syncline.backoff import Backoff
from syncline.errors import SynclineError, Unavailable
from syncline.membership import Member, Role, members
from syncline.redis_client import CONNECTION_ERRORS
from syncline.rpc import Client
from syncline.v1.checkpoint_pb2 import CheckpointHandle
from syncline.v1.inference_service_pb2 import LoadCheckpointRequest, LoadCheckpointResponse
from syncline.v1.inference_service_pb2_grpc import InferenceServiceStub

log = structlog.get_logger()
_BACKOFF = Backoff(first_s=0.2, longest_s=10.0)


@dataclass(frozen=True, slots=True)
class Load:
    """One successful load, for the event log and the metrics."""

    generator: str
    handle: CheckpointHandle
    response: LoadCheckpointResponse


class Fleet:
    """Follows the membership and drives every generator to the wanted handle."""

    def __init__(self, redis: Redis, *, load_deadline_s: float, poll_s: float = 0.5) -> None:
        self._redis = redis
        self.load_deadline_s = load_deadline_s
        self._poll_s = poll_s
        self._wanted: CheckpointHandle | None = None
        self._decided = False
        self._followers: dict[str, _Follower] = {}
        self.on_load: Callable[[Load], None] = lambda load: None
        """Called after each successful load."""
        self.on_trouble: Callable[[str, str], None] = lambda generator, error: None
        """Called with generator and message when a load failed."""
        self.roles: dict[Role, list[Member]] = {"inference": [], "reward": [], "learner": []}
        self.cluster = Picture()
        """The pods of the release; empty where there is no cluster."""

    def want(self, handle: CheckpointHandle | None) -> None:
        """Every generator should hold `handle` from now on; None lets them be."""
        self._decided = True
        if handle != self._wanted:
            self._wanted = handle
            for follower in self._followers.values():
                follower.changed.set()

    @property
    def wanted(self) -> CheckpointHandle | None:
        return self._wanted

    @property
    def generators(self) -> list[Member]:
        """Live generators, less those that are leaving: they finish what they have, and take nothing new."""
        return [member for member in self.roles["inference"] if member.status.get("phase") != "draining"]

    def holders(self, handle: CheckpointHandle) -> list[str]:
        """Generators that hold exactly these weights."""
        return [name for name, follower in self._followers.items() if follower.holds(handle)]

    def troubles(self) -> dict[str, str]:
        """What keeps generators from the wanted version, by generator."""
        return {name: follower.trouble for name, follower in self._followers.items() if follower.trouble}

    def knows(self, pod: Pod) -> bool | None:
        """Whether the pod's process is alive as a member; None for a pod whose process need not be one."""
        if pod.role is not None and any(member.id == pod.name for member in self.roles[pod.role]):
            return True
        return False if pod.registers else None

    def pods_say(self, *roles: Role) -> str:
        """What keeps pods of these roles (none named: of all) from working, in Kubernetes' words."""
        asked = [pod for pod in self.cluster.current if pod.role in (roles or self.roles)]
        troubles = sorted(pod.trouble for pod in asked if pod.trouble)
        if self.cluster.shortage and "inference" in (roles or self.roles):
            troubles.append(self.cluster.shortage)
        return "; ".join(troubles)

    async def run(self) -> None:
        """Follow the membership until cancelled."""
        try:
            while True:
                with suppress(RedisError, *CONNECTION_ERRORS):  # Redis away: keep the last picture, it comes back
                    await self._look()
                    await self._announce()
                await asyncio.sleep(self._poll_s)
        finally:
            await asyncio.gather(*(follower.stop() for follower in self._followers.values()), return_exceptions=True)

    async def _look(self) -> None:
        for role in self.roles:
            self.roles[role] = await members(self._redis, role)
        present = {member.id: member for member in self.generators}
        for name in [name for name in self._followers if name not in present]:
            log.info("generator_gone", generator=name)
            await self._followers.pop(name).stop()
        for name, member in present.items():
            follower = self._followers.get(name)
            if follower is not None and follower.member.started_at != member.started_at:
                await self._followers.pop(name).stop()  # the same name, another process: it holds nothing
                follower = None
            if follower is None:
                log.info("generator_joined", generator=name, address=member.address)
                self._followers[name] = _Follower(self, member)
            else:
                follower.observe(member)

    async def _announce(self) -> None:
        """Tell generators that nobody has reached yet whether a version is wanted.

        Every time, as Redis may forget; and not before somebody has said it: a coordinator that starts anew in mid-run
        must not call off what its runs still want.
        """
        if self._decided:
            await wanted.announce(self._redis, self._wanted)


class _Follower:
    """Brings one generator to the wanted handle."""

    def __init__(self, fleet: Fleet, member: Member) -> None:
        self._fleet = fleet
        self.member = member
        self.trouble = ""
        self.changed = asyncio.Event()
        self._held: tuple[str, int, str] | None = None
        self._client = Client(member.address, peer=member.id)
        self._stub = self._client.stub(InferenceServiceStub)
        self._task = asyncio.create_task(self._run(), name=f"follow:{member.id}")

    def holds(self, handle: CheckpointHandle) -> bool:
        return self._held == _identity(handle)

    def observe(self, member: Member) -> None:
        """Take in a newer registration; a generator that says it lost its version gets it again."""
        self.member = member
        if self._held is not None and member.status.get("phase") == "failed":
            self._held = None
            self.changed.set()

    async def stop(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await self._client.close()

    async def _run(self) -> None:
        pauses = _BACKOFF.pauses()
        while True:
            self.changed.clear()
            handle = self._fleet.wanted
            if handle is None or self.holds(handle):
                self.trouble = ""
                await self.changed.wait()
                continue
            try:
                response: LoadCheckpointResponse = await self._client.call(
                    self._stub.LoadCheckpoint,
                    LoadCheckpointRequest(handle=handle),
                    timeout_s=self._fleet.load_deadline_s,
                )
            except SynclineError as error:
                self._held, self.trouble = None, error.message
                log.warning("load_failed", generator=self.member.id, version=handle.version, error=error.message)
                if not isinstance(error, Unavailable):
                    self._fleet.on_trouble(self.member.id, error.message)
                await asyncio.sleep(next(pauses))
            else:
                pauses = _BACKOFF.pauses()
                self._held, self.trouble = _identity(handle), ""
                self._fleet.on_load(Load(self.member.id, handle, response))


def _identity(handle: CheckpointHandle) -> tuple[str, int, str]:
    return handle.run_id, handle.version, handle.manifest_digest


def describe(member: Member) -> dict[str, Any]:
    """A member as the REST API shows it."""
    return {
        "id": member.id,
        "address": member.address,
        "host": member.host,
        "pid": member.pid,
        "started_at": member.started_at,
        **member.status,
    }
