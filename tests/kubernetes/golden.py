"""Renderings that are kept, to show what a change of the chart changes: `python -m tests.kubernetes.golden`."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.kubernetes.chart import CPU, DEFAULT, EVERYTHING, OBJECT_STORE, render

FOLDER = Path(__file__).parent / "golden"
CASES = {"default": DEFAULT, "cpu": CPU, "everything": EVERYTHING, "object-store": OBJECT_STORE}


def wanted(case: str) -> str:
    """The rendering of a case, in a form without Helm's comments and whims."""
    manifests = sorted(render(CASES[case]), key=lambda one: (one["kind"], one["metadata"]["name"]))
    return yaml.safe_dump_all(manifests, sort_keys=True, width=120)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for case in CASES:
        (FOLDER / f"{case}.yaml").write_text(wanted(case), encoding="utf-8")
