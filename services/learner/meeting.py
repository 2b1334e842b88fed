"""How the ranks of one learner find each other, from what torchrun puts into their environment."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog
import torch

from services.learner.ranks import Ranks
from syncline.errors import Unavailable

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

log = structlog.get_logger()
_POLL_S = 0.05
_TELL_EVERY_S = 10.0


def join(*, device: torch.device, timeout_s: float) -> Ranks:
    """Meet the other ranks; alone without torchrun, and then nothing distributed is imported.

    `timeout_s` is the longest that a rank ever waits for the others, now and later. Raises Unavailable naming the
    ranks that did not come.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Ranks()
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    timeout = timedelta(seconds=timeout_s)
    with _telling("ranks that do not start keep all others waiting: see the logs of the other processes and pods"):
        store, rank, _ = next(rendezvous("env://", timeout=timeout))
    generation = _agree(store, rank=rank, size=size, timeout_s=timeout_s)
    with _telling("all ranks have started, and connect; GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name their network"):
        distributed.init_process_group(
            # Tensors on the CPU go through gloo on every machine: what ranks say to each other needs no GPU.
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore(generation, store),
            rank=rank,
            world_size=size,
            timeout=timeout,
        )
    return Ranks(
        rank=rank,
        size=size,
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        one_node=int(os.environ.get("LOCAL_WORLD_SIZE", "0")) == size,
    )


def _agree(store: Store, *, rank: int, size: int, timeout_s: float) -> str:
    """A name for this generation of processes, chosen by rank 0.

    torchrun keeps its store when it starts the ranks anew, with the addresses of the dead still in it, and nodes do
    not count restarts alike. So each rank asks with a name that nobody used before, and gets the answer under it.
    """
    if rank > 0:
        question = uuid.uuid4().hex
        store.set(f"syncline/question/{rank}", question)
        store.wait([f"syncline/answer/{question}"], timedelta(seconds=timeout_s))
        generation = store.get(f"syncline/answer/{question}").decode()
        store.set(f"syncline/{generation}/{rank}", "joined")
        return generation

    generation = uuid.uuid4().hex
    deadline = time.monotonic() + timeout_s
    tell_at = time.monotonic() + _TELL_EVERY_S
    answered: dict[int, str] = {}
    while missing := [other for other in range(1, size) if not store.check([f"syncline/{generation}/{other}"])]:
        if time.monotonic() > deadline:
            raise Unavailable(f"ranks {missing} of {size} did not start within {timeout_s:g} s; see their logs")
        if time.monotonic() > tell_at:
            tell_at += _TELL_EVERY_S
            log.warning("waiting_for_ranks", missing=missing, of=size)
        for other in missing:
            if not store.check([f"syncline/question/{other}"]):
                continue
            question = store.get(f"syncline/question/{other}").decode()
            if answered.get(other) != question:
                store.set(f"syncline/answer/{question}", generation)
                answered[other] = question
        time.sleep(_POLL_S)
    return generation


@contextmanager
def _telling(waits: str) -> Iterator[None]:
    """Log from time to time what a block waits for that may take until the deadline without a word."""
    over = threading.Event()

    def tell() -> None:
        while not over.wait(_TELL_EVERY_S):
            log.warning("waiting_for_ranks", waits=waits)

    threading.Thread(target=tell, name="telling", daemon=True).start()
    try:
        yield
    finally:
        over.set()
