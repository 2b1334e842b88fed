"""The verifier's processes as the pool sees them: one zygote, and the workers that it forks."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from services.reward.metrics import WORKERS
from services.reward.verifiers.wire import (
    END_OF_QUESTIONS,
    MESSAGE_BYTES,
    Kind,
    Message,
    Outcome,
    Question,
)
from syncline.errors import PeerTimeout, Unavailable

START_S = 60.0
"""Deadline for the zygote's imports."""
_END_S = 2.0
"""Seconds it may take to end when told to, before it is killed."""
_READ_BYTES = 1 << 16
_BARREN = 20
"""Workers in a row that may end without an answer before the zygote itself is taken for broken."""
_GONE = "the verifier process ended; its reason is in the log"
_OWN_FAULT = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGSYS})
"""Signals that a check earns itself."""


@dataclass(frozen=True, slots=True)
class End:
    """How a worker ended, as the zygote tells."""

    code: int
    """Exit code, or minus the number of the signal that ended it."""
    begun: int
    """Checks that it began in its life."""
    grown: bool
    """It held much memory when it ended."""


class WorkerEnded(Exception):
    """A worker went away in the middle of its checks."""

    def __init__(
        self, how: str, *, why: Literal["time", "fault", "silence", "outside"], in_work: int | None = None
    ) -> None:
        self.how = how
        self.why = why
        """time: the kernel ended it at its limit. fault: it ended by its check. silence: we killed it, as it did not
        answer. outside: its check is innocent."""
        self.in_work = in_work
        """Which of the checks without an outcome it was at; None when it was at none, or nobody can tell."""
        super().__init__(how)

    @classmethod
    def by(cls, end: End, *, in_work: int | None = None) -> WorkerEnded:
        how = f"exit code {end.code}" if end.code >= 0 else signal.Signals(-end.code).name
        if end.code == -signal.SIGVTALRM:
            return cls(how, why="time", in_work=in_work)
        if end.code == -signal.SIGKILL and end.grown:
            return cls(f"{how}, as it had grown large", why="fault", in_work=in_work)
        own = end.code >= 0 or -end.code in _OWN_FAULT
        return cls(how, why="fault" if own else "outside", in_work=in_work)


class Worker:
    """One worker process, reached over its socket. It answers questions one after the other, in order."""

    def __init__(self, pid: int, zygote: Zygote, *, niceness: int, wall_s: float) -> None:
        self.pid = pid
        self.niceness = niceness
        self.killed = False
        """By us, so its end says nothing about the verifier."""
        self.ended: asyncio.Future[End | None] = asyncio.get_running_loop().create_future()
        """Set once it has ended; None when nobody could tell how."""
        self._zygote = zygote
        self._wall_s = wall_s
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._rest = b""
        self._asked = self._told = 0
        self._heard_at = 0.0
        self._watch: asyncio.TimerHandle | None = None

    async def connect(self, ours: socket.socket) -> None:
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=_READ_BYTES)

    def ask(self, questions: Sequence[tuple[Question, float]]) -> None:
        """Hand over questions, each with its CPU seconds. What becomes of them, `outcomes` tells."""
        lines = [question.to_line(cpu_s=cpu_s) for question, cpu_s in questions]
        self._writer.write(b"".join(lines) + END_OF_QUESTIONS)
        if self._asked == self._told:
            self._heard_at = time.monotonic()
        self._asked += len(questions)
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(self._wall_s, self._look)

    async def outcomes(self) -> list[Outcome]:
        """One or more, of the oldest questions that have none. Raises WorkerEnded, also after a silence of `wall_s`."""
        told: list[Outcome] = []
        while not told:
            try:
                data = await self._reader.read(_READ_BYTES)
            except ConnectionError:
                data = b""
            if not data:
                raise self._end(await self.ended)
            *lines, self._rest = (self._rest + data).split(b"\n")
            told = [Outcome.from_line(line) for line in lines]
        self._told += len(told)
        self._heard_at = time.monotonic()
        self._zygote.barren = 0
        return told

    def kill(self) -> None:
        self.killed = True
        self._zygote.kill(self)

    def close(self, end: End | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if not self.ended.done():
            self.ended.set_result(end)
        self._writer.close()

    def _look(self) -> None:
        """One timer for all checks of this worker: whether it has been silent for too long."""
        loop = asyncio.get_running_loop()
        left_s = self._heard_at + self._wall_s - time.monotonic()
        if self._asked == self._told:
            self._watch = None
        elif left_s > 0:
            self._watch = loop.call_later(left_s, self._look)
        else:
            self.kill()
            self._watch = loop.call_later(_END_S, self.close, None)  # in case that the zygote does not answer either

    def _end(self, end: End | None) -> WorkerEnded:
        if self.killed:
            silent = f"no answer in {self._wall_s:g} s"
            return WorkerEnded(silent, why="silence", in_work=0 if end is None else self._in_work(end))
        if end is None:
            return WorkerEnded("the verifier process ended", why="outside")
        return WorkerEnded.by(end, in_work=self._in_work(end))

    def _in_work(self, end: End) -> int | None:
        return end.begun - self._told - 1 if end.begun > self._told else None


class Zygote:
    """The process that forks the workers, and who of them is alive."""

    def __init__(self, *, memory_mb: int, wall_s: float, joined: Callable[[Worker], None]) -> None:
        self.workers: dict[int, Worker] = {}
        self.barren = 0
        """Workers that ended by themselves since the last answer."""
        self._memory_mb = memory_mb
        self._wall_s = wall_s
        self._joined = joined
        self._starting: deque[tuple[socket.socket, int]] = deque()
        self._control, self._theirs = socket.socketpair()
        self._control.setblocking(False)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and wait for its imports. Raises Unavailable or PeerTimeout when it does not come up."""
        # SYNCLINE_REDIS_URL: may hold a password, and hostile text is parsed down there.
        # PYTHONPATH: a test runner's or a script's import path is not in the environment.
        # PYTHONHASHSEED: the same input takes the same path through the algebra in every worker.
        environment = {name: value for name, value in os.environ.items() if name != "SYNCLINE_REDIS_URL"}
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "0"}
        with self._theirs as theirs:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "services.reward.verifiers.zygote"),
                *(str(theirs.fileno()), str(self._memory_mb)),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                env=environment,
            )
        try:
            async with asyncio.timeout(START_S):
                await self._receive()
        except TimeoutError:
            raise PeerTimeout(f"the verifier process did not come up in {START_S:g} s") from None

    def start_worker(self, *, niceness: int) -> None:
        """Ask for one more worker; `joined` is told when it is up."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            try:
                socket.send_fds(self._control, [Message(Kind.START, code=niceness).to_bytes()], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise Unavailable(_GONE) from error
        self._starting.append((ours, niceness))

    def kill(self, worker: Worker) -> None:
        if not worker.ended.done():
            with suppress(OSError):  # the zygote is gone, and so are its workers
                self._control.send(Message(Kind.KILL, pid=worker.pid).to_bytes())

    async def follow(self) -> None:
        """Keep the number of workers constant. Ends by Unavailable when the process is gone."""
        while True:
            message = await self._receive()
            if message.kind is Kind.STARTED:
                ours, niceness = self._starting.popleft()
                worker = Worker(message.pid, self, niceness=niceness, wall_s=self._wall_s)
                await worker.connect(ours)
                self.workers[message.pid] = worker
                self._joined(worker)
            elif message.kind is Kind.EXITED:
                worker = self.workers.pop(message.pid)
                end = End(message.code, message.begun, message.grown)
                worker.close(end)
                self.barren += not (worker.killed or message.code == -signal.SIGVTALRM)
                if self.barren > _BARREN:
                    how = WorkerEnded.by(end).how
                    raise Unavailable(
                        f"{_BARREN} workers in a row ended without an answer, the last by {how}; "
                        "check SYNCLINE_CHECK_MEMORY_MB"
                    )
                self.start_worker(niceness=worker.niceness)
            WORKERS.set(len(self.workers))

    async def close(self) -> None:
        """End it; its workers die with it."""
        while self._starting:
            self._starting.popleft()[0].close()
        while self.workers:
            self.workers.popitem()[1].close(None)
        WORKERS.set(0)
        self._control.close()  # which is what it ends by
        self._theirs.close()
        if self._process is None:
            return
        try:
            async with asyncio.timeout(_END_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def _receive(self) -> Message:
        loop = asyncio.get_running_loop()
        data = b""
        while len(data) < MESSAGE_BYTES:
            try:
                more = await loop.sock_recv(self._control, MESSAGE_BYTES - len(data))
            except ConnectionError:
                more = b""
            if not more:
                raise Unavailable(_GONE)
            data += more
        return Message.from_bytes(data)
