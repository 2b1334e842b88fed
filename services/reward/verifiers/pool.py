"""A pool of verifier workers that may hang, crash or be killed, and still answers every check.

    pool = VerifierPool(workers=2, limits=Limits(cpu_s=1.0, memory_mb=1024), wall_s=10.0)
    task = asyncio.create_task(pool.run())
    await pool.ready.wait()
    outcome = await pool.ask(Question("math", gold="1/2", answer="2/4"))

Every check is first tried for a moment by one of the quick workers. Honest answers end there, in
milliseconds. What does not end there is no verdict: it goes to one of the patient workers, which give
it its whole limit, and which the kernel lets run where the quick ones leave it time. So hostile
answers wait for each other, and honest ones hardly for them.

Three limits stand around a check, each for when the one before it fails: the worker's own CPU limit, the
kernel's (a CPU timer that kills, RLIMIT_AS), and the pool's wall-clock deadline with SIGKILL.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from services.reward.verifiers.processes import Worker, WorkerEnded, Zygote
from services.reward.verifiers.wire import BUNCH, Limits, Outcome, Question
from syncline.errors import Unavailable

log = structlog.get_logger()

_QUICK_CPU_S = 0.05
_DEPTH = 32
"""Questions that a quick worker may hold, so that it never waits for this process between two checks."""
_NICENESS = 5
"""Of patient workers: beside two busy quick ones it leaves them about a quarter of a core."""
_SELF_TEST_S = 30.0
_ATTEMPTS = 3
_FAILURES_IN_A_ROW = 3


@dataclass(slots=True, eq=False)
class _Asked:
    question: Question
    outcome: asyncio.Future[Outcome]
    losses: int = 0
    """Patient workers that were lost over it."""


class _Lane:
    """Questions that wait for a worker of one kind. Fair: nobody takes more than a share of what there is."""

    def __init__(self, *, workers: int, niceness: int, depth: int, cpu_s: float, wall_s: float) -> None:
        self.workers = workers
        self.niceness = niceness
        self.depth = depth
        self.cpu_s = cpu_s
        self.wall_s = wall_s
        self._waiting: deque[_Asked] = deque()
        self._news = asyncio.Event()

    def add(self, asked: _Asked) -> None:
        self._waiting.append(asked)
        self._news.set()

    def put_back(self, some: deque[_Asked]) -> None:
        self._waiting.extendleft(reversed(some))
        self._news.set()

    async def some(self) -> None:
        """Return when a question waits."""
        while not self._waiting:
            self._news.clear()
            await self._news.wait()

    def take(self, *, held: int) -> list[_Asked]:
        """Questions for a worker that holds `held`."""
        share = -(-len(self._waiting) // self.workers)
        return [self._waiting.popleft() for _ in range(min(share, self.depth - held))]

    def drop_all(self) -> list[_Asked]:
        dropped = list(self._waiting)
        self._waiting.clear()
        return dropped


class VerifierPool:
    """`workers` quick processes, and half as many patient ones."""

    def __init__(self, *, workers: int, limits: Limits, wall_s: float) -> None:
        self.ready = asyncio.Event()
        """Set while workers are up and have passed the self-test."""
        self.error = ""
        """The last failure in words."""
        self._memory_mb = limits.memory_mb
        self._quick = _Lane(
            workers=workers,
            niceness=0,
            depth=_DEPTH,
            cpu_s=min(_QUICK_CPU_S, limits.cpu_s),
            wall_s=wall_s,
        )
        self._patient = _Lane(
            workers=(workers + 1) // 2, niceness=_NICENESS, depth=1, cpu_s=limits.cpu_s, wall_s=wall_s
        )
        self._zygote: Zygote | None = None
        self._first: asyncio.Future[Worker]
        self._drivers: set[asyncio.Task[None]] = set()
        self._over = False

    @property
    def pids(self) -> frozenset[int]:
        """Process ids of the workers that are alive."""
        return frozenset(self._zygote.workers) if self._zygote is not None else frozenset()

    @property
    def size(self) -> int:
        """Workers of a pool that is whole."""
        return self._quick.workers + self._patient.workers

    def ask(self, question: Question) -> asyncio.Future[Outcome]:
        """What becomes of one check: always an outcome, or Unavailable when there is no verifier any more.

        A worker that is killed or frozen from outside says nothing about the answer: the check is
        repeated. But not for ever, as an answer may get its worker killed (by the system, out of memory).
        """
        asked = _Asked(question, asyncio.get_running_loop().create_future())
        if self._over:
            asked.outcome.set_exception(Unavailable(f"the verifier has ended; {self.error or 'see the log'}"))
        else:
            self._quick.add(asked)
        return asked.outcome

    async def run(self) -> None:
        """Keep the pool whole until cancelled. Raises when the verifier cannot be started or fails its self-test."""
        failures = 0
        try:
            while failures < _FAILURES_IN_A_ROW:
                zygote = Zygote(memory_mb=self._memory_mb, joined=self._join)
                try:
                    await zygote.start()
                    self._zygote = zygote
                    await self._serve(zygote)
                except Unavailable as error:
                    failures = 1 if self.ready.is_set() else failures + 1
                    self.error = error.message
                    log.error("verifier_ended", error=error.message, failures=failures)
                finally:
                    self.ready.clear()
                    self._zygote = None
                    await zygote.close()
            raise Unavailable(f"the verifier failed {failures} times in a row: {self.error}")
        finally:
            await self._end()

    async def _serve(self, zygote: Zygote) -> None:
        """The first worker takes the self-test, before anybody answers a question; then serve until the zygote ends."""
        self._first = asyncio.get_running_loop().create_future()
        follow = asyncio.create_task(zygote.follow())
        test = asyncio.create_task(self._self_test(zygote))
        try:
            await asyncio.wait({follow, test}, return_when=asyncio.FIRST_COMPLETED)
            if test.done():
                test.result()
                self.ready.set()
            await follow
        finally:
            follow.cancel()
            test.cancel()
            await asyncio.gather(follow, test, return_exceptions=True)

    async def _self_test(self, zygote: Zygote) -> None:
        """A verifier that cannot tell equal from different must not give a single reward."""
        zygote.start_worker(niceness=self._quick.niceness)
        try:
            async with asyncio.timeout(_SELF_TEST_S):
                worker = await self._first
        except TimeoutError:
            raise Unavailable(f"the first verifier worker did not start within {_SELF_TEST_S:g} s") from None
        for gold, equal in (("1/2", 1.0), ("1/3", 0.0)):
            worker.ask([Question("math", gold=gold, answer="2/4")], cpu_s=_SELF_TEST_S)
            try:
                outcome = await worker.outcome(timeout_s=_SELF_TEST_S)
            except (TimeoutError, WorkerEnded) as error:
                raise Unavailable(f"self-test: {error or 'no answer'}; check the installed math-verify") from None
            if outcome.status != "scored" or outcome.score != equal:
                raise Unavailable(
                    f"self-test: 2/4 against {gold} gave {outcome.status} {outcome.score:g} {outcome.cause}; "
                    "check the installed math-verify"
                )
        self._drive_from_now(worker)
        for lane, missing in ((self._quick, self._quick.workers - 1), (self._patient, self._patient.workers)):
            for _ in range(missing):
                zygote.start_worker(niceness=lane.niceness)

    def _join(self, worker: Worker) -> None:
        if self._first.done():
            self._drive_from_now(worker)
        else:
            self._first.set_result(worker)

    def _drive_from_now(self, worker: Worker) -> None:
        quick = worker.niceness == self._quick.niceness
        driver = asyncio.create_task(self._drive(worker, self._quick if quick else self._patient))
        self._drivers.add(driver)
        driver.add_done_callback(self._drivers.discard)

    async def _drive(self, worker: Worker, lane: _Lane) -> None:
        """Keep one worker busy until it is gone. What it leaves behind is asked again."""
        held: deque[_Asked] = deque()
        try:
            while not worker.ended.done():
                if not held:
                    await _first_of(lane.some(), worker.ended)
                    if worker.ended.done():
                        return
                if 2 * len(held) <= lane.depth:
                    taken = lane.take(held=len(held))
                    if taken:
                        worker.ask([asked.question for asked in taken], cpu_s=lane.cpu_s)
                        held.extend(taken)
                if not held:  # another worker was faster
                    continue
                outcome = await worker.outcome(timeout_s=lane.wall_s)
                self._settle(held.popleft(), outcome, lane)
                if outcome.last:
                    return
        except TimeoutError:
            self._lost(held, lane, how=f"no answer in {lane.wall_s:g} s")
        except WorkerEnded as ended:
            self._lost(held, lane, how=ended.how, own_fault=ended.own_fault)
        finally:
            lane.put_back(held)

    def _settle(self, asked: _Asked, outcome: Outcome, lane: _Lane) -> None:
        if outcome.status == "timeout" and lane is self._quick:
            self._patient.add(asked)
        elif not asked.outcome.done():
            asked.outcome.set_result(outcome)

    def _lost(self, held: deque[_Asked], lane: _Lane, *, how: str, own_fault: bool = False) -> None:
        """A worker went away over the first of these checks, or over one of its bunch, which it could not tell."""
        if lane is self._quick:
            for _ in range(min(BUNCH, len(held))):
                self._patient.add(held.popleft())
            return
        asked = held.popleft()
        if self._zygote is not None:
            log.warning("verifier_worker_lost", how=how)
        asked.losses += 1
        if own_fault:
            self._settle(asked, Outcome("timeout", cause=f"verifier ended: {how}"), lane)
        elif asked.losses >= _ATTEMPTS:
            cause = f"{asked.losses} verifier workers were lost: {how}"
            self._settle(asked, Outcome("timeout", cause=cause, accident=True), lane)
        else:
            self._patient.add(asked)

    async def _end(self) -> None:
        """Nobody waits for a pool that has ended."""
        self._over = True
        for driver in self._drivers:
            driver.cancel()
        await asyncio.gather(*self._drivers, return_exceptions=True)
        for lane in (self._quick, self._patient):
            for asked in lane.drop_all():
                if not asked.outcome.done():
                    asked.outcome.set_exception(Unavailable(f"the verifier has ended; {self.error or 'see the log'}"))
                    asked.outcome.exception()  # its asker may be gone


async def _first_of(work: Coroutine[Any, Any, None], ended: asyncio.Future[int | None]) -> None:
    waiting: asyncio.Future[Any] = asyncio.ensure_future(work)
    try:
        await asyncio.wait({waiting, ended}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
