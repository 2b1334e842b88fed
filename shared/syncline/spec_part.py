"""What all parts of a run spec are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$")]


class Part(BaseModel):
    """Base of every part: frozen, unknown keys refused, types as written."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, serialize_by_alias=True, allow_inf_nan=False)
