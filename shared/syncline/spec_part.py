"""What all parts of a run spec are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails

from syncline.spec_keys import leaves

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$")]


class Part(BaseModel):
    """Base of every part: frozen, unknown keys refused, types as written."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, serialize_by_alias=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, data: Any) -> Any:
        """YAML reads yes, on and true alike, and Python takes them for 1."""
        given = data if isinstance(data, dict) else {}
        if wrong := [found for name, field in cls.model_fields.items() for found in _truths(name, given, field)]:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return data


def _truths(name: str, data: dict[Any, Any], field: FieldInfo) -> Iterator[InitErrorDetails]:
    """Each true and false that is given for a number."""
    kinds = leaves(field.annotation)
    if bool in kinds or not kinds & {int, float}:
        return
    kind, value = "float_type" if float in kinds else "int_type", data.get(name)
    rows = enumerate(value) if isinstance(value, (list, tuple)) else ()
    for loc, one in [((name,), value), *(((name, index), row) for index, row in rows)]:
        if isinstance(one, bool):
            yield InitErrorDetails(type=kind, loc=loc, input=one)
