"""Measure the figures that the README quotes and print them with their targets.

    python -m tests.bench                      all of them, one after the other
    python -m tests.bench queue generation     some
    python -m tests.bench --quick              smoke sizes: shows that the benches work, and nothing else
    python -m tests.bench -o json              for programs; progress then goes to standard error

Exit codes: 0 everything was measured (whether or not a target was met), 1 something was not, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from rich.console import Console

from syncline import telemetry
from syncline.errors import SynclineError
from syncline.settings import ServiceSettings
from tests.bench import machine, report

# Before torch is imported, or it has no effect. The local stack sets the first two for its children as well.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

BENCHES = ("queue", "memory", "verifier", "generation", "overlap", "quickstart")


def main() -> int:
    arguments = _parser().parse_args()
    telemetry.setup("bench", ServiceSettings(log_level="WARNING", metrics_bind=""))
    as_json = arguments.output == "json"
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    if as_json:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # engines write to standard output as they like
    console = Console(highlight=False, soft_wrap=True)
    options = report.Options(
        quick=arguments.quick, engine=arguments.engine, say=lambda line: console.print(line, markup=False)
    )
    outcomes: list[report.Outcome] = []
    for name in BENCHES if "all" in arguments.names else arguments.names:
        load = machine.look(first=not outcomes)
        options.say(f"{name}: {load}" + (" - busy: do not trust what follows" if load.busy else ""))
        outcomes.append(_measure(name, options, load))
    show = report.print_json if as_json else report.print_table
    with out:
        show(outcomes, quick=options.quick, out=out)
    return 1 if any(outcome.error for outcome in outcomes) else 0


def _measure(name: str, options: report.Options, load: machine.Load) -> report.Outcome:
    bench = import_module(f"tests.bench.{name}")
    try:
        return report.Outcome(name=name, load=load, measured=bench.measure(options))
    except (report.BenchFailed, SynclineError, TimeoutError) as error:
        options.say(f"  failed: {error}")
        return report.Outcome(name=name, load=load, error=str(error) or type(error).__name__)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure the figures of the README.")
    parser.add_argument(
        "names",
        nargs="*",
        choices=(*BENCHES, "all"),
        default="all",
        metavar="NAME",
        help=f"{', '.join(BENCHES)} or all",
    )
    parser.add_argument("--quick", action="store_true", help="smoke sizes")
    parser.add_argument(
        "--engine", choices=["vllm", "transformers"], default="vllm", help="what generates in generation and quickstart"
    )
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    return parser


if __name__ == "__main__":
    sys.exit(main())
