"""The chart as Helm renders it."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.kubernetes.tools import CACHE, PROJECT, SCHEMAS, require

CHART = PROJECT / "helm" / "syncline"
VALUES = Path(__file__).parent / "values"
DEFAULT, EVERYTHING, CPU = VALUES / "default.yaml", VALUES / "everything.yaml", CHART / "values-cpu.yaml"
OBJECT_STORE = VALUES / "object-store.yaml"
Manifest = dict[str, Any]


class Refused(Exception):
    """Helm's own words."""


def helm(*arguments: str, program: str = "helm4") -> str:
    """Output of a Helm command. Raises Refused."""
    home = {"HOME": "/nonexistent", "HELM_CACHE_HOME": str(CACHE / "home"), "HELM_CONFIG_HOME": str(CACHE / "home")}
    command = [str(require(CACHE / program)), *arguments]
    done = subprocess.run(command, env=os.environ | home | {"HELM_DATA_HOME": str(CACHE / "home")}, **_AS_TEXT)
    if done.returncode != 0:
        raise Refused(done.stderr)
    return done.stdout


_AS_TEXT: dict[str, Any] = {"capture_output": True, "text": True}


def render_text(
    *files: Path, values: Mapping[str, Any] | None = None, kubernetes: str = "1.32", program: str = "helm4"
) -> str:
    """What `helm template` writes for release `rl` in namespace `lab`, less what it made up. Raises Refused."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as more:
        json.dump(dict(values or {}), more)
        more.flush()
        arguments = [argument for file in (*files, more.name) for argument in ("--values", str(file))]
        command = ["template", "rl", str(CHART), "--namespace", "lab", "--kube-version", kubernetes, *arguments]
        made_up = re.compile(r"^(  (?:token|password): )[A-Za-z0-9+/]{54}==$", re.MULTILINE)  # 40 characters
        return made_up.sub(r"\1<made up>", helm(*command, program=program))


def render(*files: Path, **options: Any) -> list[Manifest]:
    """The manifests. Raises Refused."""
    return [document for document in yaml.load_all(render_text(*files, **options), yaml.CSafeLoader) if document]


CUSTOM = {"ServiceMonitor", "PrometheusRule", "ScaledObject", "HTTPRoute"}
"""Kinds of operators, which the schemas of Kubernetes do not know."""


def validate(manifests: list[Manifest], kubernetes: str) -> int:
    """Hold manifests against the schemas of a version of Kubernetes; how many it knows. Raises for one that differs."""
    validator = _validator()
    known = [manifest for manifest in manifests if manifest["kind"] not in CUSTOM]
    for manifest in known:
        validator.validate(manifest, kubernetes, strict=True)
    return len(known)


@cache
def _validator() -> Any:
    sys.path.insert(0, str(require(SCHEMAS)))
    try:
        return importlib.import_module("kubernetes_validate")
    finally:
        sys.path.remove(str(SCHEMAS))


def find(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The one object of that kind and name."""
    (found,) = [one for one in manifests if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Name of the workload and pod template of everything that makes pods."""
    for manifest in manifests:
        if manifest["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]


def component(manifest: Manifest) -> str:
    name: str = manifest["metadata"]["labels"]["app.kubernetes.io/component"]
    return name


def environment(container: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of a container: a value, or where it comes from."""
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container.get("env", ())}
