"""Evaluations on a real server: who waits for whom, what judges are given, what is kept."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.coordinator.control.evaluation import Evaluator
from services.coordinator.records import answers
from services.coordinator.work.prompts import PlannedPrompt
from syncline import keys, runspec
from syncline.streams import StreamConsumer, Streams
from syncline.v1 import rollout_pb2 as pb

RUN = "run-a"
VERSUS_SEED = {"type": "judge", "mode": "versus_seed", "endpoint": "http://127.0.0.1:9/v1", "model": "m"}
PROMPTS = [
    PlannedPrompt(index=index, task="chat", token_ids=(index,), text=f"prompt {index}", answer="") for index in range(3)
]


def spec(**evaluation: Any) -> runspec.RunSpec:
    return runspec.parse(
        {
            "name": "small",
            "model": {"path": "model"},
            "algorithm": {"name": "dpo"},
            "sync": {"period": 4},
            "steps": 8,
            "tasks": [{"name": "add", "data": "train.jsonl", "reward": {"type": "math"}}],
            "evaluation": [{"name": "chat", "data": "chat.jsonl", "every": 4, "samples": 2, **evaluation}],
        }
    )


@pytest.fixture
async def open_run(redis: Redis) -> None:
    await Streams(redis).open_run(RUN)


def evaluator(redis: Redis, run_dir: Path, *, done: Sequence[Mapping[str, Any]] = (), **evaluation: Any) -> Evaluator:
    return Evaluator(
        redis,
        run_id=RUN,
        run_dir=run_dir,
        spec=spec(**evaluation),
        prompts={"chat": PROMPTS},
        done=done,
        consumer="coordinator",
        lease_s=5,
    )


async def tasks_of(redis: Redis, version: int) -> list[pb.PromptTask]:
    """Take what waits for a version, as a generator does."""
    consumer = StreamConsumer(
        redis, stream=keys.prompts(RUN, version), group=keys.INFERENCE_GROUP, consumer="g", run_id=RUN, lease_s=5
    )
    entries = await consumer.take(100, wait_s=0)
    await consumer.ack(entries)
    return [pb.PromptTask.FromString(entry.payload) for entry in entries]


async def answer(
    redis: Redis,
    tasks: Sequence[pb.PromptTask],
    text: Callable[[pb.PromptTask, int], str],
    judge: Callable[[pb.PromptTask, int, str], float],
) -> None:
    """Answer each sample, and score it as a reward service does."""
    for task in tasks:
        texts = [text(task, index) for index in range(len(task.seeds))]
        samples = [pb.Sample(text=one, token_ids=range(len(one)), finish_reason=pb.FINISH_REASON_STOP) for one in texts]
        verdicts = [
            pb.Verdict(status=pb.VERDICT_STATUS_SCORED, score=judge(task, index, one))
            for index, one in enumerate(texts)
        ]
        group = pb.ScoredGroup(group=pb.RolloutGroup(task=task, samples=samples), verdicts=verdicts)
        await Streams(redis).add(keys.evaluated(RUN), run_id=RUN, payload=group.SerializeToString())


async def next_row(evaluator_: Evaluator) -> dict[str, Any]:
    """The one evaluation that completes next."""
    async with asyncio.timeout(10):
        while not (rows := await evaluator_.collect(wait_s=1)):
            pass
    (row,) = rows
    return row


def seed_says(task: pb.PromptTask, index: int) -> str:
    return f"{task.key.prompt_index}-{index}"


def longer_wins(task: pb.PromptTask, index: int, text: str) -> float:
    """Half where there is nothing to compare with, as for every judge of that mode."""
    return float(len(text) > len(task.seed_answers[index])) if task.seed_answers else 0.5


async def test_version_0_goes_first_and_its_answers_are_what_later_ones_are_judged_against(
    redis: Redis, tmp_path: Path, open_run: None
) -> None:
    evaluator_ = evaluator(redis, tmp_path, reward=VERSUS_SEED)
    # Given version 4 published before version 0 is evaluated
    await evaluator_.start(0)
    await evaluator_.start(4)
    assert await tasks_of(redis, 4) == [], "there is nothing to compare with yet"
    assert evaluator_.unfinished([0, 4, 5]) == {0, 4}
    # When version 0 has answered
    seed_tasks = await tasks_of(redis, 0)
    assert [list(task.seed_answers) for task in seed_tasks] == [[]] * 3
    await answer(redis, seed_tasks, seed_says, longer_wins)
    seed_row = await next_row(evaluator_)
    # Then version 4 is judged against each of its answers, sample by sample
    await evaluator_.start(4)
    tasks = await tasks_of(redis, 4)
    assert [list(task.seed_answers) for task in tasks] == [[f"{n}-0", f"{n}-1"] for n in range(3)]
    await answer(redis, tasks, lambda task, index: "longer" if task.key.prompt_index else "no", longer_wins)
    row = await next_row(evaluator_)
    assert (seed_row["version"], seed_row["win_rate"]["mean"]) == (0, 0.5)
    assert (row["version"], row["win_rate"]["mean"]) == (4, pytest.approx(2 / 3))
    assert 0 <= row["win_rate_length_controlled"]["mean"] < row["win_rate"]["mean"]
    assert evaluator_.unfinished([0, 4]) == frozenset()


async def test_a_new_coordinator_reads_the_seeds_answers_from_the_runs_folder(
    redis: Redis, tmp_path: Path, open_run: None
) -> None:
    first = evaluator(redis, tmp_path, reward=VERSUS_SEED)
    await first.start(0)
    await answer(redis, await tasks_of(redis, 0), seed_says, longer_wins)
    rows = await first.collect(wait_s=5)
    # When another process goes on, with what is on disk
    second = evaluator(redis, tmp_path, done=rows, reward=VERSUS_SEED)
    await second.start(4)
    assert [list(task.seed_answers) for task in await tasks_of(redis, 4)] == [[f"{n}-0", f"{n}-1"] for n in range(3)]
    # And where the answers are gone, version 0 is asked again
    for file in (tmp_path / "evaluations" / "chat").iterdir():
        file.unlink()
    third = evaluator(redis, tmp_path, done=rows, reward=VERSUS_SEED)
    assert third.unfinished([0, 4]) == {0, 4}


async def test_a_prompt_that_the_seed_never_answered_is_left_out_and_counted(
    redis: Redis, tmp_path: Path, open_run: None
) -> None:
    evaluator_ = evaluator(redis, tmp_path, reward=VERSUS_SEED)
    await evaluator_.start(0)
    first, *others = await tasks_of(redis, 0)
    await answer(redis, others, seed_says, longer_wins)
    lost = pb.ScoredGroup(group=pb.RolloutGroup(task=first), dropped_cause="generating: expired")
    for _ in range(2):  # given up twice, counted once
        evaluator_.take_in(lost)
    seed_row = await next_row(evaluator_)
    assert (seed_row["prompts"], seed_row["dropped"]) == (2, {"generating: expired": 1})
    await evaluator_.start(4)
    tasks = await tasks_of(redis, 4)
    assert [task.key.prompt_index for task in tasks] == [1, 2]
    await answer(redis, tasks, seed_says, longer_wins)
    row = await next_row(evaluator_)
    assert (row["prompts"], row["dropped"]) == (2, {"no_seed_answer": 1})


async def test_a_redis_that_lost_its_data_gets_what_is_missing_again_and_every_prompt_counts_once(
    redis: Redis, tmp_path: Path, open_run: None
) -> None:
    evaluator_ = evaluator(redis, tmp_path)
    await evaluator_.start(0)
    tasks = await tasks_of(redis, 0)
    await answer(redis, tasks[:1], seed_says, lambda *_: 1.0)
    assert await evaluator_.collect(wait_s=5) == []
    # When everything is lost but what was taken in
    await redis.flushall()
    await Streams(redis).open_run(RUN)
    evaluator_.lost()
    await evaluator_.start(0)
    again = await tasks_of(redis, 0)
    assert [task.key.prompt_index for task in again] == [1, 2]
    await answer(redis, [*again, *again], seed_says, lambda *_: 0.0)
    row = await next_row(evaluator_)
    assert (row["prompts"], row["samples"], row["score"]["mean"]) == (3, 6, pytest.approx(1 / 3))
    assert row["pass_at"] == pytest.approx({"1": 1 / 3, "2": 1 / 3})


async def test_what_redis_refused_is_sent_at_the_next_turn(redis: Redis, tmp_path: Path, open_run: None) -> None:
    evaluator_ = evaluator(redis, tmp_path)
    await redis.config_set("maxmemory", 1)
    with pytest.raises(RedisError, match="maxmemory"):
        await evaluator_.start(0)
    await redis.config_set("maxmemory", 0)
    for _ in range(2):
        await evaluator_.start(0)
    assert [task.key.prompt_index for task in await tasks_of(redis, 0)] == [0, 1, 2]


async def test_what_was_answered_is_kept_as_json_lines_that_people_can_read(
    redis: Redis, tmp_path: Path, open_run: None
) -> None:
    evaluator_ = evaluator(redis, tmp_path)
    await evaluator_.start(0)
    await answer(redis, (await tasks_of(redis, 0))[::-1], seed_says, lambda task, index, text: float(index))
    await evaluator_.collect(wait_s=5)
    with gzip.open(tmp_path / "evaluations" / "chat" / "v000000.jsonl.gz", "rt") as file:
        lines = [json.loads(line) for line in file]
    assert [line["prompt"] for line in lines] == ["prompt 0", "prompt 1", "prompt 2"]
    assert lines[1]["samples"][1] == {
        "completion": "1-1",
        "tokens": 3,
        "finish": "stop",
        "score": 1.0,
        "raw_score": 0.0,
        "verdict": "scored",
        "cause": "",
    }
    assert [one.prompt_index for one in answers.read(tmp_path, "chat", 0, start=1, stop=2)] == [1]
