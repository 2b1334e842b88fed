"""What all parts of a run spec are made of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from syncline.spec_keys import leaves


def like(pattern: str, allowed: str) -> AfterValidator:
    """Text that fits a regular expression; who gets it wrong is told what is `allowed`, in words."""

    def check(text: str) -> str:
        if re.search(pattern, text) is None:
            raise PydanticCustomError("text_like", "does not fit", {"allowed": allowed})
        return text

    return AfterValidator(check)


_NAME = r"^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?\Z"
Name = Annotated[
    str,
    like(_NAME, "at most 42 lower-case letters, digits and hyphens, with no hyphen at either end"),
    Field(json_schema_extra={"pattern": _NAME.replace(r"\Z", "$")}),
]


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
