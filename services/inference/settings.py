"""Settings of a generator."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from syncline.settings import ServiceSettings


class InferenceSettings(ServiceSettings):
    """One engine a process."""

    engine: Literal["vllm", "transformers"] = "vllm"
    """Name in services.inference.engines."""
    engine_options: dict[str, int | float | str | bool] = Field(default_factory=dict)
    """JSON object of engine options: VllmOptions or TransformersOptions, by field name."""
