"""Writes values.schema.json and the table of README.md from values.yaml: `python helm/document.py [--check]`.

values.yaml is the documentation: a comment "# --" above a key says what it is for, and "# @schema {...}" adds JSON
schema to what the default already tells. Unknown keys are refused wherever the default has keys of its own, and in the
objects of Kubernetes' API, by `"$ref": "#/definitions/Toleration"` and the like; a default of {} alone takes any.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "syncline"
API_OBJECTS = Path(__file__).parent / "kubernetes.schema.json"
"""What `#/definitions/` names; tests/kubernetes/api_objects.py writes it."""
QUANTITY = {"type": ["string", "number"], "pattern": "^[0-9]+([.][0-9]+)?(m|k|Ki|[MGTPE]i?|[eE][0-9]+)?$", "minimum": 0}
"""A quantity of Kubernetes, such as 500m, 2 or 1.5Gi."""
BEGIN, END = "<!-- values: written by `make chart` -->\n", "<!-- end of values -->\n"


@dataclass(frozen=True, slots=True)
class Value:
    """One key of values.yaml. A branch has `children`, a leaf has documentation."""

    path: str
    default: Any
    text: str
    schema: dict[str, Any]
    children: tuple[Value, ...] = field(default=())

    def leaves(self) -> Iterator[Value]:
        """The keys that a user sets."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()


def read(source: str) -> tuple[Value, ...]:
    """The values in the order of the file. Raises ValueError for a leaf without documentation."""
    return _children(yaml.compose(source), source.splitlines(), prefix="")


def _children(mapping: Any, lines: list[str], *, prefix: str) -> tuple[Value, ...]:
    values = []
    for key, node in mapping.value:
        path = f"{prefix}{key.value}"
        comments = _comments_above(lines, key.start_mark.line)
        text = " ".join(one.removeprefix("-- ") for one in comments if one.startswith("-- "))
        schema = [json.loads(one.removeprefix("@schema ")) for one in comments if one.startswith("@schema ")]
        # What is an object of Kubernetes is one value, and other keys may join those of its default.
        is_branch = isinstance(node, yaml.MappingNode) and node.value and not any("$ref" in one for one in schema)
        if not is_branch and not text:
            raise ValueError(f"values.yaml, line {key.start_mark.line + 1}: {path} has no '# --' comment")
        values.append(
            Value(
                path=path,
                default=yaml.safe_load(yaml.serialize(node)),
                text=text,
                schema=schema[0] if schema else {},
                children=_children(node, lines, prefix=f"{path}.") if is_branch else (),
            )
        )
    return tuple(values)


def _comments_above(lines: list[str], line: int) -> list[str]:
    comments: list[str] = []
    while line > 0 and lines[line - 1].strip().startswith("#"):
        line -= 1
        comments.insert(0, lines[line].strip().lstrip("#").strip())
    return comments


def schema(values: tuple[Value, ...]) -> dict[str, Any]:
    """JSON schema (draft 7, which both majors of Helm read) of the whole file."""
    # Helm adds `global` by itself where the chart is part of another one.
    whole = _object({_key(value): _schema_of(value) for value in values})
    whole["properties"] = {"global": {"type": "object"}} | whole["properties"]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the Syncline chart; written by `make chart` from values.yaml",
        **whole,
        "definitions": json.loads(API_OBJECTS.read_text(encoding="utf-8")) | {"Quantity": QUANTITY},
    }


def _schema_of(value: Value) -> dict[str, Any]:
    if value.children:
        properties = {_key(child): _schema_of(child) for child in value.children}
        return _object(properties)
    kinds = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}
    own = {} if "$ref" in value.schema or "anyOf" in value.schema else {"type": kinds[type(value.default)]}
    return {"description": value.text, **own, **value.schema}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    """Helm brings all defaults with it, so only a key that was set to null is missing: templates cannot do without."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
    }


def _key(value: Value) -> str:
    return value.path.rpartition(".")[2]


def table(values: tuple[Value, ...]) -> str:
    """Markdown, a table for each top-level key that has several values."""
    simple = [value for value in values if not value.children]
    parts = [_table("", simple)]
    parts += [_table(f"### {value.path}\n\n", list(value.leaves())) for value in values if value.children]
    return "\n".join(parts)


def _table(heading: str, leaves: list[Value]) -> str:
    rows = [
        f"| `{leaf.path}` | `{json.dumps(leaf.default)}` | {leaf.text.replace('|', chr(92) + '|')} |" for leaf in leaves
    ]
    return heading + "| value | default | what for |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def main() -> int:
    values = read((CHART / "values.yaml").read_text(encoding="utf-8"))
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    wanted = {
        CHART / "values.schema.json": json.dumps(schema(values), indent=2) + "\n",
        CHART / "README.md": f"{before}{BEGIN}\n{table(values)}\n{END}{after}",
    }
    for file, text in wanted.items():
        if "--check" not in sys.argv[1:]:
            file.write_text(text, encoding="utf-8")
        elif not file.exists() or file.read_text(encoding="utf-8") != text:
            print(f"stale: {file.name}; run 'make chart'", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
