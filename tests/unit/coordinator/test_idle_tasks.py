"""A run that trains nothing says so, while it goes on and when it is over."""

from __future__ import annotations

from typing import Any

from services.coordinator.records import idle_tasks


def row(step: int, **groups: dict[str, int]) -> dict[str, Any]:
    """A step of tasks with four groups each, of which so many were dropped, by cause."""
    scored = {"groups": 4, "rewarded": 16, "reward_mean": 0.25}
    tasks = [{"task": name, **scored, "dropped": dropped} for name, dropped in groups.items()]
    trained = [index for index, task in enumerate(tasks) if sum(task["dropped"].values()) < 4]
    everything: dict[str, int] = {}
    for dropped in groups.values():
        everything = {cause: everything.get(cause, 0) + count for cause, count in dropped.items()}
    return {"step": step, "tasks": tasks, "trained": trained, "dropped": everything}


def test_the_fifth_step_without_a_trained_prompt_is_warned_of_with_its_causes() -> None:
    rows = [row(0, math={"all_wrong": 1})]
    rows += [row(step, math={"all_wrong": 3, "unscored": 1}) for step in range(1, 6)]
    assert idle_tasks.warnings(rows[:-1]) == []
    (found,) = idle_tasks.warnings(rows)
    assert found.path == "task math"
    assert found.problem == (
        "none of its 20 prompts trained in the last 5 steps, from step 1 on: all wrong 15, unscored 5; mean reward 0.25"
    )


def test_an_idle_task_of_which_nothing_is_scored_has_no_mean_reward() -> None:
    rows = [row(step, chat={"unscored": 4}) for step in range(5)]
    for one in rows:
        one["tasks"][0] |= {"rewarded": 0, "reward_mean": None}
    (found,) = idle_tasks.warnings(rows)
    assert found.problem.endswith("from step 0 on: unscored 20")


def test_the_warning_comes_again_when_the_steps_have_doubled_and_not_at_every_one() -> None:
    rows = [row(step, math={"all_wrong": 4}) for step in range(41)]
    assert [count for count in range(1, 42) if idle_tasks.warnings(rows[:count])] == [5, 10, 20, 40]


def test_a_task_that_is_idle_beside_one_that_trains_is_named() -> None:
    rows = [row(step, math={}, chat={"tied": 4}) for step in range(5)]
    assert [found.path for found in idle_tasks.warnings(rows)] == ["task chat"]
    assert idle_tasks.ending(rows) == ""


def test_a_task_that_a_batch_left_out_is_judged_by_the_batches_that_have_it() -> None:
    rows = [row(step, chat={"tied": 4}) if step % 2 else row(step, math={}) for step in range(10)]
    (found,) = idle_tasks.warnings(rows)
    assert "in the last 5 steps, from step 1 on" in found.problem


def test_a_run_without_an_update_ends_with_a_word_on_it() -> None:
    rows = [row(step, math={"all_wrong": 4}) for step in range(3)]
    assert idle_tasks.updates(rows) == 0
    said = "0 updates changed the weights: no group of 3 steps trained (all wrong 12), so the model is the seed"
    assert idle_tasks.ending(rows) == said
    assert idle_tasks.ending([*rows, row(3, math={})]) == ""
    assert idle_tasks.ending([]) == ""
