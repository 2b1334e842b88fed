"""Ranks 1 and up: carry out rank 0's orders with the same code that rank 0 runs, until it lets them go."""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading

import structlog
import torch

from services.learner.crew import keep_alive
from services.learner.orders import LENGTH, Answer, Hello, Order, frame
from services.learner.participant import Participant
from services.learner.ranks import Ranks
from services.learner.settings import LearnerSettings
from services.learner.step import Stopped
from syncline.cache import Cache
from syncline.errors import RunFailed, SynclineError

log = structlog.get_logger()


def follow(settings: LearnerSettings, ranks: Ranks) -> int:
    """Connect to rank 0 and serve it; returns the exit code.

    Signals are for rank 0: it drains, with the help of all ranks, and closes the connection.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    structlog.contextvars.bind_contextvars(rank=ranks.rank)
    (door, *_) = ranks.gather(None)
    connection = socket.create_connection((door["host"], door["port"]), timeout=30.0)
    connection.settimeout(None)
    keep_alive(connection)
    name = f"rank {ranks.rank} of {ranks.size} (process {os.getpid()} on {socket.gethostname()})"
    connection.sendall(frame(Hello(door["token"], ranks.rank, name).encode()))

    orders: queue.Queue[Order | None] = queue.Queue()
    busy = threading.Event()
    threading.Thread(target=_receive, args=(connection, orders, busy), name="orders", daemon=True).start()
    follower = Follower(settings, ranks)
    while (order := orders.get()) is not None:
        answer = follower.carry_out(order)
        busy.clear()
        try:
            connection.sendall(frame(answer.encode()))
        except OSError:
            return 1  # rank 0 is gone
        if answer.leaving:
            return 1
    return 0


class Follower:
    """One rank's part of all attempts, one after the other."""

    def __init__(self, settings: LearnerSettings, ranks: Ranks) -> None:
        stop = threading.Event()  # never set: rank 0 says when to stop
        self._participant = Participant(settings, cache=Cache(settings.cache_root), stop=stop, ranks=ranks)

    def carry_out(self, order: Order) -> Answer:
        """Do what every rank does for this order. An error that not all ranks share makes this one leave."""
        try:
            self._participant.carry_out(order)
        except Stopped:
            return Answer()
        except SynclineError as error:  # rank 0 has the same one: see Ranks.together
            return Answer(error.message, error.code)
        except torch.OutOfMemoryError as error:
            return Answer(
                f"out of GPU memory: {error}; lower SYNCLINE_MICRO_BATCH_TOKENS", RunFailed.code, leaving=True
            )
        except Exception as error:  # the outermost supervisor of this rank: rank 0 must hear of it
            log.error("order_failed", order=order.name, exc_info=error)
            return Answer(f"{type(error).__name__}: {error}", leaving=True)
        return Answer()


def _receive(connection: socket.socket, orders: queue.Queue[Order | None], busy: threading.Event) -> None:
    """Put orders into the queue. When rank 0 is gone, an idle rank leaves, and a busy one does not wait for others."""
    try:
        while True:
            (length,) = LENGTH.unpack(_exactly(connection, LENGTH.size))
            order = Order.decode(_exactly(connection, length))
            busy.set()
            orders.put(order)
    except (EOFError, OSError):
        if busy.is_set():
            log.error("rank_0_lost")
            os._exit(1)
        orders.put(None)


def _exactly(connection: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        if not (part := connection.recv(min(1 << 20, size - len(received)))):
            raise EOFError("rank 0 closed the connection")
        received += part
    return bytes(received)
