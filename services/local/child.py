"""One child process: started, watched, started anew when it ends, stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import structlog

from services.local.folder import tail
from services.local.guardian import Guardian
from services.local.processes import MARK, kill_all
from services.local.programs import Program
from services.local.readiness import until_ready
from syncline.backoff import Backoff
from syncline.errors import PeerTimeout, Unavailable

log = structlog.get_logger()
Phase = Literal["new", "starting", "ready", "waiting to restart", "stopping", "stopped"]

_BACKOFF = Backoff(first_s=0.5, longest_s=30.0)
_FORGIVEN_AFTER_S = 60.0  # a child that ran this long starts over with the first pause


class Child:
    """`start` it once, `keep` it running, `stop` it.

    It leads a session of its own, so that a Ctrl-C for the supervisor is not one for the child, and its own
    children can be found and killed with it.
    """

    def __init__(
        self, program: Program, *, log_file: Path, mark: str, guardian: Guardian, changed: Callable[[], None]
    ) -> None:
        self.program = program
        self.phase: Phase = "new"
        self.restarts = 0
        self._log_file = log_file
        self._mark = mark
        self._guardian = guardian
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._started_at = 0.0

    @property
    def name(self) -> str:
        return self.program.name

    def describe(self) -> dict[str, Any]:
        """The child as stack.json shows it."""
        pid = self._process.pid if self._process is not None else None
        return {"phase": self.phase, "pid": pid, "restarts": self.restarts, "log": str(self._log_file)}

    async def start(self) -> None:
        """Start and return once it is ready. Raises Unavailable, with the end of its log, when it ends before that."""
        process = await self._spawn()
        ended = asyncio.create_task(process.wait())
        ready = asyncio.create_task(until_ready(self.program.health, peer=self.name))
        try:
            await asyncio.wait({ended, ready}, timeout=self.program.deadline_s, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                cause = _cause(ended.result())
                raise Unavailable(f"{self.name} ended with {cause} before it was ready; {self._last_words()}")
            if not ready.done():
                kill_all(sessions={process.pid})
                deadline = f"{self.program.deadline_s:g} s"
                raise PeerTimeout(f"{self.name} was not ready within {deadline}; {self._last_words()}")
            ready.result()
        finally:
            for task in (ended, ready):
                task.cancel()
            await asyncio.gather(ended, ready, return_exceptions=True)
        log.info("child_ready", child=self.name, pid=process.pid, after_s=round(time.monotonic() - self._started_at, 1))
        self._enter("ready")

    async def keep(self) -> None:
        """Start the child anew whenever it ends, as a cluster would; runs until cancelled."""
        pauses = _BACKOFF.pauses()
        while True:
            assert self._process is not None, "start comes before keep"
            code = await self._process.wait()
            self._bury()
            if time.monotonic() - self._started_at > _FORGIVEN_AFTER_S:
                pauses = _BACKOFF.pauses()
            pause_s = next(pauses)
            log.warning("child_ended", child=self.name, cause=_cause(code), restart_in_s=pause_s)
            self._enter("waiting to restart")
            await asyncio.sleep(pause_s)
            self.restarts += 1
            try:
                await self.start()
            except Unavailable as error:
                log.error("restart_failed", child=self.name, error=error.message)

    async def stop(self, *, grace_s: float) -> None:
        """SIGTERM, wait up to `grace_s` for it to drain, then SIGKILL its whole session."""
        if self._process is None:
            return
        self._enter("stopping")
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            try:
                async with asyncio.timeout(grace_s):
                    await self._process.wait()
            except TimeoutError:
                log.warning("child_killed", child=self.name, grace_s=grace_s)
            kill_all(sessions={self._process.pid})
            await self._process.wait()
        self._bury()
        self._enter("stopped")

    async def _spawn(self) -> asyncio.subprocess.Process:
        self._started_at = time.monotonic()
        with self._log_file.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self.program.command,
                env={**self.program.environment, MARK: self._mark},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._guardian.watch(self._process.pid)
        self._enter("starting")
        return self._process

    def _bury(self) -> None:
        """The process has ended: so must what it started and left behind."""
        assert self._process is not None
        kill_all(sessions={self._process.pid})
        self._guardian.forget(self._process.pid)

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._changed()

    def _last_words(self) -> str:
        return f"the end of {self._log_file}:\n{tail(self._log_file)}"


def _cause(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
