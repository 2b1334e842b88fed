"""What the API answers with of the fleet and of itself, described."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict

from services.coordinator.api.schemas import Answer


class Member(Answer):
    """A live process; what else it says depends on its role."""

    model_config = ConfigDict(extra="allow")

    id: str
    address: str
    host: str
    pid: int
    started_at: float


class Wanted(Answer):
    run_id: str
    version: int


class Fleet(Answer):
    wanted: Wanted | None
    replicas: int | None
    """Generators that are wanted; null where nobody knows."""
    pods: list[dict[str, Any]]
    pods_trouble: str
    pods_missing: str
    inference: list[Member]
    reward: list[Member]
    learner: list[Member]


class Health(Answer):
    status: str
