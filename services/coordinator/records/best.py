"""The best version of a run so far: found in its evaluations, told to the learner, marked for people.

And the versions that other runs start from, which the learner must know as well."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from services.coordinator.records import findings
from services.coordinator.records.run import Run
from syncline import published, standings
from syncline.standings import BestVersion, Standings
from syncline.storage import prune


async def update_standings(run: Run) -> None:
    """Write down which results are in and which version is best, and tell followers when that is another one.

    Raises StorageError, StoreRefused, and StoreUnreachable.
    """
    async with run.judging:
        before = standings.read(run.own)
        now = await asyncio.to_thread(_standings, run)
        if now != before:
            await asyncio.to_thread(standings.write, run.storage, now)  # first for the learner: it deletes by them
            standings.write(run.own, now)
    if now.best is not None and now.best != before.best:
        run.emit("best", asdict(now.best))


async def lend(run: Run, heirs: Iterable[Run]) -> None:
    """Keep the versions that other runs start from, however long this one goes on. Raises what storage raises."""
    paths = {heir.spec.model.path for heir in heirs}
    there = await asyncio.to_thread(published.versions, run.storage)
    run.lent = frozenset(version for version in there if run.storage.place_of(published.name_of(version)) in paths)
    await update_standings(run)


def best_version(run: Run) -> dict[str, Any] | None:
    """{version, evaluation, metric, value, folder} of the best version on storage; None before the first result."""
    best = standings.read(run.own).best
    if best is None:
        return None
    return {**asdict(best), "folder": run.storage.place_of(published.name_of(best.version))}


def tidy(run: Run) -> None:
    """Delete what stayed only until it was evaluated. The learner does so while it trains; this is for its end.

    Of a run that succeeded nothing goes on, so no saved state needs a version any more.
    """
    now = standings.read(run.own)
    kept = {0, *now.lent, *((now.best.version,) if now.best else ())}
    prune(
        run.storage,
        [published.name_of(version) for version in published.versions(run.storage)],
        keep=run.spec.checkpoints.keep,
        in_use=[published.name_of(version) for version in kept],
    )


def _standings(run: Run) -> Standings:
    rows, rule = run.series["evaluations"], run.spec.best
    results = {one.name: frozenset(r["version"] for r in rows if r["name"] == one.name) for one in run.spec.evaluation}
    if rule is None:
        return Standings(results, lent=run.lent)
    # A resumed run has lost the versions that it makes anew, and with them perhaps what was best for a while.
    there = set(published.versions(run.storage))
    row = findings.best_row([row for row in rows if row["version"] in there], rule)
    value = findings.value_of(row, rule.metric) if row else None
    if row is None or value is None:
        return Standings(results, lent=run.lent)
    return Standings(results, BestVersion(row["version"], rule.evaluation, rule.metric, value), run.lent)
