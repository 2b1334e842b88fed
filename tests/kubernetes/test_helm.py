"""Both majors of Helm against a real API server without nodes: what they write, keep and take back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kubernetes.chart import CHART, DEFAULT, EVERYTHING, Refused, helm
from tests.kubernetes.control_plane.server import ControlPlane

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NAME = "rl"
GENERATORS = "rl-syncline-inference"
SCRAPED = "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring"


class Release:
    """One release in a namespace of its own. Nothing waits for pods: there is no node to run them."""

    def __init__(self, control_plane: ControlPlane, program: str) -> None:
        self._control_plane = control_plane
        self._program = program
        self._namespace = f"by-{program}"
        control_plane.kubectl("create", "namespace", self._namespace)

    def helm(self, *arguments: str) -> None:
        where = ("--namespace", self._namespace, "--kubeconfig", str(self._control_plane.kubeconfig))
        helm(*arguments, *where, program=self._program)

    def install(self, *options: str, values: Any = DEFAULT) -> None:
        self.helm("install", NAME, str(CHART), "--values", str(values), *options)

    def upgrade(self, *options: str, values: Any = DEFAULT) -> None:
        self.helm("upgrade", NAME, str(CHART), "--values", str(values), *options)

    def scale(self, replicas: int) -> None:
        self.kubectl("scale", "statefulset", GENERATORS, f"--replicas={replicas}")

    def kubectl(self, *arguments: str) -> str:
        return self._control_plane.kubectl("--namespace", self._namespace, *arguments)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "--output=json"))
        return found

    @property
    def generators(self) -> int:
        """The number that is wanted."""
        replicas: int = self.get("statefulset", GENERATORS)["spec"]["replicas"]
        return replicas

    def secret(self, name: str) -> dict[str, str]:
        data: dict[str, str] = self.get("secret", f"rl-syncline-{name}")["data"]
        return data

    def annotations(self, kind: str, name: str) -> dict[str, str]:
        """Of the pods that it makes."""
        metadata = self.get(kind, f"rl-syncline-{name}")["spec"]["template"]["metadata"]
        found: dict[str, str] = metadata.get("annotations", {})
        return found


@pytest.fixture(params=["helm3", "helm4"])
def release(request: pytest.FixtureRequest, control_plane: ControlPlane) -> Iterator[Release]:
    release = Release(control_plane, request.param)
    yield release
    control_plane.kubectl("delete", "namespace", f"by-{request.param}", "--wait=true", "--timeout=120s")


def test_an_upgrade_keeps_the_number_of_generators_and_a_rollback_brings_its_own(release: Release) -> None:
    release.install()
    assert release.generators == 1
    release.scale(5)
    release.upgrade("--set=logLevel=DEBUG")
    assert release.generators == 5
    # A value that changes is meant; and from there on the same again
    release.upgrade("--set=inference.replicas=2")
    assert release.generators == 2
    release.scale(6)
    release.upgrade("--set=inference.replicas=2", "--set=logLevel=DEBUG")
    assert release.generators == 6
    # A rollback writes a manifest that was stored before: README.md says to scale again after it
    release.helm("rollback", NAME, "2")
    assert release.generators == 5
    release.helm("rollback", NAME, "1")
    assert release.generators == 1
    release.scale(6)
    release.upgrade()
    assert release.generators == 6
    release.helm("uninstall", NAME)


@pytest.mark.parametrize("release", ["helm4"], indirect=True)
def test_a_number_that_somebody_else_owns_is_kept_by_an_upgrade_and_overruled_by_force(release: Release) -> None:
    """Newer clusters track who has scaled, which Helm 4 asks them for; here a patch in kubectl's name says the same."""
    release.install()
    scaled = ("--patch", '{"spec": {"replicas": 5}}', "--type=merge", "--field-manager=kubectl")
    release.kubectl("patch", "statefulset", GENERATORS, *scaled)
    release.upgrade("--set=logLevel=DEBUG")
    assert release.generators == 5
    with pytest.raises(Refused, match=r"conflict.*\n*.*spec\.replicas"):
        release.upgrade("--set=inference.replicas=2")
    release.upgrade("--set=inference.replicas=2", "--force-conflicts")
    assert release.generators == 2


def test_turning_an_autoscaler_on_and_off_leaves_the_number_to_whom_it_belongs(release: Release) -> None:
    release.install()
    release.scale(4)
    on = (f"--set={SCRAPED}", "--set=inference.autoscaling.kind=hpa")
    release.upgrade(*on)
    assert release.generators == 4
    variables = release.get("deployment", "rl-syncline-coordinator")["spec"]["template"]["spec"]["containers"][0]["env"]
    (named,) = [one["value"] for one in variables if one["name"] == "SYNCLINE_KUBERNETES_AUTOSCALER"]
    assert named == f"HorizontalPodAutoscaler {GENERATORS}"
    release.scale(3)  # as the autoscaler does
    release.upgrade(*on, "--set=logLevel=DEBUG")
    assert release.generators == 3
    release.upgrade("--set=inference.autoscaling.kind=none")
    assert release.generators == 3


def test_everything_can_be_installed_upgraded_and_rolled_back(release: Release) -> None:
    """Where the cluster knows the kinds: there are no operators, and the job of the quickstart finds no node."""
    off = ["monitoring.serviceMonitor.enabled", "monitoring.alerts.enabled", "coordinator.httpRoute.enabled"]
    options = [f"--set={name}=false" for name in (*off, "quickstart.enabled")]
    options.append("--set=inference.autoscaling.kind=hpa")
    release.install(*options, values=EVERYTHING)
    release.upgrade(*options, "--set-string=inference.env[0].value=60", values=EVERYTHING)
    variables = release.get("statefulset", GENERATORS)["spec"]["template"]["spec"]["containers"][0]["env"]
    assert [one["value"] for one in variables if one["name"] == "SYNCLINE_LEASE_S"] == ["60"]
    release.helm("rollback", NAME)
    release.helm("uninstall", NAME)


def test_storage_that_kubernetes_would_not_change_is_refused_before_anything_is(release: Release) -> None:
    new = ("--set=storage.runs.existingClaim=", "--set=storage.runs.storageClass=nfs")
    release.install(*new)
    for change, advice in REFUSED_CHANGES.items():
        with pytest.raises(Refused, match=advice):
            release.upgrade(*new, "--set=logLevel=DEBUG", f"--set={change}")
    variables = release.get("statefulset", GENERATORS)["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "SYNCLINE_LOG_LEVEL", "value": "INFO"} in variables
    in_other_words = ("--set=storage.runs.size=1024Gi", "--set=redis.persistence.size=8192Mi")
    release.upgrade(*new, *in_other_words)


REFUSED_CHANGES = {
    "storage.runs.storageClass=cephfs": "storage.runs.storageClass is cephfs, but the claim rl-syncline-runs",
    "storage.runs.accessModes={ReadWriteOnce}": "set it back, or name a claim of yours",
    "storage.runs.size=512Gi": "set storage.runs.size to 1Ti, or more",
    "redis.persistence.size=16Gi": "was made with a claim of 8Gi of the default class",
    "redis.persistence.storageClass=fast": "set redis.persistence back, or delete that StatefulSet",
    "redis.persistence.enabled=false": "redis.persistence asks for no claim of its own",
}


def test_another_name_on_an_upgrade_is_refused_as_it_would_leave_claims_secrets_and_runs_behind(
    release: Release,
) -> None:
    release.install()
    for change in ("fullnameOverride=lab", "nameOverride=lab"):
        with pytest.raises(Refused, match="set nameOverride to syncline and fullnameOverride to rl-syncline"):
            release.upgrade(f"--set={change}")
    with pytest.raises(Refused, match=r"would now be rl-syncline-\* \(app.kubernetes.io/name: lab\)"):
        release.upgrade("--set=nameOverride=lab", "--set=fullnameOverride=rl-syncline")
    assert "lab" not in release.kubectl("get", "deployments,secrets,statefulsets", "--output=name")
    # The same in other words, and what somebody has deleted by hand
    release.upgrade("--set=nameOverride=syncline", "--set=fullnameOverride=rl-syncline")
    release.kubectl("delete", "deployment", "rl-syncline-coordinator")
    release.upgrade()


def test_what_a_failed_upgrade_has_added_is_taken_back_by_a_rollback(release: Release) -> None:
    """The next upgrade would leave it with Helm 3, which compares with the last revision that has succeeded."""

    def selector() -> dict[str, str]:
        pod = release.get("statefulset", GENERATORS)["spec"]["template"]["spec"]
        found: dict[str, str] = pod.get("nodeSelector", {})
        return found

    release.install()
    with pytest.raises(Refused):  # as there is no node at all
        release.upgrade("--set=inference.nodeSelector.disk=none", "--wait", "--timeout=5s")
    assert selector() == {"disk": "none"}
    release.helm("rollback", NAME, "1")
    assert selector() == {}
    release.upgrade("--set=logLevel=DEBUG")
    assert selector() == {}


def test_secrets_are_made_up_once_and_a_given_one_that_changes_restarts_who_reads_it(release: Release) -> None:
    release.install()
    token, password = release.secret("auth"), release.secret("redis")
    assert len(password["password"]) == len(token["token"]) == 56  # 40 characters, in base64
    before = release.annotations("statefulset", "inference")
    release.upgrade("--set=logLevel=DEBUG")
    assert (release.secret("auth"), release.secret("redis")) == (token, password)
    assert release.annotations("statefulset", "inference") == before  # what nobody has changed restarts nothing

    # The password outlives the release, as the data on the volume does
    release.helm("uninstall", NAME)
    assert release.secret("redis") == password
    release.install()
    assert release.secret("redis") == password

    release.upgrade("--set=redis.auth.password=one", "--set=auth.token=one")
    first = {name: release.annotations(kind, name) for kind, name in READERS}
    release.upgrade("--set=redis.auth.password=two", "--set=auth.token=one")
    second = {name: release.annotations(kind, name) for kind, name in READERS}
    assert all(first[name]["checksum/secrets"] != second[name]["checksum/secrets"] for _, name in READERS)
    release.upgrade("--set=redis.auth.password=two", "--set=auth.token=two")
    third = {name: release.annotations(kind, name) for kind, name in READERS}
    assert [name for name in third if third[name] != second[name]] == ["coordinator"]


READERS = [
    ("deployment", "coordinator"),
    ("statefulset", "inference"),
    ("deployment", "reward"),
    ("statefulset", "learner"),
    ("statefulset", "redis"),
]
