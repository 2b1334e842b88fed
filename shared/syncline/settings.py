"""Deployment settings of a service, from `SYNCLINE_*` environment variables.

Run specs never hold a host name or a secret, and settings never hold an experiment.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from syncline import addresses

_HAND_BACK_S = 5.0


class ServiceSettings(BaseSettings):
    """What every service needs to know. A service adds its own fields in a subclass."""

    model_config = SettingsConfigDict(env_prefix="SYNCLINE_", extra="ignore", frozen=True)

    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """Redis-compatible server: redis://, rediss:// or unix://. Secret, as it may hold a password."""
    bind: str = "127.0.0.1:0"
    """gRPC address to listen on: host:port (port 0 picks a free one) or unix:/path."""
    advertise: str = ""
    """Address that peers reach this process at; empty means the bound one."""
    member_id: str = ""
    """Stable identity (the pod's name on Kubernetes); empty makes one up."""
    lease_s: float = Field(default=15.0, gt=0.0)
    """Seconds after which the work of a consumer that died is taken over."""
    membership_ttl_s: float = Field(default=6.0, gt=0.0)
    """Seconds after which a process that stopped registering counts as gone."""
    grace_s: float = Field(default=20.0, gt=0.0)
    """Seconds a stop may take before the process exits anyway."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """auto writes for people on a terminal and JSON lines elsewhere."""
    log_level: str = "INFO"
    metrics_bind: str = ""
    """host:port of the Prometheus endpoint; empty serves none (the coordinator has /metrics of its own)."""
    run_root: Path = Path("runs")
    """Folder for runs, on storage that coordinator, learner and generators share. With a checkpoint store it holds the
    coordinator's own records alone."""
    model_root: Path = Path("models")
    """Folder that seed models come from."""
    data_root: Path = Path("data")
    """Folder that prompt files come from."""
    cache_root: Path = Path.home() / ".cache" / "syncline"
    """Folder on a local disk, for copies of what lies in an object store and for what is on its way there."""

    @field_validator("advertise")
    @classmethod
    def _dialled(cls, address: str) -> str:
        return addresses.bracketed(address)

    @property
    def finish_s(self) -> float:
        """Seconds of the grace in which work under way is finished; in the last five what is left is handed back."""
        return max(0.0, self.grace_s - _HAND_BACK_S)


Settings = TypeVar("Settings", bound=ServiceSettings)


def load(kind: type[Settings], **fixed: Any) -> Settings:
    """The settings of a service from its environment, but for those that are fixed.

    A wrong one ends the process with a line that names it.
    """
    try:
        return kind(**fixed)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            name = "".join(f"SYNCLINE_{part}".upper() for part in detail["loc"][:1]) or "SYNCLINE_*"
            print(f"{name}: {detail['msg']}", file=sys.stderr)
        raise SystemExit(2) from None
