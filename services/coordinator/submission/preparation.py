"""What a run needs before it can start: files and model, read and checked, and rewards that somebody offers.

At its submission, and again when it starts in another life of the process, or is resumed: then it must find what was
submitted.
"""

from __future__ import annotations

import asyncio
from itertools import islice

from services.coordinator.cluster.fleet import Fleet
from services.coordinator.records.run import Run
from services.coordinator.records.store import RunStore
from services.coordinator.records.summary import checkpoint_place
from services.coordinator.settings import CoordinatorSettings
from services.coordinator.submission.prepared import Prepared, prepare
from services.coordinator.submission.reward_check import Checked, check_rewards
from syncline.backoff import Backoff
from syncline.cache import Cache
from syncline.errors import Conflict, RunFailed, StoreUnreachable
from syncline.runspec import RunSpec

_WHILE_THE_STORE_IS_AWAY = Backoff(first_s=2.0, longest_s=30.0)


class Preparation:
    """Prepares run specs against the files, stores and services that are there."""

    def __init__(self, store: RunStore, *, fleet: Fleet, settings: CoordinatorSettings) -> None:
        self._store = store
        self._fleet = fleet
        self._settings = settings
        self._cache = Cache(settings.cache_root)

    async def prepare(self, spec: RunSpec) -> Prepared:
        """Raises InvalidSpec with every problem, and StoreUnreachable."""
        live = self._fleet.roles["reward"]
        offered = frozenset(name for member in live for name in member.status.get("rewards", ())) if live else None
        return await asyncio.to_thread(
            prepare,
            spec,
            self._settings,
            cache=self._cache,
            rewards=offered,
            find_checkpoint=lambda run_id, which: checkpoint_place(self._store.get(run_id), which),
        )

    async def prepare_again(self, run: Run) -> Prepared:
        """The same for a run that was submitted earlier.

        A store that is away is asked again for a while: a run must not fail because both were started anew at the same
        time. Raises RunFailed, too, where a file holds something else than what was submitted.
        """
        prepared = await self._insist(run)
        if changed := _changed(run, prepared):
            raise RunFailed(changed)
        return prepared

    async def require_unchanged(self, run: Run) -> None:
        """That `prepare_again` would find what was submitted. Raises Conflict, InvalidSpec and StoreUnreachable."""
        if changed := _changed(run, await self.prepare(run.spec)):
            raise Conflict(changed)

    async def check(self, prepared: Prepared) -> Checked:
        """Whether somebody gives the rewards. Raises InvalidSpec with every problem."""
        return await check_rewards(prepared.spec, self._fleet.roles["reward"], rows=prepared.rows_by_field)

    async def _insist(self, run: Run) -> Prepared:
        for pause_s in islice(_WHILE_THE_STORE_IS_AWAY.pauses(), self._settings.max_attempts - 1):
            try:
                return await self.prepare(run.spec)
            except StoreUnreachable as error:
                run.say(error.message)
                await asyncio.sleep(pause_s)
        return await self.prepare(run.spec)


def _changed(run: Run, prepared: Prepared) -> str:
    """What is not as it was submitted; empty when all is."""
    rollouts, digests = prepared.rollouts, prepared.digests
    if rollouts is not None and rollouts.origin != run.record.rollouts:
        return f"{rollouts.origin.path} is not the file that was submitted; submit a new run"
    if fields := [field for field, digest in run.record.data.items() if digests.get(field) != digest]:
        return (
            f"{' and '.join(fields)} no longer hold the rows that were submitted, and steps would train on other "
            "prompts; put the rows back and resume the run, or submit a new one"
        )
    return ""
