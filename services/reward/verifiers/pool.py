"""A pool of verifier workers that may hang, crash or be killed, and still answers every check.

    pool = VerifierPool(workers=2, limits=Limits(cpu_s=1.0, memory_mb=1024), wall_s=10.0)
    task = asyncio.create_task(pool.run())
    await pool.ready.wait()
    outcome = await pool.check(gold="1/2", answer="2/4")

Three limits stand around a check, each for when the one before it fails: the worker's own CPU
limit, the kernel's (RLIMIT_CPU, RLIMIT_AS), and the pool's wall-clock deadline with SIGKILL.
"""

from __future__ import annotations

import asyncio

import structlog

from services.reward.verifiers.processes import START_S, Worker, WorkerEnded, Zygote
from services.reward.verifiers.wire import Limits, Outcome
from syncline.errors import Unavailable

log = structlog.get_logger()

_ATTEMPTS = 3
_FAILURES_IN_A_ROW = 3


class VerifierPool:
    """`workers` processes that check one answer at a time each."""

    def __init__(self, *, workers: int, limits: Limits, wall_s: float) -> None:
        self.ready = asyncio.Event()
        """Set while workers are up and have passed the self-test."""
        self.error = ""
        """The last failure in words."""
        self._num_workers = workers
        self._limits = limits
        self._wall_s = wall_s
        self._zygote: Zygote | None = None
        self._idle: asyncio.Queue[Worker] = asyncio.Queue()

    @property
    def pids(self) -> frozenset[int]:
        """Process ids of the workers that are alive."""
        return frozenset(self._zygote.workers) if self._zygote is not None else frozenset()

    async def run(self) -> None:
        """Keep the pool whole until cancelled. Raises when the verifier cannot be started or fails its self-test."""
        failures = 0
        while failures < _FAILURES_IN_A_ROW:
            zygote = Zygote(self._limits, idle=self._idle)
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

    async def _serve(self, zygote: Zygote) -> None:
        """Ready after the self-test, until the zygote is gone."""
        follow = asyncio.create_task(zygote.follow())
        test = asyncio.create_task(self._self_test())
        try:
            for _ in range(self._num_workers):
                zygote.start_worker()
            await asyncio.wait({follow, test}, return_when=asyncio.FIRST_COMPLETED)
            if test.done():
                test.result()
                self.ready.set()
            await follow
        finally:
            follow.cancel()
            test.cancel()
            await asyncio.gather(follow, test, return_exceptions=True)

    async def check(self, *, gold: str, answer: str) -> Outcome:
        """Whether `answer` equals `gold`. Raises Unavailable when there is no worker to ask.

        A worker that is killed or frozen from outside says nothing about the answer: the check is
        repeated. But not for ever, as an answer may get its worker killed (by the system, out of memory).
        """
        how = ""
        for _ in range(_ATTEMPTS):
            worker = await self._idle_worker()
            try:
                outcome = await worker.ask(gold, answer, timeout_s=self._wall_s)
            except TimeoutError:
                how = f"no answer in {self._wall_s:g} s"
            except WorkerEnded as ended:
                how = ended.how
                if ended.own_fault:
                    return Outcome("timeout", cause=f"verifier ended: {how}")
            else:
                if not outcome.last:
                    self._idle.put_nowait(worker)
                return outcome
            log.warning("verifier_worker_lost", how=how)
        return Outcome("timeout", cause=f"{_ATTEMPTS} verifier workers were lost: {how}", accident=True)

    async def _idle_worker(self) -> Worker:
        while True:
            try:
                async with asyncio.timeout(START_S):
                    worker = await self._idle.get()
            except TimeoutError:
                if self.pids:  # only busy, with a long queue of slow checks
                    continue
                raise Unavailable(f"no verifier worker for {START_S:g} s; {self.error or 'see the log'}") from None
            if not worker.ended.done():
                return worker

    async def _self_test(self) -> None:
        """A verifier that cannot tell equal from different must not give a single reward."""
        for gold, equal in (("1/2", 1.0), ("1/3", 0.0)):
            outcome = await self.check(gold=gold, answer="2/4")
            if outcome.status != "scored" or outcome.score != equal:
                raise Unavailable(
                    f"self-test: 2/4 against {gold} gave {outcome.status} {outcome.score:g} {outcome.cause}; "
                    "check the installed math-verify"
                )
