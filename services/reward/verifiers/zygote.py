"""The process that all verifier workers are forked from: `python -m services.reward.verifiers.zygote FD MEMORY_MB`.

It imports every verifier once and warms it up (the algebra takes 1 to 4 seconds) and then forks, so that a killed
worker is replaced within milliseconds. It has one thread, holds no connection and no secret of the
service, and never looks at a completion: only its children do, one at a time, under limits. It is their
parent, so it alone kills them and tells how they ended: no signal ever hits a process that took over a pid.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import select
import signal
import socket
import sys
from contextlib import suppress

import math_verify  # noqa: F401 - so that all children have it

from services.reward.verifiers import limited
from services.reward.verifiers.wire import BUNCH, END_OF_QUESTIONS, MESSAGE_BYTES, Kind, Question, pack, unpack

_PR_SET_PDEATHSIG = 1
_BUNCH_S = 0.01
"""A bunch of outcomes is told when it took longer than this."""


def main() -> None:
    """Serve the pool on the inherited socket until it closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    memory_bytes = int(sys.argv[2]) << 20
    _die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the service, which ends its workers itself
        signal.signal(number, signal.SIG_IGN)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake)
    limited.warm_up()
    gc.collect()
    gc.freeze()
    control.sendall(pack(Kind.READY))

    children: set[int] = set()
    while True:
        readable, _, _ = select.select([control.fileno(), woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
            _report_ended(control, children)
        if control.fileno() not in readable:
            continue
        data, sockets, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 1)
        if not data:
            return  # the service is gone; the children follow
        message = unpack(data)
        if message.kind is Kind.KILL and message.pid in children:
            os.kill(message.pid, signal.SIGKILL)
        elif message.kind is Kind.START:
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                for fd in (woken, wake):
                    os.close(fd)
                control.close()
                _work(socket.socket(fileno=sockets[0]), memory_bytes, niceness=message.code)
            os.close(sockets[0])
            children.add(pid)
            control.sendall(pack(Kind.STARTED, pid=pid))


def _report_ended(control: socket.socket, children: set[int]) -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            children.discard(pid)
            control.sendall(pack(Kind.EXITED, pid=pid, code=os.waitstatus_to_exitcode(status)))


def _work(connection: socket.socket, memory_bytes: int, *, niceness: int) -> None:
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
            told, spent_s = b"", 0.0
            for number, line in enumerate(requests, start=1):
                last = False
                if line != END_OF_QUESTIONS:
                    question, cpu_s = Question.from_line(line)
                    outcome = limited.check(question, cpu_s=cpu_s)
                    if _resident_bytes() > memory_bytes // 2:  # caches kept something huge: better a new worker
                        outcome = outcome.ending()
                    told, spent_s, last = told + outcome.to_line(), spent_s + outcome.seconds, outcome.last
                if last or line == END_OF_QUESTIONS or spent_s > _BUNCH_S or number % BUNCH == 0:
                    connection.sendall(told)
                    told, spent_s = b"", 0.0
                if last:
                    break
        code = 0
    finally:
        os._exit(code)  # no exit handlers, no traceback: both belong to the zygote


def _resident_bytes() -> int:
    """Largest memory this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, however it dies. Elsewhere the closed socket ends it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
