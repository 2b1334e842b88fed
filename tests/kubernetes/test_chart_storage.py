"""Storage without volumes that pods share: who reaches the object store and the hub, with what, and what is left."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kubernetes.chart import DEFAULT, OBJECT_STORE, Manifest, component, environment, find, pods, render

REACH_THE_STORE = {"coordinator", "learner", "inference"}
CACHE = {"name": "cache", "mountPath": "/cache"}


def by_component(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Pod specs."""
    return {component(template): template["spec"] for _, template in pods(manifests)}


def variables(spec: Manifest) -> dict[str, Any]:
    return environment(spec["containers"][0])


def egress(manifests: list[Manifest], name: str, port: int) -> list[Any]:
    """Rules of a component's policy for a port, peers of the release aside."""
    rules = find(manifests, "NetworkPolicy", f"rl-syncline-{name}")["spec"].get("egress", [])
    return [rule for rule in rules if tcp(port) in rule["ports"] and "podSelector" not in str(rule.get("to"))]


def tcp(port: int) -> dict[str, Any]:
    return {"port": port, "protocol": "TCP"}


def test_no_volume_is_shared_and_the_coordinator_alone_has_one_for_its_records() -> None:
    manifests = render(OBJECT_STORE)
    (claim,) = [one for one in manifests if one["kind"] == "PersistentVolumeClaim"]
    assert claim["metadata"]["name"] == "rl-syncline-records"
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert "storageClassName" not in claim["spec"]
    for name, spec in by_component(manifests).items():
        claims = {volume["name"] for volume in spec["volumes"] if "persistentVolumeClaim" in volume}
        assert claims == ({"records"} if name == "coordinator" else set()), name
    mounts = by_component(manifests)["coordinator"]["containers"][0]["volumeMounts"]
    assert {"name": "records", "mountPath": "/runs", "readOnly": False} in mounts


def test_those_who_reach_the_store_have_a_cache_with_a_limit_and_credentials_by_reference() -> None:
    for name, spec in by_component(render(OBJECT_STORE)).items():
        given = variables(spec)
        if name not in REACH_THE_STORE:
            assert not any(one.startswith("AWS_") for one in given), name
            assert "cache" not in str(spec["volumes"]), name
            continue
        assert CACHE in spec["containers"][0]["volumeMounts"]
        (limit,) = [volume["emptyDir"]["sizeLimit"] for volume in spec["volumes"] if volume["name"] == "cache"]
        assert limit == {"coordinator": "20Gi", "learner": "300Gi", "inference": "100Gi"}[name]
        assert given["SYNCLINE_CACHE_ROOT"] == "/cache"
        assert given["AWS_ENDPOINT_URL_S3"] == "http://minio.storage:9000"
        assert given["AWS_REGION"] == "eu-central-1"
        assert given["AWS_SECRET_ACCESS_KEY"] == {"secretKeyRef": {"name": "object-store", "key": "secret-access-key"}}


def test_what_runs_may_read_is_what_the_values_name() -> None:
    specs = by_component(render(OBJECT_STORE))
    given = variables(specs["coordinator"])
    assert given["SYNCLINE_REMOTE_PREFIXES"] == "s3://lab/models,s3://lab/prompts,hf://HuggingFaceTB"
    assert given["SYNCLINE_CHECKPOINT_STORE"] == "s3://lab/runs"
    assert not {"SYNCLINE_REMOTE_PREFIXES", "SYNCLINE_CHECKPOINT_STORE"} & variables(specs["learner"]).keys()


def test_policies_open_the_way_to_the_store_for_those_three_and_to_the_hub_for_two() -> None:
    manifests = render(OBJECT_STORE)
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "storage"}}}]
    names = ("coordinator", "learner", "inference", "reward", "redis")
    found = {name: egress(manifests, name, 9000) for name in names}
    assert found == {name: [{"ports": [tcp(9000)], "to": peers}] if name in REACH_THE_STORE else [] for name in names}
    hub = {name for name in names if [rule for rule in egress(manifests, name, 443) if rule["ports"] == [tcp(443)]]}
    assert hub == {"coordinator", "learner"}
    closed = render(DEFAULT)
    assert not any(egress(closed, name, 9000) for name in names)


@pytest.mark.parametrize(
    ("s3", "port"),
    [
        ({"endpoint": "http://minio.storage:9000"}, 9000),
        ({"endpoint": "https://[fd00::1]:9443/path"}, 9443),
        ({"endpoint": "http://minio.storage"}, 80),
        ({"endpoint": "https://s3.example.com"}, 443),
        ({"endpoint": ""}, 443),
        ({"endpoint": "http://minio.storage", "port": 9000}, 9000),  # a service may have another port than its pods
    ],
)
def test_pods_may_reach_the_port_of_the_endpoint(s3: dict[str, Any], port: int) -> None:
    manifests = render(OBJECT_STORE, values={"s3": s3 | {"to": []}, "hub": {"prefixes": [], "existingSecret": ""}})
    for name in REACH_THE_STORE:
        assert {"ports": [tcp(port)]} in egress(manifests, name, port), name


def test_the_hub_is_asked_by_nobody_unless_a_prefix_opens_it() -> None:
    assert all(
        variables(spec)["HF_HUB_OFFLINE"] == "1"
        for name, spec in by_component(render(DEFAULT)).items()
        if name != "redis"
    )
    online = {
        name for name, spec in by_component(render(OBJECT_STORE)).items() if "HF_HUB_OFFLINE" not in variables(spec)
    }
    assert online == {"coordinator", "learner", "redis"}
    token = variables(by_component(render(OBJECT_STORE))["learner"])["HF_TOKEN"]
    assert token == {"secretKeyRef": {"name": "hub", "key": "token"}}


def test_without_a_secret_the_service_accounts_roles_are_the_credentials() -> None:
    role = {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/rl"}}
    values = {"s3": {"existingSecret": "", "endpoint": ""}, "learner": {"serviceAccount": role}}
    manifests = render(OBJECT_STORE, values=values)
    learner = by_component(manifests)["learner"]
    assert not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"} & variables(learner).keys()
    account = find(manifests, "ServiceAccount", learner["serviceAccountName"])
    assert account["metadata"]["annotations"] == role["annotations"]


@pytest.mark.parametrize(
    ("volume", "reach"),
    [("models", {"coordinator", "learner"}), ("data", {"coordinator"}), ("runs", REACH_THE_STORE)],
)
def test_each_of_the_three_can_be_in_the_store_alone(volume: str, reach: set[str]) -> None:
    values = {"storage": {volume: {"existingClaim": "", "url": "s3://lab/there"}}}
    specs = by_component(render(DEFAULT, values=values))
    assert {name for name, spec in specs.items() if "SYNCLINE_CACHE_ROOT" in variables(spec)} == reach
    for name, spec in specs.items():
        claims = {one["name"] for one in spec["volumes"] if "persistentVolumeClaim" in one}
        assert volume not in claims, name
        assert ("records" in claims) == (name == "coordinator" and volume == "runs")
