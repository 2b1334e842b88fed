"""Runs and generators as plain columns on standard output: nothing is wrapped, so that paths and ids can be copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.cli.progress import duration, warning
from services.cli.verdicts import verdicts_of

_TASK_NUMBERS = ("reward", "raw_reward", "length", "margin", "entropy", "kl_reference", "mismatch_kl", "grad_norm")


def print_runs(runs: Sequence[Mapping[str, Any]]) -> None:
    """One line a run."""
    rows = [("run", "name", "state", "step", "serving", "staleness", "created")]
    for run in runs:
        version, staleness = f"v{run['version']}", _or_dash(run["staleness"])
        created = str(run["created_at"])[:19].replace("T", " ")
        rows.append((run["id"], run["name"], run["state"], _step(run), version, staleness, created))
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_run(run: Mapping[str, Any], fleet: Mapping[str, Any]) -> None:
    """One run, with the generators that are alive."""
    eta = run["progress"].get("eta_seconds")
    facts = [
        ("run", f"{run['id']} ({run['name']})"),
        ("state", run["state"] + (f": {run['reason']}" if run["reason"] else "")),
        ("step", _step(run) + (f", {duration(eta)} to go" if eta else "")),
        ("serving", f"v{run['version']} for training; staleness of the newest step {_or_dash(run['staleness'])}"),
    ]
    facts += [(f"task {task['task']}", _task(task)) for task in run.get("tasks", [])]
    if verdicts := verdicts_of(run.get("tasks", [])):
        facts.append(("verdicts", verdicts))
    if source := (run.get("rollouts") or {}).get("from"):
        facts.append(("rollouts", f"from {source}"))
    for generator in fleet.get("inference", []):
        trouble = f": {generator['trouble']}" if generator.get("trouble") else ""
        held = f"v{generator['version']}" if generator.get("version") is not None else "no version yet"
        facts.append((generator["id"], f"{generator.get('phase', '')}, {held}{trouble}"))
    facts.extend(("pod", pod["trouble"]) for pod in fleet.get("pods", ()) if pod["trouble"])
    facts.extend(("warning", warning(problem)) for problem in run.get("warnings", ()))
    facts.append(("folder", run["folder"]))
    if best := run.get("best"):
        facts.append(("best", f"v{best['version']}, {best['metric']} {best['value']:.4g} on {best['evaluation']}"))
        facts.append(("best model", best["folder"]))
    if run.get("model_folder"):
        facts.append(("model", run["model_folder"]))
    width = max(14, *(len(label) + 2 for label, _ in facts))  # pods have long names
    for label, value in facts:
        print(f"{label:<{width}}{value}")


def _task(task: Mapping[str, Any]) -> str:
    """A task's numbers in the newest step."""
    numbers = {"reward": task["reward_mean"], "length": task["length_mean"], **task.get("metrics", {})}
    shown = [f"{name} {numbers[name]:.3g}" for name in _TASK_NUMBERS if numbers.get(name) is not None]
    return ", ".join([f"{task['pairs']} pairs", *shown])


def _step(run: Mapping[str, Any]) -> str:
    return f"{run['progress']['step']}/{run['progress']['steps']}"


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)
