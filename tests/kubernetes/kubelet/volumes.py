"""What a pod finds in its containers: files from the API, claims, empty folders; and its environment."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from tests.kubernetes.kubelet.pod import NotYet

Get = Callable[[str], Awaitable[dict[str, Any]]]
"""The object at a path of the API; {} if there is none."""


async def folder_of(volume: Mapping[str, Any], pod: Mapping[str, Any], folder: Path, get: Get) -> Path:
    """The folder of one volume of a pod. Raises NotYet."""
    here = f"/api/v1/namespaces/{pod['metadata']['namespace']}"
    group = pod["spec"].get("securityContext", {}).get("fsGroup")
    if claim := volume.get("persistentVolumeClaim"):
        found = await _claimed(f"{here}/persistentvolumeclaims/{claim['claimName']}", get)
    elif "emptyDir" in volume:
        found = folder / volume["name"]
        found.mkdir(parents=True, exist_ok=True)
        found.chmod(0o1777)
    else:
        found = folder / volume["name"]
        found.mkdir(parents=True, exist_ok=True)
        for name, content in (await _files(volume, here, get)).items():
            (found / name).write_bytes(content)
    if group is not None:
        os.chown(found, -1, group)
        if "emptyDir" not in volume:
            found.chmod(0o2775)
    return found


async def _claimed(path: str, get: Get) -> Path:
    claim = await get(path)
    if claim.get("status", {}).get("phase") != "Bound":
        raise NotYet(f"ContainerCreating: claim {path.rpartition('/')[2]} is not bound")
    volume = await get(f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}")
    return Path(volume["spec"]["hostPath"]["path"])


async def _files(volume: Mapping[str, Any], here: str, get: Get) -> dict[str, bytes]:
    if secret := volume.get("secret"):
        found = await _needed(f"{here}/secrets/{secret['secretName']}", get)
        return {name: base64.b64decode(value) for name, value in found.get("data", {}).items()}
    if config := volume.get("configMap"):
        found = await _needed(f"{here}/configmaps/{config['name']}", get)
        return {name: value.encode() for name, value in found.get("data", {}).items()}
    raise NotYet(f"FailedMount: this kubelet knows no volume like {volume}")


async def environment_of(
    spec: Mapping[str, Any], pod: Mapping[str, Any], address: str, get: Get, image: Mapping[str, str]
) -> dict[str, str]:
    """The variables of a container: the image's, then its own, each of which may name those before it."""
    here = f"/api/v1/namespaces/{pod['metadata']['namespace']}"
    found = {"HOSTNAME": pod["metadata"]["name"], **image}
    for one in spec.get("env", ()):
        source = one.get("valueFrom", {})
        if field := source.get("fieldRef"):
            value = _field(pod, field["fieldPath"], address)
        elif key := source.get("secretKeyRef"):
            secret = await _needed(f"{here}/secrets/{key['name']}", get, optional=key.get("optional", False))
            value = base64.b64decode(secret.get("data", {}).get(key["key"], "")).decode()
        elif key := source.get("configMapKeyRef"):
            config = await _needed(f"{here}/configmaps/{key['name']}", get, optional=key.get("optional", False))
            value = config.get("data", {}).get(key["key"], "")
        else:
            value = one.get("value", "")
        found[one["name"]] = expand(value, found)
    return found


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` becomes the variable, and stays where there is none."""
    return re.sub(r"\$\((\w+)\)", lambda name: variables.get(name[1], name[0]), text)


def _field(pod: Mapping[str, Any], path: str, address: str) -> str:
    if path == "status.podIP":
        return address
    value: Any = pod
    for part in path.split("."):
        value = value[part]
    return str(value)


async def _needed(path: str, get: Get, *, optional: bool = False) -> dict[str, Any]:
    found = await get(path)
    if not found and not optional:
        raise NotYet(f"CreateContainerConfigError: {path} not found")
    return found
