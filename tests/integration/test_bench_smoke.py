"""The benches work, so that `make bench` does not rot. How fast they are is none of a test's business."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.timeout(300)
def test_the_short_benches_measure_something_at_smoke_sizes() -> None:
    names = ["queue", "memory", "verifier", "generation"]
    command = [sys.executable, "-m", "tests.bench", *names, "--quick", "--engine", "transformers"]
    done = subprocess.run([*command, "-o", "json"], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {bench["name"]: bench["measured"] for bench in json.loads(done.stdout)["benches"]}
    assert list(found) == names
    for measured in found.values():
        assert measured["figures"]
        assert all(figure["value"] > 0 for figure in measured["figures"])
    assert found["queue"]["details"]["entries"] == 1_000
    assert [len(found["memory"]["details"]["rounds"][way]) for way in ("plain", "tiled")] == [1, 1]
    generation = found["generation"]["details"]
    assert (generation["engine"], generation["completions_counted"]) == ("transformers", 2 * 2 * 4 * 2)
