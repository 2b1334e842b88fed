"""Bad run specs are refused with the field's path, what was wrong, and what is allowed."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from syncline import runspec
from syncline.algorithmspec import DPO
from syncline.errors import InvalidSpec
from syncline.run_parts import Best
from syncline.spec_part import Part
from syncline.spec_problems import problems_of

GOOD: dict[str, Any] = {
    "name": "quickstart",
    "model": {"path": "seed"},
    "algorithm": {"name": "dpo"},
    "steps": 10,
    "tasks": [{"name": "math", "data": "train.jsonl", "reward": {"type": "math"}}],
}


def with_change(path: str, value: Any) -> dict[str, Any]:
    spec = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    at: Any = spec
    for part in parents:
        at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
    at[int(last) if isinstance(at, list) else last] = value
    return spec


def test_the_smallest_spec_has_the_papers_defaults() -> None:
    spec = runspec.parse(GOOD)
    assert isinstance(spec.algorithm, DPO)
    assert spec.algorithm.beta == 0.1
    assert spec.optimizer.lr == 1e-6
    assert spec.optimizer.grad_clip == 0.1
    assert spec.generation.samples_per_prompt == 8


def test_a_spec_survives_the_trip_as_json() -> None:
    spec = runspec.parse(with_change("sync.period", "never"))
    assert runspec.parse_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("colour", "blue", "colour: unknown key; allowed: name, seed, model"),
        ("generation.temprature", 1, "unknown key; did you mean 'temperature'?; allowed: samples_per_prompt, temp"),
        ("algorithm.nll_weigth", 1, "algorithm.nll_weigth: unknown key; did you mean 'nll_weight'?"),
        ("tasks.0.reward.shape", [], "tasks.0.reward.shape: unknown key; did you mean 'shaping'?; allowed: type, shap"),
        ("generation", [1], "generation: [1] is a list; allowed: a mapping"),
        ("steps", 10**21, "steps: 1000000000000000000000 is out of range; allowed: <= 1000000"),
        ("prompts_per_step", 10**12, "prompts_per_step: 1000000000000 is out of range; allowed: <= 65536"),
        ("generation.max_tokens", 10**9, "generation.max_tokens: 1000000000 is out of range"),
        ("checkpoints.every", 10**18, "checkpoints.every: 1000000000000000000 is out of range"),
        (
            "prompts_per_step",
            65_536,
            "prompts_per_step: 65536 prompts of 8 samples are 524288; allowed: at most 262",
        ),
        ("sync.every", 3, "sync.every: unknown key"),
        ("steps", "ten", "steps: 'ten' is text; allowed: an integer"),
        ("steps", 0, "steps: 0 is out of range; allowed: >= 1"),
        ("sync.period", 0, "sync.period: 0 is out of range; allowed: >= 1 or 'never'"),
        ("sync.period", "sometimes", "sync.period: 'sometimes'"),
        ("sync.period", 11, "sync.period: 11 is more than the run's 10 steps"),
        (
            "sync",
            {"period": 2, "changes": [{"step": 4, "period": 11}]},
            "sync.changes.0.period: 11 is more than the run's 10 steps",
        ),
        ("sync.changes", [{"step": 9, "period": 1}], "sync.changes.0.step: the next window after step 9 begins at 10"),
        ("rollouts", {"from": "rollouts.jsonl"}, "sync.period: rollouts from a file are of one fixed policy"),
        ("checkpoints.best", {"evaluation": "chat"}, "checkpoints.best.evaluation: there is no evaluation set 'chat'"),
        ("sync.lag", 2, "sync.lag: 2 is not known; allowed: 0 or 1"),
        ("algorithm.name", "ppo", "algorithm.name: 'ppo' is not known; allowed: 'dpo'"),
        (
            "algorithm.scale_rewards",
            True,
            "algorithm.scale_rewards: 'dpo' has no scale_rewards (grpo and group_dpo_grpo have it); allowed: name, ",
        ),
        (
            "tasks.0.reward.key",
            "k",
            "tasks.0.reward.key: 'math' has no key (judge and reward_model have it)",
        ),
        ("tasks.0.reward.colour", "blue", "tasks.0.reward.colour: unknown key; allowed: type, shaping"),
        ("tasks.0.pairs", {"type": "random", "min_margin": 1}, "pairs.min_margin: 'random' has no min_margin (best_vs"),
        ("rollouts.source", "a.jsonl", "sync.period: rollouts from a file are of one fixed policy"),
        ("tasks.0.reward", {"type": "judge", "model": "m"}, "tasks.0.reward.endpoint: missing; allowed: this field is"),
        ("generation.temperature", 0, "generation.temperature: 0 is out of range; allowed: > 0"),
        ("optimizer.warmup_steps", 11, "optimizer.warmup_steps: 11 is more than the run's 10 steps"),
        ("sync.period", True, "sync.period: True is true or false; allowed: an integer"),
        ("sync.lag", False, "sync.lag: False is true or false"),
        ("algorithm.beta", True, "algorithm.beta: True is true or false; allowed: a number"),
        ("optimizer.betas", [True, 0.9], "optimizer.betas.0: True is true or false; allowed: a number"),
        ("tasks.0.max_tokens", True, "tasks.0.max_tokens: True is true or false"),
        ("tasks.0.reward.type", "math_verify", "tasks.0.reward.type: 'math_verify' is not known; allowed: 'math'"),
        ("tasks.0.name", "Two Words", "tasks.0.name: 'Two Words' does not fit; allowed: at most 42 lower-case letters"),
        ("model.path", "gs://bucket/model", "model.path: 'gs://bucket/model' does not fit; allowed: a folder, run://"),
        ("model.path", "run://", "model.path: 'run://' does not fit"),
        ("tasks", [], "tasks: [] is too short; allowed: at least 1"),
        ("generation.top_p", 0.0, "generation.top_p: 0.0 is out of range; allowed: > 0"),
        ("generation.samples_per_prompt", 1, "generation.samples_per_prompt: 1 is out of range"),
        ("checkpoints.keep", 1, "checkpoints.keep: 1 is out of range"),
        ("optimizer.lr", float("inf"), "optimizer.lr: inf"),
        ("tasks.0.weight", float("nan"), "tasks.0.weight: nan"),
        ("model.dtype", "float16", "model.dtype: 'float16' is not known; allowed: 'float32' or 'bfloat16'"),
    ],
)
def test_one_wrong_field_is_named(path: str, value: Any, says: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        runspec.parse(with_change(path, value))
    assert says in str(refused.value)
    assert len(refused.value.problems) == 1, "one mistake, one problem"


def test_an_option_of_another_algorithm_is_refused_with_the_algorithms_that_have_it() -> None:
    spec = with_change("algorithm", {"name": "grpo", "nll_weight": 1.0})
    says = "'grpo' has no nll_weight (dpo, group_dpo and group_dpo_grpo have it); allowed: name, beta, "
    for parsed in (lambda: runspec.parse(spec), lambda: runspec.parse_json(json.dumps(spec))):
        with pytest.raises(InvalidSpec) as refused:
            parsed()
        assert str(refused.value).startswith(f"algorithm.nll_weight: {says}")


def test_a_new_member_of_a_union_needs_no_entry_anywhere_to_be_named_in_refusals() -> None:
    class Raft(Part):
        name: Literal["raft"]
        top_k: int = Field(default=1, ge=1)

    class Spec(Part):
        algorithm: Annotated[Raft | DPO, Field(discriminator="name")]

    for options, says in (
        ({"name": "raft", "top_k": 0}, "algorithm.top_k: 0 is out of range; allowed: >= 1"),
        ({"name": "raft", "beta": 1.0}, "algorithm.beta: 'raft' has no beta (dpo has it); allowed: name, top_k"),
    ):
        data = {"algorithm": options}
        with pytest.raises(ValidationError) as refused:
            Spec.model_validate(data)
        (problem,) = problems_of(refused.value.errors(), data, Spec)
        assert str(problem) == says


def test_parts_that_do_not_fit_together_are_refused() -> None:
    grpo = with_change("algorithm", {"name": "grpo", "clip": 0.2, "importance_cap": 2.0})
    with pytest.raises(InvalidSpec, match=r"algorithm\.clip: .* allowed: one of the two"):
        runspec.parse(grpo)
    judge = {"type": "judge", "endpoint": "http://127.0.0.1:9/v1", "model": "m"}
    graded = with_change("tasks.0.reward", judge)
    assert runspec.parse(graded).tasks[0].pair_rule.type == "best_vs_worst"
    graded["tasks"][0]["pairs"] = {"type": "random"}
    with pytest.raises(InvalidSpec, match=r"tasks\.0\.pairs\.type: random pairs need a reward of right or wrong"):
        runspec.parse(graded)


def test_options_that_nothing_would_follow_are_refused() -> None:
    no_kl = with_change("algorithm", {"name": "grpo", "beta": 0.0}) | {"reference": {"sync": True}}
    with pytest.raises(InvalidSpec, match=r"reference\.sync: there is no reference without a KL term"):
        runspec.parse(no_kl)


@pytest.mark.parametrize("drawn", [{"temperature": 0.5}, {"top_p": 0.9}])
@pytest.mark.parametrize("algorithm", [{"name": "grpo", "clip": 0.2}, {"name": "dpo", "importance_cap": 2.0}])
def test_importance_weights_ask_for_the_probabilities_that_were_drawn_from(
    algorithm: dict[str, Any], drawn: dict[str, Any]
) -> None:
    spec = with_change("algorithm", algorithm)
    assert runspec.parse(spec)
    with pytest.raises(InvalidSpec, match=r"generators report log-probabilities at temperature 1 and top_p 1"):
        runspec.parse(spec | {"generation": drawn})


def test_what_may_surprise_is_a_warning() -> None:
    def warned(**fields: Any) -> list[str]:
        return [problem.path for problem in runspec.parse(GOOD | fields).warnings()]

    assert warned() == []
    assert warned(reference={"sync": True}, sync={"period": "never"}) == ["reference.sync"]
    semi, online = {"sync": {"period": 5}}, {"sync": {"period": 1}}
    assert warned(algorithm={"name": "grpo"}, **semi) == ["algorithm.importance_cap"]
    assert warned(algorithm={"name": "grpo", "importance_cap": 2.0}, **semi) == []
    assert warned(algorithm={"name": "grpo", "clip": 0.2}, **semi) == []
    assert warned(algorithm={"name": "group_dpo_grpo"}, **semi) == ["algorithm.importance_cap"]
    assert warned(algorithm={"name": "group_dpo_grpo", "importance_cap": 2.0}, **semi) == []
    assert warned(algorithm={"name": "group_dpo_grpo", "grpo_weight": 0.0}, **semi) == []
    of_a_file = {"rollouts": {"from": "rollouts.jsonl"}, "sync": {"period": "never"}}
    assert warned(algorithm={"name": "grpo", "clip": 0.2}, **of_a_file) == ["algorithm.clip"]
    assert warned(algorithm={"name": "dpo"}, **of_a_file) == []
    assert warned(algorithm={"name": "grpo"}, **online) == []
    paired = [GOOD["tasks"][0] | {"pairs": {"type": "best_vs_worst"}}]
    assert warned(algorithm={"name": "grpo"}, tasks=paired, **online) == ["tasks.0.pairs"]
    assert warned(tasks=paired, **online) == []
    assert warned(algorithm={"name": "grpo"}, sync={"period": 1, "lag": 1}) == ["algorithm.importance_cap"]


def test_a_judge_that_compares_with_the_seed_is_for_evaluations_only() -> None:
    judge = {"type": "judge", "mode": "versus_seed", "endpoint": "http://127.0.0.1:9/v1", "model": "m"}
    with pytest.raises(InvalidSpec, match=r"tasks\.0\.reward\.mode: versus_seed compares"):
        runspec.parse(with_change("tasks.0.reward", judge))
    assert runspec.parse(with_change("evaluation", [{"name": "chat", "data": "chat.jsonl", "reward": judge}]))


def test_the_best_checkpoint_is_by_the_first_set_unless_it_is_named() -> None:
    sets = [{"name": name, "data": f"{name}.jsonl"} for name in ("heldout", "hard")]
    assert runspec.parse(GOOD).best is None
    assert runspec.parse(with_change("evaluation", sets)).best == Best(evaluation="heldout")
    named = with_change("evaluation", sets) | {"checkpoints": {"best": {"evaluation": "hard", "metric": "pass_at_k"}}}
    assert runspec.parse(named).best == Best(evaluation="hard", metric="pass_at_k")


def test_the_best_by_pass_at_k_needs_a_reward_of_right_or_wrong() -> None:
    judge = {"type": "judge", "endpoint": "http://127.0.0.1:9/v1", "model": "m"}
    spec = with_change("evaluation", [{"name": "chat", "data": "chat.jsonl", "reward": judge}])
    spec["checkpoints"] = {"best": {"evaluation": "chat", "metric": "pass_at_k"}}
    with pytest.raises(InvalidSpec, match=r"checkpoints\.best\.metric: pass@k needs a reward of right or wrong"):
        runspec.parse(spec)


def test_sets_are_evaluated_before_after_and_every_so_many_steps() -> None:
    sets = [{"name": "often", "data": "a.jsonl", "every": 4}, {"name": "ends", "data": "b.jsonl"}]
    spec = runspec.parse(with_change("evaluation", sets))
    found = {version: [one.name for one in spec.evaluations_at(version)] for version in range(11)}
    assert {version: names for version, names in found.items() if names} == {
        0: ["often", "ends"],
        4: ["often"],
        8: ["often"],
        10: ["often", "ends"],
    }


def test_shaping_makes_a_reward_graded() -> None:
    shaped = with_change("tasks.0.reward", {"type": "math", "shaping": [{"type": "length", "per_token": 0.01}]})
    assert runspec.parse(shaped).tasks[0].pair_rule.type == "best_vs_worst"


def test_rollouts_from_a_file_train_a_run_that_never_syncs() -> None:
    spec = runspec.parse(with_change("sync.period", "never") | {"rollouts": {"from": "rollouts.jsonl"}})
    assert spec.rollouts.source == "rollouts.jsonl"
    assert runspec.parse_json(spec.model_dump_json()) == spec


def test_prompts_may_be_left_out_only_where_rollouts_come_from_a_file() -> None:
    without = with_change("tasks.0.data", None) | {"sync": {"period": "never"}}
    with pytest.raises(InvalidSpec, match=r"tasks\.0\.data: missing; allowed: a file of prompts"):
        runspec.parse(without)
    assert runspec.parse(without | {"rollouts": {"from": "rollouts.jsonl"}}).tasks[0].data is None


def test_two_tasks_of_one_name_are_refused() -> None:
    spec = with_change("tasks", GOOD["tasks"] * 2)
    with pytest.raises(InvalidSpec, match=r"tasks\.1\.name: 'math' is used twice"):
        runspec.parse(spec)


def test_every_problem_is_told_at_once() -> None:
    spec = with_change("steps", 0) | {"colour": "blue"}
    with pytest.raises(InvalidSpec) as refused:
        runspec.parse(spec)
    assert {problem.path for problem in refused.value.problems} == {"steps", "colour"}


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_a_document_that_is_no_mapping_is_refused(document: Any) -> None:
    with pytest.raises(InvalidSpec, match="a mapping"):
        runspec.parse(document)


def test_importing_the_run_spec_loads_nothing_heavy() -> None:
    heavy = {"torch", "vllm", "grpc", "redis", "fastapi", "transformers", "boto3", "huggingface_hub"}
    code = f"import sys, syncline.runspec; found = {heavy!r} & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={"PYTHONPATH": "shared"})


def test_the_period_that_a_run_has_already_is_no_change() -> None:
    """A client that asks twice, say, must not end a window without an end."""
    spec = runspec.parse(with_change("sync", {"period": "never"}))
    assert spec.with_period(3, "never") is spec
    changed = spec.with_period(3, 2)
    assert changed.with_period(5, 2) is changed
    assert [change.period for change in changed.with_period(5, 1).sync.changes] == [2, 1]
