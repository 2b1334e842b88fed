"""Kubernetes' own objects in the values, as schemas that refuse unknown fields.

`python -m tests.kubernetes.api_objects` takes them from the newest schemas in the cache, whose fields are those of all
versions before, and keeps them in helm/, so that values.schema.json can be written without the cache.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.kubernetes.chart import CHART
from tests.kubernetes.tools import PROJECT, SCHEMAS, require

FILE = PROJECT / "helm" / "kubernetes.schema.json"
_NAMED = re.compile(r"#/definitions/(\w+)")
_OURS = "Quantity"
"""helm/document.py has a stricter one."""


def wanted() -> str:
    """The file: every object that the comments of values.yaml name, and what is inside of these."""
    versions = require(SCHEMAS) / "kubernetes_validate" / "kubernetes-json-schema"
    newest = max(versions.glob("v*-local-strict"), key=_version)
    known = json.loads((newest / "_definitions.json").read_text(encoding="utf-8"))["$defs"]
    by_name = {name.rpartition(".")[2]: name for name in known if name.startswith(_STABLE)}
    found: dict[str, Any] = {}
    missing = _NAMED.findall((CHART / "values.yaml").read_text(encoding="utf-8"))
    while missing:
        name = missing.pop()
        if name != _OURS and name not in found:
            found[name] = _narrowed(name, _strict(known[by_name[name]]))
            missing += _NAMED.findall(json.dumps(found[name]))
    lines = [f"{json.dumps(name)}: {json.dumps(found[name])}" for name in sorted(found)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


_STABLE = ("io.k8s.api.core.v1.", "io.k8s.api.apps.v1.", "io.k8s.api.networking.v1.", "io.k8s.apimachinery.pkg.")


def _version(folder: Path) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", folder.name)]


def _strict(schema: Any) -> Any:
    """Without prose, by our names, and with no fields but those that are named."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return {"$ref": "#/definitions/" + schema["$ref"].rpartition(".")[2]}
    kept = {key: _strict(value) for key, value in schema.items() if key in _KEPT}
    if "properties" in schema:
        kept["properties"] = {name: _strict(value) for name, value in schema["properties"].items()}
        kept["additionalProperties"] = False
    return kept


def _narrowed(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """With what Kubernetes' schemas say in prose alone, and its API server refuses in the middle of an upgrade."""
    for key, words in _WORDS.get(name, {}).items():
        schema["properties"][key]["enum"] = [*words, None]
    if name == "ResourceRequirements":
        for key in ("limits", "requests"):
            properties = schema["properties"][key]
            properties["patternProperties"] = {_RESOURCE: properties["additionalProperties"]}
            properties["additionalProperties"] = False
    return schema


_WORDS = {
    "StatefulSetUpdateStrategy": {"type": ["RollingUpdate", "OnDelete"]},
    "Toleration": {
        "operator": ["Exists", "Equal", "Lt", "Gt", ""],
        "effect": ["NoSchedule", "PreferNoSchedule", "NoExecute", ""],
    },
}
_RESOURCE = "^(cpu|memory|ephemeral-storage|hugepages-[^/]+|[^/]+/[^/]+)$"
"""Names of resources; those of devices have a domain before them."""
_KEPT = frozenset({"type", "items", "required", "enum", "oneOf", "additionalProperties"})


if __name__ == "__main__":
    FILE.write_text(wanted(), encoding="utf-8")
