"""The chart installed for real: its pods run as processes below a real control plane, and train."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_a_run import assert_trained_exactly_once
from tests.kubernetes.chart import Refused
from tests.kubernetes.control_plane.server import ControlPlane
from tests.kubernetes.kubelet.container import has_memory_limits
from tests.kubernetes.kubelet.network import Network
from tests.kubernetes.kubelet.node import Kubelet, Node, remove_folder
from tests.kubernetes.release import FULL_NAME, GENERATORS, IMAGES, NAME, Release
from tests.kubernetes.tools import missing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
NODES = (Node("node-a"), Node("gpu-a", gpus=8, taints=(GPU_TAINT,), labels={"accelerator": "fake"}))


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane, network: Network) -> Iterator[Release]:
    """Nodes, and a release of the chart that nobody has installed yet."""
    folder = Path(tempfile.mkdtemp(prefix="syncline-"))
    with Kubelet(control_plane, network, folder, images=IMAGES, nodes=NODES) as kubelet:
        release = Release(control_plane, kubelet, folder)
        release.prepare()
        yield release
    remove_folder(folder)


@pytest.fixture
def release(cluster: Release) -> Release:
    """The CPU values, installed and at rest: tests come in any order, and what one has left behind is no other's."""
    try:
        cluster.rest()
    except Refused as refused:
        pytest.fail(f"{refused}\n{cluster.story()}")
    return cluster


def spec(**changes: Any) -> dict[str, Any]:
    """The quickstart's model and prompts, as the chart's job put them into the claims."""
    return {
        "name": "small",
        "model": {"path": "/models/quickstart"},
        "algorithm": {"name": "dpo", "beta": 0.1},
        "sync": {"period": 4, "lag": 0},
        "steps": 12,
        "prompts_per_step": 8,
        "generation": {"samples_per_prompt": 4, "max_tokens": 5},
        "tasks": [{"name": "add", "data": "/data/quickstart/train.jsonl", "reward": {"type": "math"}}],
        "optimizer": {"lr": 3e-5, "eps": 1e-8, "weight_decay": 0.0, "grad_clip": 1.0},
        "checkpoints": {"every": 4, "keep": 2},
        **changes,
    }


def end_after_exact_steps(release: Release, run_id: str, endless: dict[str, Any]) -> None:
    """Cancel a run; what it has made until then, nothing lost and nothing twice, is what the schedule says."""
    assert release.api.post(f"/v1/runs/{run_id}:cancel").status_code == 200
    made = {**endless, "steps": len(release.steps(run_id))}
    assert_trained_exactly_once(release, run_id, made)  # type: ignore[arg-type]


def test_an_installed_release_trains(release: Release) -> None:
    small = spec()
    run_id = release.submit(small)
    run = release.finish(run_id)
    assert_trained_exactly_once(release, run_id, small)  # type: ignore[arg-type]
    assert run["model_folder"].startswith("/runs/")
    pods = {pod["name"]: pod for pod in release.ask("/v1/fleet")["pods"]}
    assert {f"{GENERATORS}-0", f"{FULL_NAME}-learner-0", f"{FULL_NAME}-redis-0"} <= set(pods)
    assert all(pod["ready"] and pod["registered"] in (True, None) for pod in pods.values())


def seconds_from_ready_to_the_first_group(release: Release, names: list[str]) -> dict[str, float]:
    """Wait for pods to be ready and for their generators to have made a group; how long each had to wait."""
    ready_at: dict[str, float] = {}
    worked_at: dict[str, float] = {}

    def all_have_worked() -> bool:
        fleet, now = release.ask("/v1/fleet"), time.monotonic()
        for pod in fleet.get("pods", ()):
            if pod["ready"]:
                ready_at.setdefault(pod["name"], now)
        for member in fleet.get("inference", ()):
            if member["groups_total"] > 0:
                worked_at.setdefault(member["id"], now)
        return set(names) <= ready_at.keys() & worked_at.keys()

    release.until(all_have_worked, what=f"{', '.join(names)} to be ready and to work")
    return {name: worked_at[name] - ready_at[name] for name in names}


def test_generators_are_scaled_up_and_down_in_mid_run(release: Release) -> None:
    endless = spec(steps=100_000, sync={"period": 2, "lag": 0})
    run_id = release.submit(endless)
    release.at_step(run_id, 2)

    # When kubectl asks for three, then the new ones get the weights and work
    release.kubectl("scale", "statefulset", GENERATORS, "--replicas=3")
    joiners = [f"{GENERATORS}-{ordinal}" for ordinal in (1, 2)]
    waits = seconds_from_ready_to_the_first_group(release, joiners)
    assert max(waits.values()) < 15.0, waits
    release.until(lambda: len(release.serving()) == 3, what="three generators that serve")
    assert release.run(run_id)["state"] == "running"
    assert release.ask("/v1/fleet")["replicas"] == 3

    # When one is lost without a word and its pod removed by force, then its work goes on with the others
    release.kubelet.lose(f"{GENERATORS}-2")
    release.kubectl("delete", "pod", f"{GENERATORS}-2", "--force", "--grace-period=0")

    # When kubectl asks for one, then the others drain and leave
    release.kubectl("scale", "statefulset", GENERATORS, "--replicas=1")
    release.until(lambda: list(release.serving()) == [f"{GENERATORS}-0"], what="one generator")
    release.until(lambda: release.ask("/v1/fleet")["replicas"] == 1, what="the fleet to say so")
    release.at_step(run_id, release.run(run_id)["progress"]["step"] + 3)

    # When the REST API asks for two, then a second one joins again
    answer = release.api.patch("/v1/fleet", json={"replicas": 2})
    assert answer.status_code == 202, answer.text
    release.until(lambda: len(release.serving()) == 2, what="two generators that serve")
    release.at_step(run_id, release.run(run_id)["progress"]["step"] + 3)
    end_after_exact_steps(release, run_id, endless)


def test_a_run_goes_on_while_the_api_server_is_away(release: Release) -> None:
    endless = spec(steps=100_000)
    run_id = release.submit(endless)
    release.at_step(run_id, 2)
    release.control_plane.freeze()
    away_since = time.monotonic()
    try:
        step = release.run(run_id)["progress"]["step"]
        release.until(
            lambda: "does not answer" in release.ask("/v1/fleet").get("pods_trouble", ""), what="the fleet to tell"
        )
        release.at_step(run_id, step + 10)
        assert release.api.patch("/v1/fleet", json={"replicas": 2}).status_code == 503
        assert release.ask("/readyz") == {"status": "ready"}
        release.until(lambda: time.monotonic() - away_since > 60.0, what="a minute to pass")
        release.at_step(run_id, release.run(run_id)["progress"]["step"] + 10)
    finally:
        release.control_plane.thaw()
    release.until(lambda: release.ask("/v1/fleet").get("pods_trouble") == "", what="the watch to be back")
    release.until(  # a server that was away for a minute has much to catch up with
        lambda: release.api.patch("/v1/fleet", json={"replicas": 2}).status_code == 202, what="scaling to work again"
    )
    release.until(lambda: len(release.serving()) == 2, what="the second generator")
    end_after_exact_steps(release, run_id, endless)


def uids(release: Release, component: str = "") -> dict[str, str]:
    """Pods by name, but for those of the quickstart's job."""
    pods = release.pods(component)
    return {name: pod["metadata"]["uid"] for name, pod in pods.items() if "quickstart" not in name}


def test_a_rolling_upgrade_in_mid_run_leaves_a_generator_at_work_at_any_time(release: Release) -> None:
    """A new generator counts only when it serves; so the next one is not replaced before."""
    offline = spec(steps=100_000, sync={"period": "never", "lag": 0})  # nobody is seen to load but newcomers
    run_id = release.submit(offline)
    release.kubectl("scale", "statefulset", GENERATORS, "--replicas=2")
    release.until(lambda: len(release.serving()) == 2, what="two generators that serve")
    release.at_step(run_id, 2)
    before, serving = uids(release, "inference"), []
    with ThreadPoolExecutor(1) as helper:
        upgrade = helper.submit(release.upgrade, "--set=inference.podAnnotations.round=second")
        while not upgrade.done():
            if fleet := release.ask("/v1/fleet"):
                serving.append([member["id"] for member in fleet["inference"] if member["phase"] == "serving"])
            time.sleep(0.1)
        upgrade.result()
    after = uids(release, "inference")
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())  # each pod was replaced
    assert min(map(len, serving)) == 1, "one at a time, and never both"
    end_after_exact_steps(release, run_id, offline)


def test_an_upgrade_of_everything_and_a_rollback_in_mid_run(release: Release) -> None:
    endless = spec(steps=100_000, sync={"period": 2, "lag": 0})
    run_id = release.submit(endless)
    release.kubectl("scale", "statefulset", GENERATORS, "--replicas=2")
    release.at_step(run_id, 2)
    before = uids(release)
    release.upgrade("--set=logLevel=DEBUG", "--set=redis.podAnnotations.round=second")
    after = uids(release)
    assert len(after) == len(before) == 6
    assert not set(after.values()) & set(before.values())
    release.until(lambda: release.run(run_id)["state"] == "running", what="the run to go on")
    release.at_step(run_id, release.run(run_id)["progress"]["step"] + 4)

    # A rollback brings the number of generators that the earlier manifest held, and kubectl the one that is wanted
    stored = release.stored_replicas(revision=release.revision - 1)
    release.helm("rollback", NAME, "--wait", "--timeout=8m")
    release.until(lambda: release.ask("/v1/fleet").get("replicas") == stored, what="the number of that revision")
    release.kubectl("scale", "statefulset", GENERATORS, "--replicas=2")
    release.until(lambda: len(release.serving()) == 2, what="two generators again")
    release.at_step(run_id, release.run(run_id)["progress"]["step"] + 4)
    end_after_exact_steps(release, run_id, endless)


@pytest.fixture
def patched_release(release: Release) -> Iterator[Release]:
    """One whose generators may be patched behind Helm's back; they are made anew afterwards."""
    yield release
    release.recreate(GENERATORS)


def test_pods_that_do_not_work_show_in_the_fleet_and_in_the_run(
    patched_release: Release,
) -> None:
    release = patched_release
    run_id = release.submit(spec(steps=100_000))
    release.at_step(run_id, 1)
    # A second generator that no node has room for
    release.patch(GENERATORS, {"updateStrategy": {"type": "OnDelete", "rollingUpdate": None}})  # leave the first alone
    release.patch(GENERATORS, {"template": {"spec": {"nodeSelector": {"accelerator": "fake"}}}})
    release.kubectl("scale", "statefulset", GENERATORS, "--replicas=2")
    name = f"{GENERATORS}-1"
    release.until(lambda: name in release.run(run_id)["reason"], what="the run to tell of it")
    run = release.run(run_id)
    assert run["state"] == "running"  # the other one works
    assert "Unschedulable" in run["reason"]
    assert "node(s) had taint {nvidia.com/gpu: present}" in run["reason"]
    (pod,) = [pod for pod in release.ask("/v1/fleet")["pods"] if pod["name"] == name]
    assert (pod["phase"], pod["reason"], pod["registered"]) == ("Pending", "Unschedulable", False)

    # With the toleration of the taint and a GPU to ask for it is placed, and works
    container = {"name": "inference", "resources": {"limits": {"nvidia.com/gpu": "8"}}}
    toleration = {"key": "nvidia.com/gpu", "operator": "Exists"}
    release.patch(GENERATORS, {"template": {"spec": {"tolerations": [toleration], "containers": [container]}}})
    release.kubectl("delete", "pod", name)
    release.until(lambda: name in release.serving(), what="the generator on the GPU node")
    assert release.pods("inference")[name]["spec"]["nodeName"] == "gpu-a"
    release.until(lambda: release.run(run_id)["reason"] == "", what="the run to have nothing to complain of")

    # ... and the next one finds that all eight GPUs are taken.
    release.kubectl("scale", "statefulset", GENERATORS, "--replicas=3")
    release.until(lambda: "Insufficient nvidia.com/gpu" in release.run(run_id)["reason"], what="the next one to wait")
    release.kubectl("scale", "statefulset", GENERATORS, "--replicas=2")
    assert release.api.post(f"/v1/runs/{run_id}:cancel").status_code == 200


def test_a_generator_that_is_killed_for_its_memory_says_so_between_its_restarts(patched_release: Release) -> None:
    if not has_memory_limits():
        missing(
            "limiting memory needs root and cgroup v1's memory controller at /sys/fs/cgroup/memory (hybrid will do)"
        )
    release = patched_release
    run_id = release.submit(spec(steps=100_000))
    release.at_step(run_id, 1)
    little = {"name": "inference", "resources": {"limits": {"memory": "48Mi"}, "requests": {"memory": "48Mi"}}}
    release.patch(GENERATORS, {"updateStrategy": {"type": "OnDelete", "rollingUpdate": None}})  # leave the first alone
    release.patch(GENERATORS, {"template": {"spec": {"containers": [little]}}})
    release.kubectl("scale", "statefulset", GENERATORS, "--replicas=2")
    release.until(lambda: "OOMKilled" in release.run(run_id)["reason"], what="the run to tell of the memory")
    assert release.run(run_id)["state"] == "running"
    assert release.api.post(f"/v1/runs/{run_id}:cancel").status_code == 200


@pytest.fixture
def own_engine(release: Release) -> Iterator[Release]:
    """With the engine and the memory limits that values-cpu.yaml itself gives the generators."""
    release.upgrade("--set=inference.engine=vllm")
    yield release
    release.upgrade()


def test_the_cpu_values_train_with_their_own_engine(own_engine: Release) -> None:
    release = own_engine
    small = spec(steps=4)
    run_id = release.submit(small)
    release.finish(run_id)
    assert_trained_exactly_once(release, run_id, small)  # type: ignore[arg-type]
    (generator,) = release.serving().values()
    assert generator["engine"] == "vllm"


def test_uninstalling_keeps_the_checkpoints_and_the_next_installation_finds_them(release: Release) -> None:
    run_id = release.submit(spec(steps=4))
    release.finish(run_id)
    release.uninstall()
    claims = release.kubectl("get", "persistentvolumeclaims", "--output=name").split()
    assert f"persistentvolumeclaim/{FULL_NAME}-runs" in claims
    assert list(release.claim("runs").glob(f"{run_id}/checkpoints/*/model.safetensors"))

    # When the chart is installed again, then the run is there, and another one can start where it ended
    release.install()
    assert release.run(run_id)["state"] == "succeeded"
    second = release.submit(spec(steps=4, model={"path": f"run://{run_id}/final"}))
    release.finish(second)
