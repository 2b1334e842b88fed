"""What a bench hands back, and how it is shown: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from tests.bench.machine import Load, describe, usable_cores


class BenchFailed(Exception):
    """A bench could not be measured, or what it measured was not what it should have been."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user chose."""

    quick: bool
    engine: str
    say: Callable[[str], None]
    """Prints a line while the bench works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number that is quoted, with what it should be. `met` is None where nothing is promised."""

    name: str
    value: float
    shown: str
    target: str = ""
    met: bool | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of one bench, and everything that they were computed from."""

    figures: Sequence[Figure]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One bench that was tried: `measured`, or the `error` that prevented it."""

    name: str
    load: Load
    """Of the machine, just before."""
    measured: Measured | None = None
    error: str = ""


def print_table(outcomes: Sequence[Outcome], *, quick: bool, out: TextIO) -> None:
    """All figures; plain text when `out` is no terminal."""
    console = Console(file=out, width=None if out.isatty() else 140)
    title = "Smoke sizes: these figures mean nothing" if quick else "Figures"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("bench", no_wrap=True)
    table.add_column("figure")
    for column in ("measured", "target"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("met")
    table.add_column("load before", justify="right")
    for outcome in outcomes:
        load = f"{outcome.load.average:.2f}"
        if outcome.measured is None:
            table.add_row(outcome.name, "not measured", "", "", "[red]no[/red]", load)
            continue
        for figure in outcome.measured.figures:
            met = {True: "[green]yes[/green]", False: "[red]no[/red]", None: ""}[figure.met]
            table.add_row(outcome.name, figure.name, figure.shown, figure.target, met, load)
    console.print()
    console.print(table)
    console.print(f"machine: {describe()}", highlight=False)
    for outcome in outcomes:
        if outcome.error:
            console.print(f"{outcome.name}: {outcome.error}", style="red", markup=False, highlight=False)
    if any(outcome.load.busy for outcome in outcomes):
        console.print("the machine was busy with other work (see the load): measure again", style="yellow")


def print_json(outcomes: Sequence[Outcome], *, quick: bool, out: TextIO) -> None:
    """The same with all details."""
    benches = [asdict(outcome) for outcome in outcomes]
    json.dump({"machine": describe(), "cores": len(usable_cores()), "quick": quick, "benches": benches}, out, indent=2)
    out.write("\n")
