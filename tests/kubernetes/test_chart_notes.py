"""What Helm says after an installation: how to get in, and what is open. Only Helm 4 says it without a cluster."""

from __future__ import annotations

from pathlib import Path

from tests.kubernetes.chart import CHART, CPU, DEFAULT, EVERYTHING, OBJECT_STORE, helm

INGRESS = (
    "coordinator.ingress.enabled=true",
    "coordinator.ingress.host=rl.example.com",
    "coordinator.networkPolicy.ingressFrom[0].podSelector.matchLabels.a=b",
)


def notes(file: Path, *values: str) -> str:
    options = [value if value.startswith("--") else f"--set={value}" for value in values]
    where = ("--namespace", "lab", "--values", str(file))
    said = helm("install", "rl", str(CHART), "--dry-run=client", *where, *options).partition("\nNOTES:\n")[2]
    return " ".join(said.split())


def test_the_way_in_is_a_forwarded_port_or_the_ingress() -> None:
    said = notes(DEFAULT)
    assert "next: 1. Reach the REST API and the web page at http://127.0.0.1:8080 (leave this running): kubectl" in said
    assert "SYNCLINE_SERVER" not in said
    said = notes(DEFAULT, *INGRESS, "coordinator.ingress.tlsSecret=rl-tls")
    assert "export SYNCLINE_SERVER=https://rl.example.com " in said
    assert "unencrypted" not in said
    said = notes(DEFAULT, *INGRESS)
    assert "export SYNCLINE_SERVER=http://rl.example.com " in said
    assert "coordinator.ingress.tlsSecret is empty: unless TLS ends before the Ingress" in said


def test_kubectl_scale_is_advised_where_nobody_overrules_it() -> None:
    assert "scale statefulset rl-syncline-inference --replicas=N` changes the number" in notes(CPU)
    said = notes(EVERYTHING)
    assert "scale statefulset" not in said
    assert "ScaledObject rl-syncline-inference chooses the number of generators" in said


def test_what_is_open_to_any_address_and_has_no_credentials_is_said() -> None:
    assert "any address" not in notes(DEFAULT)
    assert "any address" not in notes(OBJECT_STORE, "hub.to[0].ipBlock.cidr=10.0.0.0/8")
    redis = ("redis.external.existingSecret=url", "redis.external.port=6380")
    said = notes(OBJECT_STORE, "--set-json=s3.to=[]", "s3.existingSecret=", *redis)
    assert said.endswith("where they are: redis.external.to (port 6380), s3.to (port 9000), hub.to (port 443).")
    assert "s3.endpoint is set and s3.existingSecret is not: the pods have no credentials" in said
    assert "no credentials" not in notes(OBJECT_STORE)
    assert "no credentials" not in notes(OBJECT_STORE, "s3.endpoint=", "s3.existingSecret=")
    assert "any address" not in notes(OBJECT_STORE, "networkPolicy.enabled=false")
