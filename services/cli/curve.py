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
_MOST_TASKS = 4  # each with a reward panel of its own
_MOST_LINES = 60  # more sync lines than this would be a grey wall


def draw(
    path: Path,
    *,
    run: Mapping[str, Any],
    steps: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Mapping[str, Any]],
) -> None:
    """Write the picture to `path`."""
    measured = [row for row in evaluations if row.get("score") is not None]
    scales = [part for part in (_of_scale(measured, share=True), _of_scale(measured, share=False)) if part] or [[]]
    rewards = _rewards(steps)
    heights = [3.0] * len(scales) + [3.0 / min(2, len(rewards))] * len(rewards) + [1.0]
    figure = Figure(figsize=(9, 1.0 + 0.77 * sum(heights)), dpi=144, layout="constrained")
    panels = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    syncs = sorted({row["version"] for row in steps} - {0})
    for panel in panels:
        _style(panel)
        if len(syncs) <= _MOST_LINES:
            for version in syncs:
                panel.axvline(version, color=_GREY, linewidth=0.6, alpha=0.35, zorder=0)
    for panel, rows in zip(panels, scales, strict=False):
        _draw_scores(panel, rows)
    middle = panels[len(scales) :][: len(rewards)]
    sampled = f"temperature {run['spec']['generation']['temperature']:g}" if _is_live(run) else "from a file"
    for panel, (task, points) in zip(middle, rewards.items(), strict=True):
        _draw_reward(panel, points, title=f"reward of {task}" if task else "mean reward", sampled=sampled)
    _draw_staleness(panels[-1], steps)
    if len(syncs) > _MOST_LINES:
        place = middle[0].get_xaxis_transform()
        middle[0].plot(syncs, [0] * len(syncs), "|", color=_GREY, markersize=5, transform=place)
    panels[0].set_title("grey lines: the generators get the learner's weights", fontsize=8, color=_GREY, loc="right")
    panels[-1].set_xlabel("step (a version is the number of updates that made it)", color=_INK)
    spec = run["spec"]
    algorithm, period = spec["algorithm"]["name"].replace("_", " "), spec["sync"]["period"]
    how = "offline, never synced" if period == "never" else f"sync every {period} step{'s' if period != 1 else ''}"
    figure.suptitle(f"{run['name']}: {algorithm}, {how} ({len(syncs)} syncs)", color=_INK, fontsize=13, weight="bold")
    figure.savefig(path)


def _of_scale(rows: Sequence[Mapping[str, Any]], *, share: bool) -> list[Mapping[str, Any]]:
    """Shares in per cent and graded scores have an axis each."""
    return [row for row in rows if scores.is_share(row) == share]


def _rewards(steps: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Task -> (step, mean reward); one without a name where there is one task, or too many for a panel each."""
    tasks = list(dict.fromkeys(task["task"] for row in steps for task in row.get("tasks", ())))
    if not 1 < len(tasks) <= _MOST_TASKS:
        return {"": [(row["step"], row["reward_mean"]) for row in steps if row["reward_mean"] is not None]}
    found: dict[str, list[tuple[int, float]]] = {task: [] for task in tasks}
    for row in steps:
        for task in row["tasks"]:
            if task["reward_mean"] is not None:
                found[task["task"]].append((row["step"], task["reward_mean"]))
    return found


def _is_live(run: Mapping[str, Any]) -> bool:
    return not (run.get("rollouts") or {}).get("from")


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
        first, last = (scores.number(means[end], rows[end]) for end in (0, -1))
        label = f"{name}: {first} to {last}" if len(rows) > 1 else f"{name}: {first}"
        panel.plot(versions, means, "o-", color=colour, linewidth=2, markersize=5, label=label)
        if all(row["score"]["low"] is not None for row in rows):
            low, high = ([row["score"][bound] for row in rows] for bound in ("low", "high"))
            panel.fill_between(versions, low, high, color=colour, alpha=0.15, linewidth=0)
    measures = list(dict.fromkeys(scores.measure(row) for row in evaluations))
    panel.set_ylabel("held-out " + ("\nor ".join(measures) or "score").replace(" (", "\n("), color=_INK)
    if evaluations and all(map(scores.is_share, evaluations)):
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    panel.margins(y=0.2)
    if names:
        panel.legend(frameon=False, loc="best")


def _draw_reward(panel: Axes, points: Sequence[tuple[int, float]], *, title: str, sampled: str) -> None:
    at, rewards = [step for step, _ in points], [reward for _, reward in points]
    panel.plot(at, rewards, ".", color=_GREEN, alpha=0.35, markersize=5)
    panel.plot(at, smooth(rewards, span=max(3, len(rewards) // 12)), color=_GREEN, linewidth=2)
    panel.set_ylabel(f"{title}\nin training\n({sampled})", color=_INK)


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
