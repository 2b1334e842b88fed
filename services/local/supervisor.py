"""The supervisor: brings the stack up, keeps every child running, scales the generators, leaves nothing behind.

starting -> ready -> stopping -> stopped
    `-----> failed     (a child did not come up; the error holds the end of its log)
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid
from contextlib import suppress
from typing import Literal

import structlog

from services.local import programs
from services.local.child import Child
from services.local.folder import StackFolder
from services.local.guardian import Guardian
from services.local.processes import kill_all
from services.local.programs import Options, Program
from syncline.errors import Conflict, SynclineError

log = structlog.get_logger()
State = Literal["starting", "ready", "stopping", "stopped", "failed"]
_SCALE_PERIOD_S = 0.3
_KILL_AFTER_S = programs.STOP_GRACE_S + 2.0  # the children give up by themselves before that


class Supervisor:
    """One stack in one folder, from `run` to the end of `run`."""

    def __init__(self, folder: StackFolder, options: Options) -> None:
        self._folder = folder
        self._options = options
        self._mark = uuid.uuid4().hex
        self._state: State = "starting"
        self._error = ""
        self._started_at = time.time()
        self._children: dict[str, Child] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._guardian: Guardian

    async def run(self, stop: asyncio.Event) -> None:
        """Run the stack until `stop` is set. Raises a SynclineError when it cannot be brought up."""
        self._folder.own()
        ended: State = "failed"
        try:
            self._clear_up_after_the_last()
            _check_port_is_free(self._options.port)
            self._guardian = Guardian(self._mark)
            try:
                await self._until(stop)
            finally:
                await self._down()
                self._guardian.dismiss()
            ended = "stopped"
        except SynclineError as error:
            self._error = error.message
            raise
        finally:
            self._enter(ended)
            self._folder.leave()

    async def _until(self, stop: asyncio.Event) -> None:
        """Bring the stack up and look after it; cut short by `stop` at any point."""
        working = asyncio.create_task(self._work(), name="work")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
        finally:
            for task in (working, stopping, *self._keepers.values()):
                task.cancel()
            await asyncio.gather(working, stopping, *self._keepers.values(), return_exceptions=True)

    async def _work(self) -> None:
        self._enter("starting")
        self._folder.write_wanted_generators(self._options.generators)
        if not self._options.redis_url:
            await self._start([programs.redis_server(self._folder)])
        generators = [self._generator(index) for index in range(self._options.generators)]
        model = self._options.reward_model
        beside = [programs.reward_model(model, self._options)] if model is not None else []
        await self._start([*programs.services(self._folder, self._options), *generators, *beside])
        self._enter("ready")
        log.info("stack_ready", address=self._options.address, after_s=round(time.time() - self._started_at, 1))
        while True:
            await asyncio.sleep(_SCALE_PERIOD_S)
            await self._scale()

    async def _start(self, wanted: list[Program]) -> None:
        """Start programs side by side; the first that fails is the error."""
        children = [self._add(program) for program in wanted]
        try:
            async with asyncio.TaskGroup() as group:
                for child in children:
                    group.create_task(child.start())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        for child in children:
            self._keepers[child.name] = asyncio.create_task(child.keep(), name=f"keep:{child.name}")

    async def _scale(self) -> None:
        """Follow the wanted number of generators: the newest leave first."""
        wanted = self._folder.wanted_generators()
        present = sorted(
            (name for name in self._children if name.startswith("inference-")), key=lambda name: int(name[10:])
        )
        if wanted is None or wanted == len(present):
            return
        log.info("scaling", generators=len(present), wanted=wanted)
        for index in range(len(present), wanted):
            child = self._add(self._generator(index))
            self._keepers[child.name] = asyncio.create_task(_start_and_keep(child), name=f"keep:{child.name}")
        for name in reversed(present[wanted:]):
            await self._remove(name)

    def _add(self, program: Program) -> Child:
        log_file = self._folder.log(program.name)
        log_file.unlink(missing_ok=True)
        child = Child(program, log_file=log_file, mark=self._mark, guardian=self._guardian, changed=self._write_state)
        self._children[child.name] = child
        return child

    async def _remove(self, name: str) -> None:
        keeper = self._keepers.pop(name)
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper
        await self._children.pop(name).stop(grace_s=_KILL_AFTER_S)
        self._write_state()

    def _generator(self, index: int) -> Program:
        return programs.generator(index, self._folder, self._options)

    async def _down(self) -> None:
        """Stop the services side by side, then Redis, which they still need while they drain."""
        self._enter("stopping")
        redis = self._children.get("redis")
        await asyncio.gather(
            *(child.stop(grace_s=_KILL_AFTER_S) for child in self._children.values() if child is not redis)
        )
        if redis is not None:
            await redis.stop(grace_s=_KILL_AFTER_S)
        if killed := kill_all(mark=self._mark):
            log.warning("killed_what_was_left", processes=killed)

    def _clear_up_after_the_last(self) -> None:
        """A supervisor and its guardian that were killed together leave children. Their ids may be others' by now."""
        last = self._folder.state().get("mark")
        if last and (killed := kill_all(mark=last)):
            log.warning("killed_what_the_last_stack_left", processes=killed)

    def _enter(self, state: State) -> None:
        self._state = state
        self._write_state()

    def _write_state(self) -> None:
        self._folder.write_state(
            {
                "state": self._state,
                "error": self._error,
                "pid": os.getpid(),
                "mark": self._mark,
                "address": self._options.address,
                "engine": self._options.engine,
                "started_at": self._started_at,
                "children": {name: child.describe() for name, child in self._children.items()},
            }
        )


async def _start_and_keep(child: Child) -> None:
    """A child that joins a running stack may fail to start without taking the others down: it is tried again."""
    try:
        await child.start()
    except SynclineError as error:
        log.error("start_failed", child=child.name, error=error.message)
    await child.keep()


def _check_port_is_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Conflict(
                f"cannot listen on 127.0.0.1:{port} ({error.strerror}); "
                f"choose another port, such as PORT={port + 1} (or --port {port + 1})"
            ) from None
