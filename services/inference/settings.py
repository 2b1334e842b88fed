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
