"""Run a local stack in the foreground until SIGTERM or Ctrl-C.

    python -m services.local --folder .run --port 8080 --generators 1 --engine vllm

`syncline up` and `syncline run` start this; see `services.local.folder` for what it leaves in the folder.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import signal
import sys
from pathlib import Path

import structlog

from services.local.folder import StackFolder
from services.local.programs import Options
from services.local.supervisor import Supervisor
from syncline import telemetry
from syncline.errors import SynclineError
from syncline.settings import ServiceSettings, load

log = structlog.get_logger()


def main() -> int:
    arguments = _parser().parse_args()
    telemetry.setup("local", load(ServiceSettings, metrics_bind=""))
    options = Options(
        port=arguments.port,
        generators=arguments.generators,
        engine=arguments.engine,
        project=arguments.project.resolve(),
        reward_model=arguments.reward_model.resolve() if arguments.reward_model else None,
        redis_url=os.environ.get("SYNCLINE_REDIS_URL", ""),
    )
    if options.reward_model is not None and not (options.reward_model / "config.json").is_file():
        print(f"{options.reward_model} is no model folder: it has no config.json", file=sys.stderr)
        return 1
    if (options.engine == "vllm" or options.reward_model is not None) and importlib.util.find_spec("vllm") is None:
        print(
            "vLLM is not installed here; take the light engine (--engine transformers) and no --reward-model",
            file=sys.stderr,
        )
        return 1
    try:
        asyncio.run(_run(StackFolder(arguments.folder), options, lifeline=arguments.lifeline))
    except SynclineError as error:
        log.error("stack_failed", code=error.code, error=error.message)
        print(error.message, file=sys.stderr)
        return 1
    return 0


async def _run(folder: StackFolder, options: Options, *, lifeline: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    if lifeline:
        loop.add_reader(sys.stdin, _on_lifeline, loop, stop)
    await Supervisor(folder, options).run(stop)


def _on_lifeline(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """The other end is gone, and the stack goes with it; unless it said a word before: then the stack stays."""
    loop.remove_reader(sys.stdin)
    if not os.read(sys.stdin.fileno(), 16):
        stop.set()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.local", description="Run a local stack of Syncline.")
    parser.add_argument("--folder", type=Path, default=Path(".run"), help="where state, logs and runs lie")
    parser.add_argument("--port", type=int, default=8080, help="port of the REST API on 127.0.0.1")
    parser.add_argument("--generators", type=int, default=1, help="inference processes to start with")
    parser.add_argument("--engine", default="vllm", help="of the inference processes, by its name there")
    parser.add_argument("--project", type=Path, default=Path.cwd(), help="folder of seed models and prompt files")
    parser.add_argument("--reward-model", type=Path, help="folder of a reward model to serve at the port after --port")
    parser.add_argument(
        "--lifeline", action="store_true", help="stop when standard input is closed, unless something was written there"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
