"""`make reproduce` on a real stack, a few steps long: what it writes, and that it does nothing twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.reproduce import results


def reproduce(folder: Path, *arms: str) -> str:
    """What the program said."""
    command = [sys.executable, "-m", "tests.reproduce", "--seeds", "0", "--steps", "5", "--arms", *arms]
    command += ["--folder", str(folder / "stack"), "--out", str(folder / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder / "out" / "RESULTS.md")
    return done.stderr


@pytest.mark.timeout(600)
def test_a_small_experiment_writes_table_and_figure_and_goes_on_from_there(tmp_path: Path) -> None:
    # given: one arm that was run
    said = reproduce(tmp_path, "s5")
    assert "s5-seed-0-" in said
    first = results.load(tmp_path / "out" / "results.json")
    assert [(found.arm, sorted(found.accuracies)) for found in first.results] == [("s5", [0, 5])]
    # when: it is asked for with another one
    said = reproduce(tmp_path, "s5", "grpo")
    # then: the other one is run, and the first is read
    assert [line for line in said.splitlines() if "s5-seed-0-" in line and "step" in line] == []
    both = results.load(tmp_path / "out" / "results.json")
    assert [found.arm for found in both.results] == ["s5", "grpo"]
    assert both.results[0] == first.results[0]
    assert both.results[0].staleness == 4
    assert both.results[1].staleness == 0
    page = (tmp_path / "out" / "RESULTS.md").read_text()
    assert "| semi-online DPO, s = 5 |" in page
    assert "| online GRPO |" in page
    assert (tmp_path / "out" / "results.png").read_bytes().startswith(b"\x89PNG")
