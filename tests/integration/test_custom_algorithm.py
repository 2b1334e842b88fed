"""The algorithm of the learner's guide: one file, its options, and one line; then it is in run specs, and trains."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

GUIDE = (ROOT / "services" / "learner" / "README.md").read_text(encoding="utf-8")


def block(first_line: str) -> str:
    """The Python block of the guide that begins with this comment, without it."""
    found = re.search(rf"```python\n# {re.escape(first_line)}\n(.*?)```", GUIDE, re.DOTALL)
    assert found is not None
    return found[1]


SPEC = """
name: mine
model: {path: seed}
algorithm: {name: raft}
sync: {period: 1}
steps: 1
tasks: [{name: math, data: train.jsonl, reward: {type: math}}]
"""
TRAIN = """
import json, sys
from pathlib import Path
from random import Random
import torch
from services.cli import specfile
from syncline.algo.algorithm import LossBatch
from syncline.algo.pairs import build_pair_rule
from syncline.algorithmspec import build_algorithm

spec = specfile.load(Path("mine.yaml"), overrides=sys.argv[1:])
algorithm = build_algorithm(spec.algorithm)
plan = algorithm.plan([0.0, 1.0, 1.0], build_pair_rule(spec.tasks[0].pair_rule.model_dump()), Random(0))
policy = torch.full((len(plan.rows), 4), -0.5, requires_grad=True)
mask = torch.ones_like(policy, dtype=torch.bool)
batch = LossBatch.of(
    [plan] if plan.rows else [], log_probs_RT=policy, entropy_RT=policy, reference_RT=None, generator_RT=policy,
    mask_RT=mask,
)
loss = algorithm.loss(batch).loss_sum
loss.backward()
print(json.dumps({"rows": plan.rows, "cause": plan.cause, "loss": loss.item(), "gradient": policy.grad.sum().item()}))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the library with the guide's file, options and line."""
    library = tmp_path / "shared" / "syncline"
    shutil.copytree(ROOT / "shared" / "syncline", library, ignore=shutil.ignore_patterns("__pycache__"))
    (library / "algo" / "raft.py").write_text(block("shared/syncline/algo/raft.py"))
    text = (library / "algorithmspec.py").read_text()
    options = block("shared/syncline/algorithmspec.py, before AlgorithmSpec")
    union = block("shared/syncline/algorithmspec.py, with one name more")
    without = union.replace(" | Raft", "")
    assert text.count(without) == 1, "the guide shows the union as it is"
    text = text.replace(without, f"{options}\n\n{union}")
    (library / "algorithmspec.py").write_text(text)
    (tmp_path / "mine.yaml").write_text(SPEC)
    return tmp_path


def python(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(project / "shared"), str(ROOT)])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_its_options_are_checked_and_filled_in_like_those_of_any_other(project: Path) -> None:
    done = python(project, "-m", "services.cli", "validate", "mine.yaml", "-o", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["algorithm"] == {"name": "raft", "share": 0.25}
    for change, told in (
        ("algorithm.share=-1", "algorithm.share: -1 is out of range"),
        ("algorithm.beta=0.1", "algorithm.beta: 'raft' has no beta"),
        ("algorithm.name=rft", "'rft' is not known"),
    ):
        done = python(project, "-m", "services.cli", "validate", "mine.yaml", "--set", change)
        assert done.returncode == 1
        assert told in done.stderr
    assert "'raft'" in done.stderr  # among what is allowed


def test_it_trains_with_the_options_of_the_run_spec(project: Path) -> None:
    done = python(project, "-c", TRAIN)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"rows": [1, 2], "cause": "", "loss": 0.5, "gradient": -1.0}
    done = python(project, "-c", TRAIN, "algorithm.share=0.9")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cause"] == "too_rare"
