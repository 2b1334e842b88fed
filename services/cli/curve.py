"""The learning curve of a run as a picture: held-out scores, reward, staleness, and where the generators synced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # a file is all that is wanted; no window system is asked for

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from services.cli import scores

_INK, _GREY, _GREEN, _RUST = "#22303c", "#8a97a3", "#2a9d6f", "#c8553d"
_COLOURS = ("#3457d5", "#c8553d", "#2a9d6f", "#8e5bb5", "#b8860b")
_MOST_LINES = 60  # more sync lines than this would be a grey wall


def draw(
    path: Path,
    *,
    run: Mapping[str, Any],
    steps: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Mapping[str, Any]],
) -> None:
    """Write the picture to `path`."""
    figure = Figure(figsize=(9, 6.4), dpi=144, layout="constrained")
    measured = [row for row in evaluations if row.get("score") is not None]
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1))
    top, middle, bottom = panels
    syncs = sorted({row["version"] for row in steps} - {0})
    for panel in panels:
        _style(panel)
        if len(syncs) <= _MOST_LINES:
            for version in syncs:
                panel.axvline(version, color=_GREY, linewidth=0.6, alpha=0.35, zorder=0)
    _draw_scores(top, measured)
    _draw_reward(middle, steps)
    _draw_staleness(bottom, steps)
    if len(syncs) > _MOST_LINES:
        middle.plot(syncs, [0] * len(syncs), "|", color=_GREY, markersize=5, transform=middle.get_xaxis_transform())
    top.set_title("grey lines: the generators get the learner's weights", fontsize=8, color=_GREY, loc="right")
    bottom.set_xlabel("step (a version is the number of updates that made it)", color=_INK)
    spec = run["spec"]
    algorithm, period = spec["algorithm"]["name"].replace("_", " "), spec["sync"]["period"]
    how = "offline, never synced" if period == "never" else f"sync every {period} step{'s' if period != 1 else ''}"
    figure.suptitle(f"{run['name']}: {algorithm}, {how} ({len(syncs)} syncs)", color=_INK, fontsize=13, weight="bold")
    figure.savefig(path)


def smooth(values: Sequence[float], *, span: int) -> list[float]:
    """Centred mean over up to `span` neighbours, fewer at the ends."""
    half = span // 2
    windows = [values[max(0, index - half) : index + half + 1] for index in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def _draw_scores(panel: Axes, evaluations: Sequence[Mapping[str, Any]]) -> None:
    """Means with their 95 % intervals as bands."""
    names = list(dict.fromkeys(row["name"] for row in evaluations))
    for name, colour in zip(names, _COLOURS * len(names), strict=False):
        rows = sorted((row for row in evaluations if row["name"] == name), key=lambda row: row["version"])
        versions, means = [row["version"] for row in rows], [row["score"]["mean"] for row in rows]
        panel.plot(versions, means, "o-", color=colour, linewidth=2, markersize=5, label=name)
        if all(row["score"]["low"] is not None for row in rows):
            low, high = ([row["score"][bound] for row in rows] for bound in ("low", "high"))
            panel.fill_between(versions, low, high, color=colour, alpha=0.15, linewidth=0)
        for position in {0, len(rows) - 1}:
            panel.annotate(
                scores.number(means[position], rows[position]),
                (versions[position], means[position]),
                xytext=(0, 8),
                textcoords="offset points",
                ha="left" if position == 0 else "right",
                color=colour,
                weight="bold",
                fontsize=9,
            )
    measures = list(dict.fromkeys(scores.measure(row) for row in evaluations))
    panel.set_ylabel(f"held-out {' or '.join(measures) or 'score'}", color=_INK)
    if evaluations and all(map(scores.is_share, evaluations)):
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    panel.margins(y=0.2)
    if len(names) > 1:
        panel.legend(frameon=False, loc="lower right")


def _draw_reward(panel: Axes, steps: Sequence[Mapping[str, Any]]) -> None:
    """A step without a reward is a gap."""
    rewarded = [row for row in steps if row["reward_mean"] is not None]
    at, rewards = [row["step"] for row in rewarded], [row["reward_mean"] for row in rewarded]
    panel.plot(at, rewards, ".", color=_GREEN, alpha=0.35, markersize=5)
    panel.plot(at, smooth(rewards, span=max(3, len(rewards) // 12)), color=_GREEN, linewidth=2)
    panel.set_ylabel("mean reward\nof the rollouts", color=_INK)


def _draw_staleness(panel: Axes, steps: Sequence[Mapping[str, Any]]) -> None:
    at, staleness = [row["step"] for row in steps], [row["staleness"] for row in steps]
    panel.fill_between(at, staleness, step="post", color=_RUST, alpha=0.25, linewidth=0)
    panel.step(at, staleness, where="post", color=_RUST, linewidth=1)
    panel.set_ylabel("staleness", color=_INK)
    panel.set_ylim(bottom=0)
    panel.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))


def _style(panel: Axes) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(_GREY)
    panel.tick_params(colors=_INK, labelsize=9)
    panel.grid(axis="y", color=_GREY, alpha=0.2, linewidth=0.6)
