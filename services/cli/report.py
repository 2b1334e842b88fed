"""What is left to say when a run is over."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.cli import scores
from services.cli.client import TERMINAL, Api
from services.cli.outcome import Outcome
from services.cli.progress import duration, warning
from syncline.errors import Conflict, StorageError, Unavailable

_SUMMARY_DEADLINE_S = 20.0


def outcome_of(api: Api, run: Mapping[str, Any], *, next_command: str = "") -> Outcome:
    """What came of a run that is over. Raises Conflict for one that is not, and StorageError."""
    if run["state"] not in TERMINAL:
        raise Conflict(f"run {run['id']} is {run['state']}, and its report is for the end; see: syncline status")
    try:
        summary, path = summary_of(api, run)
        picture = draw_curve(api, run)
    except OSError as error:
        raise StorageError(f"the report could not be written: {error}; call it from a folder that can be") from error
    return Outcome(run=run, summary=summary, summary_path=path, picture=picture, next_command=next_command)


def summary_of(api: Api, run: Mapping[str, Any]) -> tuple[dict[str, Any], Path]:
    """The run's summary, and its file: the coordinator's own, or one made here where that is on another machine.

    The coordinator writes its file just after the state. Raises Unavailable when that stays away.
    """
    summary = api.summary(run["id"])
    path = _file_of(run, "summary.json")
    if not _is_here(run):
        path.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    deadline = time.monotonic() + _SUMMARY_DEADLINE_S
    while not path.is_file():
        if time.monotonic() > deadline:
            raise Unavailable(f"the coordinator has not written {path} within {_SUMMARY_DEADLINE_S:g} s; see its log")
        time.sleep(0.1)
    return summary, path


def draw_curve(api: Api, run: Mapping[str, Any]) -> Path | None:
    """learning-curve.png beside the summary; None when no step was made."""
    from services.cli import curve  # matplotlib takes a second to load

    steps = api.steps(run["id"])
    if not steps:
        return None
    path = _file_of(run, "learning-curve.png")
    curve.draw(path, run=run, steps=steps, evaluations=api.evaluations(run["id"]))
    return path


def _file_of(run: Mapping[str, Any], name: str) -> Path:
    return Path(run["folder"]) / name if _is_here(run) else Path.cwd() / f"{run['id']}-{name}"


def _is_here(run: Mapping[str, Any]) -> bool:
    """Whether the coordinator's folder of the run is on this machine: it may be in a cluster."""
    return (Path(run["folder"]) / "run.json").is_file()


def print_report(console: Console, outcome: Outcome) -> None:
    """The tables and paths for a person; the path of summary.json is the very last line."""
    evaluation = outcome.summary["evaluation"]
    if evaluation["after"]:
        table = _evaluation_table(evaluation["before"], evaluation["after"])
        if "\N{HORIZONTAL ELLIPSIS}" not in "".join(segment.text for segment in console.render(table)):
            console.print(table)
        else:  # a terminal too narrow for it: nothing is cut off
            for name, row in evaluation["after"].items():
                line = _evaluation_line(evaluation["before"].get(name), row)
                console.print(line, highlight=False, markup=False, soft_wrap=True)
    for label, value in _facts(outcome):
        # Wrapped by the terminal, if at all: a path that is broken into lines cannot be copied.
        console.print(Text.assemble((f"{label:<16}", "dim"), value), soft_wrap=True)
    print(outcome.summary_path, file=console.file)


def _evaluation_table(before: Mapping[str, scores.Row], after: Mapping[str, scores.Row]) -> Table:
    """Means with 95 % intervals before and after; more samples and judges have columns of their own."""
    table = Table(title="Held-out evaluation, 95 % intervals", title_justify="left", title_style="bold")
    rows = list(after.values())
    columns: dict[str, Callable[[scores.Row], Text]] = {  # Text: brackets in a string would be markup
        "before": lambda row: Text(scores.score(before[row["name"]])),
        "after": lambda row: Text(scores.score(row)),
        "change": lambda row: _change(scores.change(before.get(row["name"]), row), row),
        "": lambda row: Text(scores.pass_at(row)),
        "at equal length": lambda row: Text(scores.estimate(row["win_rate_length_controlled"], row)),
        "length": lambda row: Text(f"{_length(before[row['name']])} -> {_length(row)}"),
    }
    if not any(map(scores.pass_at, rows)):
        del columns[""]
    if not any(row["win_rate_length_controlled"] for row in rows):
        del columns["at equal length"]
    table.add_column("set")
    table.add_column("measure")
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row["name"], scores.measure(row), *(cell(row) for cell in columns.values()))
    return table


def _evaluation_line(before: scores.Row | None, after: scores.Row) -> str:
    """What the table says of one set, as a sentence that may be wrapped."""
    was = f"{scores.score(before)} -> " if before else ""
    change = scores.change(before, after)
    parts = [f"{was}{scores.score(after)}", scores.difference(change, after) if change is not None else ""]
    return f"held-out {after['name']}, {scores.measure(after)}: " + ", ".join(
        filter(None, [*parts, scores.pass_at(after)])
    )


def _change(value: float | None, row: scores.Row) -> Text:
    if value is None:
        return Text("")
    return Text(scores.difference(value, row), "green" if value > 0 else "red" if value < 0 else "dim")


def _length(row: scores.Row) -> str:
    return "-" if row["length_mean"] is None else f"{row['length_mean']:.1f}"


def _updates(count: int | None) -> str:
    """How many there were; nothing of a run that was recorded before that was counted."""
    if count is None:
        return ""
    return f"; {count} {'update' if count == 1 else 'updates'} changed the weights"


def _facts(outcome: Outcome) -> list[tuple[str, str]]:
    """(label, value) lines."""
    run, summary = outcome.run, outcome.summary
    groups, staleness = summary["groups"], summary["staleness"]
    dropped = ", ".join(f"{count} {cause}" for cause, count in groups["dropped"].items()) or "none"
    reason = f" ({summary['reason']})" if summary.get("reason") else ""
    facts = [
        ("run", f"{run['id']}: {summary['state']}{reason}"),
        ("steps", f"{summary['steps']} in {duration(summary['wall_seconds'])}{_updates(summary.get('updates'))}"),
        ("groups", f"{groups['trained']} trained; dropped: {dropped}"),
    ]
    if source := (summary.get("rollouts") or {}).get("from"):
        facts.append(("rollouts", f"from {source}"))
    if staleness.get("max") is not None:
        facts.append(("staleness", f"{staleness['min']} to {staleness['max']}, mean {staleness['mean']:.1f}"))
    facts.extend(("warning", warning(problem)) for problem in summary["warnings"])
    if (best := summary["best"]) is not None:
        value = f"{best['metric'].replace('_', ' ')} {best['value']:.4g} on {best['evaluation']}"
        facts.append(("best version", f"v{best['version']}, by its {value}: {best['folder']}"))
    if (waste := summary.get("padding_waste")) is not None:
        facts.append(("padding", f"{waste:.1%} of the positions that the learner forwarded"))
    if run.get("model_folder"):
        facts.append(("trained model", run["model_folder"]))
    if outcome.picture is not None:
        facts.append(("learning curve", str(outcome.picture)))
    if outcome.next_command:
        facts.append(("next", outcome.next_command))
    return facts
