"""Which version a generator should hold, as a pure function of the work there is."""

from __future__ import annotations

from collections.abc import Mapping, Set


def target_version(backlog: Mapping[int, int], *, evaluating: Set[int], latest: int | None) -> int | None:
    """The version that generators should serve now; None when nothing needs them.

    `backlog` counts unacknowledged prompt tasks by version, `evaluating` are versions with an
    evaluation under way, `latest` is the newest version that generators will get training prompts
    of, None in a run whose rollouts come from a file.

    Evaluations first, as they are short and somebody waits for their numbers; then the oldest
    version with work, as the learner needs steps in order; without work the latest, to be
    ready for the prompts that come next.
    """
    with_work = sorted(version for version, count in backlog.items() if count > 0)
    for version in with_work:
        if version in evaluating:
            return version
    return with_work[0] if with_work else latest
