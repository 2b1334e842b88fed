"""What pydantic says of a run spec, in the three parts that users get: the path, the problem, what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from syncline.errors import FieldProblem
from syncline.spec_keys import keys_at, nearest

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


def problems_of(details: Iterable[Any], model: Any = None) -> list[FieldProblem]:
    """One problem a field, from the `errors()` of a validation error: what each member of a union would allow is
    joined, and a list is not called too short because of a row that is named already.

    `model` is what was read; of an unknown key it tells those that there are.
    """
    found: dict[str, FieldProblem] = {}
    for detail in details:
        problem = _problem(detail, model)
        known = found.get(problem.path)
        allowed = problem.allowed if known is None else f"{known.allowed} or {problem.allowed}"
        found[problem.path] = FieldProblem(problem.path, (known or problem).problem, allowed)
    rows = {path.split(".")[0] for path in found if "." in path}
    return [problem for path, problem in found.items() if not (path in rows and "too short" in problem.problem)]


def _problem(detail: Any, model: Any) -> FieldProblem:
    """Pydantic's description of one problem in the three parts that users get."""
    kind, context = detail["type"], detail.get("ctx", {})
    path = ".".join(str(part) for part in detail["loc"] if not _is_union_tag(part)) or "$"
    if kind == "extra_forbidden":
        keys = keys_at(model, detail["loc"][:-1])
        meant = nearest(str(detail["loc"][-1]), keys)
        return FieldProblem(path, f"unknown key; did you mean {meant!r}?" if meant else "unknown key", ", ".join(keys))
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
    if kind in _BOUNDS:
        return f"{shown} is out of range", f"{_BOUNDS[kind]} {next(iter(context.values()))}"
    if kind in ("too_short", "string_too_short"):
        return f"{shown} is too short", f"at least {context['min_length']}"
    if kind == "literal_error":
        return f"{shown} is not known", context["expected"]
    if kind == "string_pattern_mismatch":
        return f"{shown} does not fit", f"text like {context['pattern']}"
    if kind == "value_error":
        return str(context["error"]), "parts that fit together"
    if kind in _ALLOWED:
        return f"{shown} is {_KINDS.get(type(value), 'nothing')}", _ALLOWED[kind]
    return f"{shown} does not fit", detail["msg"].removeprefix("Input should be ")


_UNION_TAGS = frozenset(
    {"dpo", "group_dpo", "grpo", "group_dpo_grpo", "math", "verifier", "judge", "reward_model"}
    | {"random", "best_vs_worst", "length", "overlong"}
    | {"constrained-int", "literal['never']", "int"}
)


def _is_union_tag(part: object) -> bool:
    """Pydantic puts the chosen member of a union into the path; users never wrote it."""
    return isinstance(part, str) and part in _UNION_TAGS


def _tag_path(path: str, context: Mapping[str, Any]) -> str:
    tag = str(context.get("discriminator", "")).strip(chr(39))
    return tag if path == "$" else f"{path}.{tag}"
