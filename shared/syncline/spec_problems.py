"""What pydantic says of a run spec, in the three parts that users get: the path, the problem, what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from syncline.errors import FieldProblem

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
}


def problems_of(details: Iterable[Any]) -> list[FieldProblem]:
    """One problem a field, from the `errors()` of a validation error: what each member of a union would allow is
    joined, and a list is not called too short because of a row that is named already."""
    found: dict[str, FieldProblem] = {}
    for detail in details:
        problem = _problem(detail)
        known = found.get(problem.path)
        allowed = problem.allowed if known is None else f"{known.allowed} or {problem.allowed}"
        found[problem.path] = FieldProblem(problem.path, (known or problem).problem, allowed)
    rows = {path.split(".")[0] for path in found if "." in path}
    return [problem for path, problem in found.items() if not (path in rows and "too short" in problem.problem)]


def _problem(detail: Any) -> FieldProblem:
    """Pydantic's description of one problem in the three parts that users get."""
    kind, context = detail["type"], detail.get("ctx", {})
    path = ".".join(str(part) for part in detail["loc"] if not _is_union_tag(part)) or "$"
    shown = repr(detail.get("input"))
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    if kind == "extra_forbidden":
        return FieldProblem(path, "unknown key", "only the keys of the run spec (see the README); mind the spelling")
    if kind == "missing":
        return FieldProblem(path, "missing", _ALLOWED["missing"])
    if kind == "union_tag_invalid":
        return FieldProblem(_tag_path(path, context), f"{context['tag']!r} is not known", context["expected_tags"])
    if kind == "union_tag_not_found":
        return FieldProblem(_tag_path(path, context), "missing", _ALLOWED["missing"])
    bounds = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}
    if kind in bounds:
        return FieldProblem(path, f"{shown} is out of range", f"{bounds[kind]} {next(iter(context.values()))}")
    if kind == "too_short":
        return FieldProblem(path, f"{shown} is too short", f"at least {context['min_length']}")
    if kind == "literal_error":
        return FieldProblem(path, f"{shown} is not known", context["expected"])
    if kind == "string_pattern_mismatch":
        return FieldProblem(path, f"{shown} does not fit", f"text like {context['pattern']}")
    return FieldProblem(path, f"{shown}: {detail['msg']}", _ALLOWED.get(kind, detail["msg"]))


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
