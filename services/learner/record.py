"""Keeps the groups of a step that was trained, on the run's storage, for export."""

from __future__ import annotations

from collections.abc import Sequence

from services.learner.batch import PlannedGroup
from services.learner.door import rewards_of
from services.learner.resume import Run
from syncline import recording
from syncline.errors import RunFailed, StorageError
from syncline.rollout_rows import row_of


def record_step(run: Run, groups: Sequence[PlannedGroup], *, step: int) -> None:
    """Record the groups that `step` consumed, with the pairs that trained. Those that were given up on the way have
    nothing to keep.

    Raises RunFailed when storage refuses: a record with a hole would be found out only when it is needed. Nothing is
    lost, as the step was not reported yet: a resumed run makes it again.
    """
    rows = [
        row_of(group.scored, rewards=rewards_of(group.scored), pairs=group.plan.pairs)
        for group in groups
        if not group.scored.dropped_cause
    ]
    try:
        recording.write_step(run.storage, step, rows)
    except StorageError as error:
        raise RunFailed(
            f"the rollouts of step {step} could not be recorded: {error.message}; then resume the run: it goes on from "
            "its saved state (a run with rollouts.record: false keeps none)"
        ) from error
