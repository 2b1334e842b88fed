"""What commands share: their options, how they print, and exit codes.

Nothing heavy is imported here: `syncline --help` must not wait for it.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from services.cli.client import Api

EXIT_USER_ERROR, EXIT_RUN_FAILED, EXIT_INTERRUPTED = 1, 3, 130
DEFAULT_SERVER = "http://127.0.0.1:8080"
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
RunId = Annotated[str, typer.Argument(metavar="RUN", help="id of the run; the newest one if left out")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="change a field; repeatable")]
From = Annotated[
    str, typer.Option("--from", metavar="RUN[/final|best|vN]", help="start from a checkpoint of another run")
]
Server = Annotated[str, typer.Option(envvar="SYNCLINE_SERVER", help="address of the coordinator")]
Token = Annotated[str, typer.Option(envvar="SYNCLINE_TOKEN", help="bearer token, if it asks for one")]
Output = Annotated[Format, typer.Option("--output", "-o", help="format of what is printed")]
Folder = Annotated[Path, typer.Option(envvar="SYNCLINE_STACK", help="folder of the local stack")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="port of the local stack's REST API")]
Generators = Annotated[int, typer.Option(min=1, help="inference processes of a stack that is started")]
RewardModel = Annotated[
    Path | None, typer.Option(help="folder of a reward model to serve with the stack, at the port after --port")
]
Engine = Annotated[
    str, typer.Option(help="engine of a stack that is started: vllm, or transformers (light, without vLLM)")
]


def api_at(server: str, token: str) -> Api:
    from services.cli.client import Api

    return Api(server, token=token)


def progress_console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def print_json(data: dict[str, Any]) -> None:
    print(json.dumps(data, indent=2))


def exit_as(state: str) -> None:
    if state != "succeeded":
        raise typer.Exit(EXIT_RUN_FAILED)
