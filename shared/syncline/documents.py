"""JSON and YAML that people write, read without mercy for what they cannot have meant: a key that stands twice."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from syncline.errors import FieldProblem, InvalidSpec


def from_json(text: str | bytes, *, where: str) -> Any:
    """The value of a JSON text. Raises InvalidSpec with `where` and the line and column."""
    try:
        return json.loads(text, object_pairs_hook=_mapping, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if "\n" in error.doc else f"column {error.colno}"
        raise _refused(where, f"is no JSON: {error.msg} at {place}") from None
    except UnicodeDecodeError as error:
        raise _refused(where, f"is no UTF-8: {error.reason} at byte {error.start}") from None
    except ValueError as error:
        raise _refused(where, str(error)) from None
    except RecursionError:
        raise _refused(where, "is nested too deeply") from None


def from_yaml(text: str | bytes, *, where: str, aliases: bool = True) -> Any:
    """The value of a YAML (or JSON) text. Raises InvalidSpec with `where` and the place.

    Without `aliases` they are refused: a small text with many of them stands for a huge value.
    """
    try:
        return yaml.load(text, Loader=_Loader if aliases else _PlainLoader)  # noqa: S506 - both are SafeLoaders
    except (yaml.YAMLError, ValueError) as error:
        raise _refused(where, " ".join(str(error).split())) from None
    except RecursionError:
        raise _refused(where, "is nested too deeply") from None


def _refused(where: str, problem: str) -> InvalidSpec:
    return InvalidSpec([FieldProblem(where, problem, "valid JSON or YAML, each key once")])


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has the key {twice!r} twice")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"has {name}, which is no JSON number")


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-6 as the number that everybody means, and refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


class _PlainLoader(_Loader):
    """And without aliases."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not read here", None)
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
