"""A run spec file on its way to the coordinator: read, overridden, its paths made absolute, checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from syncline.documents import from_yaml
from syncline.errors import FieldProblem, InvalidSpec
from syncline.runspec import RunSpec, parse


def load(file: Path, *, overrides: Sequence[str] = ()) -> RunSpec:
    """Read a YAML or JSON spec, apply `a.b=c` overrides, and check it.

    Relative paths mean relative to the file that names them, and those of overrides to the working folder.
    Raises InvalidSpec with every problem.
    """
    document = _absolute(_read(file), file.resolve().parent)
    for override in overrides:
        document = apply(document, override)
    return parse(_absolute(document, Path.cwd()))


def apply(document: dict[str, Any], override: str) -> dict[str, Any]:
    """Set one field: `sync.period=never`, `tasks.0.weight=2`. The value is read as YAML.

    Raises InvalidSpec when the path leads nowhere.
    """
    path, equals, text = override.partition("=")
    if not equals or not path:
        problem = "names no field" if equals else "has no '='"
        raise InvalidSpec([FieldProblem("--set", f"{override!r} {problem}", "path.to.field=value")])
    *above, last = path.split(".")
    target: Any = document
    for depth, part in enumerate(above):
        if isinstance(target, dict) and target.get(part) is None:
            target[part] = {}
        target = _child(target, part, path=".".join(above[: depth + 1]))
    value = from_yaml(text, where=f"--set {path}")
    if isinstance(target, list):
        _child(target, last, path=path)  # a list is changed where it has an entry, and never grows
        target[int(last)] = value
    elif isinstance(target, dict):
        target[last] = value
    else:
        raise InvalidSpec(
            [FieldProblem(path, f"{'.'.join(above)} is a {type(target).__name__}", "a field of a mapping")]
        )
    return document


def _child(target: Any, part: str, *, path: str) -> Any:
    if isinstance(target, dict):
        return target[part]
    if isinstance(target, list):
        if part.isdecimal() and int(part) < len(target):
            return target[int(part)]
        raise InvalidSpec([FieldProblem(path, f"the list has no entry {part!r}", f"0 to {len(target) - 1}")])
    raise InvalidSpec([FieldProblem(path, "leads into a plain value", "a path through mappings and lists")])


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec([FieldProblem(str(file), f"cannot be read: {error}", "a YAML or JSON file")]) from None
    document = from_yaml(text, where=str(file))
    if document is None:
        raise InvalidSpec([FieldProblem(str(file), "the file is empty", "a mapping of run spec fields")])
    if not isinstance(document, dict):
        problem = f"the document is a {type(document).__name__}"
        raise InvalidSpec([FieldProblem(str(file), problem, "a mapping of run spec fields")])
    return document


def _absolute(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make the spec's paths absolute. What has the wrong shape is left for the check to refuse."""
    owners = [(document.get("model"), "path"), (document.get("rollouts"), "from")]
    for field in ("tasks", "evaluation"):
        parts = document.get(field)
        owners += [(part, "data") for part in parts] if isinstance(parts, list) else []
    for owner, key in owners:
        value = owner.get(key) if isinstance(owner, dict) else None
        if isinstance(owner, dict) and isinstance(value, str) and value and "://" not in value:
            owner[key] = str((folder / Path(value).expanduser()).resolve())
    return document
