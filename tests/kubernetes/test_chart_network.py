"""Who may be reached from where: addresses outside of the release, and the coordinator's service."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from tests.kubernetes.chart import DEFAULT, OBJECT_STORE, Manifest, find, render
from tests.kubernetes.test_chart_values import LEAVES

ROLES = ["169.254.170.23/32", "169.254.169.254/32", "fd00:ec2::23/128", "fd00:ec2::254/128"]
"""Where AWS hands out credentials: EKS Pod Identity and the metadata of a node, by both versions of IP."""
OUTSIDE = {"type": "LoadBalancer", "loadBalancerClass": "internal", "loadBalancerSourceRanges": ["10.0.0.0/8"]}


def egress(manifests: list[Manifest], name: str, port: int) -> list[Any]:
    """Where the rules for a port lead to, one by one; None is anywhere."""
    rules = find(manifests, "NetworkPolicy", f"rl-syncline-{name}")["spec"].get("egress", [])
    return [rule.get("to") for rule in rules if port in [one["port"] for one in rule.get("ports", ())]]


def test_pods_without_a_secret_may_ask_for_their_roles_credentials() -> None:
    on_aws = render(OBJECT_STORE, values={"s3": {"existingSecret": "", "endpoint": ""}})
    role = [[{"ipBlock": {"cidr": cidr}} for cidr in ROLES]]
    for name in ("coordinator", "learner", "inference"):
        assert egress(on_aws, name, 80) == role, name
    assert egress(on_aws, "reward", 80) == []


@pytest.mark.parametrize(
    "s3", [{"endpoint": ""}, {"existingSecret": ""}], ids=["with a secret", "with an endpoint that is not AWS"]
)
def test_nobody_else_may(s3: dict[str, str]) -> None:
    manifests = render(OBJECT_STORE, values={"s3": s3})
    assert not any(egress(manifests, name, 80) for name in ("coordinator", "learner", "inference"))


def test_names_are_asked_of_pods_and_private_addresses_and_of_nobody_on_the_internet() -> None:
    manifests = render(DEFAULT)
    for name in ("coordinator", "learner", "inference", "reward"):
        ((pods, *blocks),) = egress(manifests, name, 53)
        assert pods == {"namespaceSelector": {}}
        networks = [ip_network(block["ipBlock"]["cidr"]) for block in blocks]

        def may_ask(address: str, networks: list[Any] = networks) -> bool:
            return any(ip_address(address) in network for network in networks)

        # a service, a cache on the node, and those of clouds
        assert all(map(may_ask, ["10.96.0.10", "172.20.0.10", "169.254.20.10", "169.254.169.254", "fd00::a"]))
        assert not any(map(may_ask, ["8.8.8.8", "1.1.1.1", "2001:4860:4860::8888"]))
    opened = render(DEFAULT, values={"networkPolicy": {"dnsTo": []}})
    assert egress(opened, "reward", 53) == [None]


@pytest.mark.parametrize("path", ["s3.port", "redis.external.port"])
def test_a_port_for_policies_is_told_to_be_that_of_the_pods(path: str) -> None:
    (text,) = [leaf.text for leaf in LEAVES if leaf.path == path]
    assert "the port of the pods behind it" in text


def test_a_load_balancer_can_be_chosen_closed_and_told_to_keep_the_clients_address() -> None:
    values = {
        "service": {**OUTSIDE, "externalTrafficPolicy": "Local"},
        "networkPolicy": {"ingressFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
    }
    service = find(render(DEFAULT, values={"coordinator": values}), "Service", "rl-syncline-coordinator")["spec"]
    assert {key: service[key] for key in values["service"]} == values["service"]
    quiet = find(render(DEFAULT), "Service", "rl-syncline-coordinator")["spec"]
    assert not values["service"].keys() - {"type"} & quiet.keys()
