"""Who can change the number of generators: the port, and its small implementations.

Kubernetes is another one, in `services.coordinator.cluster.kubernetes`.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Protocol

from syncline import durable
from syncline.errors import Conflict


class Scale(Protocol):
    """The wanted number of generators, and the means to change it."""

    async def wanted(self) -> int | None:
        """How many generators are wanted; None where nobody knows."""
        ...

    async def change(self, replicas: int) -> None:
        """Want another number. Raises Conflict where it cannot be had, and Unavailable where nobody answers."""
        ...


class NoScale:
    """Generators that somebody starts by hand."""

    async def wanted(self) -> int | None:
        return None

    async def change(self, replicas: int) -> None:
        raise Conflict(
            "this coordinator does not run the generators; start or stop them where they run "
            "(SYNCLINE_KUBERNETES_STATEFULSET or SYNCLINE_GENERATORS_FILE would name them)"
        )


class Autoscaled:
    """A number that an autoscaler chooses: it can be read, and a change would be undone in seconds."""

    def __init__(self, scale: Scale, *, autoscaler: str) -> None:
        self._scale = scale
        self._autoscaler = autoscaler

    async def wanted(self) -> int | None:
        return await self._scale.wanted()

    async def change(self, replicas: int) -> None:
        raise Conflict(
            f"{self._autoscaler} chooses the number of generators and would undo this; change its bounds "
            "(inference.autoscaling.minReplicas and maxReplicas of the chart), or pause it"
        )


class FileScale:
    """The local stack: its supervisor follows the number in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def wanted(self) -> int | None:
        with suppress(OSError, ValueError):
            return int(self._file.read_text(encoding="utf-8"))
        return None

    async def change(self, replicas: int) -> None:
        try:
            durable.write_text(self._file, f"{replicas}\n")
        except OSError as error:
            raise Conflict(f"cannot write {self._file} ({error.strerror}); is the stack still there?") from error
