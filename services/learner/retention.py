"""Which versions are published, and which published ones must stay. Pure functions of spec and standings."""

from __future__ import annotations

from collections.abc import Iterable

from syncline.runspec import RunSpec
from syncline.standings import Standings


def is_published(spec: RunSpec, version: int) -> bool:
    """Whether generators need `version`: to train on, for an evaluation, or as the result."""
    return spec.schedule().is_sync_version(version) or version == spec.steps or bool(spec.evaluations_at(version))


def sync_versions_at(spec: RunSpec, step: int) -> list[int]:
    """Versions that steps from `step` on train on, and that a learner at `step` has already made."""
    schedule = spec.schedule()
    oldest = schedule.version_for_step(min(step, spec.steps - 1))
    return [version for version in range(oldest, step + 1) if schedule.is_sync_version(version)]


def versions_in_use(
    spec: RunSpec, *, version: int, published: Iterable[int], saved_steps: Iterable[int], standings: Standings
) -> set[int]:
    """Versions that must not be deleted while the policy is at `version`.

    The seed; what the last step trained on and what the next steps train on, references included; what a run would need
    that goes on from one of the saved states; the best version so far, what other runs start from, and of the published
    ones all whose evaluations are not in yet.
    """
    steps = {max(0, version - 1), version, *saved_steps}
    best = {standings.best.version} if standings.best else set()
    awaited = {v for v in published if any(v not in standings.of(e.name) for e in spec.evaluations_at(v))}
    return {0, version, *best, *standings.lent, *awaited, *(v for step in steps for v in sync_versions_at(spec, step))}
