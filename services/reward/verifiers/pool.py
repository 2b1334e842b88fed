"""A pool of verifier workers that may hang, crash or be killed, and still answers every check.

    pool = VerifierPool(workers=2, limits=Limits(cpu_s=1.0, memory_mb=1024), wall_s=10.0)
    task = asyncio.create_task(pool.run())
    await pool.ready.wait()
    outcome = await pool.ask(Question("math", gold="1/2", answer="2/4"))

Every check is first tried for a moment by one of the quick workers. Honest answers end there, in
milliseconds. What does not end there is no verdict: it goes to one of the patient workers, which the
kernel lets run where the quick ones leave it time. They try it for longer, and then for its whole
limit, and take first what has used least. So hostile answers wait for each other, and honest ones,
also the slow ones, hardly for them.

Three limits stand around a check, each for when the one before it fails: the worker's own CPU limit, the
kernel's (a CPU timer that kills, RLIMIT_AS), and the pool's wall-clock deadline with SIGKILL.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Coroutine
from typing import Any

import structlog

from services.reward.verifiers.lanes import Asked, Lane
from services.reward.verifiers.processes import Worker, WorkerEnded, Zygote
from services.reward.verifiers.registry import VERIFIERS
from services.reward.verifiers.wire import Limits, Outcome, Question
from syncline.errors import Unavailable

log = structlog.get_logger()

_QUICK_CPU_S = 0.05
_LONGER_CPU_S = 0.3
"""Of the second try: what is honest and still running after it is hardly to be found."""
_MEND = "check the packages that it is installed with"
_DEPTH = 32
"""Questions that a quick worker may hold, so that it never waits for this process between two checks."""
_NICENESS = 5
"""Of patient workers: beside two busy quick ones it leaves them about a quarter of a core."""
_SELF_TEST_S = 30.0
_ATTEMPTS = 3
_FAILURES_IN_A_ROW = 3


class VerifierPool:
    """`workers` quick processes, and half as many patient ones."""

    def __init__(self, *, workers: int, limits: Limits, wall_s: float) -> None:
        self.ready = asyncio.Event()
        """Set while workers are up and have passed the self-test."""
        self.error = ""
        """The last failure in words."""
        self._memory_mb = limits.memory_mb
        self._wall_s = wall_s
        self._tries_s = sorted({min(cpu_s, limits.cpu_s) for cpu_s in (_QUICK_CPU_S, _LONGER_CPU_S, limits.cpu_s)})
        self._quick = Lane(workers=workers, niceness=0, depth=_DEPTH)
        self._patient = Lane(workers=(workers + 1) // 2, niceness=_NICENESS, depth=1)
        self._numbers = itertools.count()
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
        """What becomes of one check: an outcome, or Unavailable when no worker lives long enough to give one.

        A worker that is killed or frozen from outside says nothing about the answer: the check is repeated, up to
        three times.
        """
        asked = Asked(next(self._numbers), question, asyncio.get_running_loop().create_future())
        if self._over:
            asked.outcome.set_exception(self._has_ended())
        else:
            self._quick.add(asked)
        return asked.outcome

    async def run(self) -> None:
        """Keep the pool whole until cancelled. Raises when the verifier cannot be started or fails its self-test."""
        failures = 0
        try:
            while failures < _FAILURES_IN_A_ROW:
                zygote = Zygote(memory_mb=self._memory_mb, wall_s=self._wall_s, joined=self._join)
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
        """A verifier that cannot tell right from wrong must not give a single reward."""
        zygote.start_worker(niceness=self._quick.niceness)
        try:
            async with asyncio.timeout(_SELF_TEST_S):
                worker = await self._first
        except TimeoutError:
            raise Unavailable(f"the first verifier worker did not start within {_SELF_TEST_S:g} s") from None
        for name, verifier in VERIFIERS.items():
            for gold, answer, score in verifier.self_test:
                worker.ask([(Question(name, gold=gold, answer=answer), _SELF_TEST_S)])
                try:
                    async with asyncio.timeout(_SELF_TEST_S):
                        [outcome] = await worker.outcomes()
                except (TimeoutError, WorkerEnded) as error:
                    raise Unavailable(f"self-test of {name}: {error or 'no answer'}; {_MEND}") from None
                if (outcome.status, outcome.score) != ("scored", score):
                    told = f"{outcome.status} {outcome.score:g} {outcome.cause}"
                    raise Unavailable(f"self-test of {name}: {answer} against {gold} gave {told}; {_MEND}")
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

    async def _drive(self, worker: Worker, lane: Lane) -> None:
        """Keep one worker busy until it is gone. What it leaves behind is asked again."""
        held: deque[Asked] = deque()
        try:
            while not worker.ended.done():
                if not held:
                    await _first_of(lane.some(), worker.ended)
                    if worker.ended.done():
                        return
                if 2 * len(held) <= lane.depth and (taken := lane.take(held=len(held))):
                    worker.ask([(asked.question, self._tries_s[asked.tries]) for asked in taken])
                    held.extend(taken)
                if not held:  # another worker was faster
                    continue
                for outcome in await worker.outcomes():
                    self._settle(held.popleft(), outcome)
                    if outcome.last:
                        return
        except WorkerEnded as ended:
            if ended.in_work is not None and ended.in_work < len(held):
                asked = held[ended.in_work]
                del held[ended.in_work]
                self._lost(asked, ended, lane)
        finally:
            lane.put_back(held)

    def _settle(self, asked: Asked, outcome: Outcome) -> None:
        if outcome.status == "timeout" and asked.tries + 1 < len(self._tries_s):
            self._try_longer(asked)
        elif not asked.outcome.done():
            asked.outcome.set_result(outcome)

    def _try_longer(self, asked: Asked) -> None:
        asked.tries += 1
        self._patient.add(asked)

    def _lost(self, asked: Asked, ended: WorkerEnded, lane: Lane) -> None:
        """A worker went away in the middle of this check."""
        if lane is self._quick and len(self._tries_s) > 1:
            self._try_longer(asked)  # whatever it was, it shall not cost another quick worker
            return
        if self._zygote is not None:
            log.warning("verifier_worker_lost", how=ended.how)
        asked.losses += 1
        if asked.outcome.done():
            return
        match after_loss(ended, losses=asked.losses):
            case None:
                lane.add(asked)
            case Unavailable() as error:
                asked.outcome.set_exception(error)
            case outcome if ended.why == "time":
                self._settle(asked, outcome)
            case outcome:
                asked.outcome.set_result(outcome)

    def _has_ended(self) -> Unavailable:
        return Unavailable(f"the verifier has ended; {self.error or 'see the log'}")

    async def _end(self) -> None:
        """Nobody waits for a pool that has ended."""
        self._over = True
        for driver in self._drivers:
            driver.cancel()
        await asyncio.gather(*self._drivers, return_exceptions=True)
        for lane in (self._quick, self._patient):
            for asked in lane.drop_all():
                if not asked.outcome.done():
                    asked.outcome.set_exception(self._has_ended())
                    asked.outcome.exception()  # its asker may be gone


def after_loss(ended: WorkerEnded, *, losses: int) -> Outcome | Unavailable | None:
    """What is said of a check that has lost its worker for the `losses`th time; None asks it once more.

    An end that the check brought about is its verdict. One from outside says nothing of it, nor does silence, at first.
    """
    if ended.why in ("time", "fault"):
        return Outcome("timeout", cause=f"verifier ended: {ended.how}")
    if losses < _ATTEMPTS:
        return None
    if ended.why == "silence":
        return Outcome("timeout", cause=f"{ended.how}, {losses} times", accident=True)
    problem = f"{losses} verifier workers were killed over one answer, and not by us: {ended.how}"
    return Unavailable(f"{problem}; the log of the machine may say by whom")


async def _first_of(work: Coroutine[Any, Any, None], ended: asyncio.Future[Any]) -> None:
    waiting: asyncio.Future[Any] = asyncio.ensure_future(work)
    try:
        await asyncio.wait({waiting, ended}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
