"""Settings of the reward service, beside those of every service."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from services.reward.verifiers.wire import Limits
from syncline.settings import ServiceSettings


class RewardSettings(ServiceSettings):
    """From `SYNCLINE_*` environment variables."""

    verifier_workers: int = Field(default=2, ge=1, le=256)
    """Processes that check answers; about one per core. Half as many again, of lower priority, take the checks that
    need long. Another process forks them all and costs 60 MB."""
    check_cpu_s: float = Field(default=1.0, gt=0.0)
    """CPU seconds of one check; what needs more counts as wrong. Honest answers need milliseconds."""
    check_wall_s: float = Field(default=30.0, gt=0.0)
    """Wall seconds after which a worker that does not answer is killed; far above check_cpu_s, as a worker may have to
    wait for its turn on a busy machine."""
    check_memory_mb: int = Field(default=1024, ge=256)
    """Address space of a worker. The container's limit must be above 1.5 times verifier_workers times this."""
    answer_chars: int = Field(default=4096, ge=64)
    """Longest mathematical answer that is checked; plain text without a box is looked at from its end."""
    completion_chars: int = Field(default=65_536, ge=64)
    """Longest completion that a verifier gets which looks at the whole of it."""
    keys_dir: Path | None = None
    """Folder with a file per API key, as a mounted secret makes it; SYNCLINE_KEY_<NAME> comes first."""
    groups_in_flight: int = Field(default=64, ge=1)
    """Rollout groups that are scored at the same time."""

    @property
    def limits(self) -> Limits:
        return Limits(cpu_s=self.check_cpu_s, memory_mb=self.check_memory_mb)
