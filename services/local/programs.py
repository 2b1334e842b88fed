"""The programs of a local stack: what each is called, how it is started, and how it shows that it is ready.

Only addresses and folders differ from a cluster; the programs are the same.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.local import model_server, valkey
from services.local.folder import StackFolder

STOP_GRACE_S = 8.0
_NOT_FOR_CHILDREN = ("SYNCLINE_METRICS_BIND", "SYNCLINE_ADVERTISE")  # one value cannot serve several processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user chose."""

    port: int = 8080
    generators: int = 1
    engine: str = "vllm"
    project: Path = field(default_factory=Path.cwd)
    """Folder that seed models and prompt files may come from, unless the environment names others."""
    redis_url: str = ""
    """An external Redis-compatible server; empty starts one."""
    reward_model: Path | None = None
    """Folder of a reward model to serve beside the services, at the port after `port`, under the folder's name."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One child: `health` is what is asked until it answers that it is ready."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    health: str
    """unix:PATH asks gRPC health, http://... asks for a 200, redis+unix://... sends PING."""
    deadline_s: float
    """Seconds from start to readiness."""


def redis_server(folder: StackFolder) -> Program:
    """The Redis-compatible server, with its data in the stack's folder."""
    return Program(
        name="redis",
        command=tuple(valkey.command(folder.redis)),
        environment=dict(os.environ),
        health=f"redis+{valkey.url(folder.redis)}",
        deadline_s=20.0,
    )


def services(folder: StackFolder, options: Options) -> list[Program]:
    """The services that a stack has one of."""
    rest = {
        "SYNCLINE_REST_BIND": f"127.0.0.1:{options.port}",
        "SYNCLINE_GENERATORS_FILE": str(folder.wanted_generators_file),
    }
    return [
        _service("coordinator", folder, options, extra=rest, health=f"{options.address}/readyz"),
        _service("reward", folder, options),
        _service("learner", folder, options),
    ]


def reward_model(model: Path, options: Options) -> Program:
    """vLLM's pooling server, at http://127.0.0.1:<port + 1>/v1."""
    port = options.port + 1
    return Program(
        name="reward-model",
        command=model_server.command(model, port=port, name=model.name, extra=model_server.REWARD_MODEL),
        environment={"OMP_NUM_THREADS": "1", **os.environ, **model_server.ENVIRONMENT},
        health=f"http://127.0.0.1:{port}/health",
        deadline_s=model_server.START_DEADLINE_S,
    )


def generator(index: int, folder: StackFolder, options: Options) -> Program:
    """The inference service, as often as there are generators."""
    return _service("inference", folder, options, name=f"inference-{index}", extra={"SYNCLINE_ENGINE": options.engine})


def _service(
    module: str,
    folder: StackFolder,
    options: Options,
    *,
    name: str = "",
    extra: Mapping[str, str] | None = None,
    health: str = "",
) -> Program:
    name = name or module
    address = folder.socket(name)
    inherited = {key: value for key, value in os.environ.items() if key not in _NOT_FOR_CHILDREN}
    defaults = {
        "SYNCLINE_RUN_ROOT": str(folder.runs),
        "SYNCLINE_DATA_ROOT": str(options.project),
        "SYNCLINE_MODEL_ROOT": str(options.project),
        "SYNCLINE_GRACE_S": f"{STOP_GRACE_S:g}",
        "OMP_NUM_THREADS": "1",  # threads that wait for a core spin; and equal numbers give equal results
        "TOKENIZERS_PARALLELISM": "false",
    }
    fixed = {
        "SYNCLINE_REDIS_URL": options.redis_url or valkey.url(folder.redis),
        "SYNCLINE_BIND": address,
        "SYNCLINE_MEMBER_ID": name,
        "PYTHONUNBUFFERED": "1",
    }
    return Program(
        name=name,
        command=(sys.executable, "-m", f"services.{module}"),
        environment=defaults | inherited | fixed | dict(extra or {}),
        health=health or address,
        deadline_s=180.0,
    )
