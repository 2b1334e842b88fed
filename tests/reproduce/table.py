"""RESULTS.md: our numbers beside the paper's, made from the raw numbers and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.reproduce.arms import ARMS, EVALUATE_EVERY, SEED_MODEL, Arm, Paper
from tests.reproduce.results import Checkpoint, Experiment, Result, Spread

_ONLINE = "s1"
_HEAD = (
    "| arm | best checkpoint | at step | last checkpoint | last, less online DPO | Math500 | NuminaMath | AMC23 |\n"
    "|---|---|---|---|---|---|---|---|"
)


def render(experiment: Experiment, *, figure: str) -> str:
    """The page, with the figure of that name in it."""
    return "\n".join(
        [
            "# How often do the generators need the learner's weights?",
            "",
            "*This page is written by `make reproduce`. What it means is in [README.md](README.md).*",
            "",
            f"Held-out accuracy in percent: mean ± standard deviation over {_seeds(experiment)}, {experiment.steps} "
            "updates each, the quickstart's model, data and settings. "
            f"Evaluated greedily on 400 problems before the first update, every {EVALUATE_EVERY} and after the last. "
            "Best is the best of each run's evaluations, by the same 400 problems. "
            "The three columns on the right are Table 1 of the paper (arXiv 2506.21495: Llama-3.1-8B-Instruct on "
            "NuminaMath, accuracy, spread in brackets): another model and another task, so compare the order of "
            "the rows and not their heights.",
            "",
            _HEAD,
            *_rows(experiment),
            "",
            f"![Learning curves, best and last checkpoints]({figure})",
            "",
            "Lines are means over the seeds; bands reach from the lowest to the highest seed. On the right, bars are "
            "one standard deviation and small dots are the single runs.",
            "",
            "## Every run",
            "",
            *_runs(experiment),
            "",
            "## How it was made",
            "",
            "Each arm is the quickstart with these changes:",
            "",
            *(f"* {arm.title}: `{' '.join(arm.overrides)}`" for arm in ARMS if experiment.of(arm.key)),
            "",
            "```sh",
            experiment.command,
            "```",
            "",
            f"{experiment.date}, on {experiment.machine}. Generators: the {experiment.engine} engine. "
            + ", ".join(f"{name} {version}" for name, version in experiment.versions.items())
            + ". The raw numbers are in [results.json](results.json).",
            "",
        ]
    )


def _rows(experiment: Experiment) -> Iterator[str]:
    before = _percent(Spread.of(sorted({result.before for result in experiment.results})))  # one model, one number
    yield _row(["seed model", before, "0", before, "", *_paper(SEED_MODEL)])
    for arm in ARMS:
        if found := experiment.of(arm.key):
            yield _row([arm.title, *_ours(experiment, arm, found), *_paper(arm.paper)])


def _ours(experiment: Experiment, arm: Arm, found: Sequence[Result]) -> list[str]:
    steps = sorted({result.best_version for result in found})
    online = {result.seed: result.last for result in experiment.of(_ONLINE)}
    differences = [result.last - online[result.seed] for result in found if result.seed in online]
    return [
        _percent(_spread(found, "best")),
        f"{steps[0]} to {steps[-1]}" if len(steps) > 1 else str(steps[0]),
        _percent(_spread(found, "last")),
        _percent(Spread.of(differences), sign="+") if differences and arm.key != _ONLINE else "",
    ]


def _runs(experiment: Experiment) -> Iterator[str]:
    versions = sorted({version for result in experiment.results for version in result.accuracies})
    yield _row(["arm", "seed", *(f"{version}" for version in versions), "prompts trained on", "largest staleness"])
    yield "|" + "---|" * (len(versions) + 4)
    for arm in ARMS:
        for result in experiment.of(arm.key):
            curve = [f"{100 * result.accuracies[version]:.1f}" for version in versions]
            yield _row([arm.title, str(result.seed), *curve, str(result.groups), str(result.staleness)])


def _spread(found: Sequence[Result], checkpoint: Checkpoint) -> Spread:
    return Spread.of([result.at(checkpoint) for result in found])


def _percent(spread: Spread, *, sign: str = "") -> str:
    mean = f"{100 * spread.mean:{sign}.1f}"
    return mean if spread.deviation is None else f"{mean} ± {100 * spread.deviation:.1f}"


def _paper(row: Paper | None) -> list[str]:
    if row is None:
        return ["-"] * 3
    return [f"{mean} ({spread})" for mean, spread in (row.math500, row.numina_math, row.amc23)]


def _seeds(experiment: Experiment) -> str:
    seeds = experiment.seeds
    return f"{len(seeds)} seeds ({', '.join(map(str, seeds))})" if len(seeds) > 1 else f"one seed ({seeds[0]})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
