"""Settings of a generator."""

from __future__ import annotations

from pydantic import Field

from syncline.settings import ServiceSettings


class InferenceSettings(ServiceSettings):
    """One engine a process."""

    engine: str = "vllm"
    """Name in services.inference.engines; another one ends the start with a list of those that there are."""
    engine_options: dict[str, int | float | str | bool] = Field(default_factory=dict)
    """JSON object of engine options: VllmOptions or TransformersOptions, by field name."""
    groups_deadline_s: float = Field(default=300.0, gt=0.0)
    """Seconds that a new version waits for the groups of the old one that are in the engine; then the engine counts as
    dead. Below the coordinator's SYNCLINE_LOAD_DEADLINE_S, and above what the longest completion takes."""
