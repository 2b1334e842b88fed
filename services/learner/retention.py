"""Which versions are published, and which published ones must stay. Pure functions of the run spec."""

from __future__ import annotations

from collections.abc import Iterable

from syncline.runspec import RunSpec

_EVALUATIONS_KEPT = 2  # the coordinator may still be loading the last one when the next is published


def is_published(spec: RunSpec, version: int) -> bool:
    """Whether generators need `version`: to train on, for an evaluation, or as the result."""
    return (
        spec.schedule().is_sync_version(version)
        or version == spec.steps
        or any(one.every is not None and version % one.every == 0 for one in spec.evaluation)
    )


def sync_versions_at(spec: RunSpec, step: int) -> list[int]:
    """Versions that steps from `step` on train on, and that a learner at `step` has already made."""
    schedule = spec.schedule()
    oldest = schedule.version_for_step(min(step, spec.steps - 1))
    return [version for version in range(oldest, step + 1) if schedule.is_sync_version(version)]


def versions_in_use(spec: RunSpec, *, version: int, saved_steps: Iterable[int]) -> set[int]:
    """Versions that must not be deleted while the policy is at `version`.

    The seed; what the last step trained on and what the next steps train on, references included; the last
    evaluations; and what a run would need that goes on from one of the saved states.
    """
    steps = {max(0, version - 1), version, *saved_steps}
    evaluated = [v for v in range(version, 0, -1) if any(e.every and v % e.every == 0 for e in spec.evaluation)]
    return {0, version, *evaluated[:_EVALUATIONS_KEPT], *(v for step in steps for v in sync_versions_at(spec, step))}
