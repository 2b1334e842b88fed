"""Which keys a part of a run spec has, from its models: for those who wrote one that it has not."""

from __future__ import annotations

from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

Loc = tuple[str | int, ...]
"""Where pydantic found a problem: keys, indices, and the tags of the unions on the way."""


def keys_at(model: Any, loc: Loc) -> list[str]:
    """The keys that the part at `loc` may have; none where that is no part of `model`."""
    kinds = _members(model)
    for step in loc:
        kinds = [found for kind in kinds for found in _inside(kind, step)]
    return list(dict.fromkeys(key for kind in kinds if _is_model(kind) for key in _fields(kind)))


def nearest(wrong: str, keys: list[str]) -> str:
    """The key that was probably meant, or ""."""
    return next(iter(get_close_matches(wrong, keys, n=1, cutoff=0.6)), "")


def _members(kind: Any) -> list[Any]:
    """The types that a value may have: unions and annotations taken apart."""
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [found for member in get_args(kind) for found in _members(member)]
    return [kind]


def _inside(kind: Any, step: str | int) -> list[Any]:
    """What lies under a key, at an index, or behind a tag, which chooses a member and goes no deeper."""
    if isinstance(step, int):
        return [found for member in get_args(kind)[:1] for found in _members(member)]
    if not _is_model(kind):
        return []
    if step in (fields := _fields(kind)):
        return _members(fields[step])
    tagged = any(get_origin(one) is Literal and step in get_args(one) for one in fields.values())
    return [kind] if tagged else []


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}
