"""The command `syncline`: run, watch and stop training jobs, and the local stack they run on.

Exit codes: 0 done, 1 refused or unreachable, 2 wrong usage, 3 the run failed, 130 interrupted.
Progress goes to standard error, data to standard output.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from services.cli.commands import data, runs, stack, training
from services.cli.options import EXIT_INTERRUPTED, EXIT_USER_ERROR


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"syncline {version('syncline')}")
        raise typer.Exit


app = typer.Typer(
    name="syncline",
    help="Reinforcement-learning post-training of language models, anywhere between offline and online.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="print the version and exit", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Reinforcement-learning post-training of language models, anywhere between offline and online."""


for group in (training, runs, stack, data):
    app.add_typer(group.app)


def main() -> None:
    """Entry point of the console script: runs a command and turns what went wrong into an exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # both mean what Ctrl-C means
    from syncline.errors import InvalidSpec, SynclineError

    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains once more
        sys.exit(EXIT_USER_ERROR)
    except InvalidSpec as error:
        print("refused; nothing was changed:", file=sys.stderr)
        for problem in error.problems:
            print(f"  {problem.path}: {problem.problem}\n    allowed: {problem.allowed}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except SynclineError as error:
        print(f"error: {error.message}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


if __name__ == "__main__":
    main()
