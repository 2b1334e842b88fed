"""The learner's own program in processes that start within milliseconds, so that one can be killed hundreds of times.

A fork server imports torch and transformers once. What runs in its children is `services.learner.__main__.main`, as
`python -m services.learner` runs it.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

_PRELOADED = ["services.learner.__main__", "transformers.models.llama.modeling_llama"]


def fork_server() -> ForkServerContext:
    """The fork server of this process; its children see the same modules as this process does."""
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def start_learner(environment: Mapping[str, str], *, log: Path) -> ForkServerProcess:
    """A learner with this environment; what it says is appended to `log`."""
    process = fork_server().Process(target=_serve, args=(dict(environment), str(log)), daemon=True)
    process.start()
    return process


def _serve(environment: Mapping[str, str], log: str) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment)
    from services.learner.__main__ import main

    sys.exit(main())
