"""The learner end to end: real gRPC, real Redis, a tiny Llama; the test plays coordinator, generator and reward."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from redis.asyncio import Redis
from safetensors.torch import load

from syncline.runspec import RunSpec
from syncline.v1.learner_service_pb2 import StepReport
from syncline.v1.rollout_pb2 import (
    VERDICT_STATUS_TIMEOUT,
    VERDICT_STATUS_UNAVAILABLE,
    VERDICT_STATUS_UNPARSABLE,
    ScoredGroup,
    VersionSpan,
)
from tests.integration.learner_world import (
    World,
    digest_of,
    final_digest,
    groups_of,
    kinds,
    learner_world,
    scored_group,
    spec_of,
    steps_of,
    versions_on_disk,
    weights,
)
from tests.integration.published import staged

pytestmark = pytest.mark.timeout(60)


# ---- a run


async def test_a_run_reports_steps_and_publishes_for_syncs_evaluations_and_the_end(model: Path, world: World) -> None:
    spec = spec_of(model, steps=5, evaluation=[{"name": "held-out", "data": "unused", "every": 3}])
    events = await world.train_on(spec, groups_of(spec, range(5)))

    # Version 2 and 4 are syncs, 3 is evaluated, 5 is the result; 1 is needed by nobody.
    assert kinds(events) == [
        "loaded 0", "step 0", "step 1", "published 2", "step 2", "published 3",
        "step 3", "published 4", "step 4", "published 5", "finished 5",
    ]  # fmt: skip
    assert [handle.version for handle in events[0].loaded.published] == [0]
    assert events[0].loaded.num_parameters > 0
    assert await world.unacknowledged() == 0
    for event in events:
        if event.HasField("published"):
            staged(event.published.handle)


async def test_a_step_report_is_complete(model: Path, world: World) -> None:
    # Given a step with a prompt that is all correct, one given up by the fleet, and a check that ran out of time
    spec = spec_of(model, steps=3, sync={"period": 2, "lag": 0})
    groups = groups_of(spec, range(3))
    dropped = groups[9]  # step 2, prompt 1
    dropped.CopyFrom(ScoredGroup(group={"task": dropped.group.task}, dropped_cause="poison"))
    groups[10].verdicts[1].status = VERDICT_STATUS_TIMEOUT
    groups[10].verdicts[1].score = 0.0
    groups[10].verdicts[1].cause = "more than 1 s of CPU time"

    report = steps_of(await world.train_on(spec, groups))[2]

    assert (report.step, report.version, report.staleness) == (2, 2, 0)
    (task,) = report.tasks
    assert (task.task, task.groups, task.pairs) == ("math", 4, 2)
    assert dict(task.dropped) == {"all_correct": 1, "poison": 1}
    assert dict(task.verdicts) == {"scored": 11, "timeout": 1}
    assert dict(task.causes) == {"timeout: more than 1 s of CPU time": 1}
    rewards = [verdict.score for one in groups[8:] for verdict in one.verdicts]
    assert task.reward_mean == pytest.approx(statistics.fmean(rewards))
    assert (task.samples, task.rewarded, task.tokens) == (12, 12, report.tokens)
    assert list(report.trained) == [2, 3]
    assert report.tokens == sum(len(s.token_ids) for one in groups[8:] for s in one.group.samples)
    assert task.length_mean == pytest.approx(report.tokens / 12)
    assert report.update_seconds > 0.0
    assert set(report.metrics) == {
        "loss", "grad_norm", "learning_rate", "chosen_log_prob", "rejected_log_prob", "margin",
        "pair_accuracy", "chosen_length", "rejected_length", "entropy", "mismatch_kl", "mismatch_max", "kl_reference",
        "padding_waste", "reward_std", "all_correct", "all_wrong", "truncated",
    }  # fmt: skip
    assert all(math.isfinite(value) for value in report.metrics.values())
    assert 0.0 < report.metrics["padding_waste"] < 0.6
    assert report.metrics["mismatch_max"] > report.metrics["mismatch_kl"] > 0.0
    assert report.metrics["reward_std"] == pytest.approx(statistics.pstdev(rewards))
    assert (report.metrics["all_correct"], report.metrics["all_wrong"]) == (pytest.approx(1 / 3), 0.0)
    assert report.metrics["truncated"] == 0.5
    of_the_step = {"loss", "learning_rate", "padding_waste", "mismatch_max"}
    assert dict(task.metrics) == {name: value for name, value in report.metrics.items() if name not in of_the_step}
    chosen, rejected = report.samples
    assert (chosen.role, chosen.reward, chosen.prompt, chosen.answer) == ("chosen", 1.0, "prompt 2/2", "85")
    assert (rejected.role, rejected.reward, rejected.generator) == ("rejected", 0.0, "inference-test")


async def test_every_task_has_its_own_numbers_and_the_step_has_their_mean(model: Path, world: World) -> None:
    # Given two tasks, one of which is shaped: each of its answers loses a tenth
    reward = {"type": "math", "shaping": [{"type": "length", "per_token": 0.05}]}
    tasks = [
        {"name": "math", "data": "unused", "reward": {"type": "math"}},
        {"name": "short", "data": "unused", "reward": reward},
    ]
    spec = spec_of(model, tasks=tasks, steps=1, prompts_per_step=6)
    groups = groups_of(spec, [0])
    for group in groups[1::2]:
        for verdict in group.verdicts:
            verdict.raw_score = verdict.score
            verdict.score -= 0.1

    (report,) = steps_of(await world.train_on(spec, groups))

    numbers = {task.task: dict(task.metrics) for task in report.tasks}
    assert set(numbers) == {"math", "short"}
    assert "raw_reward" not in numbers["math"]
    shaped = next(task for task in report.tasks if task.task == "short")
    assert shaped.metrics["raw_reward"] == pytest.approx(shaped.reward_mean + 0.1)
    pairs = {task.task: task.pairs for task in report.tasks}
    for name in ("chosen_log_prob", "rejected_log_prob", "chosen_length", "rejected_length", "margin"):
        mean = sum(pairs[task] * numbers[task][name] for task in numbers) / sum(pairs.values())
        assert report.metrics[name] == pytest.approx(mean)
        assert name == "margin" or numbers["math"][name] != numbers["short"][name]
    for name in ("entropy", "kl_reference", "mismatch_kl"):
        low, high = sorted(numbers[task][name] for task in numbers)
        assert low <= report.metrics[name] <= high


async def test_the_gradient_norm_of_a_task_is_that_of_its_loss_alone(model: Path, redis: Redis, tmp_path: Path) -> None:
    """Whatever else is in the step, and however it is cut: told by runs in which the other tasks lost their groups."""
    tasks = [{"name": name, "data": "unused", "reward": {"type": "math"}} for name in ("math", "chat", "idle")]
    optimizer = {"lr": 1e-3, "eps": 1e-4, "grad_clip": 1e-3}

    async def step_of(name: str, *kept: str, micro_batch_tokens: int = 40, by_task: bool = True) -> StepReport:
        spec = spec_of(
            model,
            tasks=tasks,
            steps=1,
            prompts_per_step=9,
            optimizer={**optimizer, "grad_norm_by_task": by_task},
            algorithm={"name": "grpo", "beta": 0.1},
        )
        groups = groups_of(spec, [0])
        for one in groups:
            if one.group.task.task not in kept:
                one.CopyFrom(ScoredGroup(group={"task": one.group.task}, dropped_cause="poison"))
        async with learner_world(redis, tmp_path / name, micro_batch_tokens=micro_batch_tokens) as world:
            (report,) = steps_of(await world.train_on(spec, groups))
            found[name] = load(weights(world, 1))
        return report

    found: dict[str, dict[str, torch.Tensor]] = {}
    alone = {name: (await step_of(name, name)).metrics["grad_norm"] for name in ("math", "chat")}
    both = await step_of("both", "math", "chat")
    whole = await step_of("whole", "math", "chat", micro_batch_tokens=100_000)
    together = await step_of("together", "math", "chat", by_task=False)

    for report in (both, whole):
        norms = {task.task: task.metrics.get("grad_norm") for task in report.tasks}
        assert norms == {**{name: pytest.approx(norm, rel=1e-4) for name, norm in alone.items()}, "idle": None}
    assert abs(alone["math"] - alone["chat"]) < both.metrics["grad_norm"] < alone["math"] + alone["chat"]

    # And the step is the same as without that knowledge
    assert all("grad_norm" not in task.metrics for task in together.tasks)
    assert both.metrics["grad_norm"] == pytest.approx(together.metrics["grad_norm"], rel=1e-4)
    for name, tensor in found["together"].items():
        torch.testing.assert_close(found["both"][name], tensor, rtol=1e-3, atol=1e-5)


async def test_what_a_verifier_could_not_read_trains_with_the_score_that_it_was_given(
    model: Path, world: World
) -> None:
    """0 as a rule, and less where the answer's length is held against it too."""
    spec = spec_of(
        model,
        steps=1,
        tasks=[{"name": "math", "data": "unused", "reward": {"type": "math"}, "pairs": {"type": "best_vs_worst"}}],
    )
    groups = groups_of(spec, [0])
    for group in groups:
        for verdict, (status, score) in zip(
            group.verdicts,
            [(VERDICT_STATUS_TIMEOUT, 0.0), (VERDICT_STATUS_UNPARSABLE, -0.5)] * 2,
            strict=True,
        ):
            verdict.status, verdict.score = status, score
    (report,) = steps_of(await world.train_on(spec, groups))
    assert report.tasks[0].reward_mean == pytest.approx(-0.25)
    assert [(sample.role, sample.reward) for sample in report.samples] == [("chosen", 0.0), ("rejected", -0.5)]


@pytest.mark.parametrize("name", ["dpo", "group_dpo", "grpo", "group_dpo_grpo"])
async def test_a_sample_without_a_score_trains_nothing_and_counts_in_no_mean(
    model: Path, redis: Redis, tmp_path: Path, name: str
) -> None:
    """A judge that could not be read: the same update as if the sample had never been."""
    spec = spec_of(model, algorithm={"name": name}, steps=1)
    whole = groups_of(spec, [0])
    for one in whole:
        unread = one.verdicts[-1]
        unread.status, unread.cause = VERDICT_STATUS_UNPARSABLE, "no judgment: missing 1"
        unread.ClearField("score")
    for unscored in whole[3].verdicts[:2]:
        unscored.status = VERDICT_STATUS_UNPARSABLE
        unscored.ClearField("score")
    without = [ScoredGroup.FromString(one.SerializeToString()) for one in whole]
    for one in without:
        del one.group.samples[-1], one.verdicts[-1]

    async with learner_world(redis, tmp_path / "without") as other:
        expected_events = await other.train_on(spec, without)
    async with learner_world(redis, tmp_path / "whole") as other:
        events = await other.train_on(spec, whole)

    assert final_digest(events) == final_digest(expected_events)
    (report,), (expected,) = steps_of(events), steps_of(expected_events)
    (task,) = report.tasks
    assert task.reward_mean == expected.tasks[0].reward_mean
    assert task.dropped["unscored"] == 1
    assert task.verdicts["unparsable"] == 6


async def test_a_task_of_which_nothing_could_be_scored_has_no_reward(model: Path, world: World) -> None:
    tasks = [{"name": name, "data": "unused", "reward": {"type": "math"}} for name in ("math", "chat")]
    spec = spec_of(model, tasks=tasks, steps=1)
    groups = groups_of(spec, [0])
    for one in groups[1::2]:
        for verdict in one.verdicts:
            verdict.status = VERDICT_STATUS_UNPARSABLE
            verdict.ClearField("score")
    (report,) = steps_of(await world.train_on(spec, groups))
    math_, chat = report.tasks
    assert (math_.rewarded, math_.HasField("reward_mean")) == (8, True)
    assert (chat.rewarded, chat.HasField("reward_mean"), chat.samples) == (0, False, 8)
    assert not {"reward_std", "all_wrong"} & set(chat.metrics)
    assert dict(chat.dropped) == {"unscored": 2}


@pytest.mark.parametrize("name", ["dpo", "group_dpo", "grpo", "group_dpo_grpo"])
async def test_every_algorithm_moves_the_weights(model: Path, world: World, name: str) -> None:
    spec = spec_of(model, algorithm={"name": name}, steps=1)
    (report,) = steps_of(await world.train_on(spec, groups_of(spec, [0])))
    assert report.metrics["grad_norm"] > 0.0
    assert weights(world, 1) != weights(world, 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_with_a_synced_reference_and_s_1_the_loss_is_ln_2_for_every_pair(
    model: Path, world: World, dtype: str
) -> None:
    spec = spec_of(
        model,
        model={"path": str(model), "dtype": dtype},
        sync={"period": 1},
        reference={"sync": True},
        algorithm={"name": "dpo", "normalize": "pairs"},
    )
    for report in steps_of(await world.train_on(spec, groups_of(spec, range(4)))):
        assert report.metrics["loss"] == pytest.approx(math.log(2.0), abs=1e-6)
        assert report.metrics["kl_reference"] == pytest.approx(0.0, abs=1e-9)


async def test_the_learning_signal_is_that_of_the_pairs(model: Path, world: World) -> None:
    """Ten updates on the same prompts: what was chosen becomes likelier than what was rejected."""
    spec = spec_of(model, steps=10, sync={"period": "never"}, optimizer={"lr": 3e-3, "eps": 1e-8, "grad_clip": 1.0})
    groups = []
    for step in range(10):
        for index in range(4):
            group = scored_group(spec, 0, index)
            group.group.task.key.step = step
            groups.append(group)
    reports = steps_of(await world.train_on(spec, groups))
    assert reports[0].metrics["loss"] == pytest.approx(0.75 * math.log(2.0), rel=1e-5)  # 3 of 4 prompts have a pair
    assert reports[-1].metrics["loss"] < reports[0].metrics["loss"]
    assert reports[-1].metrics["margin"] > reports[0].metrics["margin"] == 0.0


# ---- what may train


async def test_a_group_of_another_version_is_refused_and_counted_and_never_trained(
    model: Path, redis: Redis, tmp_path: Path
) -> None:
    spec = spec_of(model)
    groups = groups_of(spec, range(4))
    undisturbed = await digest_of(redis, tmp_path / "a", spec, groups)

    by_task = scored_group(spec, 2, 1)
    by_task.group.task.version = 0
    by_span = scored_group(spec, 2, 1)
    by_span.group.samples[3].versions[0].version = 1
    by_gap = scored_group(spec, 2, 1)
    by_gap.group.samples[0].versions.pop()
    by_switch = scored_group(spec, 2, 1)
    length = len(by_switch.group.samples[0].token_ids)
    by_switch.group.samples[0].versions[0].stop = 1
    by_switch.group.samples[0].versions.append(VersionSpan(version=1, start=1, stop=length))
    async with learner_world(redis, tmp_path / "b") as world:
        events = await world.train_on(spec, [by_task, by_span, by_gap, by_switch, *groups])

    assert sum(report.refused["stale"] for report in steps_of(events)) == 4
    assert final_digest(events) == undisturbed


async def test_a_group_by_other_weights_of_the_same_version_is_refused(
    model: Path, redis: Redis, tmp_path: Path
) -> None:
    """An attempt published them and was lost; the next one makes the version anew, perhaps with another number of
    ranks, while a judge still has a group by the old weights."""
    spec = spec_of(model)
    groups = groups_of(spec, range(4))
    undisturbed = await digest_of(redis, tmp_path / "a", spec, groups)

    async with learner_world(redis, tmp_path / "b") as world:
        by_old_weights = scored_group(spec, 2, 1)
        by_old_weights.group.manifest_digest = "0" * 64
        by_old_weights.verdicts[0].score = 0.0
        by_its_weights = groups[1]
        by_its_weights.group.manifest_digest = await _digest_of_version_0(world, spec)
        events = await world.train_on(spec, [by_old_weights, *groups])

    assert [dict(report.refused) for report in steps_of(events)] == [{"superseded": 1}, {}, {}, {}]
    assert final_digest(events) == undisturbed


async def _digest_of_version_0(world: World, spec: RunSpec) -> str:
    (loaded,) = await world.train(spec, until=lambda event: event.HasField("loaded"))
    digest: str = loaded.loaded.published[0].manifest_digest
    return digest


async def test_a_group_that_arrives_twice_trains_once(model: Path, redis: Redis, tmp_path: Path) -> None:
    spec = spec_of(model)
    groups = groups_of(spec, range(4))
    undisturbed = await digest_of(redis, tmp_path / "a", spec, groups)

    async with learner_world(redis, tmp_path / "b") as world:
        # Twice within a step, once for a step that lies ahead, and once when its step is over.
        ahead = scored_group(spec, 3, 2)
        events = await world.train_on(spec, [ahead, *groups[:2], *groups[:2], *groups[2:8], groups[0], *groups[8:]])
        assert await world.unacknowledged() == 0

    reports = steps_of(events)
    assert sum(report.refused["duplicate"] for report in reports) == 4
    assert [list(report.trained) for report in reports] == [[1, 2, 3]] * 4
    assert final_digest(events) == undisturbed


async def test_foreign_groups_are_refused_and_counted(model: Path, world: World) -> None:
    spec = spec_of(model, steps=1)
    strangers = [scored_group(spec, 0, 1) for _ in range(4)]
    strangers[0].group.task.key.run_id = "another-run"
    strangers[1].group.task.key.evaluation = "held-out"
    strangers[2].group.task.key.step = 1
    strangers[3].group.task.key.prompt_index = 4
    (report,) = steps_of(await world.train_on(spec, [*strangers, *groups_of(spec, [0])]))
    assert dict(report.refused) == {"foreign": 4}


async def test_the_order_of_arrival_does_not_change_a_byte(model: Path, redis: Redis, tmp_path: Path) -> None:
    spec = spec_of(model)
    groups = groups_of(spec, range(4))
    shuffled = random.Random(1).sample(groups, len(groups))
    digests = [await digest_of(redis, tmp_path / str(i), spec, order) for i, order in enumerate([groups, shuffled])]
    assert digests[0] == digests[1]


async def test_an_unavailable_verdict_never_becomes_a_number(model: Path, world: World) -> None:
    spec = spec_of(model, steps=1)
    groups = groups_of(spec, [0])
    groups[2].verdicts[1].status = VERDICT_STATUS_UNAVAILABLE
    groups[2].verdicts[1].cause = "judge is down"
    events = await world.train_on(spec, groups)
    assert kinds(events) == ["loaded 0", "failed run_failed"]
    message = events[-1].failed.message
    assert "step 0, prompt 2" in message
    assert "judge is down" in message
    assert versions_on_disk(world) == [0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda group: group.group.samples[0].token_ids.append(999), "tokens and"),
        (lambda group: group.group.samples[0].token_ids.__setitem__(0, 999), "vocabulary ends at 127"),
        (lambda group: group.group.samples[0].log_probs.__setitem__(0, math.nan), "not finite"),
        (lambda group: group.verdicts.pop(), "3 verdicts"),
        (lambda group: setattr(group.group.task, "task", "chess"), "'chess'"),
        (lambda group: group.verdicts[0].__setattr__("score", 0.5), "best_vs_worst"),
    ],
)
async def test_a_group_that_cannot_train_fails_the_attempt_and_names_its_generator(
    model: Path, world: World, spoil: Callable[[ScoredGroup], None], message: str
) -> None:
    spec = spec_of(model, steps=1)
    groups = groups_of(spec, [0])
    spoil(groups[1])
    for sample in groups[1].group.samples:
        sample.versions[0].stop = len(sample.token_ids)
    events = await world.train_on(spec, groups)
    assert kinds(events)[-1] == "failed run_failed"
    assert message in events[-1].failed.message
    assert "step 0, prompt 1" in events[-1].failed.message


async def test_a_step_without_anything_to_train_on_counts_but_changes_nothing(model: Path, world: World) -> None:
    spec = spec_of(model, steps=2, sync={"period": 1}, optimizer={"lr": 1e-2, "weight_decay": 0.5})
    groups = groups_of(spec, range(2))
    for index in range(4):
        groups[4 + index].CopyFrom(ScoredGroup(group={"task": groups[4 + index].group.task}, dropped_cause="poison"))
    events = await world.train_on(spec, groups)
    assert kinds(events)[-1] == "finished 2"
    last = steps_of(events)[-1]
    assert (list(last.trained), last.metrics["grad_norm"], dict(last.tasks[0].dropped)) == ([], 0.0, {"poison": 4})
    assert weights(world, 1) != weights(world, 0)
    assert weights(world, 2) == weights(world, 1)


async def test_a_diverged_step_fails_before_the_weights_are_touched(model: Path, world: World) -> None:
    spec = spec_of(model, steps=2, optimizer={"lr": 1e30, "eps": 1e-8, "grad_clip": 1.0})
    events = await world.train_on(spec, groups_of(spec, range(2)))
    assert kinds(events) == ["loaded 0", "step 0", "failed run_failed"]
    assert "diverged" in events[-1].failed.message
    assert "optimizer.lr" in events[-1].failed.message


@pytest.mark.parametrize(
    "algorithm", [{"name": "group_dpo_grpo", "grpo_weight": 0.5}, {"name": "grpo", "beta": 0.1}], ids=["whole", "cut"]
)
async def test_micro_batches_accumulate_to_the_gradient_of_one_batch(
    model: Path, redis: Redis, tmp_path: Path, algorithm: dict[str, Any]
) -> None:
    """Of whole groups where pairs hold them together, and of single completions in GRPO."""
    spec = spec_of(model, algorithm=algorithm, steps=1)
    found = []
    for tokens in (1, 100_000):
        async with learner_world(redis, tmp_path / str(tokens), micro_batch_tokens=tokens) as world:
            (report,) = steps_of(await world.train_on(spec, groups_of(spec, [0])))
            found.append((dict(report.metrics), weights(world, 1)))
    (cut, cut_weights), (whole, whole_weights) = found
    assert cut.pop("padding_waste") < whole.pop("padding_waste")  # a group alone is padded to its own longest row
    assert cut == pytest.approx(whole, rel=1e-4, abs=1e-6)
    for name, tensor in load(cut_weights).items():
        torch.testing.assert_close(tensor, load(whole_weights)[name], rtol=1e-3, atol=1e-5)
