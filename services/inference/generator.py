"""A generator: one engine and the one policy version that it can prove to hold.

Loading is: stage and verify every byte, wait until nothing is in flight, swap in place, score
the probe. Only then is the version the generator's own, and tasks of it are answered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from services.inference.engine import Completion, Engine, GroupRequest
from services.inference.text import Decoder
from syncline import published
from syncline.bell import Bell
from syncline.cache import Cache
from syncline.errors import Conflict, EngineDead, EngineError, LoadFailed, ProbeMismatch, SynclineError, Unavailable
from syncline.v1.checkpoint_pb2 import CheckpointHandle, Probe

log = structlog.get_logger()
_SHOWN_CHARS = 300
Phase = Literal["idle", "loading", "serving", "draining", "failed"]


@dataclass(frozen=True, slots=True)
class Held:
    """The version a generator holds."""

    run_id: str
    version: int
    manifest_digest: str


@dataclass(frozen=True, slots=True)
class LoadTimes:
    """Seconds of the parts of a load, and how far the probe was off."""

    stage_seconds: float = 0.0
    drain_seconds: float = 0.0
    swap_seconds: float = 0.0
    probe_error: float = 0.0


class Generator:
    """Owns the engine. `held` is None unless the engine proved the version."""

    def __init__(self, engine: Engine, *, cache: Cache, groups_deadline_s: float = 300.0) -> None:
        """`cache` is for local copies of what is published to an object store."""
        self.engine = engine
        self._cache = cache
        self.held: Held | None = None
        self.loads = 0
        """Versions that came to be held since the start."""
        self.phase: Phase = "idle"
        self.error = ""
        self._error_of_a_group = ""
        self.changed = Bell()
        """Rung when `held` or `phase` changed, or a group ended."""
        self.on_change: Callable[[], None] = lambda: None
        self.groups_total = 0
        self.tokens_total = 0
        self._running: list[str] = []
        self._groups_deadline_s = groups_deadline_s
        self._swapping = False
        self._decoder: Decoder | None = None
        self._load_lock = asyncio.Lock()

    @property
    def running(self) -> int:
        """Groups in the engine."""
        return len(self._running)

    def serves(self, held: Held) -> bool:
        """Whether new groups of this version may start."""
        return self.held == held and self.phase == "serving" and not self._swapping

    async def load(self, handle: CheckpointHandle) -> LoadTimes:
        """Make `handle` the generator's own version; nothing to do if it is already.

        Raises DigestMismatch, CheckpointError, StoreUnreachable or StoreRefused with the old version still
        served, ProbeMismatch or EngineDead with no version served.
        """
        wanted = Held(handle.run_id, handle.version, handle.manifest_digest)
        async with self._load_lock:
            if self.phase == "draining":
                raise Conflict("the generator is draining and takes no more versions")
            if self.held == wanted:
                return LoadTimes()
            started = time.monotonic()
            folder = await self._stage(handle)
            staged = time.monotonic()
            self._set_phase("loading", swapping=True)
            try:
                await self._until_idle()
                drained = time.monotonic()
                self.held = None  # from here on the engine holds nothing that is proven
                await self.engine.load(folder, dtype=handle.dtype)
                probe_error = await self._prove(handle.probe, version=handle.version)
                self._decoder = await asyncio.to_thread(Decoder.load, folder)
            except EngineDead as error:
                await self.engine.close()  # the next load builds it anew
                self._fail(error)
                raise
            except SynclineError as error:
                self._fail(error)
                raise
            except Exception as error:  # a bug, or a library's: nobody knows what the engine holds now
                dead = EngineDead(f"loading version {handle.version} failed by {_words(error)}")
                log.error("load_failed", exc_info=error)
                await self.engine.close()
                self._fail(dead)
                raise dead from error
            self.held, self.error = wanted, ""
            self.loads += 1
            self._set_phase("serving", swapping=False)
            times = LoadTimes(staged - started, drained - staged, time.monotonic() - drained, probe_error)
            log.info("checkpoint_loaded", version=handle.version, swap_s=times.swap_seconds, probe_error=probe_error)
            return times

    async def _stage(self, handle: CheckpointHandle) -> Path:
        """The verified folder. On a failure everything is as it was before, but for `error`."""
        before = self.phase
        if self.held is None:
            self._set_phase("loading", swapping=False)
        try:
            return await asyncio.to_thread(published.stage, handle, cache=self._cache)
        except SynclineError as error:
            self.error = error.message
            self._set_phase(before, swapping=False)
            raise
        except Exception as error:  # a library's, on the way to the files: the engine has seen nothing of it
            log.error("staging_failed", exc_info=error)
            self.error = f"staging version {handle.version} failed by {_words(error)}"
            self._set_phase(before, swapping=False)
            raise LoadFailed(self.error) from error

    async def _until_idle(self) -> None:
        """Return when nothing is in flight. Raises EngineDead, with the groups, when that takes too long."""
        try:
            async with asyncio.timeout(self._groups_deadline_s):
                await self.changed.wait_until(lambda: not self._running)
        except TimeoutError:
            raise EngineDead(
                f"the engine did not finish {'; '.join(self._running)} within {self._groups_deadline_s:g} s "
                "(SYNCLINE_GROUPS_DEADLINE_S); it is closed, and the next load builds it anew"
            ) from None

    async def generate(self, held: Held, request: GroupRequest, *, name: str) -> tuple[tuple[Completion, str], ...]:
        """Completions with their texts, all sampled by `held`; `name` is what the group is called in messages.

        Raises Conflict when another version is held, else as `Engine.generate`; what an engine raises beyond that is
        an EngineError, too, and stands in `error` until a later group ends well.
        """
        if not self.serves(held):
            raise Conflict(f"version {held.version} of {held.run_id} is not held; holding {self.held}")
        decoder = self._decoder
        assert decoder is not None
        self._running.append(name)
        try:
            completions = await self.engine.generate(request)
            answers = tuple((completion, decoder.text(completion.token_ids)) for completion in completions)
        except EngineDead as error:
            await self.engine.close()
            self._fail(error)
            raise
        except SynclineError:
            raise
        except Exception as error:  # an engine's own: of this group, and its status says so until a later one is well
            log.error("generation_failed", group=name, exc_info=error)
            self.error = self._error_of_a_group = f"{name} failed by {_words(error)}"
            self.on_change()
            raise EngineError(self.error) from error
        finally:
            self._running.remove(name)
            self.changed.ring()
        self.groups_total += 1
        self.tokens_total += sum(len(completion.token_ids) for completion in completions)
        if self.error == self._error_of_a_group:
            self.error = ""
        return answers

    async def drain(self) -> None:
        """Start no more groups."""
        self._set_phase("draining", swapping=False)

    async def check(self, *, wanted: str = "") -> None:
        """Raise unless the engine answers with a proven version; without one, unless none is `wanted` (in words)."""
        because = f": {self.error}" if self.error else ""
        if self.phase in ("failed", "loading", "draining"):
            raise EngineDead(f"the generator is {self.phase}{because}")
        if self.held is not None:
            await self.engine.check()
        elif wanted:
            raise Unavailable(f"{wanted} is wanted, and the generator holds no version yet{because}")

    async def close(self) -> None:
        await self.engine.close()

    async def _prove(self, probe: Probe, *, version: int) -> float:
        """Largest difference to the learner's log-probabilities. Raises ProbeMismatch beyond the tolerance."""
        found = await self.engine.score(list(probe.token_ids))
        if len(found) != len(probe.log_probs):
            raise ProbeMismatch(f"version {version}: the engine scored {len(found)} tokens, not {len(probe.log_probs)}")
        differences = [abs(ours - theirs) for ours, theirs in zip(found, probe.log_probs, strict=True)]
        worst = max(range(len(differences)), key=lambda index: _size(differences[index]))
        if not differences[worst] <= probe.tolerance:  # a NaN is never within the tolerance
            raise ProbeMismatch(
                f"version {version}: at token {worst + 1} of the probe the engine computes log-probability "
                f"{found[worst]:.6f}, the learner {probe.log_probs[worst]:.6f} (tolerance {probe.tolerance:g}); "
                "the engine does not hold the published weights"
            )
        return differences[worst]

    def _fail(self, error: SynclineError) -> None:
        self.held, self.error = None, error.message
        log.error("generator_failed", code=error.code, error=error.message)
        self._set_phase("failed", swapping=False)

    def _set_phase(self, phase: Phase, *, swapping: bool) -> None:
        if self.phase != "draining":
            self.phase = phase
        self._swapping = swapping
        self.changed.ring()
        self.on_change()


def _size(difference: float) -> float:
    return float("inf") if difference != difference else difference


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_SHOWN_CHARS]
