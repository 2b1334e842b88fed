"""What pods say, from objects as API servers send them, less the fields that nobody reads."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from prometheus_client import REGISTRY

from services.coordinator import metrics
from services.coordinator.cluster.fleet import Fleet
from services.coordinator.cluster.pods import Picture, Pod, observe
from syncline.membership import Member


def pod(phase: str, *, deleted: bool = False, **status: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": "rl-inference-1",
        "uid": "6e0f",
        "resourceVersion": "812",
        "labels": {"app.kubernetes.io/component": "inference"},
    }
    if deleted:
        metadata |= {"deletionTimestamp": "2026-03-01T10:00:00Z", "deletionGracePeriodSeconds": 135}
    return {"metadata": metadata, "spec": {"nodeName": "node-a"}, "status": {"phase": phase, **status}}


def condition(kind: str, status: str, **more: str) -> dict[str, str]:
    return {"type": kind, "status": status, **more}


def container(state: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    return [{"name": "inference", "ready": False, "restartCount": 0, "state": state, **more}]


UNSCHEDULABLE = condition(
    "PodScheduled", "False", reason="Unschedulable", message="0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
)
NOT_READY = condition("Ready", "False", reason="ContainersNotReady", message="containers with unready status: [x]")
BACK_OFF = "back-off 40s restarting failed container=inference pod=rl-inference-1_lab(6e0f)"


def killed(reason: str = "OOMKilled", code: int = 137) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "finishedAt": "2026-03-01T10:00:00Z"}}


@pytest.mark.parametrize(
    ("thing", "reason", "trouble"),
    [
        pytest.param(
            pod("Pending", conditions=[UNSCHEDULABLE]),
            "Unschedulable",
            "rl-inference-1 is Pending, Unschedulable; 0/2 nodes are available: 2 Insufficient nvidia.com/gpu.",
            id="no node has room",
        ),
        pytest.param(
            pod(
                "Pending",
                conditions=[condition("PodScheduled", "True"), NOT_READY],
                containerStatuses=container(
                    {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "syncline/x"'}}
                ),
            ),
            "ImagePullBackOff",
            'rl-inference-1 is Pending, ImagePullBackOff; Back-off pulling image "syncline/x"',
            id="no such image",
        ),
        pytest.param(
            pod(
                "Running",
                conditions=[NOT_READY],
                containerStatuses=container(
                    {"waiting": {"reason": "CrashLoopBackOff", "message": BACK_OFF}},
                    lastState=killed("Error", 1),
                    restartCount=3,
                ),
            ),
            "CrashLoopBackOff",
            f"rl-inference-1 is Running, CrashLoopBackOff; {BACK_OFF}; last: Error (exit code 1); 3 restarts",
            id="it crashes and crashes",
        ),
        pytest.param(
            pod("Running", conditions=[NOT_READY], containerStatuses=container(killed())),
            "OOMKilled",
            "rl-inference-1 is Running, OOMKilled; exit code 137",
            id="out of memory just now",
        ),
        pytest.param(
            pod("Failed", reason="Evicted", message="The node was low on resource: memory."),
            "Evicted",
            "rl-inference-1 is Failed, Evicted; The node was low on resource: memory.",
            id="evicted",
        ),
        pytest.param(
            pod(
                "Pending",
                conditions=[condition("PodScheduled", "True"), NOT_READY],
                containerStatuses=container({"waiting": {"reason": "ContainerCreating"}}),
            ),
            "ContainerCreating",
            "",
            id="on its way",
        ),
        pytest.param(
            pod("Running", conditions=[NOT_READY], containerStatuses=container({"running": {"startedAt": "x"}})),
            "ContainersNotReady",
            "",
            id="starting, or loading weights",
        ),
        pytest.param(
            pod("Running", deleted=True, conditions=[condition("Ready", "True")]), "Terminating", "", id="draining"
        ),
    ],
)
def test_a_pod_that_does_not_work_says_why(thing: dict[str, Any], reason: str, trouble: str) -> None:
    found = observe(thing)
    assert (found.ready, found.reason, found.trouble) == (False, reason, trouble)


def test_a_pod_that_is_back_after_a_crash_has_no_trouble_and_does_not_hide_it() -> None:
    status = container({"running": {"startedAt": "x"}}, lastState=killed(), restartCount=1)
    found = observe(pod("Running", conditions=[condition("Ready", "True")], containerStatuses=status))
    assert (found.ready, found.reason, found.trouble) == (True, "", "")
    assert (found.restarts, found.last_exit) == (1, "OOMKilled (exit code 137)")


def test_a_pod_that_nothing_is_known_of_yet_is_pending() -> None:
    found = observe({"metadata": {"name": "new", "uid": "1"}})
    assert (found.phase, found.component, found.role, found.trouble) == ("Pending", "", None, "")


EVICTED = {"reason": "Evicted", "message": "The node was low on resource: memory."}
READY = {"conditions": [condition("Ready", "True")]}


def called(name: str, component: str, phase: str, **status: Any) -> Pod:
    thing = pod(phase, **status)
    labels = {"app.kubernetes.io/component": component}
    return observe({**thing, "metadata": {**thing["metadata"], "name": name, "labels": labels}})


def fleet_of(*pods: Pod) -> Fleet:
    fleet = Fleet(Mock(), load_deadline_s=10)
    fleet.cluster = Picture({one.name: one for one in pods})
    return fleet


def not_ready(fleet: Fleet, component: str) -> float | None:
    """The gauge that the alert looks at."""
    metrics.observe_pods(fleet.cluster.current)
    return REGISTRY.get_sample_value("syncline_pods_not_ready", {"component": component})


def test_an_evicted_pod_that_was_replaced_is_no_trouble_although_it_lies_there_still() -> None:
    evicted, other = called("reward-a", "reward", "Failed", **EVICTED), called("judge-a", "judge", "Failed", **EVICTED)
    fleet = fleet_of(evicted, other, called("reward-b", "reward", "Running", **READY))
    assert fleet.pods_say() == ""
    assert not_ready(fleet, "reward") is None
    assert [one.name for one in fleet.cluster.current] == ["judge-a", "reward-b"]
    assert not_ready(fleet, "judge") == 1.0  # nobody has taken its place


def test_a_replacement_that_does_not_come_up_tells_why_in_its_own_words() -> None:
    evicted = called("reward-a", "reward", "Failed", **EVICTED)
    fleet = fleet_of(evicted, called("reward-b", "reward", "Pending", conditions=[UNSCHEDULABLE]))
    assert "reward-b is Pending, Unschedulable" in fleet.pods_say("reward")
    assert "reward-a" not in fleet.pods_say("reward")
    assert not_ready(fleet, "reward") == 1.0
    assert "reward-a is Failed, Evicted" in fleet_of(evicted).pods_say("reward")


def test_of_a_learners_pods_only_the_first_is_expected_to_register() -> None:
    first, second = (called(f"rl-learner-{rank}", "learner", "Running", **READY) for rank in (0, 1))
    fleet = fleet_of(first, second)
    assert (fleet.knows(first), fleet.knows(second)) == (False, None)
    assert fleet.knows(called("rl-redis-0", "redis", "Running", **READY)) is None
    member = Member(id=first.name, role="learner", address="", host="", pid=1, started_at=0.0, status={})
    fleet.roles["learner"] = [member]
    assert (fleet.knows(first), fleet.knows(second)) == (True, None)
