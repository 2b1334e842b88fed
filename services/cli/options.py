"""What commands share: their options, how they print, and exit codes.

Nothing heavy is imported here: `syncline --help` must not wait for it.
"""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from services.cli.client import Api

EXIT_USER_ERROR, EXIT_RUN_FAILED, EXIT_INTERRUPTED = 1, 3, 130
DEFAULT_PORT = 8080
DEFAULT_SERVER = f"http://127.0.0.1:{DEFAULT_PORT}"
STACK = Path(".run")
ENGINE = "vllm"


class Format(StrEnum):
    """How data is printed."""

    TEXT = "text"
    JSON = "json"


class Form(StrEnum):
    """What is exported of a group: all of it, or its preference pairs."""

    ROLLOUTS = "rollouts"
    PREFERENCES = "preferences"


SpecFile = Annotated[Path, typer.Argument(help="run spec in YAML or JSON")]


def not_empty(run_id: str | None) -> str | None:
    if run_id == "":  # a variable that was not set, most likely; never another run than the one that was meant
        raise typer.BadParameter("it is empty; name a run, or leave it out")
    return run_id


RunId = Annotated[
    str | None, typer.Argument(metavar="RUN", callback=not_empty, help="id of the run; the newest one if left out")
]
WatchedRun = Annotated[
    str | None,
    typer.Argument(metavar="RUN", callback=not_empty, help="id of the run; if left out the one at work, or the newest"),
]
ActiveRun = Annotated[
    str | None,
    typer.Argument(metavar="RUN", callback=not_empty, help="id of the run; may be left out while only one is active"),
]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="change a field; repeatable")]
From = Annotated[
    str, typer.Option("--from", metavar="RUN[/final|best|vN]", help="start from a checkpoint of another run")
]
Server = Annotated[
    str,
    typer.Option(
        envvar="SYNCLINE_SERVER",
        help="address of the coordinator; else that of the local stack in this folder, or above",
    ),
]
Token = Annotated[str, typer.Option(envvar="SYNCLINE_TOKEN", help="bearer token, if it asks for one")]
Output = Annotated[Format, typer.Option("--output", "-o", help="format of what is printed")]
Folder = Annotated[Path, typer.Option(envvar="SYNCLINE_STACK", help="folder of the local stack")]
Port = Annotated[
    int | None, typer.Option(min=1, max=65535, help=f"port of the local stack's REST API; {DEFAULT_PORT} if left out")
]
Generators = Annotated[int, typer.Option(min=1, help="inference processes of a stack that is started")]
RewardModel = Annotated[
    Path | None, typer.Option(help="folder of a reward model to serve with the stack, at the port after --port")
]
Engine = Annotated[
    str, typer.Option(help="engine of a stack that is started: vllm, or transformers (light, without vLLM)")
]


def api_at(server: str, token: str) -> Api:
    from services.cli import stack
    from services.cli.client import Api

    here = Path(os.environ.get("SYNCLINE_STACK") or STACK)
    return Api(server or stack.server_here(here, otherwise=DEFAULT_SERVER), token=token)


def progress_console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def print_json(data: dict[str, Any]) -> None:
    print(json.dumps(data, indent=2))


def exit_as(state: str) -> None:
    if state != "succeeded":
        raise typer.Exit(EXIT_RUN_FAILED)
