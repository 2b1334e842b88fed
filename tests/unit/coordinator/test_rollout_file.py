"""A file of rollouts is refused at submission with the line and the reason, or fits the run and the model."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from services.coordinator.work.rollout_file import Reader, RolloutFile, open_rollouts
from services.coordinator.work.sources import RecordedGroups
from syncline import keys, runspec
from syncline.data_rows import Prompt
from syncline.errors import InvalidSpec, RunFailed
from syncline.v1.rollout_pb2 import ScoredGroup

END = 0


def encode(prompt: Prompt) -> tuple[tuple[int, ...], str]:
    assert isinstance(prompt, str)
    return tuple(prompt.encode()), prompt


def decode(completions: Sequence[Sequence[int]]) -> list[str]:
    """A tokenizer of bytes; 0 ends a text."""
    return [bytes(token for token in completion if token != END).decode() for completion in completions]


READER = Reader(context=20, vocabulary=128, encode=encode, decode=decode)


def spec_of(*tasks: str, **fields: Any) -> runspec.RunSpec:
    return runspec.parse(
        {
            "name": "from-file",
            "model": {"path": "m"},
            "algorithm": {"name": "dpo"},
            "sync": {"period": "never"},
            "rollouts": {"from": "rollouts.jsonl"},
            "steps": 9,
            "prompts_per_step": 2,
            "tasks": [{"name": name, "reward": {"type": "math"}} for name in tasks or ("math",)],
            **fields,
        }
    )


def sample(text: str, reward: float = 1.0) -> dict[str, Any]:
    tokens = [*text.encode(), END]
    return {"text": text, "token_ids": tokens, "log_probs": [-0.5] * len(tokens), "reward": reward}


def row(prompt: str = "1+1=", **fields: Any) -> dict[str, Any]:
    samples = [sample("2"), sample("3", 0.0)]
    return {"prompt": prompt, "prompt_token_ids": list(prompt.encode()), "task": "math", "samples": samples, **fields}


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    content = "".join(json.dumps(one) + "\n" for one in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def opened(
    folder: Path, rows: Sequence[dict[str, Any]], spec: runspec.RunSpec | None = None, *, name: str = "rollouts.jsonl"
) -> RolloutFile:
    return open_rollouts(write(folder / name, rows), spec or spec_of(), READER)


def prompts(source: RecordedGroups, step: int) -> list[str]:
    return [ScoredGroup.FromString(payload).group.task.prompt_text for payload in source.payloads(step, 0)]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (
            row(samples=[sample("2"), sample("4") | {"text": "3"}]),
            "tokens of sample 1 read '4' with the model's tokenizer",
        ),
        (row(samples=[sample("2"), sample("4") | {"text": "3"}]), "and the file says '3'"),
        (row(prompt_token_ids=[49, 43]), "makes 4 tokens [49, 43, 49, 61] of the prompt, and the file says [49, 43]"),
        (row(prompt_token_ids=[500]), "has token 500, and the model's vocabulary ends at 127"),
        (row(task="chat"), "belongs to task 'chat', which the spec does not have"),
        (row(samples=[sample("2")]), "has 1 samples; there is nothing to compare"),
        (row(samples=[sample("2"), sample("3") | {"log_probs": [-1]}]), "samples.1: "),
        (row(samples=[sample("2"), sample("3") | {"log_probs": [-1]}]), "1 log_probs for 2 token_ids"),
        (row(samples=[sample("2"), sample("3", 0.5)]), "a reward of 0.5, and task 'math' takes random pairs"),
        ({"prompt": "1+1="}, "prompt_token_ids: missing"),
        (row(samples=[sample("2"), sample("3") | {"reward": "1"}]), "samples.1.reward: '1' is text"),
        (row(source="elsewhere"), "source: unknown key"),
        (row() | {"prompt": []}, "prompt"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path: Path, bad: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        opened(tmp_path, [row(), row(), bad])
    (problem,) = refused.value.problems
    assert problem.path == "rollouts.from"
    assert "rollouts.jsonl line 3" in problem.problem
    assert says in problem.problem
    assert problem.allowed


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.jsonl", None, "does not exist"),
        ("rows.parquet", b"PAR1", "is of another kind"),
        ("rows.jsonl.gz", b"no gzip at all", "cannot be read"),
        ("cut.jsonl.gz", gzip.compress(b"x" * 10_000, mtime=0)[:-20], "cannot be read"),
        ("empty.jsonl", b"\n\n", "has no row of task 'math'"),
        ("text.jsonl", b"hello\n", "text.jsonl line 1"),
        ("one.jsonl", json.dumps(row()).encode(), "has 1 rows, and one step takes 2"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidSpec, match=r"rollouts\.from") as refused:
        open_rollouts(tmp_path / name, spec_of(), READER)
    assert says in str(refused.value)


def test_a_task_of_the_spec_without_a_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="has no row of task 'chat'"):
        opened(tmp_path, [row()] * 4, spec_of("math", "chat"))


def test_rows_beyond_the_models_context_are_left_out_and_counted(tmp_path: Path) -> None:
    file = opened(tmp_path, [row("fits"), row("x" * 19), row("also fits")])
    assert file.too_long == {"math": 1}
    assert file.origin.groups == {"math": 2}
    with pytest.raises(InvalidSpec, match=r"has no row of task 'math' that fits .* \(2 are too long\)"):
        opened(tmp_path, [row("x" * 19), row("y" * 19)])


def test_messages_and_graded_rewards_are_fine_where_the_spec_says_so(tmp_path: Path) -> None:
    chat = row(samples=[sample("2", 0.75), sample("3", 0.5)]) | {"prompt": [{"role": "user", "content": "1+1="}]}
    best = [{"name": "math", "reward": {"type": "math"}, "pairs": {"type": "best_vs_worst"}}]
    file = opened(tmp_path, [chat, row()], spec_of(tasks=best))
    assert prompts(RecordedGroups(spec_of(tasks=best), file, run_id="r"), 0) == ["1+1=", "1+1="]


@pytest.mark.parametrize("name", ["rollouts.jsonl", "rollouts.jsonl.gz"])
def test_the_first_pass_is_the_files_own_order_and_later_ones_are_shuffled(tmp_path: Path, name: str) -> None:
    file = opened(tmp_path, [row(f"row {n}") for n in range(6)], name=name)
    source = RecordedGroups(spec_of(), file, run_id="r")
    passes = [[text for step in range(at, at + 3) for text in prompts(source, step)] for at in (0, 3, 6)]
    assert passes[0] == [f"row {n}" for n in range(6)]
    assert sorted(passes[1]) == sorted(passes[2]) == passes[0]
    assert passes[0] != passes[1] != passes[2]
    assert source.payloads(4, 0) == RecordedGroups(spec_of(), file, run_id="r").payloads(4, 0), "whoever asks"
    assert file.origin.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_tasks_are_mixed_by_weight_and_each_takes_its_rows_in_order(tmp_path: Path) -> None:
    spec = spec_of("math", "chat", prompts_per_step=4)
    rows = [row(f"m{n}") for n in range(4)] + [row(f"c{n}", task="chat") for n in range(4)]
    source = RecordedGroups(spec, opened(tmp_path, rows, spec), run_id="r")
    dealt = [text for step in range(2) for text in prompts(source, step)]
    assert [text for text in dealt if text[0] == "m"] == ["m0", "m1", "m2", "m3"]
    assert [text for text in dealt if text[0] == "c"] == ["c0", "c1", "c2", "c3"]


def test_groups_carry_the_keys_of_the_run_and_go_to_the_learner(tmp_path: Path) -> None:
    source = RecordedGroups(spec_of(), opened(tmp_path, [row(step=7, version=6)] * 2), run_id="mine")
    groups = [ScoredGroup.FromString(payload).group for payload in source.payloads(5, 0)]
    assert [(g.task.key.run_id, g.task.key.step, g.task.key.prompt_index) for g in groups] == [
        ("mine", 5, 0),
        ("mine", 5, 1),
    ]
    assert {group.task.version for group in groups} == {0}
    assert source.stream(0) == keys.scored("mine")
    assert not source.generated


def test_a_file_that_changes_under_a_run_is_noticed(tmp_path: Path) -> None:
    file = opened(tmp_path, [row()] * 4)
    (tmp_path / "rollouts.jsonl").write_text("nothing of what was there")
    with pytest.raises(RunFailed, match="was changed while the run trains on it"):
        RecordedGroups(spec_of(), file, run_id="r").payloads(0, 0)
