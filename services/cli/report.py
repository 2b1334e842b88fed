"""What is left to say when a run is over."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.cli.client import Api
from services.cli.outcome import Outcome
from services.cli.progress import duration
from syncline.errors import Unavailable

_SUMMARY_DEADLINE_S = 20.0


def summary_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """The run's summary.json; the coordinator writes it just after the state. Raises Unavailable when it stays away."""
    path = Path(run["summary_path"])
    deadline = time.monotonic() + _SUMMARY_DEADLINE_S
    while time.monotonic() < deadline:
        if path.is_file():
            summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return summary
        time.sleep(0.1)
    raise Unavailable(
        f"the coordinator has not written {path} within {_SUMMARY_DEADLINE_S:g} s; is it on this machine?"
    )


def draw_curve(api: Api, run: Mapping[str, Any]) -> Path | None:
    """learning-curve.png in the run's folder; None when no step was made."""
    from services.cli import curve  # matplotlib takes a second to load

    steps = api.steps(run["id"])
    if not steps:
        return None
    path = Path(run["folder"]) / "learning-curve.png"
    curve.draw(path, run=run, steps=steps, evaluations=api.evaluations(run["id"]))
    return path


def print_report(console: Console, outcome: Outcome) -> None:
    """The tables and paths for a person; the path of summary.json is the very last line."""
    evaluation = outcome.summary["evaluation"]
    if evaluation["after"]:
        console.print(_accuracy_table(evaluation["before"], evaluation["after"]))
    for label, value in _facts(outcome):
        # Wrapped by the terminal, if at all: a path that is broken into lines cannot be copied.
        console.print(Text.assemble((f"{label:<16}", "dim"), value), soft_wrap=True)
    print(outcome.run["summary_path"], file=console.file)


def _accuracy_table(before: Mapping[str, float | None], after: Mapping[str, float | None]) -> Table:
    table = Table(title="Held-out accuracy", title_justify="left", title_style="bold")
    table.add_column("set")
    for column in ("before", "after", "change"):
        table.add_column(column, justify="right")
    for name, last in after.items():
        first = before.get(name)
        known = first is not None and last is not None
        change = (last or 0.0) - (first or 0.0)
        colour = "green" if change > 0 else "red" if change < 0 else "dim"
        table.add_row(
            name,
            _percent(first),
            _percent(last),
            f"[{colour}]{100 * change:+.1f} points[/{colour}]" if known else "",
        )
    return table


def _facts(outcome: Outcome) -> list[tuple[str, str]]:
    """(label, value) lines."""
    run, summary = outcome.run, outcome.summary
    groups, staleness = summary["groups"], summary["staleness"]
    dropped = ", ".join(f"{count} {cause}" for cause, count in groups["dropped"].items()) or "none"
    reason = f" ({summary['reason']})" if summary.get("reason") else ""
    facts = [
        ("run", f"{run['id']}: {summary['state']}{reason}"),
        ("steps", f"{summary['steps']} in {duration(summary['wall_seconds'])}"),
        ("groups", f"{groups['trained']} trained; dropped: {dropped}"),
    ]
    if source := (summary.get("rollouts") or {}).get("from"):
        facts.append(("rollouts", f"from {source}"))
    if staleness.get("max") is not None:
        facts.append(("staleness", f"{staleness['min']} to {staleness['max']}, mean {staleness['mean']:.1f}"))
    if (waste := summary.get("padding_waste")) is not None:
        facts.append(("padding", f"{waste:.1%} of the positions that the learner forwarded"))
    if run.get("model_folder"):
        facts.append(("trained model", run["model_folder"]))
    if outcome.picture is not None:
        facts.append(("learning curve", str(outcome.picture)))
    facts.append(("next", outcome.next_command))
    return facts


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
