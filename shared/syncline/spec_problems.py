"""What pydantic says of a run spec, in the three parts that users get: the path, the problem, what is allowed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from syncline.errors import FieldProblem
from syncline.spec_keys import Loc, keys_at, kin_with, nearest

_ALLOWED = {
    "missing": "this field is required",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a string",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "tuple_type": "a list",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "list_type": "a list",
    "finite_number": "a finite number",
}
_BOUNDS = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}
_KINDS = {bool: "true or false", str: "text", int: "a number", float: "a number", dict: "a mapping", list: "a list"}


def problems_in_json(error: ValidationError, text: str | bytes, model: Any = None) -> list[FieldProblem]:
    """The problems of a document that was checked as JSON text."""
    details = error.errors(include_url=False)
    return problems_of(details, None if details[0]["type"] == "json_invalid" else json.loads(text), model)


def problems_of(details: Iterable[Any], data: Any, model: Any = None) -> list[FieldProblem]:
    """One problem a field, from the `errors()` of a validation error of `data`: what each member of a union would allow
    is joined, and a list is not called too short because of a row that is named already.

    `model` is what was read; of an unknown key it tells those that there are.
    """
    found: dict[str, FieldProblem] = {}
    for detail in details:
        problem = _problem(detail, data, model)
        known = found.get(problem.path)
        allowed = problem.allowed if known is None else f"{known.allowed} or {problem.allowed}"
        found[problem.path] = FieldProblem(problem.path, (known or problem).problem, allowed)
    rows = {path.split(".")[0] for path in found if "." in path}
    return [problem for path, problem in found.items() if not (path in rows and "too short" in problem.problem)]


def _problem(detail: Any, data: Any, model: Any) -> FieldProblem:
    """Pydantic's description of one problem in the three parts that users get."""
    kind, context = detail["type"], detail.get("ctx", {})
    path = _path(detail["loc"], data, missing=kind == "missing")
    if kind == "extra_forbidden":
        return FieldProblem(path, *_about_key(model, detail["loc"]))
    if kind == "missing":
        return FieldProblem(path, "missing", _ALLOWED["missing"])
    if kind == "union_tag_invalid":
        return FieldProblem(_tag_path(path, context), f"{context['tag']!r} is not known", context["expected_tags"])
    if kind == "union_tag_not_found":
        return FieldProblem(_tag_path(path, context), "missing", _ALLOWED["missing"])
    return FieldProblem(path, *_about_value(kind, detail, context))


def _about_value(kind: str, detail: Any, context: Mapping[str, Any]) -> tuple[str, str]:
    """What is wrong with a value, and what would be right."""
    value = detail.get("input")
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    if kind == "json_invalid":
        what = f"{shown} is" if isinstance(value, str) else "is"  # bytes are of a file, whose line is told
        return f"{what} not JSON ({context['error']})", "a JSON object"
    if kind in _BOUNDS:
        return f"{shown} is out of range", f"{_BOUNDS[kind]} {next(iter(context.values()))}"
    if kind in ("too_short", "string_too_short"):
        return f"{shown} is too short", f"at least {context['min_length']}"
    if kind == "literal_error":
        return f"{shown} is not known", context["expected"]
    if kind == "text_like":
        return f"{shown} does not fit", context["allowed"]
    if kind == "value_error":
        return str(context["error"]), "parts that fit together"
    if kind in _ALLOWED:
        return f"{shown} is {_KINDS.get(type(value), 'nothing')}", _ALLOWED[kind]
    return f"{shown} does not fit", detail["msg"].removeprefix("Input should be ")


def _about_key(model: Any, loc: Loc) -> tuple[str, str]:
    """What to say of a key that its part does not have, and which keys there are."""
    *above, key = loc
    keys = keys_at(model, tuple(above))
    if owners := kin_with(model, loc):
        listed = " and ".join(filter(None, (", ".join(owners[:-1]), owners[-1])))
        return f"{above[-1]!r} has no {key} ({listed} {'has' if len(owners) == 1 else 'have'} it)", ", ".join(keys)
    meant = nearest(str(key), keys)
    return f"unknown key; did you mean {meant!r}?" if meant else "unknown key", ", ".join(keys)


def _path(loc: Loc, data: Any, *, missing: bool) -> str:
    """Where in the document it is, as its author wrote it.

    Pydantic puts the chosen member of a union among the keys ("algorithm", "dpo", "beta"). What the document does not
    have on the way is no key of it, but for one that is missing.
    """
    parts, at = [], data
    for number, part in enumerate(loc):
        if _holds(at, part):
            at = at[part]
            parts.append(str(part))
        elif missing and number == len(loc) - 1:
            parts.append(str(part))
    return ".".join(parts) or "$"


def _holds(at: Any, part: str | int) -> bool:
    if isinstance(at, Mapping):
        return part in at
    return isinstance(at, (list, tuple)) and isinstance(part, int) and part < len(at)


def _tag_path(path: str, context: Mapping[str, Any]) -> str:
    tag = str(context.get("discriminator", "")).strip(chr(39))
    return tag if path == "$" else f"{path}.{tag}"
