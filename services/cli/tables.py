"""Runs and generators as tables on standard output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from services.cli.progress import duration


def print_runs(runs: Sequence[Mapping[str, Any]]) -> None:
    """One line a run."""
    table = Table(box=None, pad_edge=False)
    for column in ("run", "name", "state", "step", "version", "staleness", "created"):
        table.add_column(column, overflow="fold")
    for run in runs:
        table.add_row(
            run["id"],
            run["name"],
            run["state"],
            _step(run),
            _or_dash(run["version"]),
            _or_dash(run["staleness"]),
            str(run["created_at"])[:19],
        )
    Console().print(table)


def print_run(run: Mapping[str, Any], fleet: Mapping[str, Any]) -> None:
    """One run, with the generators that are alive."""
    eta = run["progress"].get("eta_seconds")
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    facts.add_row("run", f"{run['id']} ({run['name']})")
    facts.add_row("state", run["state"] + (f": {run['reason']}" if run["reason"] else ""))
    facts.add_row("step", _step(run) + (f", {duration(eta)} to go" if eta else ""))
    facts.add_row("version", f"{_or_dash(run['version'])}, staleness {_or_dash(run['staleness'])}")
    for generator in fleet.get("inference", []):
        trouble = f": {generator['trouble']}" if generator.get("trouble") else ""
        held = f"version {generator['version']}" if generator.get("version") is not None else "no version yet"
        facts.add_row(generator["id"], f"{generator.get('phase', '')}, {held}{trouble}")
    facts.add_row("folder", run["folder"])
    if run.get("model_folder"):
        facts.add_row("model", run["model_folder"])
    Console().print(facts)


def _step(run: Mapping[str, Any]) -> str:
    return f"{run['progress']['step']}/{run['progress']['steps']}"


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)
