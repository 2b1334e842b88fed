"""The values: documented, in the schema, and none of them without an effect."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from helm import document
from tests.kubernetes import api_objects
from tests.kubernetes.chart import (
    CHART,
    CPU,
    DEFAULT,
    EVERYTHING,
    OBJECT_STORE,
    Manifest,
    Refused,
    helm,
    render,
    validate,
)
from tests.kubernetes.tools import PROJECT

pytestmark = pytest.mark.timeout(900)
VALUES = document.read((CHART / "values.yaml").read_text())
LEAVES = [leaf for value in VALUES for leaf in value.leaves()]

# Where a value only matters beside another one, or next to none.
SURROUNDINGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "everything": (EVERYTHING, {}),
    "default": (DEFAULT, {}),
    "object store": (OBJECT_STORE, {}),
    "new claims": (CPU, {}),
    "several GPUs": (DEFAULT, {name: {"gpu": {"count": 4}} for name in ("inference", "judge", "rewardModel")}),
    "own secrets": (DEFAULT, {"auth": {"existingSecret": "a"}, "redis": {"auth": {"existingSecret": "b"}}}),
    "a load balancer": (
        DEFAULT,
        {"coordinator": {"service": {"type": "LoadBalancer"}}, "networkPolicy": {"enabled": False}},
    ),
    "a Prometheus with a token": (EVERYTHING, {"inference": {"autoscaling": {"authenticationRef": {"name": "a"}}}}),
    "another Redis": (DEFAULT, {"redis": {"external": {"url": "redis://elsewhere:6379/0"}}}),
    "another Redis by secret": (DEFAULT, {"redis": {"external": {"existingSecret": "url", "port": 6379}}}),
}
SAMPLES: dict[str, Any] = {
    "logLevel": "DEBUG",
    "pullPolicy": "Always",
    "accessModes": ["ReadWriteOnce"],
    "kind": "hpa",
    "engine": "transformers",
    "type": "NodePort",
    "whenUnsatisfiable": "DoNotSchedule",
    "env": [{"name": "SAMPLE", "value": "1"}],
    "keys": [{"name": "sample", "existingSecret": "a", "existingSecretKey": "b"}],
    "kubernetesApiPorts": [16443],
    "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sample"}}],
    "podSecurityContext": {"runAsUser": 5},
    "containerSecurityContext": {"readOnlyRootFilesystem": False},
    "resources": {"limits": {"memory": "300Gi"}},
    "size": "3Gi",
    "cacheSize": "3Gi",
    "sharedMemory": "3Gi",
    "maxMemory": "300mb",
    "verifierWorkers": 1,
    "dnsPorts": [5353],
    "initContainers": [{"name": "sample", "image": "sample"}],
    "extraContainers": [{"name": "sample", "image": "sample"}],
    "envFrom": [{"configMapRef": {"name": "sample"}}],
    "updateStrategy": {"type": "OnDelete"},
    "externalTrafficPolicy": "Local",
    "loadBalancerSourceRanges": ["10.0.0.0/8"],
    "inference.autoscaling.authenticationRef.kind": "ClusterTriggerAuthentication",
    "tolerations": [{"key": "sample", "operator": "Exists"}],
    "affinity": {"podAffinity": {}},
    "extraVolumes": [{"name": "sample", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "tmp", "mountPath": "/sample"}],
    "ingressFrom": [{"podSelector": {"matchLabels": {"sample": "sample"}}}],
    "metricsFrom": [{"podSelector": {"matchLabels": {"sample": "sample"}}}],
    "dnsTo": [{"podSelector": {"matchLabels": {"sample": "sample"}}}],
    "kubernetesApiTo": [{"podSelector": {"matchLabels": {"sample": "sample"}}}],
    "to": [{"podSelector": {"matchLabels": {"sample": "sample"}}}],
    "egress": [{"ports": [{"port": 443}]}],
    "parentRefs": [{"name": "sample"}],
    "pullSecrets": ["sample"],
    "hostnames": ["sample"],
    "extraArgs": ["sample"],
    "url": "s3://sample/sample",
    "redis.external.url": "redis://sample:6379",
    "prefixes": ["hf://sample"],
    "storage.records.accessModes": ["ReadWriteMany"],
}


def another(leaf: document.Value) -> Any:
    """A value that differs from the default."""
    name = leaf.path.rpartition(".")[2]
    for key in (leaf.path, name):
        if key in SAMPLES:
            return SAMPLES[key]
    if isinstance(leaf.default, bool):
        return not leaf.default
    if isinstance(leaf.default, int):
        return leaf.default + 1
    if isinstance(leaf.default, str):
        return "sample"
    return [{"sample": "sample"}] if isinstance(leaf.default, list) else {"sample": "sample"}


def nested(path: str, value: Any, into: dict[str, Any]) -> dict[str, Any]:
    """A copy of `into` with `path` set."""
    head, _, rest = path.partition(".")
    return into | {head: nested(rest, value, into.get(head, {})) if rest else value}


def test_the_schema_and_the_table_of_the_readme_are_current() -> None:
    command = [sys.executable, str(PROJECT / "helm/document.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_schemas_of_kubernetes_own_objects_are_those_of_its_newest_version() -> None:
    assert api_objects.FILE.read_text() == api_objects.wanted()


def test_the_schema_has_every_key_of_the_values_and_no_other() -> None:
    def keys(schema: dict[str, Any], prefix: str = "") -> Iterator[str]:
        for name, inner in schema["properties"].items():
            if inner.get("additionalProperties") is False and "items" not in inner:
                yield from keys(inner, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}"

    schema = document.schema(VALUES)
    assert sorted(keys(schema)) == sorted([*(leaf.path for leaf in LEAVES), "global"])


@pytest.mark.parametrize("minor", [25, 31, 37])
@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_every_kind_of_installation_meets_the_schemas(surroundings: str, minor: int) -> None:
    file, extra = SURROUNDINGS[surroundings]
    assert validate(render(file, values=extra, kubernetes=f"1.{minor}"), f"1.{minor}") > 20


def test_every_value_changes_something_into_what_kubernetes_takes() -> None:
    """For each value there is an installation that it changes, and what it changes meets the schemas."""
    before = {name: render(file, values=extra) for name, (file, extra) in SURROUNDINGS.items()}

    def wrong(leaf: document.Value) -> str:
        """What is wrong with a value; empty for nothing."""
        refusals = []
        for value in (another(leaf), leaf.default):  # the default where it was changed already
            for name, (file, extra) in SURROUNDINGS.items():
                try:
                    after = render(file, values=nested(leaf.path, value, extra))
                except Refused as refused:
                    refusals.append(str(refused).strip())
                    continue
                if changed := [manifest for manifest in after if manifest not in before[name]]:
                    return _refusal(changed, f"{leaf.path}={value}")
                if len(after) < len(before[name]):
                    return ""
        return f"{leaf.path} changes nothing: {refusals}"

    with ThreadPoolExecutor(2) as pool:
        found = [text for text in pool.map(wrong, LEAVES) if text]
    assert not found, "\n".join(found)


def _refusal(manifests: list[Manifest], what: str) -> str:
    try:
        validate(manifests, "1.32")
    except Exception as error:  # noqa: BLE001 - the validator has many kinds
        return f"{what}: {error}"
    return ""


@pytest.mark.parametrize("program", ["helm3", "helm4"])
@pytest.mark.parametrize(
    "values",
    [None, DEFAULT, CPU, EVERYTHING, OBJECT_STORE],
    ids=["none", "default", "cpu", "everything", "object store"],
)
def test_helm_finds_nothing_to_complain_about(program: str, values: Any) -> None:
    helm("lint", "--strict", str(CHART), *(["--values", str(values)] if values else []), program=program)
