"""The README's custom verifier, taken from the README: one small file and one line, and it scores."""

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
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the services with the README's file, and its line in the registry."""
    shutil.copytree(ROOT / "services", tmp_path / "services", ignore=shutil.ignore_patterns("__pycache__"))
    code = re.search(r"```python\n# services/reward/verifiers/word_count.py\n(.*?)```", README, re.DOTALL)
    line = re.search(r"```python\n# services/reward/verifiers/registry.py[^\n]*\n(.*?)```", README, re.DOTALL)
    assert code is not None
    assert line is not None
    assert code[0].count("\n") + line[0].count("\n") <= 24  # 20 lines, and the fences
    verifiers = tmp_path / "services" / "reward" / "verifiers"
    (verifiers / "word_count.py").write_text(code[1], encoding="utf-8")
    registry = (verifiers / "registry.py").read_text(encoding="utf-8")
    imported, entry = line[1].strip().splitlines()
    registry = registry.replace("\nVERIFIERS", f"\n{imported}\n\nVERIFIERS").replace(
        "\n}", f"\n    {entry.strip()}\n}}"
    )
    (verifiers / "registry.py").write_text(registry, encoding="utf-8")
    return tmp_path


def score(
    project: Path, rows: list[dict[str, object]], *, exit_code: int = 0, **options: object
) -> list[dict[str, object]]:
    reward = {"type": "verifier", "name": "word_count", "options": options}
    file = project / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run(
        [sys.executable, "-m", "services.reward.score", str(file), "--reward", json.dumps(reward)],
        cwd=project,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(project), str(ROOT / "shared")])},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == exit_code, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_verifier_of_the_readme_scores_in_a_worker_of_the_service(project: Path) -> None:
    rows = [
        {"completion": "one two three", "answer": "3"},
        {"completion": "one two three four", "answer": "3"},
        {"completion": " ", "answer": "3"},
    ]
    found = [(row["status"], row["score"], row["cause"]) for row in score(project, rows)]
    assert found == [("scored", 1.0, ""), ("scored", 0.0, ""), ("unparsable", 0.0, "there is no word in it")]
    within = score(project, rows, within=1)
    assert [row["score"] for row in within] == [1.0, 1.0, 0.0]


def test_a_gold_answer_that_it_cannot_read_is_named(project: Path) -> None:
    [row] = score(project, [{"completion": "one", "answer": "many"}], exit_code=1)
    assert row["line"] == 1
    assert "'many' cannot be read by word_count: it is not a whole number" in str(row["problem"])
