"""The process that all verifier workers are forked from: `python -m services.reward.verifiers.zygote FD MEMORY_MB`.

It imports every verifier once and warms it up (the algebra takes 1 to 4 seconds) and then forks, so that a killed
worker is replaced within milliseconds. It has one thread, holds no connection and no secret of the
service, and never looks at a completion: only its children do, one at a time, under limits. It is their
parent, so it alone kills them and tells how they ended: no signal ever hits a process that took over a pid.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import resource
import select
import signal
import socket
import struct
import sys
from contextlib import suppress
from typing import BinaryIO

from services.reward.verifiers import limited
from services.reward.verifiers.wire import BUNCH, END_OF_QUESTIONS, MESSAGE_BYTES, Kind, Message, Question

_PR_SET_PDEATHSIG = 1
_COUNT = struct.Struct("=Q")
_BUNCH_S = 0.01
"""A bunch of outcomes is told when it took longer than this."""


def main() -> None:
    """Serve the pool on the inherited socket until it closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    _die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the service, which ends its workers itself
        signal.signal(number, signal.SIG_IGN)
    limited.warm_up()
    gc.collect()
    gc.freeze()
    with suppress(ConnectionError):  # the service is gone; the children follow
        Zygote(control, memory_bytes=int(sys.argv[2]) << 20).serve()


class Zygote:
    """Forks workers when it is told to, and tells how they ended."""

    def __init__(self, control: socket.socket, *, memory_bytes: int) -> None:
        self._control = control
        self._memory_bytes = memory_bytes
        self._begun: dict[int, mmap.mmap] = {}
        """By pid: memory that is shared with the worker, in which it counts the checks that it begins."""
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._wake)

    def serve(self) -> None:
        """Until the service closes its end."""
        self._tell(Message(Kind.READY))
        while True:
            readable, _, _ = select.select([self._control.fileno(), self._woken], [], [])
            if self._woken in readable:
                os.read(self._woken, 4096)
                self._report_ended()
            if self._control.fileno() not in readable:
                continue
            data, sockets, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 1)
            if not data:
                return
            message = Message.from_bytes(data)
            if message.kind is Kind.KILL and message.pid in self._begun:
                os.kill(message.pid, signal.SIGKILL)
            elif message.kind is Kind.START:
                self._start(sockets[0], niceness=message.code)

    def _start(self, connection: int, *, niceness: int) -> None:
        begun = mmap.mmap(-1, _COUNT.size)
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for fd in (self._woken, self._wake):
                os.close(fd)
            self._control.close()
            for other in self._begun.values():
                other.close()
            _work(socket.socket(fileno=connection), self._memory_bytes, niceness=niceness, begun=begun)
        os.close(connection)
        self._begun[pid] = begun
        self._tell(Message(Kind.STARTED, pid=pid))

    def _report_ended(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    return
                with self._begun.pop(pid) as begun:
                    (count,) = _COUNT.unpack(begun)
                code, grown = os.waitstatus_to_exitcode(status), _peak_bytes(usage) > self._memory_bytes // 2
                self._tell(Message(Kind.EXITED, pid=pid, code=code, begun=count, grown=grown))

    def _tell(self, message: Message) -> None:
        self._control.sendall(message.to_bytes())


def _work(connection: socket.socket, memory_bytes: int, *, niceness: int, begun: mmap.mmap) -> None:
    """The life of a worker: a line in, a line out, until the service closes. Never returns to the zygote's loop."""
    code = 1
    try:
        _die_with_parent()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):  # libraries print what they cannot parse; none of it may reach our logs
            os.dup2(nothing, fd)
        os.nice(niceness)
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with connection.makefile("rb") as requests:
            _answer(requests, connection, memory_bytes, begun)
        code = 0
    finally:
        os._exit(code)  # no exit handlers, no traceback: both belong to the zygote


def _answer(requests: BinaryIO, connection: socket.socket, memory_bytes: int, begun: mmap.mmap) -> None:
    told, spent_s, count, last = b"", 0.0, 0, False
    for line in requests:
        if line != END_OF_QUESTIONS:
            count += 1
            _COUNT.pack_into(begun, 0, count)
            question, cpu_s = Question.from_line(line)
            outcome = limited.check(question, cpu_s=cpu_s)
            if _peak_bytes(resource.getrusage(resource.RUSAGE_SELF)) > memory_bytes // 2:
                outcome = outcome.ending()  # caches kept something huge: better a new worker
            told, spent_s, last = told + outcome.to_line(), spent_s + outcome.seconds, outcome.last
        if last or line == END_OF_QUESTIONS or spent_s > _BUNCH_S or count % BUNCH == 0:
            connection.sendall(told)
            told, spent_s = b"", 0.0
        if last:
            return


def _peak_bytes(usage: resource.struct_rusage) -> int:
    """Largest memory that a process ever held."""
    return usage.ru_maxrss if sys.platform == "darwin" else usage.ru_maxrss << 10


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, however it dies. Elsewhere the closed socket ends it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
