"""The nodes: registered at the API server, kept alive, with a life for each pod that is scheduled to them."""

from __future__ import annotations

import asyncio
import shutil
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from tests.kubernetes.control_plane.server import ControlPlane
from tests.kubernetes.kubelet.container import Container, Mount
from tests.kubernetes.kubelet.network import Network
from tests.kubernetes.kubelet.pod import NotYet, PodLife
from tests.kubernetes.kubelet.volumes import environment_of, expand, folder_of
from tests.kubernetes.tools import PROJECT

_PROGRAMS = Path(__file__).with_name("programs")
_TURN_S = 0.3
_HEARTBEAT_S = 8.0  # the controllers take a node for lost after 40
_MERGE = {"Content-Type": "application/merge-patch+json"}
_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


@dataclass(frozen=True)
class Node:
    """A node as the scheduler sees it."""

    name: str
    cpu: str = "64"
    memory: str = "256Gi"
    gpus: int = 0
    taints: tuple[Mapping[str, str], ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


class Kubelet:
    """`with Kubelet(...)`: all nodes of a test cluster, in a thread. Also binds claims to folders of this machine."""

    def __init__(
        self,
        control_plane: ControlPlane,
        network: Network,
        folder: Path,
        *,
        images: set[str],
        nodes: tuple[Node, ...] = (Node("node-a"),),
    ) -> None:
        """`images`: names of images that can be "pulled"."""
        self._control_plane = control_plane
        self._network = network
        self._folder = folder
        self._images = images
        self._nodes = nodes
        self._lives: dict[str, PodLife] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="kubelet")
        self._stop = threading.Event()
        self.problem: BaseException | None = None

    def __enter__(self) -> Kubelet:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(timeout=60)

    def lose(self, pod: str) -> None:
        """Kill a pod's processes without a word, as a power cut does; the pod's object stays."""
        next(life for life in self._lives.values() if life.pod["metadata"]["name"] == pod).kill()

    def claim(self, namespace: str, name: str) -> Path:
        """The folder behind a claim."""
        return self._folder / "claims" / f"{namespace}-{name}"

    def log(self, pod: str) -> str:
        """What the containers of pods of that name have written."""
        files = sorted(self._folder.glob(f"*.{pod}/*.log"))
        return "\n".join(file.read_text(errors="replace") for file in files)

    async def _run(self) -> None:
        headers = {"Authorization": f"Bearer {self._control_plane.token}"}
        async with httpx.AsyncClient(
            base_url=self._control_plane.url, headers=headers, verify=False, trust_env=False, timeout=10
        ) as self._api:
            loops = [self._heartbeat, self._follow_pods, self._write_hosts, self._bind_claims]
            tasks = [asyncio.create_task(self._repeat(loop)) for loop in loops]
            while not self._stop.is_set():
                await asyncio.sleep(0.1)
            for life in self._lives.values():
                life.kill()
            if lives := [self._tasks[uid] for uid in self._lives]:
                await asyncio.wait(lives, timeout=20)
            for task in (*tasks, *self._tasks.values()):
                task.cancel()
            await asyncio.gather(*tasks, *self._tasks.values(), return_exceptions=True)
            with suppress(httpx.TransportError):
                for node in self._nodes:  # else the scheduler places later pods on them, where nobody runs them
                    await self._api.delete(f"/api/v1/nodes/{node.name}")

    async def _repeat(self, turn: Any) -> None:
        while True:
            pause = _HEARTBEAT_S if turn == self._heartbeat else _TURN_S
            with suppress(httpx.TransportError):  # the API server is away: pods run on
                await turn()
            await asyncio.sleep(pause)

    async def _get(self, path: str) -> dict[str, Any]:
        answer = await self._api.get(path)
        found: dict[str, Any] = answer.json() if answer.is_success else {}
        return found

    # -- nodes ---------------------------------------------------------------------------------------

    async def _heartbeat(self) -> None:
        for node in self._nodes:
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            capacity = {"cpu": node.cpu, "memory": node.memory, "pods": "100", "ephemeral-storage": "100Gi"}
            if node.gpus:
                capacity["nvidia.com/gpu"] = str(node.gpus)
            ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now}
            status = {"capacity": capacity, "allocatable": capacity, "conditions": [ready]}
            patch = {"status": status}
            answer = await self._api.patch(f"/api/v1/nodes/{node.name}/status", json=patch, headers=_MERGE)
            if answer.status_code == httpx.codes.NOT_FOUND:
                labels = {"kubernetes.io/hostname": node.name, **node.labels}
                spec = {"taints": [dict(taint) for taint in node.taints]}
                body = {"metadata": {"name": node.name, "labels": labels}, "spec": spec}
                await self._api.post("/api/v1/nodes", json={"apiVersion": "v1", "kind": "Node", **body})
                await self._api.patch(f"/api/v1/nodes/{node.name}/status", json=patch, headers=_MERGE)

        for life in list(self._lives.values()):
            await life.tell()

    # -- pods ----------------------------------------------------------------------------------------

    async def _follow_pods(self) -> None:
        found = (await self._get("/api/v1/pods")).get("items")
        if found is None:
            return
        ours = {
            pod["metadata"]["uid"]: pod
            for pod in found
            if pod["spec"].get("nodeName") in {node.name for node in self._nodes}
        }
        for uid, pod in ours.items():
            if f"end:{uid}" in self._tasks:
                continue  # its object may be there for a while after its processes have ended
            if uid not in self._lives and pod["status"].get("phase") not in ("Succeeded", "Failed"):
                self._begin(uid, pod)
            if "deletionTimestamp" in pod["metadata"]:
                self._tasks[f"end:{uid}"] = asyncio.create_task(self._end(uid, pod))
        for uid in [uid for uid in self._lives if uid not in ours and f"end:{uid}" not in self._tasks]:
            self._lives[uid].kill()  # its object was deleted by force
            self._tasks[f"end:{uid}"] = asyncio.create_task(self._forget(uid))

    def _begin(self, uid: str, pod: Mapping[str, Any]) -> None:
        async def report(status: Mapping[str, Any]) -> None:
            meta = pod["metadata"]
            path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
            body = {"metadata": {"uid": uid}, "status": status}  # another pod of that name is none of ours
            while True:
                try:
                    await self._api.patch(path, json=body, headers=_MERGE)
                    return
                except httpx.TransportError:
                    await asyncio.sleep(1)

        gateway = self._network.gateway
        life = PodLife(pod, self, address=self._network.add(), node_address=gateway, report=report)
        self._lives[uid] = life
        self._tasks[uid] = asyncio.create_task(life.run())

    async def _end(self, uid: str, pod: Mapping[str, Any]) -> None:
        if life := self._lives.get(uid):
            await life.stop(float(pod["metadata"].get("deletionGracePeriodSeconds", 30)))
            await self._forget(uid)
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        await self._api.request("DELETE", path, json=body)

    async def _forget(self, uid: str) -> None:
        await asyncio.wait([self._tasks[uid]])
        self._network.remove(self._lives.pop(uid).address)

    async def containers(self, pod: Mapping[str, Any], address: str) -> list[Container]:
        """`tests.kubernetes.kubelet.pod.Host`."""
        meta, spec = pod["metadata"], pod["spec"]
        for one in spec["containers"]:
            if one["image"] not in self._images:
                raise NotYet(f'ImagePullBackOff: Back-off pulling image "{one["image"]}"')
        folder = self._folder / f"{meta['uid'][:8]}.{meta['name']}"
        folder.mkdir(parents=True, exist_ok=True)
        volumes = {
            volume["name"]: await folder_of(volume, pod, folder / "volumes", self._get)
            for volume in spec.get("volumes", ())
        }
        hosts = folder / "hosts"
        hosts.write_text("127.0.0.1 localhost\n")
        return [await self._container(one, pod, address, folder, volumes, hosts) for one in spec["containers"]]

    async def _container(
        self,
        spec: Mapping[str, Any],
        pod: Mapping[str, Any],
        address: str,
        folder: Path,
        volumes: Mapping[str, Path],
        hosts: Path,
    ) -> Container:
        variables = await environment_of(spec, pod, address, self._get, self._image())
        mounts = []
        for mount in spec.get("volumeMounts", ()):
            source = volumes[mount["name"]] / mount.get("subPath", "")
            mounts.append(Mount(source, mount["mountPath"], mount.get("readOnly", False)))
        security = pod["spec"].get("securityContext", {}) | spec.get("securityContext", {})
        command = [*spec.get("command", ()), *spec.get("args", ())]
        return Container(
            name=spec["name"],
            folder=folder,
            network=self._network.path(address),
            command=[expand(word, variables) for word in command],
            environment=variables,
            mounts=mounts,
            hosts=hosts,
            user=security.get("runAsUser", 0),
            group=security.get("runAsGroup", 0),
            read_only=security.get("readOnlyRootFilesystem", False),
            entrypoint="command" not in spec,
            memory_bytes=_bytes(spec.get("resources", {}).get("limits", {}).get("memory", "0")),
        )

    def _image(self) -> dict[str, str]:
        """Environment that the images would bring, and the API server's address as every pod is told it."""
        pythons = [f"{prefix}/bin" for prefix in (sys.prefix, sys.base_prefix)]
        return {
            "PATH": ":".join([str(_PROGRAMS), *pythons, "/usr/sbin:/usr/bin:/sbin:/bin"]),
            "PYTHONPATH": f"{PROJECT / 'shared'}:{PROJECT}",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "KUBERNETES_SERVICE_HOST": self._control_plane.address,
            "KUBERNETES_SERVICE_PORT": str(self._control_plane.port),
        }

    # -- names and claims ----------------------------------------------------------------------------

    async def _write_hosts(self) -> None:
        """Names of services, and of the pods behind headless ones, into /etc/hosts of every pod of the namespace."""
        found = (await self._get("/api/v1/endpoints")).get("items", [])
        for life in list(self._lives.values()):
            meta = life.pod["metadata"]
            lines = ["127.0.0.1 localhost", f"{life.address} {meta['name']}"]
            for one in found:
                if one["metadata"]["namespace"] == meta["namespace"]:
                    lines += _names(one)
            hosts = self._folder / f"{meta['uid'][:8]}.{meta['name']}" / "hosts"
            text = "\n".join(lines) + "\n"
            if hosts.exists() and hosts.read_text() != text:
                hosts.write_text(text)  # in place: it is mounted

    async def _bind_claims(self) -> None:
        """A folder for each claim that waits for one."""
        for claim in (await self._get("/api/v1/persistentvolumeclaims")).get("items", []):
            meta, spec = claim["metadata"], claim["spec"]
            if claim["status"].get("phase") != "Pending" or spec.get("volumeName"):
                continue
            folder = self.claim(meta["namespace"], meta["name"])
            folder.mkdir(parents=True, exist_ok=True)
            reference = {key: meta[key] for key in ("namespace", "name", "uid")} | {"kind": "PersistentVolumeClaim"}
            volume = {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": f"pv-{meta['uid']}"},
                "spec": {
                    "capacity": spec["resources"]["requests"],
                    "accessModes": spec["accessModes"],
                    "storageClassName": spec.get("storageClassName", ""),
                    "persistentVolumeReclaimPolicy": "Retain",
                    "hostPath": {"path": str(folder)},
                    "claimRef": reference,
                },
            }
            await self._api.post("/api/v1/persistentvolumes", json=volume)


def remove_folder(folder: Path) -> None:
    """Remove what pods have written, whoever owns it."""
    shutil.rmtree(folder, ignore_errors=True)


def _names(endpoints: Mapping[str, Any]) -> list[str]:
    service, namespace = endpoints["metadata"]["name"], endpoints["metadata"]["namespace"]
    lines = []
    for subset in endpoints.get("subsets", ()):
        for address in subset.get("addresses", ()):
            lines.append(f"{address['ip']} {service} {service}.{namespace} {service}.{namespace}.svc")
            if pod := address.get("hostname"):
                lines.append(f"{address['ip']} {pod}.{service} {pod}.{service}.{namespace}.svc")
    return lines


def _bytes(quantity: str) -> int:
    unit = quantity[-2:]
    return int(quantity[:-2]) * _UNITS[unit] if unit in _UNITS else int(quantity)
