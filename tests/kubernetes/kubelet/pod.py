"""The life of one pod: its containers, their probes and restarts, its status, its end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import httpx

from tests.kubernetes.kubelet.container import Container

_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 1.0, 20.0  # a tenth of the real ones, roughly
Report = Callable[[Mapping[str, Any]], Awaitable[None]]


class Host(Protocol):
    """What a pod needs of its node."""

    async def containers(self, pod: Mapping[str, Any], address: str) -> list[Container]:
        """The containers, with volumes and environment. Raises NotYet while something is missing."""
        ...


class NotYet(Exception):
    """Why a pod's containers cannot be made at the moment, as `reason: message`."""


class PodLife:
    """`run` from the pod's scheduling to its end; `stop` ends it as a kubelet does."""

    def __init__(self, pod: Mapping[str, Any], host: Host, *, address: str, node_address: str, report: Report) -> None:
        self.pod = pod
        self.address = address
        self._host = host
        self._node_address = node_address
        self._report = report
        self._stopping = False
        self._started_at = _now()
        self._specs = {spec["name"]: spec for spec in pod["spec"]["containers"]}
        self._states: dict[str, dict[str, Any]] = {
            name: {
                "state": {"waiting": {"reason": "ContainerCreating"}},
                "lastState": {},
                "ready": False,
                "restarts": 0,
            }
            for name in self._specs
        }
        self._containers: dict[str, Container] = {}
        self._over: dict[str, int] = {}
        """Exit codes of containers that are not started again."""

    async def run(self) -> None:
        """Run the containers until the pod is over or stopped."""
        await self.tell()
        made = await self._make()
        self._containers = {container.name: container for container in made}
        await asyncio.gather(*(self._keep(container) for container in made))
        await self.tell()

    async def stop(self, grace_s: float) -> None:
        """preStop, SIGTERM, the rest of the grace period, SIGKILL."""
        self._stopping = True
        await asyncio.gather(*(self._stop(name, container, grace_s) for name, container in self._containers.items()))

    async def _stop(self, name: str, container: Container, grace_s: float) -> None:
        try:
            async with asyncio.timeout(grace_s):
                hook = self._specs[name].get("lifecycle", {}).get("preStop", {}).get("exec")
                if hook:
                    await container.execute(hook["command"], timeout_s=grace_s)
                container.signal(signal.SIGTERM)
                while "running" in self._states[name]["state"]:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            while "running" in self._states[name]["state"]:
                container.signal(signal.SIGKILL)
                await asyncio.sleep(0.05)

    def kill(self) -> None:
        """End every process now: the node lost its power."""
        self._stopping = True
        for container in self._containers.values():
            container.signal(signal.SIGKILL)

    async def _make(self) -> list[Container]:
        while not self._stopping:
            try:
                return await self._host.containers(self.pod, self.address)
            except NotYet as problem:
                reason, _, message = str(problem).partition(": ")
                for state in self._states.values():
                    state["state"] = {"waiting": {"reason": reason, "message": message}}
                await self.tell()
                await asyncio.sleep(0.5)
        return []

    async def _keep(self, container: Container) -> None:
        """Run a container again and again, as the restart policy says."""
        name, state, backoff_s = container.name, self._states[container.name], _FIRST_BACKOFF_S
        policy = self.pod["spec"].get("restartPolicy", "Always")
        while not self._stopping:
            began = _now()
            await container.start()
            if self._stopping:  # it was told to while the container was being made
                container.signal(signal.SIGKILL)
            state["state"] = {"running": {"startedAt": began}}
            await self.tell()
            probing = asyncio.create_task(self._probe(container))
            code, reason = await container.wait()
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)
            ended = {"exitCode": code, "reason": reason, "startedAt": began, "finishedAt": _now()}
            state["ready"], state["state"] = False, {"terminated": ended}
            if self._stopping or policy == "Never" or (policy == "OnFailure" and code == 0):
                self._over[name] = code
                return
            await self.tell()
            said = f"back-off {backoff_s:g}s restarting failed container={name} pod={self.pod['metadata']['name']}"
            state["lastState"] = {"terminated": ended}
            state["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": said}}
            await asyncio.sleep(0.3)  # long enough to be seen as terminated, as on a real node
            await self.tell()
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, _LONGEST_BACKOFF_S)
            state["restarts"] += 1

    # -- probes --------------------------------------------------------------------------------------

    async def _probe(self, container: Container) -> None:
        spec = self._specs[container.name]
        probe = spec.get("startupProbe")
        if probe and not await self._until(container, probe, True, probe.get("failureThreshold", 3)):
            container.signal(signal.SIGKILL)
            return
        await asyncio.gather(self._follow_readiness(container), self._follow_liveness(container))

    async def _follow_readiness(self, container: Container) -> None:
        probe, state = self._specs[container.name].get("readinessProbe"), self._states[container.name]
        if probe is None:
            state["ready"] = True
            await self.tell()
            return
        while True:
            wanted = not state["ready"]  # one success makes it ready, several failures make it not
            patience = None if wanted else probe.get("failureThreshold", 3)
            if await self._until(container, probe, wanted, patience) is wanted:
                state["ready"] = wanted
                await self.tell()

    async def _follow_liveness(self, container: Container) -> None:
        if probe := self._specs[container.name].get("livenessProbe"):
            await self._until(container, probe, False, probe.get("failureThreshold", 3))
            container.signal(signal.SIGTERM)

    async def _until(self, container: Container, probe: Mapping[str, Any], answer: bool, times: int | None) -> bool:
        """Ask until the answer is yes (or, for `answer` False, no `times` in a row); the last answer.

        With `answer` True, gives up after `times` noes.
        """
        noes = 0
        while True:
            yes = await self._ask(container, probe)
            noes = 0 if yes else noes + 1
            if (answer and yes) or (times is not None and noes >= times):
                return yes
            await asyncio.sleep(probe.get("periodSeconds", 10))

    async def _ask(self, container: Container, probe: Mapping[str, Any]) -> bool:
        timeout_s = float(probe.get("timeoutSeconds", 1))
        if command := probe.get("exec", {}).get("command"):
            return await container.execute(command, timeout_s=timeout_s)
        if get := probe.get("httpGet"):
            url = f"http://{self.address}:{self._port(container.name, get['port'])}{get.get('path', '/')}"
            try:
                async with httpx.AsyncClient(trust_env=False) as http:
                    return (await http.get(url, timeout=timeout_s)).is_success
            except httpx.HTTPError:
                return False
        port = self._port(container.name, probe["tcpSocket"]["port"])
        try:
            async with asyncio.timeout(timeout_s):
                _, writer = await asyncio.open_connection(self.address, port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    def _port(self, container: str, port: int | str) -> int:
        if isinstance(port, int):
            return port
        return next(int(p["containerPort"]) for p in self._specs[container]["ports"] if p.get("name") == port)

    # -- status --------------------------------------------------------------------------------------

    async def tell(self) -> None:
        """Report the pod's status; also now and then without news, as others write it too when a node was silent."""
        ready = bool(self._states) and all(state["ready"] for state in self._states.values())
        unready = [name for name, state in self._states.items() if not state["ready"]]
        why = {} if ready else {"reason": "ContainersNotReady", "message": f"containers with unready status: {unready}"}
        flags = {"Initialized": True, "Ready": ready, "ContainersReady": ready, "PodScheduled": True}
        await self._report(
            {
                "phase": self._phase(),
                "hostIP": self._node_address,
                "podIP": self.address,
                "podIPs": [{"ip": self.address}],
                "startTime": self._started_at,
                "conditions": [
                    {"type": kind, "status": str(value), "lastTransitionTime": _now(), **({} if value else why)}
                    for kind, value in flags.items()
                ],
                "containerStatuses": [
                    {
                        "name": name,
                        "image": self._specs[name]["image"],
                        "imageID": "",
                        "ready": state["ready"],
                        "started": "running" in state["state"],
                        "restartCount": state["restarts"],
                        "state": state["state"],
                        "lastState": state["lastState"],
                    }
                    for name, state in self._states.items()
                ],
            }
        )

    def _phase(self) -> str:
        if len(self._over) == len(self._specs) and not self._stopping:
            return "Failed" if any(self._over.values()) else "Succeeded"
        created = any("waiting" not in state["state"] or state["lastState"] for state in self._states.values())
        return "Running" if created else "Pending"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
