"""Showing progress on standard error: one live panel on a terminal, a line every few steps elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from services.cli import scores
from services.cli.client import Event
from services.cli.progress import Progress, duration, numbers, period_change, sparkline, warning

_LINES_A_RUN = 20
_SPARKLINE_WIDTH = 40
_COLOURS = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "stalled": "yellow", "paused": "yellow"}


class Display(Protocol):
    """Shows a run while it goes on: `with display: display.wait(...); display.follow(...); display.show(event)`."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def wait(self, text: str) -> None:
        """Say what is being waited for, before there is a run."""

    def follow(self, progress: Progress) -> None:
        """Show this run from now on."""

    def show(self, event: Event) -> None:
        """The progress has taken in this event."""


def make_display(console: Console) -> Display:
    """The display that fits where standard error goes."""
    return LivePanel(console) if console.is_terminal else PlainLines(console)


class LivePanel:
    """One rich panel, drawn anew four times a second, so that clocks go on between events."""

    def __init__(self, console: Console) -> None:
        self._waiting_for = "starting"
        self._started_at = time.monotonic()
        self._progress: Progress | None = None
        self._spinner = Spinner("dots")
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4, transient=False)

    def __enter__(self) -> LivePanel:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def wait(self, text: str) -> None:
        self._waiting_for = text

    def follow(self, progress: Progress) -> None:
        self._progress = progress
        self._waiting_for = ""

    def show(self, event: Event) -> None:
        """The next refresh draws it."""

    def _render(self) -> RenderableType:
        elapsed = duration(time.monotonic() - self._started_at)
        progress = self._progress
        if progress is None:
            return Panel(self._busy(self._waiting_for), title="syncline", subtitle=elapsed, title_align="left")
        return Panel(
            Group(*self._lines(progress)),
            title=f"{progress.name} [dim]{progress.run_id}[/dim]",
            title_align="left",
            subtitle=elapsed,
            border_style=_COLOURS.get(progress.state, "cyan"),
        )

    def _lines(self, progress: Progress) -> list[RenderableType]:
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            f"step [bold]{progress.step}[/bold]/{progress.steps}",
            ProgressBar(
                total=progress.steps,
                completed=progress.step,
                width=_SPARKLINE_WIDTH,
                complete_style="cyan",
                finished_style="green",
            ),
            f"{progress.step / progress.steps:.0%}",
        )
        lines: list[RenderableType] = [bar]
        if progress.last is not None:
            (_, reward), *others = numbers(progress)
            course = sparkline(progress.rewards, width=_SPARKLINE_WIDTH)
            lines.append(Text.assemble("reward ", (course, "green"), " ", (reward, "bold")))
            parts = [part for name, value in others for part in (f"{name} ", (value, "bold"), "   ")]
            lines.append(Text.assemble(*parts))
        for name, rows in progress.evaluations.items():
            ends = [rows[0], rows[-1]] if len(rows) > 1 else rows
            shown = " -> ".join(f"{scores.score(row)} (v{row['version']})" for row in ends)
            lines.append(Text.assemble(f"evaluation {name} ", (shown, "bold magenta")))
        if progress.period:
            lines.append(Text(progress.period))
        lines.extend(Text(f"warning: {text}", style="yellow") for text in progress.warnings.values())
        if progress.over and not self._waiting_for:
            lines.append(Text(progress.phase, style=_COLOURS.get(progress.state, "")))
        else:
            lines.append(self._busy(self._waiting_for or progress.phase))
        return lines

    def _busy(self, text: str) -> RenderableType:
        self._spinner.update(text=Text(text, style="dim"))
        return self._spinner


class PlainLines:
    """One line for each thing worth one: for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._said = ""

    def __enter__(self) -> PlainLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to put away."""

    def wait(self, text: str) -> None:
        self._say(text)

    def follow(self, progress: Progress) -> None:
        self._progress = progress
        self._say(f"run {progress.run_id} ({progress.name}, {progress.steps} steps)")

    def show(self, event: Event) -> None:
        progress = self._progress
        assert progress is not None, "follow comes before show"
        if event.type == "step":
            every = max(1, progress.steps // _LINES_A_RUN)
            if progress.step % every == 0 or progress.step in (1, progress.steps):
                values = "  ".join(f"{name} {value}" for name, value in numbers(progress))
                self._say(f"step {progress.step}/{progress.steps}  {values}")
        elif event.type == "evaluation" and event.data.get("score") is not None:
            row = event.data
            parts = (
                f"{scores.measure(row)} {scores.score(row)}",
                scores.pass_at(row),
                f"length {row['length_mean']:.1f}",
            )
            self._say(f"evaluation {row['name']} at version {row['version']}: {', '.join(filter(None, parts))}")
        elif event.type == "period":
            self._say(period_change(event.data))
        elif event.type == "best":
            self._say(f"best so far: version {event.data['version']}")
        elif event.type == "warning":
            self._say(f"warning: {warning(event.data)}")
        elif event.type == "state" or (event.type == "fleet" and progress.step == 0):
            self._say(progress.phase)

    def _say(self, text: str) -> None:
        if text != self._said:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)
        self._said = text
