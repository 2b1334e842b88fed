"""What pydantic says of a run spec, in the three parts that users get: the path, the problem, what is allowed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

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
    "bool_as_number": "a number",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def problems_in_json(error: ValidationError, text: str | bytes, *, model: Any = None) -> list[FieldProblem]:
    """The problems of a document that was checked as JSON text."""
    details = error.errors(include_url=False)
    return problems_of(details, None if details[0]["type"] == "json_invalid" else json.loads(text), model=model)


def problems_of(details: Iterable[Any], data: Any, *, model: Any = None) -> list[FieldProblem]:
    """One problem a field, from the `errors()` of a validation error of `data`: what each member of a union would allow
    is joined, and a list is not called too short because of a row that is named already.

    `model` is the type that the data should be of; with it, an unknown key is answered with the keys that there are.
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
    shown = repr(detail.get("input"))
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    if kind == "extra_forbidden":
        problem, allowed = _unknown_key(detail["loc"], model)
        return FieldProblem(path, problem, allowed)
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


def _path(location: Sequence[Any], data: Any, *, missing: bool) -> str:
    """Where in the document it is, as its author wrote it.

    Pydantic puts the chosen member of a union among the keys ("algorithm", "dpo", "beta"). What the document does not
    have on the way is no key of it, but for one that is missing.
    """
    parts, at = [], data
    for number, part in enumerate(location):
        if _holds(at, part):
            at = at[part]
            parts.append(str(part))
        elif missing and number == len(location) - 1:
            parts.append(str(part))
    return ".".join(parts) or "$"


def _holds(at: Any, part: Any) -> bool:
    if isinstance(at, Mapping):
        return part in at
    return isinstance(at, (list, tuple)) and isinstance(part, int) and part < len(at)


def _unknown_key(location: Sequence[Any], model: Any) -> tuple[str, str]:
    """What to say of a key that the part it stands in does not have: who has it, and which keys there are."""
    *above, key = location
    alike = found = _models_in(model)
    for part in above:
        if isinstance(part, int):
            continue  # a row of a list: its models are those of the list
        if inside := [inner for one in found for inner in _models_of(one, part)]:
            alike = found = inside
        else:
            found = [one for one in alike if _tag(one) == part]
    if len(found) != 1:
        return "unknown key", "only keys that are documented (see the README); mind the spelling"
    keys = ", ".join(field.alias or name for name, field in found[0].model_fields.items())
    have = [str(_tag(one)) for one in alike if key in one.model_fields]
    if have and (own := _tag(found[0])):
        return f"{own!r} has no {key} ({_listed(have)} {'has' if len(have) == 1 else 'have'} it)", keys
    return "unknown key", keys


def _models_of(model: type[BaseModel], key: str) -> list[type[BaseModel]]:
    """The models that the value of a key may be; none for a key that the model does not have."""
    for name, field in model.model_fields.items():
        if key == (field.alias or name):
            return _models_in(field.annotation)
    return []


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    return [leaf for leaf in leaves(annotation) if issubclass(leaf, BaseModel)]


def leaves(annotation: Any) -> Iterator[type[Any]]:
    """The classes that a type is made of: int and A for tuple[int | A, ...]; those of the values for a Literal."""
    inner = get_args(annotation)
    if get_origin(annotation) is Literal:
        yield from map(type, inner)
    elif isinstance(annotation, type) and not inner:
        yield annotation
    for one in inner if get_origin(annotation) is not Literal else ():
        yield from leaves(one)


def _tag(model: type[BaseModel]) -> str | None:
    """What a model is called among the members of its union: the one value of its name or type."""
    for field in model.model_fields.values():
        if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1:
            return str(get_args(field.annotation)[0])
    return None


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _tag_path(path: str, context: Mapping[str, Any]) -> str:
    tag = str(context.get("discriminator", "")).strip(chr(39))
    return tag if path == "$" else f"{path}.{tag}"
