"""The figure: learning curves of all arms, and their best and last checkpoints."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.reproduce.arms import ARMS, Arm
from tests.reproduce.results import Experiment, Result, Spread

_COLOURS = {
    "offline": "#c8553d",
    "s100": "#d99a2b",
    "s10": "#2a9d6f",
    "s5": "#4fb3bf",
    "s1": "#3457d5",
    "grpo": "#8e5bb5",
}
_INK, _GREY = "#22303c", "#8a97a3"


def draw(experiment: Experiment, path: Path) -> None:
    """Write the picture to `path`."""
    arms = [(arm, found) for arm in ARMS if (found := experiment.of(arm.key))]
    figure = Figure(figsize=(11, 4.6), dpi=110, layout="constrained")
    curves, ends = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for panel in (curves, ends):
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color=_GREY, alpha=0.2, linewidth=0.6)
        panel.tick_params(colors=_INK, labelsize=9)
    for arm, found in arms:
        _draw_curve(curves, arm, found)
    _draw_ends(ends, arms)
    curves.set_xlabel("updates", color=_INK)
    curves.set_ylabel("held-out accuracy", color=_INK)
    curves.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    curves.legend(frameon=False, fontsize=9, loc="lower left")
    figure.savefig(path, metadata={"Software": None})


def _draw_curve(panel: Axes, arm: Arm, found: Sequence[Result]) -> None:
    versions = sorted(set.intersection(*(set(result.accuracies) for result in found)))
    at = [[result.accuracies[version] for result in found] for version in versions]
    means = [statistics.fmean(values) for values in at]
    panel.plot(versions, means, "o-", color=_COLOURS[arm.key], linewidth=2, markersize=3.5, label=arm.title)
    panel.fill_between(versions, list(map(min, at)), list(map(max, at)), color=_COLOURS[arm.key], alpha=0.15, lw=0)


def _draw_ends(panel: Axes, arms: Sequence[tuple[Arm, Sequence[Result]]]) -> None:
    for place, (arm, found) in enumerate(arms):
        for offset, marker, values in (
            (-0.14, "o", [result.best for result in found]),
            (+0.14, "s", [result.last for result in found]),
        ):
            spread = Spread.of(values)
            colour, filled = _COLOURS[arm.key], marker == "s"
            panel.errorbar(
                place + offset,
                spread.mean,
                yerr=spread.deviation or 0.0,
                fmt=marker,
                color=colour,
                markerfacecolor=colour if filled else "white",
                markersize=7,
                capsize=3,
            )
            panel.plot([place + offset + 0.09] * len(values), values, ".", color=colour, alpha=0.5, markersize=4)
    panel.set_xticks(range(len(arms)), [arm.title.replace(", ", "\n") for arm, _ in arms], rotation=30, fontsize=8)
    panel.set_title("circles: best checkpoint; squares: last", fontsize=9, color=_INK)
