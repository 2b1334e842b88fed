"""Verified sums and walks that a reward model scores, in the same batches: `make mixed`, a little shorter."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.e2e.local_stack import LocalStack

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(600)]

MIXED = Path("services/local/mixed").resolve()


STEPS = 40


def test_each_sample_is_scored_by_the_reward_of_its_task_and_both_rewards_rise(tmp_path: Path) -> None:
    spec = yaml.safe_load((MIXED / "mixed.yaml").read_text())
    spec["model"]["path"] = str(MIXED / spec["model"]["path"])
    spec |= {"steps": STEPS}
    with LocalStack(tmp_path, project=Path.cwd(), reward_model=MIXED / "reward-model", start_within_s=400) as stack:
        for part in (*spec["tasks"], *spec["evaluation"]):
            part["data"] = str(MIXED / part["data"])
            if "endpoint" in part.get("reward", {}):
                part["reward"]["endpoint"] = stack.reward_model_address
        run = stack.submit(spec)
        stack.finish(run, within_s=420)
        steps = stack.steps(run)
        evaluations = stack.api.get(f"/v1/runs/{run}/evaluations").json()["evaluations"]

    assert len(steps) == STEPS
    for step in steps:
        tasks = {task["task"]: task for task in step["tasks"]}
        # Every batch holds both tasks by weight, with metrics of their own and every sample scored.
        sums, walks = tasks["sums"]["groups"], tasks["walks"]["groups"]
        assert sums + walks == 48
        assert abs(walks - 16) <= 1
        assert tasks["walks"]["verdicts"] == {"scored": walks * 8}
        assert set(tasks["sums"]["verdicts"]) <= {"scored", "unparsable"}
        assert 0.0 <= tasks["sums"]["reward_mean"] <= 1.0
        # Best against worst finds a pair in every group of walks; right against wrong only in mixed groups of sums.
        assert tasks["walks"]["pairs"] == walks
        assert tasks["sums"]["pairs"] == sums - sum(tasks["sums"]["dropped"].values())
        assert set(tasks["sums"]["dropped"]) <= {"all_correct", "all_wrong"}
        # max_tokens by task: sums end by themselves after 3 or 4 tokens, walks take the 7 that only they may have.
        assert tasks["sums"]["length_mean"] < 5.0 < tasks["walks"]["length_mean"] <= 7.0
        assert tasks["walks"]["reward_mean"] not in (0.0, 1.0)
    # Both get better; these margins are well below what one run of 60 steps brought: 16 points, and a score of 1.0.
    before, after = (
        {row["name"]: row["score"]["mean"] for row in evaluations if row["version"] == version}
        for version in (0, STEPS)
    )
    assert after["sums"] > before["sums"] + 0.05
    assert after["walks"] > before["walks"] + 0.2
