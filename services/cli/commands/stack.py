"""The stack that runs train on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import (
    DEFAULT_SERVER,
    ENGINE,
    STACK,
    Engine,
    Folder,
    Format,
    Generators,
    Output,
    Port,
    RewardModel,
    Server,
    Token,
    api_at,
    print_json,
    progress_console,
)

app = typer.Typer()


@app.command()
def up(
    generators: Generators = 1,
    engine: Engine = ENGINE,
    reward_model: RewardModel = None,
    port: Port = 8080,
    folder: Folder = STACK,
    output: Output = Format.TEXT,
) -> None:
    """Start the local stack and leave it running; prints its REST address."""
    from services.cli import stack
    from services.cli.display import make_display

    there = stack.living(folder.resolve())
    if there is not None and there.get("address") == f"http://127.0.0.1:{port}" and there.get("state") == "ready":
        print("it is up already, and stays as it is; `syncline scale N` changes its generators", file=sys.stderr)
        print_json(there) if output is Format.JSON else print(there["address"])
        return
    with make_display(progress_console()) as display:
        stack.start(
            folder.resolve(),
            port=port,
            generators=generators,
            engine=engine,
            project=Path.cwd(),
            reward_model=reward_model.resolve() if reward_model else None,
            lifeline=False,
            waiting=display.wait,
        )
    state = stack.living(folder.resolve()) or {}
    print_json(state) if output is Format.JSON else print(state.get("address", ""))


@app.command()
def down(folder: Folder = STACK, output: Output = Format.TEXT) -> None:
    """Stop the local stack."""
    from services.cli import stack

    stopped = stack.stop(folder.resolve())
    if output is Format.JSON:
        print_json({"stopped": stopped})
    else:
        print("stopped" if stopped else f"no stack runs in {folder}", file=sys.stderr)


@app.command()
def scale(
    generators: Annotated[int, typer.Argument(min=0)],
    server: Server = DEFAULT_SERVER,
    token: Token = "",
    output: Output = Format.TEXT,
) -> None:
    """Change the number of generators, of a local stack or on Kubernetes, in the middle of a run too."""
    fleet = api_at(server, token).scale(generators)
    if output is Format.JSON:
        print_json(fleet)
    else:
        print(f"{generators} generators wanted; watch them come and go: syncline status", file=sys.stderr)
