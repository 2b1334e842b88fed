"""What the coordinator sees of pods and does to the scale, on a real API server that is sometimes not there."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from redis.asyncio import Redis
from structlog.testing import capture_logs

from services.coordinator.app import create_app
from services.coordinator.cluster import kubernetes
from services.coordinator.cluster.fleet import Fleet
from services.coordinator.cluster.pods import Pod
from services.coordinator.cluster.scaling import Autoscaled
from services.coordinator.cluster.takeover import take_over
from services.coordinator.control.runs import Runs
from services.coordinator.records.store import RunStore
from services.coordinator.settings import CoordinatorSettings
from syncline import keys
from syncline.streams import StreamConsumer, Streams
from tests.kubernetes.chart import DEFAULT, find, render
from tests.kubernetes.control_plane.server import ControlPlane
from tests.kubernetes.proxy import Proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
GENERATORS = "rl-syncline-inference"
LABELS = {"app.kubernetes.io/component": "inference", "app.kubernetes.io/instance": "rl"}


class Cluster:
    """A namespace with the chart's Role, and a coordinator that sees it through a proxy with that Role's token."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self.control_plane = control_plane
        self.namespace = namespace
        self.gone: list[str] = []
        self.fleet: Fleet
        self.api: httpx.AsyncClient
        self.proxy: Proxy

    def kubectl(self, *arguments: str, **options: Any) -> str:
        return self.control_plane.kubectl("--namespace", self.namespace, *arguments, **options)

    def pod(self, name: str, *, on_node: bool = True) -> None:
        """A pod object that no kubelet looks at; `say` plays the kubelet."""
        container = {"name": "inference", "image": "none", "resources": {"limits": {"nvidia.com/gpu": 8}}}
        spec: dict[str, Any] = {"containers": [container], "terminationGracePeriodSeconds": 30}
        if on_node:
            spec["schedulerName"] = "nobody"
        metadata = {"name": name, "namespace": self.namespace, "labels": LABELS}
        self.control_plane.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    async def say(self, name: str, **status: Any) -> None:
        """Write a pod's status, as a kubelet does."""
        async with kubernetes.connected(self.control_plane.kubeconfig) as api:
            await kubernetes.client.CoreV1Api(api).patch_namespaced_pod_status(
                name, self.namespace, {"status": status}, _content_type="application/merge-patch+json"
            )

    async def pods(self) -> dict[str, Any]:
        return {pod["name"]: pod for pod in (await self.api.get("/v1/fleet")).json()["pods"]}

    async def until_pod(self, name: str, condition: Callable[[dict[str, Any]], bool], *, within_s: float = 10) -> None:
        seen: Any = None
        try:
            async with asyncio.timeout(within_s):
                while (seen := (await self.pods()).get(name)) is None or not condition(seen):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{name} did not come to be so within {within_s:g} s; it is {seen}") from None

    async def until_replicas(self, replicas: int) -> None:
        """Nobody waits for an answer that somebody else has asked for: it is there a moment later."""
        async with asyncio.timeout(20):
            while (await self.api.get("/v1/fleet")).json()["replicas"] != replicas:
                await asyncio.sleep(0.1)

    async def until_gone(self, name: str, *, within_s: float = 10) -> None:
        async with asyncio.timeout(within_s):
            while name not in self.gone:
                await asyncio.sleep(0.05)
        assert name not in await self.pods()


@asynccontextmanager
async def coordinator(control_plane: ControlPlane, redis: Redis, folder: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(control_plane, f"lab-{uuid.uuid4().hex[:8]}")
    control_plane.kubectl("create", "namespace", cluster.namespace)
    token = _install_role(cluster)
    async with Proxy(control_plane.address, control_plane.port) as proxy:
        kubeconfig = control_plane.write_kubeconfig(
            folder / "kubeconfig", token=token, url=f"https://127.0.0.1:{proxy.port}"
        )
        async with kubernetes.connected(kubeconfig) as client, _rest(cluster, client, redis, folder) as cluster.api:
            cluster.proxy = proxy
            yield cluster


@asynccontextmanager
async def _rest(cluster: Cluster, client: Any, redis: Redis, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    settings = CoordinatorSettings(run_root=folder / "runs")
    cluster.fleet = fleet = Fleet(redis, load_deadline_s=10)

    async def gone(pod: Pod) -> None:
        await take_over(redis, pod)
        cluster.gone.append(pod.name)

    watch = kubernetes.PodWatch(
        client,
        fleet.cluster,
        namespace=cluster.namespace,
        selector="app.kubernetes.io/instance=rl",
        gone=gone,
    )
    scale = kubernetes.StatefulSetScale(client, cluster.namespace, GENERATORS)
    runs = Runs(RunStore(settings.run_root), redis=redis, fleet=fleet, settings=settings)
    app = create_app(runs_=runs, fleet_=fleet, redis=redis, scale=scale)
    watching = [
        asyncio.create_task(watch.run()),
        asyncio.create_task(kubernetes.watch_for_shortage(scale, fleet.cluster)),
    ]
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as api:
            yield api
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)


def _install_role(cluster: Cluster) -> str:
    """The chart's own service account and Role of the coordinator, and generators to scale; the account's token."""
    manifests = render(DEFAULT, kubernetes="1.20")
    chosen = [find(manifests, kind, "rl-syncline-coordinator") for kind in ("ServiceAccount", "Role", "RoleBinding")]
    chosen.append(_generators())
    text = yaml.safe_dump_all(chosen).replace("namespace: lab", f"namespace: {cluster.namespace}")
    cluster.kubectl("apply", "--filename", "-", stdin=text)
    return cluster.control_plane.token_of(cluster.namespace, "rl-syncline-coordinator")


def _generators() -> dict[str, Any]:
    template = {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "inference", "image": "none"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": LABELS}, "podManagementPolicy": "Parallel", "template": template}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": GENERATORS, "namespace": "lab"},
        "spec": {"serviceName": GENERATORS, **spec},
    }


@pytest.fixture
async def cluster(control_plane: ControlPlane, redis: Redis, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with coordinator(control_plane, redis, tmp_path) as cluster:
        yield cluster


def waiting(reason: str, message: str, *, last: dict[str, Any] | None = None, restarts: int = 0) -> list[Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    last_state = {"terminated": last} if last else {}
    more = {"name": "inference", "image": "none", "imageID": "", "ready": False}
    return [{**more, "restartCount": restarts, "state": state, "lastState": last_state}]


async def test_the_fleet_tells_why_pods_do_not_work(cluster: Cluster) -> None:
    # The scheduler's own words, of a StatefulSet's pod that no node has GPUs for
    await cluster.until_pod(f"{GENERATORS}-0", lambda pod: pod["reason"] == "Unschedulable", within_s=30)
    pending = (await cluster.pods())[f"{GENERATORS}-0"]
    assert (pending["phase"], pending["registered"], pending["ready"]) == ("Pending", False, False)
    assert "no nodes available to schedule pods" in pending["message"]

    # A kubelet's words, of containers that crash and of one that was killed for its memory
    cluster.pod("crashing")
    killed = {"exitCode": 137, "reason": "OOMKilled", "startedAt": None, "finishedAt": None}
    status = waiting("CrashLoopBackOff", "back-off 40s restarting failed container", last=killed, restarts=3)
    await cluster.say("crashing", phase="Running", containerStatuses=status)
    await cluster.until_pod("crashing", lambda pod: pod["reason"] == "CrashLoopBackOff")
    crashing = (await cluster.pods())["crashing"]
    assert (crashing["last_exit"], crashing["restarts"]) == ("OOMKilled (exit code 137)", 3)
    assert "back-off 40s" in crashing["trouble"]
    assert "OOMKilled" in cluster.fleet.pods_say("inference")  # which is what a run says of itself
    assert 'syncline_pods_not_ready{component="inference"} 2.0' in (await cluster.api.get("/metrics")).text

    # And when it is well again, it has nothing to say
    await cluster.say("crashing", phase="Running", containerStatuses=None, conditions=[ready()])
    await cluster.until_pod("crashing", lambda pod: pod["ready"] and not pod["trouble"])


def ready() -> dict[str, Any]:
    return {"type": "Ready", "status": "True", "lastProbeTime": None, "lastTransitionTime": None}


async def test_the_work_of_a_pod_that_is_gone_is_anothers_at_once_and_of_one_that_drains_its_own(
    cluster: Cluster, redis: Redis
) -> None:
    stream, streams = keys.prompts("run-a", 0), Streams(redis)
    await streams.open_run("run-a")
    await streams.add_all(stream, run_id="run-a", payloads=[b"1", b"2", b"3"])
    cluster.pod("leaving")
    await cluster.until_pod("leaving", lambda pod: True)
    group = {"stream": stream, "group": keys.INFERENCE_GROUP, "run_id": "run-a", "lease_s": 3600}
    leaving, staying = (StreamConsumer(redis, consumer=name, **group) for name in ("leaving", "staying"))
    held = await leaving.take(3, wait_s=1)
    assert len(held) == 3

    # When the pod is told to stop, then its work stays its own: it may well finish
    cluster.kubectl("patch", "pod", "leaving", "--patch", '{"metadata": {"finalizers": ["test/hold"]}}')
    cluster.kubectl("delete", "pod", "leaving", "--wait=false")
    await cluster.until_pod("leaving", lambda pod: pod["deleting"] and pod["reason"] == "Terminating")
    assert await staying.take(3, wait_s=0.5) == []
    assert await leaving.hand_over(held[0], run_id="run-a", to=keys.ROLLOUTS, payload=b"1") == "moved"

    # When it is gone, then the others have the rest at once, hours before its lease runs out
    cluster.kubectl("patch", "pod", "leaving", "--patch", '{"metadata": {"finalizers": null}}')
    await cluster.until_gone("leaving")
    taken = await staying.take(3, wait_s=1)
    assert {entry.payload for entry in taken} == {b"2", b"3"}
    # ... and a process that lives on, cut off from its cluster, can hand nothing over.
    assert await leaving.hand_over(held[1], run_id="run-a", to=keys.ROLLOUTS, payload=b"2") == "lost"


async def test_rest_and_kubectl_scale_the_same_number(cluster: Cluster) -> None:
    await cluster.until_replicas(1)
    answer = await cluster.api.patch("/v1/fleet", json={"replicas": 3})
    assert (answer.status_code, answer.json()["replicas"]) == (202, 3)
    for ordinal in range(3):
        await cluster.until_pod(f"{GENERATORS}-{ordinal}", lambda pod: True, within_s=20)
    cluster.kubectl("scale", "statefulset", GENERATORS, "--replicas=1")
    await cluster.until_replicas(1)
    await cluster.until_gone(f"{GENERATORS}-2", within_s=20)
    assert list(await cluster.pods()) == [f"{GENERATORS}-0"]


async def test_pods_that_are_refused_before_they_exist_are_told_of(cluster: Cluster) -> None:
    cluster.kubectl("create", "quota", "small", "--hard=pods=1")
    await cluster.until_pod(f"{GENERATORS}-0", lambda pod: True, within_s=30)
    cluster.kubectl("scale", "statefulset", GENERATORS, "--replicas=3")

    async def missing() -> str:
        words: str = (await cluster.api.get("/v1/fleet")).json()["pods_missing"]
        return words

    async with asyncio.timeout(60):
        while "3 generators are wanted, and 1 of their pods exist" not in await missing():
            await asyncio.sleep(0.2)
    assert f"describe statefulset {GENERATORS}" in cluster.fleet.pods_say()  # which is what a run says of itself
    assert cluster.fleet.pods_say("learner") == ""
    cluster.kubectl("delete", "quota", "small")
    async with asyncio.timeout(90):
        while await missing():
            await asyncio.sleep(0.2)


async def test_a_number_that_an_autoscaler_chooses_is_read_and_not_changed(cluster: Cluster) -> None:
    app = cluster.api._transport.app  # type: ignore[attr-defined]
    app.state.scale = Autoscaled(app.state.scale, autoscaler=f"HorizontalPodAutoscaler {GENERATORS}")
    await cluster.until_replicas(1)
    refused = await cluster.api.patch("/v1/fleet", json={"replicas": 2})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert f"HorizontalPodAutoscaler {GENERATORS} chooses the number of generators" in refused.json()["detail"]
    scale = json.loads(cluster.kubectl("get", "statefulset", GENERATORS, "--output=json"))
    assert scale["spec"]["replicas"] == 1


async def test_a_watch_that_is_dropped_goes_on_from_where_it_was(cluster: Cluster) -> None:
    cluster.pod("before")
    await cluster.until_pod("before", lambda pod: True)
    for number in range(3):
        cluster.proxy.drop()
        cluster.pod(f"after-{number}")
        await cluster.until_pod(f"after-{number}", lambda pod: True, within_s=15)
    cluster.proxy.drop()
    cluster.kubectl("delete", "pod", "before", "--grace-period=0", "--force")
    await cluster.until_gone("before", within_s=15)


async def test_an_expired_history_is_listed_anew(cluster: Cluster) -> None:
    # Given a watch that is cut off while pods come and go and etcd forgets how
    cluster.pod("stays")
    cluster.pod("goes")
    await cluster.until_pod("goes", lambda pod: True)
    cluster.proxy.be("refuse")
    cluster.kubectl("delete", "pod", "goes", "--grace-period=0", "--force")
    cluster.pod("comes")
    # When it asks for a version that neither etcd nor a server that was just started knows any more
    cluster.control_plane.compact()
    cluster.control_plane.restart_api_server()
    with capture_logs() as logs:
        cluster.proxy.be("pass")
        await cluster.until_pod("comes", lambda pod: True, within_s=30)
    assert any("410 Gone" in str(entry.get("error")) for entry in logs), logs
    # Then the picture is right, and the pod that went unseen is known to be gone
    await cluster.until_gone("goes", within_s=20)
    assert "stays" in await cluster.pods()


@pytest.mark.parametrize("mood", ["refuse", "silent"])
async def test_an_api_server_that_is_away_keeps_nobody_waiting(cluster: Cluster, mood: Any) -> None:
    cluster.pod("known")
    await cluster.until_pod("known", lambda pod: True)
    cluster.proxy.be(mood)
    # The last picture stays, scaling says what is wrong, and reading waits for nobody for long
    async with asyncio.timeout(15):
        fleet = (await cluster.api.get("/v1/fleet")).json()
        refused = await cluster.api.patch("/v1/fleet", json={"replicas": 2})
    assert "known" in {pod["name"] for pod in fleet["pods"]}
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert "the Kubernetes API does not answer" in refused.json()["detail"]
    async with asyncio.timeout(60):
        while "does not answer" not in (await cluster.api.get("/v1/fleet")).json()["pods_trouble"]:
            await asyncio.sleep(0.2)
    # When it is back, then so is the watch
    cluster.proxy.be("pass")
    cluster.pod("new")
    await cluster.until_pod("new", lambda pod: True, within_s=30)
    assert (await cluster.api.get("/v1/fleet")).json()["pods_trouble"] == ""


CORE, APPS = "/api/v1/namespaces/{here}", "/apis/apps/v1/namespaces/{here}"
GENERATORS_SCALE = f"{APPS}/statefulsets/{GENERATORS}/scale"
ALLOWED = [
    ("GET", f"{CORE}/pods"),
    ("GET", f"{CORE}/pods?watch=true&timeoutSeconds=1"),
    ("GET", f"{CORE}/pods/{GENERATORS}-0"),
    ("GET", GENERATORS_SCALE),
    ("PATCH", GENERATORS_SCALE),
]
FORBIDDEN = [
    ("POST", f"{CORE}/pods"),
    ("PATCH", f"{CORE}/pods/{GENERATORS}-0"),
    ("DELETE", f"{CORE}/pods/{GENERATORS}-0"),
    ("DELETE", f"{CORE}/pods"),
    ("POST", f"{CORE}/pods/{GENERATORS}-0/exec?command=sh&stdout=true"),
    ("POST", f"{CORE}/pods/{GENERATORS}-0/eviction"),
    ("GET", f"{CORE}/pods/{GENERATORS}-0/log"),
    ("GET", f"{CORE}/secrets"),
    ("GET", f"{CORE}/secrets/any"),
    ("GET", f"{CORE}/configmaps"),
    ("GET", f"{CORE}/events"),
    ("POST", f"{CORE}/events"),
    ("POST", f"{CORE}/serviceaccounts/default/token"),
    ("PUT", GENERATORS_SCALE),
    ("GET", f"{APPS}/statefulsets"),
    ("PATCH", f"{APPS}/statefulsets/{GENERATORS}"),
    ("DELETE", f"{APPS}/statefulsets/{GENERATORS}"),
    ("PATCH", f"{APPS}/statefulsets/rl-syncline-learner/scale"),
    ("PATCH", f"{APPS}/deployments/rl-syncline-reward/scale"),
    ("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/{here}/roles"),
    ("GET", "/api/v1/nodes"),
    ("GET", "/api/v1/pods"),
    ("GET", "/api/v1/namespaces/kube-system/pods"),
]


async def test_the_coordinators_own_token_can_do_what_it_must_and_nothing_else(cluster: Cluster) -> None:
    await cluster.until_pod(f"{GENERATORS}-0", lambda pod: True, within_s=30)
    token = cluster.control_plane.token_of(cluster.namespace, "rl-syncline-coordinator")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/merge-patch+json"}
    async with httpx.AsyncClient(
        base_url=cluster.control_plane.url, headers=headers, verify=False, trust_env=False, timeout=20
    ) as api:

        async def ask(method: str, path: str) -> int:
            if method in ("GET", "DELETE"):
                return (await api.request(method, path.format(here=cluster.namespace))).status_code
            kind = None if method == "PATCH" else {"Content-Type": "application/json"}
            return (await api.request(method, path.format(here=cluster.namespace), json={}, headers=kind)).status_code

        assert [(*one, status) for one in ALLOWED if (status := await ask(*one)) != 200] == []
        assert [(*one, status) for one in FORBIDDEN if (status := await ask(*one)) != 403] == []
