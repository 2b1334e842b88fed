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


def kin_with(model: Any, loc: Loc) -> list[str]:
    """The tags of the other members of a union that have the key at `loc`, which the chosen member does not have."""
    *above, tag, key = loc if len(loc) > 1 else ("", *loc)
    members = _members(model)
    for step in above:
        members = [found for kind in members for found in _inside(kind, step)]
    models = [kind for kind in members if _is_model(kind)]
    if any(tag in _fields(kind) for kind in models):
        return []  # a key, no tag
    return [name for kind in models if key in _fields(kind) and (name := _tag(kind))]


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


def _tag(model: type[BaseModel]) -> str:
    """What a model is called among the members of its union: the one value of one of its fields."""
    only = [get_args(kind) for kind in _fields(model).values() if get_origin(kind) is Literal]
    return next((str(values[0]) for values in only if len(values) == 1), "")


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def leaves(kind: Any) -> set[Any]:
    """The types that a type is made of: int and A for tuple[int | A, ...]; those of the values for a Literal."""
    if get_origin(kind) is Literal:
        return {type(value) for value in get_args(kind)}
    inner = get_args(kind)[:1] if get_origin(kind) is Annotated else get_args(kind)
    return {found for one in inner for found in leaves(one)} if inner else {kind}


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}
