"""What every component has: the same values for all of them, with the same effect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.kubernetes.chart import DEFAULT, EVERYTHING, OBJECT_STORE, Manifest, environment, find, render, validate

COMPONENTS = {
    "coordinator": "coordinator",
    "inference": "inference",
    "reward": "reward",
    "learner": "learner",
    "redis": "redis",
    "judge": "judge",
    "rewardModel": "reward-model",
}
SERVED = {"judge": {"enabled": True, "model": "a"}, "rewardModel": {"enabled": True, "model": "b"}}


def with_all(**values: Any) -> dict[str, Any]:
    """The same values for every component."""
    return {key: {**SERVED.get(key, {}), **values} for key in COMPONENTS}


def workloads(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Name of the component and object of each."""
    for name in COMPONENTS.values():
        (found,) = [
            one
            for one in manifests
            if one["kind"] in ("Deployment", "StatefulSet") and one["metadata"]["name"] == f"rl-syncline-{name}"
        ]
        yield name, found


def test_workloads_can_be_annotated_and_the_generators_keep_their_own() -> None:
    mark = {"reloader.stakater.com/auto": "true"}
    for name, one in workloads(render(DEFAULT, values=with_all(annotations=mark))):
        found = dict(one["metadata"]["annotations"])
        assert found.pop("syncline/replicas", None) == ("1" if name == "inference" else None)
        assert found == mark, name
    clash = {"inference": {"annotations": {"syncline/replicas": "7"}}}
    generators = find(render(DEFAULT, values=clash), "StatefulSet", "rl-syncline-inference")
    assert generators["metadata"]["annotations"]["syncline/replicas"] == "1"


def test_containers_beside_a_component_get_its_security_and_its_variables_come_from_elsewhere() -> None:
    beside = [{"name": "logs", "image": "logs"}, {"name": "own", "image": "own", "securityContext": {"runAsUser": 5}}]
    source = [{"secretRef": {"name": "more"}}]
    for name, one in workloads(render(DEFAULT, values=with_all(extraContainers=beside, envFrom=source))):
        main, logs, own = one["spec"]["template"]["spec"]["containers"]
        assert main["name"] == name
        assert main["envFrom"] == source
        assert logs["securityContext"] == main["securityContext"]
        assert own["securityContext"] == {"runAsUser": 5}
        assert "envFrom" not in logs


@pytest.mark.parametrize(
    ("account", "used", "made"),
    [
        ({"name": "mine"}, "mine", True),
        ({"name": "mine", "create": False}, "mine", False),
        ({"create": False}, "default", False),
    ],
)
def test_a_service_account_may_be_made_or_named(account: dict[str, Any], used: str, made: bool) -> None:
    manifests = render(DEFAULT, values=with_all(serviceAccount=account))
    for name, one in workloads(manifests):
        assert one["spec"]["template"]["spec"]["serviceAccountName"] == used, name
    accounts = {one["metadata"]["name"] for one in manifests if one["kind"] == "ServiceAccount"}
    assert accounts == ({used} if made else set())
    (binding,) = [one for one in manifests if one["kind"] == "RoleBinding"]
    assert binding["subjects"][0]["name"] == used


def test_a_deployment_is_given_the_time_of_its_start_before_it_counts_as_failed() -> None:
    deployments = [one for one in render(EVERYTHING) if one["kind"] == "Deployment"]
    assert len(deployments) == 4
    for one in deployments:
        (container,) = one["spec"]["template"]["spec"]["containers"]
        probe = container["startupProbe"]
        start = probe["failureThreshold"] * probe["periodSeconds"]
        drain = one["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] - 20
        assert one["spec"]["progressDeadlineSeconds"] >= start + drain + 300, one["metadata"]["name"]


def test_a_cache_can_be_a_volume_of_its_own() -> None:
    own = {"cacheStorageClass": "fast", "cacheSize": "30Gi"}
    manifests = render(OBJECT_STORE, values={name: own for name in ("coordinator", "learner", "inference")})
    for kind, name in (("Deployment", "coordinator"), ("StatefulSet", "learner"), ("StatefulSet", "inference")):
        spec = find(manifests, kind, f"rl-syncline-{name}")["spec"]["template"]["spec"]
        (cache,) = [volume for volume in spec["volumes"] if volume["name"] == "cache"]
        claim = cache["ephemeral"]["volumeClaimTemplate"]["spec"]
        assert claim["storageClassName"] == "fast"
        assert claim["resources"] == {"requests": {"storage": "30Gi"}}


def test_generators_can_be_replaced_several_at_once() -> None:
    several = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%"}}
    manifests = render(DEFAULT, values={"inference": {"updateStrategy": several}})
    assert find(manifests, "StatefulSet", "rl-syncline-inference")["spec"]["updateStrategy"] == several


def test_resources_of_every_name_that_kubernetes_has_are_taken() -> None:
    limits = {"ephemeral-storage": "9Gi", "hugepages-2Mi": "1Gi", "rdma/hca": "1", "example.com/a.b": "2"}
    manifests = render(DEFAULT, values={"learner": {"resources": {"limits": limits}}})
    (container,) = find(manifests, "StatefulSet", "rl-syncline-learner")["spec"]["template"]["spec"]["containers"]
    assert limits.items() <= container["resources"]["limits"].items()


def test_a_budget_may_be_a_share_and_the_port_of_the_nodes_a_certain_one() -> None:
    share = with_all(podDisruptionBudget={"enabled": True, "maxUnavailable": "25%"})
    budgets = [one for one in render(DEFAULT, values=share) if one["kind"] == "PodDisruptionBudget"]
    assert [one["spec"]["maxUnavailable"] for one in budgets] == ["25%"] * len(COMPONENTS)
    validate(budgets, "1.32")
    service = {"type": "NodePort", "nodePort": 30080}
    values = {"coordinator": {"service": service}, "networkPolicy": {"enabled": False}}
    (port,) = find(render(DEFAULT, values=values), "Service", "rl-syncline-coordinator")["spec"]["ports"]
    assert port["nodePort"] == 30080


def test_keda_can_ask_a_prometheus_that_wants_a_token() -> None:
    def trigger(**reference: str) -> dict[str, Any]:
        values = {"inference": {"autoscaling": {"authenticationRef": reference}}}
        found = find(render(EVERYTHING, values=values), "ScaledObject", "rl-syncline-inference")["spec"]["triggers"]
        (only,) = found
        return dict(only)

    assert "authenticationRef" not in trigger()
    assert "authModes" not in trigger()["metadata"]
    named = trigger(name="prometheus", kind="ClusterTriggerAuthentication", modes="bearer,tls")
    assert named["authenticationRef"] == {"name": "prometheus", "kind": "ClusterTriggerAuthentication"}
    assert named["metadata"]["authModes"] == "bearer,tls"


def test_a_variable_that_is_replaced_stays_before_those_that_refer_to_it() -> None:
    own = {"name": "REDIS_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "vault", "key": "redis"}}}
    values = {"inference": {"env": [{"name": "MORE", "value": "1"}, own]}}
    (container,) = find(render(DEFAULT, values=values), "StatefulSet", "rl-syncline-inference")["spec"]["template"][
        "spec"
    ]["containers"]
    names = list(environment(container))
    assert "$(REDIS_PASSWORD)" in environment(container)["SYNCLINE_REDIS_URL"]
    assert names.index("REDIS_PASSWORD") < names.index("SYNCLINE_REDIS_URL")
    assert own in container["env"]
    assert len(container["env"]) == len(names)
    assert names[-1] == "MORE"


def test_long_names_are_cut_to_different_ones() -> None:
    long = "a-team-with-a-very-long-name-and-release"

    def names(release: str) -> set[str]:
        manifests = render(DEFAULT, values={"nameOverride": f"{long}-{release}"})
        return {one["metadata"]["name"] for one in manifests}

    one, other = names("one"), names("other")
    assert not one & other
    assert all(len(name) <= 40 + len("-default-deny") for name in one | other)
    assert names("one") == one
