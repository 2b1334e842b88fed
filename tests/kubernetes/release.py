"""A release of the chart on a test cluster, as its user sees it: Helm, kubectl and the REST API."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.kubernetes.chart import CHART, CPU, helm
from tests.kubernetes.control_plane.server import ControlPlane
from tests.kubernetes.kubelet.node import Kubelet

NAMESPACE, NAME = "lab", "rl"
FULL_NAME = f"{NAME}-syncline"
GENERATORS = f"{FULL_NAME}-inference"
IMAGES = {f"syncline/{service}:0.1.0" for service in ("coordinator", "inference", "reward", "learner")}
IMAGES |= {"docker.io/valkey/valkey:8.1"}
_PATIENT = {"periodSeconds": 10, "timeoutSeconds": 60, "failureThreshold": 6}
SMALL: dict[str, Any] = {
    # The light engine, stops that do not take minutes, and probes for a machine that is busy with all the pods at once.
    "inference": {"engine": "transformers", "drainSeconds": 15},
    "learner": {"drainSeconds": 15},
    "reward": {"drainSeconds": 10},
    "coordinator": {"drainSeconds": 10},
    "probes": {"readiness": {**_PATIENT, "periodSeconds": 3}, "liveness": {**_PATIENT, "periodSeconds": 60}},
}
_TERMINAL = ("succeeded", "failed", "cancelled")


class Release:
    """`install` first. The same questions as of a local stack in tests/e2e."""

    def __init__(self, control_plane: ControlPlane, kubelet: Kubelet, folder: Path) -> None:
        self.control_plane = control_plane
        self.kubelet = kubelet
        self._values = folder / "values.yaml"
        self._values.write_text(yaml.safe_dump(SMALL))
        self._api: httpx.Client | None = None

    def rest(self) -> None:
        """Be installed as the values say, with one generator, and without a run at work."""
        if NAME not in self.helm("list", "--short"):
            self.install()
        for run in self.ask("/v1/runs").get("runs", []):
            if run["state"] not in _TERMINAL:
                self.api.post(f"/v1/runs/{run['id']}:cancel")
        self.kubectl("scale", "statefulset", GENERATORS, "--replicas=1")
        self.until(self._rests, what="one generator, ready, and no run at work")

    def _rests(self) -> bool:
        pods = self.ask("/v1/fleet").get("pods", [])
        generators = [pod["ready"] for pod in pods if pod["name"].startswith(GENERATORS)]
        runs = self.ask("/v1/runs").get("runs")
        return generators == [True] and runs is not None and all(run["state"] in _TERMINAL for run in runs)

    # -- Helm and kubectl ----------------------------------------------------------------------------

    def prepare(self) -> None:
        """What a cluster has: a namespace, and a class of storage."""
        self.kubectl("create", "namespace", NAMESPACE)
        self.control_plane.apply(
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {
                    "name": "standard",
                    "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
                },
                "provisioner": "syncline/folders-of-this-machine",
            }
        )

    def helm(self, *arguments: str) -> str:
        """Helm 3, which most clusters are used with."""
        where = ("--namespace", NAMESPACE, "--kubeconfig", str(self.control_plane.kubeconfig))
        return helm(*arguments, *where, program="helm3")

    def install(self, *options: str) -> None:
        self.helm("install", NAME, str(CHART), *self.values, "--wait", "--timeout=8m", *options)

    def uninstall(self) -> None:
        self.helm("uninstall", NAME, "--wait", "--timeout=5m")
        self.until(lambda: not self.pods(), what="all pods to be gone")
        self._api = None

    def upgrade(self, *options: str) -> None:
        self.helm("upgrade", NAME, str(CHART), *self.values, "--wait", "--timeout=8m", *options)

    @property
    def values(self) -> list[str]:
        """Options for Helm: the chart's CPU values, and what makes them small enough for tests."""
        return ["--values", str(CPU), "--values", str(self._values)]

    def kubectl(self, *arguments: str) -> str:
        return self.control_plane.kubectl("--namespace", NAMESPACE, *arguments)

    def patch(self, statefulset: str, spec: dict[str, Any]) -> None:
        """Change a StatefulSet's spec behind Helm's back."""
        self.kubectl("patch", "statefulset", statefulset, "--patch", json.dumps({"spec": spec}))

    def recreate(self, statefulset: str) -> None:
        """Make it anew from the chart, without what `patch` has added."""
        self.kubectl("delete", "statefulset", statefulset)
        self.upgrade()

    def pods(self, component: str = "") -> dict[str, dict[str, Any]]:
        """Pods of a component (or all) by name."""
        selector = [f"--selector=app.kubernetes.io/component={component}"] if component else []
        items = json.loads(self.kubectl("get", "pods", "--output=json", *selector))["items"]
        return {pod["metadata"]["name"]: pod for pod in items}

    def claim(self, volume: str) -> Path:
        """The folder of this machine behind a claim of the chart."""
        return self.kubelet.claim(NAMESPACE, f"{FULL_NAME}-{volume}")

    # -- the REST API --------------------------------------------------------------------------------

    @property
    def api(self) -> httpx.Client:
        """The coordinator, at the address that its pod was found at."""
        if self._api is None:
            (pod,) = [pod for pod in self.pods("coordinator").values() if "deletionTimestamp" not in pod["metadata"]]
            secret = json.loads(self.kubectl("get", "secret", f"{FULL_NAME}-auth", "--output=json"))
            token = base64.b64decode(secret["data"]["token"]).decode()
            url, headers = f"http://{pod['status']['podIP']}:8080", {"Authorization": f"Bearer {token}"}
            self._api = httpx.Client(base_url=url, headers=headers, timeout=20, trust_env=False)
        return self._api

    def ask(self, path: str, **parameters: Any) -> dict[str, Any]:
        """The answer of the coordinator; {} while it does not answer."""
        try:
            answer = self.api.get(path, params=parameters)
        except (httpx.TransportError, ValueError, KeyError):
            self._api = None  # its pod may be another one by now
            return {}
        found: dict[str, Any] = answer.json() if answer.is_success else {}
        return found

    def submit(self, spec: dict[str, Any]) -> str:
        answer = self.api.post("/v1/runs", json=spec)
        assert answer.status_code == 202, answer.text
        run_id: str = answer.json()["id"]
        return run_id

    def run(self, run_id: str) -> dict[str, Any]:
        return self.ask(f"/v1/runs/{run_id}") or {"state": "unknown", "progress": {"step": -1}, "reason": ""}

    def steps(self, run_id: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        token = ""
        while True:
            page = self.api.get(f"/v1/runs/{run_id}/steps", params={"page_size": 1000, "page_token": token}).json()
            rows += page["steps"]
            if not (token := page["next_page_token"]):
                return rows

    def at_step(self, run_id: str, step: int, *, within_s: float = 240) -> None:
        self.until(lambda: self._at(run_id, step), what=f"step {step} of {run_id}", within_s=within_s)

    def _at(self, run_id: str, step: int) -> bool:
        run = self.run(run_id)
        assert run["state"] not in ("failed", "cancelled"), run["reason"]
        return bool(run["progress"]["step"] >= step)

    def finish(self, run_id: str, *, within_s: float = 420) -> dict[str, Any]:
        self.until(lambda: self.run(run_id)["state"] in _TERMINAL, what=f"{run_id} to end", within_s=within_s)
        run = self.run(run_id)
        assert run["state"] == "succeeded", run["reason"]
        return run

    def serving(self) -> dict[str, dict[str, Any]]:
        """Generators that hold a version and serve it."""
        members = self.ask("/v1/fleet").get("inference", [])
        return {member["id"]: member for member in members if member["phase"] == "serving"}

    def until(self, condition: Callable[[], bool], *, what: str, within_s: float = 120) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, f"waited {within_s:g} s in vain for {what}\n{self.story()}"
            time.sleep(0.2)

    def story(self) -> str:
        """Pods and the ends of their logs, for the message of a failed test."""
        ends = [f"== {name}\n{self.kubelet.log(name)[-1500:]}" for name in self.pods()]
        return "\n".join([self.kubectl("get", "pods", "--output=wide"), *ends])
