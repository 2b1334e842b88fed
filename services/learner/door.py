"""Which scored groups may train, as pure rules. A group of another version than the schedule names never does.

Three answers: a group is let in; it is refused by a named cause and counted; or it breaks the contract between the
services, which no counting can mend, and the attempt fails with the culprit's name.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Literal

from syncline.algo.schedule import Schedule
from syncline.errors import RunFailed
from syncline.v1.rollout_pb2 import (
    PURPOSE_TRAINING,
    VERDICT_STATUS_SCORED,
    RolloutGroup,
    Sample,
    ScoredGroup,
    TaskKey,
)
from syncline.wire_names import FINAL_VERDICTS

Refusal = Literal["foreign", "duplicate", "stale", "superseded"]
"""foreign: not of this run's training. duplicate: its step is over. stale: not by the scheduled version. superseded: by
that version as an earlier attempt had made it; its prompt was admitted anew."""


def refusal(
    scored: ScoredGroup,
    *,
    run_id: str,
    step: int,
    schedule: Schedule,
    prompts_per_step: int,
    weights: Mapping[int, str],
) -> Refusal | None:
    """Why this group may not train while the learner collects `step`; None lets it in.

    `weights` are the manifests of the versions that this attempt has, by version: one that an earlier attempt published
    and this one makes anew may have other bytes.
    """
    task = scored.group.task
    key = task.key
    if key.run_id != run_id or key.evaluation or task.purpose != PURPOSE_TRAINING:
        return "foreign"
    if key.step >= schedule.steps or key.prompt_index >= prompts_per_step:
        return "foreign"
    if key.step < step:
        return "duplicate"
    version = schedule.version_for_step(key.step)
    if task.version != version or not all(_is_of(sample, version) for sample in scored.group.samples):
        return "stale"
    if (digest := scored.group.manifest_digest) and digest != weights.get(version):
        return "superseded"
    return None


def _is_of(sample: Sample, version: int) -> bool:
    """Whether the spans cover every token of the sample, and all name `version`."""
    covered = 0
    for span in sample.versions:
        if span.version != version or span.start != covered:
            return False
        covered = span.stop
    return covered == len(sample.token_ids)


def check(scored: ScoredGroup, *, tasks: Collection[str], vocabulary: int) -> None:
    """Raise RunFailed for a group that no honest generator and reward service hand over."""
    if scored.dropped_cause:
        return
    group = scored.group
    if group.task.task not in tasks:
        raise _broken(group, f"it belongs to task {group.task.task!r}, which the run does not have")
    if not group.samples or len(group.samples) != len(scored.verdicts):
        raise _broken(group, f"it has {len(group.samples)} samples and {len(scored.verdicts)} verdicts")
    if not group.task.prompt_token_ids:
        raise _broken(group, "its prompt has no tokens")
    for i, (sample, verdict) in enumerate(zip(group.samples, scored.verdicts, strict=True)):
        must_have_score = verdict.status == VERDICT_STATUS_SCORED
        if (
            verdict.status not in FINAL_VERDICTS
            or not math.isfinite(verdict.score)
            or verdict.HasField("score") < must_have_score
        ):
            raise _broken(
                group,
                f"the verdict of sample {i} is not a number (status {verdict.status}, score {verdict.score:g}, "
                f"{verdict.cause!r}); the reward service must try again instead of handing it over",
            )
        if not sample.token_ids or len(sample.token_ids) != len(sample.log_probs):
            raise _broken(
                group, f"sample {i} has {len(sample.token_ids)} tokens and {len(sample.log_probs)} log-probabilities"
            )
        if not math.isfinite(sum(sample.log_probs)):
            raise _broken(group, f"sample {i} has a log-probability that is not finite")
    largest = max(max(ids) for ids in (group.task.prompt_token_ids, *(one.token_ids for one in group.samples)))
    if largest >= vocabulary:
        raise _broken(group, f"it has token {largest}, and the model's vocabulary ends at {vocabulary - 1}")


def rewards_of(scored: ScoredGroup) -> dict[int, float]:
    """The reward of each sample that has one, by its index.

    What a verifier could not read or finish has a score like any other: 0, or below 0 when its length is held against
    it as well. A sample that a judge or a reward model could not score has no reward: no number stands for that, so
    it trains nothing and counts in no mean.
    """
    return {index: verdict.score for index, verdict in enumerate(scored.verdicts) if verdict.HasField("score")}


def name_of(key: TaskKey) -> str:
    """How a group is called in messages."""
    return f"step {key.step}, prompt {key.prompt_index}"


def _broken(group: RolloutGroup, what: str) -> RunFailed:
    return RunFailed(
        f"the group of {name_of(group.task.key)} from generator {group.generator!r} cannot train: {what}. "
        "This is a fault of the service that handed it over; see its log"
    )
