"""The verifier's processes as the pool sees them: one zygote, and the workers that it forks."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from services.reward.metrics import WORKERS
from services.reward.verifiers.wire import (
    END_OF_QUESTIONS,
    MESSAGE_BYTES,
    Kind,
    Message,
    Outcome,
    Question,
    pack,
    unpack,
)
from syncline.errors import PeerTimeout, Unavailable

START_S = 60.0
"""Deadline for the zygote's imports."""
_END_S = 2.0
"""Seconds it may take to end when told to, before it is killed."""
_LINE_BYTES = 1 << 20
_BARREN = 20
"""Workers in a row that may end without an answer before the zygote itself is taken for broken."""
_GONE = "the verifier process ended; its reason is in the log"
_OWN_FAULT = frozenset(
    {signal.SIGVTALRM, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGSYS}
)
"""Signals that a check earns itself. After any other end the check is innocent and may be repeated."""


class WorkerEnded(Exception):
    """A worker went away in the middle of its checks."""

    def __init__(self, code: int | None) -> None:
        known = code is not None and code < 0
        self.how = signal.Signals(-code).name if known and code is not None else f"exit code {code}"
        self.own_fault = known and code is not None and -code in _OWN_FAULT
        super().__init__(self.how)


class Worker:
    """One worker process, reached over its socket. It answers questions one after the other, in order."""

    def __init__(self, pid: int, zygote: Zygote, *, niceness: int) -> None:
        self.pid = pid
        self.niceness = niceness
        self.killed = False
        """By us, so its end says nothing about the verifier."""
        self.ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        """Exit code once it has ended; None when nobody could tell."""
        self._zygote = zygote
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def connect(self, ours: socket.socket) -> None:
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=_LINE_BYTES)

    def ask(self, questions: Sequence[Question], *, cpu_s: float) -> None:
        """Hand over questions. What becomes of them, `outcome` tells."""
        self._writer.write(b"".join(question.to_line(cpu_s=cpu_s) for question in questions) + END_OF_QUESTIONS)

    async def outcome(self, *, timeout_s: float) -> Outcome:
        """Of the oldest question that has none. Raises TimeoutError or WorkerEnded; the worker is then gone."""
        try:
            async with asyncio.timeout(timeout_s):
                try:
                    line = await self._reader.readline()
                except ConnectionError:
                    line = b""
        except TimeoutError:
            self.kill()
            raise
        if not line.endswith(b"\n"):
            raise WorkerEnded(await self.ended)
        self._zygote.barren = 0
        return Outcome.from_line(line)

    def kill(self) -> None:
        self.killed = True
        self._zygote.kill(self)

    def close(self, code: int | None) -> None:
        if not self.ended.done():
            self.ended.set_result(code)
        self._writer.close()


class Zygote:
    """The process that forks the workers, and who of them is alive."""

    def __init__(self, *, memory_mb: int, joined: Callable[[Worker], None]) -> None:
        self.workers: dict[int, Worker] = {}
        self.barren = 0
        """Workers that ended by themselves since the last answer."""
        self._memory_mb = memory_mb
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
                socket.send_fds(self._control, [pack(Kind.START, code=niceness)], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise Unavailable(_GONE) from error
        self._starting.append((ours, niceness))

    def kill(self, worker: Worker) -> None:
        if not worker.ended.done():
            with suppress(OSError):  # the zygote is gone, and so are its workers
                self._control.send(pack(Kind.KILL, pid=worker.pid))

    async def follow(self) -> None:
        """Keep the number of workers constant. Ends by Unavailable when the process is gone."""
        while True:
            message = await self._receive()
            if message.kind is Kind.STARTED:
                ours, niceness = self._starting.popleft()
                worker = Worker(message.pid, self, niceness=niceness)
                await worker.connect(ours)
                self.workers[message.pid] = worker
                self._joined(worker)
            elif message.kind is Kind.EXITED:
                worker = self.workers.pop(message.pid)
                worker.close(message.code)
                self.barren += not (worker.killed or message.code == -signal.SIGVTALRM)
                if self.barren > _BARREN:
                    how = WorkerEnded(message.code).how
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
        return unpack(data)
