"""The other ranks as rank 0 sees them: one connection each, on which orders go out and answers come back.

The connection is also the sign of life. The kernel closes it when a process dies, so rank 0 knows at once, and by
name, which rank is gone; a collective operation says only that some peer is. After a loss the remaining ranks are of
no use to each other: the attempt ends, the service leaves, and torchrun starts all ranks anew.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
import socket
from dataclasses import dataclass

import structlog

from services.learner.orders import LENGTH, Answer, Hello, Order, frame
from services.learner.ranks import Ranks
from syncline.errors import RunFailed, SynclineError, Unavailable

log = structlog.get_logger()
_HELLO_S = 10.0
_AFTER_A_FAILURE_S = 10.0
"""Longest wait for the other ranks when rank 0 has failed already: they may hang in what it left."""
_HELLO_BYTES = 1 << 16
_AFTERWARDS = "the run goes on from its last saved state when all ranks are back (torchrun --max-restarts)"


@dataclass(slots=True)
class _Member:
    name: str
    writer: asyncio.StreamWriter
    owed: int = 0
    """Orders that it has not answered yet."""

    @property
    def busy(self) -> bool:
        return self.owed > 0


class Crew:
    """Ranks 1 and up. Used from one event loop."""

    def __init__(self, ranks: Ranks, *, timeout_s: float) -> None:
        self.ranks = ranks
        self.loss: SynclineError | None = None
        """Why the ranks cannot work together any more; Unavailable when trying again is right."""
        self._timeout_s = timeout_s
        self._members: dict[int, _Member] = {}
        self._problems: list[str] = []
        self._changed = asyncio.Event()
        self._lost = asyncio.Event()
        self._closing = False
        self._order = ""
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen, tell the other ranks where, and wait until all have come. Raises Unavailable naming who has not.

        On one node the address is the loopback; else it is the interface of torchrun's own meeting point.
        """
        host = "127.0.0.1" if self.ranks.one_node else os.environ["MASTER_ADDR"]
        token = secrets.token_hex(16)
        self._server = await asyncio.start_server(lambda r, w: self._serve(r, w, token), host, 0)
        port = self._server.sockets[0].getsockname()[1]
        await asyncio.to_thread(self.ranks.gather, {"host": host, "port": port, "token": token})
        try:
            async with asyncio.timeout(self._timeout_s):
                while len(self._members) < self.ranks.size - 1:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            missing = sorted(set(range(1, self.ranks.size)) - set(self._members))
            raise Unavailable(f"ranks {missing} did not connect to {host}:{port} in {self._timeout_s:g} s") from None
        log.info("ranks_joined", ranks=self.ranks.size)

    def give(self, order: Order) -> None:
        """Tell all ranks to carry out `order`. The caller does its own part right after. Raises the loss, if any."""
        if self.loss is not None:
            raise self.loss
        self._order = order.name
        self._problems.clear()
        encoded = frame(order.encode())
        for member in self._members.values():
            member.owed += 1
            member.writer.write(encoded)

    async def settle(self, *, failed: bool = False) -> None:
        """Wait until all ranks have answered. `failed` says that rank 0's own part went wrong.

        Raises the loss when a rank is gone, does not answer in time, or failed alone.
        """
        timeout_s = min(_AFTER_A_FAILURE_S, self._timeout_s) if failed else self._timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                while self.loss is None and any(member.busy for member in self._members.values()):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            busy = ", ".join(member.name for member in self._members.values() if member.busy)
            self._lose(Unavailable(f"{busy} did not finish {self._order!r} within {timeout_s:g} s; {_AFTERWARDS}"))
        if self._problems and not failed:
            self._lose(Unavailable(f"{self._problems[0]}; {_AFTERWARDS}"))
        if self.loss is not None:
            raise self.loss

    async def watch(self) -> None:
        """A worker of the service: raises the loss, which takes the service down."""
        await self._lost.wait()
        assert self.loss is not None
        raise self.loss

    async def close(self) -> None:
        """Let the other ranks go."""
        self._closing = True
        if self._server is not None:
            self._server.close()
        for member in self._members.values():
            member.writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        """One connection, from its hello to its end."""
        try:
            async with asyncio.timeout(_HELLO_S):
                hello = Hello.decode(await _read(reader, at_most=_HELLO_BYTES))
        except (TimeoutError, EOFError, OSError, ValueError, TypeError):
            writer.close()
            return
        if not hmac.compare_digest(hello.token, token) or hello.rank in self._members:
            writer.close()
            return
        keep_alive(writer.get_extra_info("socket"))
        member = self._members[hello.rank] = _Member(hello.name, writer)
        self._changed.set()
        try:
            while True:
                self._on_answer(member, Answer.decode(await _read(reader, at_most=_HELLO_BYTES)))
        except (EOFError, OSError, ValueError) as error:
            doing = f"while it carried out {self._order!r}" if member.busy else "while it waited"
            log.debug("rank_connection_ended", rank=member.name, error=str(error))
            self._lose(Unavailable(f"{member.name} died {doing}; {_AFTERWARDS}"))

    def _on_answer(self, member: _Member, answer: Answer) -> None:
        member.owed -= 1
        if answer.problem:
            self._problems.append(f"{member.name}: {answer.problem}")
        if answer.leaving:
            lasting = answer.code == RunFailed.code  # it would fail again
            self._lose((RunFailed if lasting else Unavailable)(f"{member.name}: {answer.problem}"))
        self._changed.set()

    def _lose(self, loss: SynclineError) -> None:
        if self.loss is None and not self._closing:
            log.error("rank_lost", error=loss.message)
            self.loss = loss
            self._lost.set()
            self._changed.set()


def keep_alive(connection: socket.socket) -> None:
    """Notice within half a minute that the other node is gone without a word."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def _read(reader: asyncio.StreamReader, *, at_most: int) -> bytes:
    """One frame. Raises EOFError (IncompleteReadError is one), OSError, or ValueError for one that is too long."""
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    if length > at_most:
        raise ValueError(f"a frame of {length} bytes")
    return await reader.readexactly(length)
