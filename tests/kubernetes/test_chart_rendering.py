"""What the chart installs: valid on every Kubernetes, closed by default, with no connections but those needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.local import quickstart
from tests.kubernetes import chart, golden
from tests.kubernetes.chart import (
    CPU,
    DEFAULT,
    EVERYTHING,
    OBJECT_STORE,
    Manifest,
    component,
    environment,
    find,
    pods,
    render,
    render_text,
    validate,
)
from tests.kubernetes.settings_of import settings_of
from tests.kubernetes.tools import PROJECT

CASES = pytest.mark.parametrize(
    "values", [DEFAULT, CPU, EVERYTHING, OBJECT_STORE], ids=["default", "cpu", "everything", "object store"]
)
FOR_THE_WATCH = {"SYNCLINE_KUBERNETES_NAMESPACE", "SYNCLINE_KUBERNETES_STATEFULSET"}
SCRAPED = {"metricsFrom": [{"namespaceSelector": {}}]}


@pytest.mark.timeout(600)
@CASES
@pytest.mark.parametrize("minor", range(25, 38))
def test_every_object_meets_the_schema_of_its_kubernetes(minor: int, values: Path) -> None:
    # KEDA's object is of a kind that has no schema here
    scaled = {"inference": {"autoscaling": {"kind": "hpa"}}, "networkPolicy": SCRAPED}
    assert validate(render(values, values=scaled, kubernetes=f"1.{minor}"), f"1.{minor}") > 20


@CASES
def test_both_majors_of_helm_render_the_same(values: Path) -> None:
    assert render(values, program="helm3") == render(values, program="helm4")


@pytest.mark.parametrize("case", golden.CASES)
def test_the_rendering_is_the_one_that_is_kept(case: str) -> None:
    kept = golden.FOLDER / f"{case}.yaml"
    assert kept.read_text() == golden.wanted(case), "if that is meant, run 'make chart' and look at the difference"


def test_a_label_has_one_value_and_the_more_special_one_wins() -> None:
    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value]
            assert len(keys) == len(set(keys)), keys
            return super().construct_mapping(node, deep)

    labels = {"team": "rl", "app.kubernetes.io/part-of": "lab"}
    values: dict[str, Any] = {"commonLabels": labels, "inference": {"podLabels": {"team": ""}}}
    manifests = [one for one in yaml.load_all(render_text(DEFAULT, values=values), Strict) if one]
    assert {one["metadata"]["labels"]["team"] for one in manifests} == {"rl"}
    assert {name: template["metadata"]["labels"]["team"] for name, template in pods(manifests)} == {
        f"rl-syncline-{name}": "" if name == "inference" else "rl"
        for name in ("coordinator", "inference", "reward", "learner", "redis")
    }
    assert all(one["metadata"]["labels"]["app.kubernetes.io/part-of"] == "lab" for one in manifests)

    values["monitoring"] = {kind: {"enabled": True, "labels": {"team": "ops"}} for kind in ("serviceMonitor", "alerts")}
    values |= {"networkPolicy": SCRAPED, "redis": {"podAnnotations": {"checksum/config": "mine"}}}
    manifests = [one for one in yaml.load_all(render_text(DEFAULT, values=values), Strict) if one]
    kinds = ("ServiceMonitor", "PrometheusRule")
    assert {one["metadata"]["labels"]["team"] for one in manifests if one["kind"] in kinds} == {"ops"}


@CASES
def test_a_version_of_the_chart_alone_restarts_no_pod(
    values: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = {"image": {"tag": "1"}}
    before = render(values, values=same)
    newer = shutil.copytree(chart.CHART, tmp_path / "syncline")
    (newer / "Chart.yaml").write_text((chart.CHART / "Chart.yaml").read_text().replace("0.1.0", "0.1.1"))
    monkeypatch.setattr(chart, "CHART", newer)
    after = render(values, values=same)
    assert after != before  # the objects tell their version
    assert list(pods(after)) == list(pods(before))


@pytest.mark.parametrize(
    ("kubernetes", "budget", "scaler", "probe"),
    [
        ("1.20", "policy/v1beta1", "autoscaling/v2beta2", "exec"),
        ("1.22", "policy/v1", "autoscaling/v2beta2", "exec"),
        ("1.23", "policy/v1", "autoscaling/v2", "exec"),
        ("v1.24.3-gke.100", "policy/v1", "autoscaling/v2", "grpc"),
        ("1.37", "policy/v1", "autoscaling/v2", "grpc"),
    ],
)
def test_apis_are_those_that_the_cluster_knows(kubernetes: str, budget: str, scaler: str, probe: str) -> None:
    scaled = {"inference": {"autoscaling": {"kind": "hpa"}}, "networkPolicy": SCRAPED}
    manifests = render(DEFAULT, values=scaled, kubernetes=kubernetes)
    versions = {manifest["kind"]: manifest["apiVersion"] for manifest in manifests}
    assert versions["PodDisruptionBudget"] == budget
    assert versions["HorizontalPodAutoscaler"] == scaler
    (container,) = find(manifests, "StatefulSet", "rl-syncline-inference")["spec"]["template"]["spec"]["containers"]
    assert probe in container["readinessProbe"]
    if probe == "exec":
        assert container["livenessProbe"]["exec"]["command"] == ["python3", "-m", "syncline.healthcheck", "liveness"]


# -- security ------------------------------------------------------------------------------------------


@CASES
def test_every_pod_meets_the_restricted_standard(values: Path) -> None:
    """As kubernetes.io/docs/concepts/security/pod-security-standards has it, and a read-only root file system."""
    seen = 0
    for name, template in pods(render(values)):
        spec = template["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", name
        for volume in spec["volumes"]:
            (kind,) = volume.keys() - {"name"}
            assert kind in {"configMap", "emptyDir", "persistentVolumeClaim", "secret", "projected"}, name
        for container in [*spec["containers"], *spec.get("initContainers", ())]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert not {"privileged", "procMount", "seLinuxOptions"} & context.keys(), name
            assert not any("hostPort" in port for port in container.get("ports", ())), name
            seen += 1
    assert seen >= 5


@CASES
def test_only_the_coordinator_has_a_token_of_the_cluster(values: Path) -> None:
    manifests = render(values)
    tokens = {name for name, template in pods(manifests) if template["spec"]["automountServiceAccountToken"]}
    assert tokens == {"rl-syncline-coordinator"}
    accounts = [one for one in manifests if one["kind"] == "ServiceAccount"]
    assert accounts
    assert not any(account["automountServiceAccountToken"] for account in accounts)
    assert not any(one["kind"].startswith("Cluster") for one in manifests)


def test_the_coordinator_may_see_pods_and_scale_one_set_and_nothing_else() -> None:
    manifests = render(DEFAULT)
    (role,) = [one for one in manifests if one["kind"] == "Role"]
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
        {
            "apiGroups": ["apps"],
            "resources": ["statefulsets/scale"],
            "resourceNames": ["rl-syncline-inference"],
            "verbs": ["get", "patch"],
        },
    ]
    without = render(DEFAULT, values={"coordinator": {"kubernetesAccess": False}})
    assert not [one for one in without if one["kind"] in ("Role", "RoleBinding")]
    assert not any(template["spec"]["automountServiceAccountToken"] for _, template in pods(without))


@CASES
def test_secrets_are_only_ever_referred_to(values: Path) -> None:
    for name, template in pods(render(values)):
        for container in template["spec"]["containers"]:
            for variable, value in environment(container).items():
                if any(word in variable for word in ("TOKEN", "PASSWORD", "KEY", "AUTH")) and "TOKENS" not in variable:
                    assert "secretKeyRef" in value, (name, variable)


def edges(manifests: list[Manifest], direction: str) -> set[tuple[str, str, Any]]:
    """(from, to, port) of all rules of one direction that name pods of the release."""
    found = set()
    side, peers = ("ingress", "from") if direction == "in" else ("egress", "to")
    for policy in manifests:
        if policy["kind"] != "NetworkPolicy" or policy["metadata"]["name"].endswith("default-deny"):
            continue
        own = policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for rule in policy["spec"].get(side, ()):
            for peer in rule.get(peers, ()):
                other = peer.get("podSelector", {}).get("matchLabels", {}).get("app.kubernetes.io/component")
                for port in rule.get("ports", [{"port": None}]):
                    if other:
                        found.add((other, own, port["port"]) if direction == "in" else (own, other, port["port"]))
    return found


DESIGN = {
    *(("coordinator", service, 50051) for service in ("inference", "reward", "learner")),
    *((client, "redis", 6379) for client in ("coordinator", "inference", "reward", "learner")),
}


@pytest.mark.parametrize(
    ("values", "more"),
    [
        (DEFAULT, set()),
        (
            EVERYTHING,
            {
                ("learner", "learner", None),
                *((asker, model, 8000) for asker in ("coordinator", "reward") for model in ("judge", "reward-model")),
            },
        ),
    ],
    ids=["default", "everything"],
)
def test_pods_talk_along_the_edges_of_the_design_alone(values: Path, more: set[Any]) -> None:
    manifests = render(values)
    assert edges(manifests, "in") == edges(manifests, "out") == DESIGN | more
    deny = find(manifests, "NetworkPolicy", "rl-syncline-default-deny")["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny
    assert "egress" not in deny
    for name, template in pods(manifests):
        assert deny["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items(), name


def test_no_policy_opens_a_pod_to_everybody() -> None:
    for policy in render(EVERYTHING):
        if policy["kind"] == "NetworkPolicy":
            for rule in policy["spec"].get("ingress", ()):
                assert rule.get("from"), policy["metadata"]["name"]
            for rule in policy["spec"].get("egress", ()):
                assert rule.get("to") or rule["ports"], policy["metadata"]["name"]


@CASES
def test_no_variable_has_two_values(values: Path) -> None:
    for name, template in pods(render(values)):
        for container in template["spec"]["containers"]:
            names = [one["name"] for one in container.get("env", ())]
            assert len(names) == len(set(names)), name


def test_a_variable_of_the_values_takes_the_place_of_the_charts_own() -> None:
    manifests = render(EVERYTHING)
    for kind, name, variable, value in (
        ("StatefulSet", "inference", "SYNCLINE_LOG_LEVEL", "DEBUG"),
        ("StatefulSet", "learner", "SYNCLINE_DEVICE", "cpu"),
        ("Deployment", "judge", "HOME", "/cache"),
        ("StatefulSet", "redis", "REDISCLI_AUTH", {"secretKeyRef": {"name": "other", "key": "password"}}),
    ):
        (container,) = find(manifests, kind, f"rl-syncline-{name}")["spec"]["template"]["spec"]["containers"]
        assert environment(container)[variable] == value


@CASES
def test_every_port_has_its_protocol_and_every_quantity_is_a_string(values: Path) -> None:
    """Server-side apply, which Helm 4 uses, refuses a manifest without them on Kubernetes 1.20."""
    manifests = render(values)
    ports = [port for one in manifests if one["kind"] == "Service" for port in one["spec"]["ports"]]
    for name, template in pods(manifests):
        for container in template["spec"]["containers"]:
            ports += container.get("ports", [])
            for quantities in container["resources"].values():
                assert all(isinstance(quantity, str) for quantity in quantities.values()), name
    assert ports
    assert all(port["protocol"] == "TCP" for port in ports)


def test_a_component_may_have_a_security_of_its_own() -> None:
    pod, container = {"runAsUser": 0, "fsGroup": None}, {"readOnlyRootFilesystem": False}
    own = {"podSecurityContext": pod, "containerSecurityContext": container}
    manifests = render(DEFAULT, values={"reward": own})
    reward, learner = (
        find(manifests, kind, f"rl-syncline-{name}")["spec"]["template"]["spec"]
        for kind, name in (("Deployment", "reward"), ("StatefulSet", "learner"))
    )
    assert reward["securityContext"]["runAsUser"] == 0
    assert "fsGroup" not in reward["securityContext"]
    assert reward["securityContext"]["runAsNonRoot"] is True
    assert reward["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is False
    assert learner["securityContext"]["fsGroup"] == 10001


def test_secrets_to_pull_with_are_names_or_objects_with_one() -> None:
    for name, template in pods(render(CPU, values={"image": {"pullSecrets": ["one", {"name": "two"}]}})):
        assert template["spec"]["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}], name


def test_the_quickstart_runs_where_the_coordinator_may() -> None:
    where = {"nodeSelector": {"pool": "cpu"}, "tolerations": [{"operator": "Exists"}], "priorityClassName": "high"}
    manifests = render(CPU, values={"coordinator": where})
    job = find(manifests, "Job", "rl-syncline-quickstart")["spec"]["template"]["spec"]
    coordinator = find(manifests, "Deployment", "rl-syncline-coordinator")["spec"]["template"]["spec"]
    for field, value in where.items():
        assert job[field] == coordinator[field] == value


def test_the_quickstart_is_put_there_whole_and_left_alone_by_an_upgrade(tmp_path: Path) -> None:
    (container,) = find(render(CPU), "Job", "rl-syncline-quickstart")["spec"]["template"]["spec"]["containers"]
    *shell, script = container["command"]
    for root in ("models", "data"):
        (tmp_path / root).mkdir()
        script = script.replace(f"/{root}/", f"{tmp_path}/{root}/")
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(PROJECT)}
    cut_off = tmp_path / "models" / "quickstart.new"  # by a pod that ended in the middle
    cut_off.mkdir()
    (cut_off / "half").touch()
    subprocess.run([*shell, script], env=environment, check=True)
    model, prompts = tmp_path / "models" / "quickstart", tmp_path / "data" / "quickstart"
    seed = Path(quickstart.__path__[0]) / "seed-model"
    assert sorted(file.name for file in model.iterdir()) == sorted(file.name for file in seed.iterdir())
    assert sorted(file.name for file in prompts.iterdir()) == ["heldout.jsonl", "train.jsonl"]
    assert not cut_off.exists()

    (prompts / "train.jsonl").write_text("mine")
    before = model.stat()
    subprocess.run([*shell, script], env=environment, check=True)
    assert (prompts / "train.jsonl").read_text() == "mine"
    assert model.stat() == before


@pytest.mark.parametrize(
    ("external", "port"),
    [
        ({"url": "redis://a/0"}, 6379),
        ({"url": "rediss://redis.example.com:6380/0"}, 6380),
        ({"url": "redis://[fd00::1]:7000"}, 7000),
        ({"url": "redis://service:6380", "port": 6379}, 6379),  # a service may answer on another port than its pods
        ({"existingSecret": "redis", "port": 6390}, 6390),
    ],
)
def test_pods_may_reach_the_port_of_an_external_redis(external: dict[str, Any], port: int) -> None:
    manifests = render(DEFAULT, values={"redis": {"external": external}})
    for service in ("coordinator", "inference", "reward", "learner"):
        rules = find(manifests, "NetworkPolicy", f"rl-syncline-{service}")["spec"]["egress"]
        assert {"ports": [{"port": port, "protocol": "TCP"}]} in rules, service


@pytest.mark.parametrize(("nodes", "pods_scraped"), [(1, None), (2, ".*-0")])
def test_every_process_with_metrics_is_scraped_and_no_other(nodes: int, pods_scraped: str | None) -> None:
    manifests = render(EVERYTHING, values={"learner": {"nodes": nodes}})
    monitors = {component(one): one["spec"]["endpoints"] for one in manifests if one["kind"] == "ServiceMonitor"}
    assert set(monitors) == {"coordinator", "inference", "reward", "learner", "judge", "reward-model"}
    for name, (endpoint,) in monitors.items():
        service = find(manifests, "Service", f"rl-syncline-{name}")
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    kept = [rule["regex"] for rule in monitors["learner"][0].get("relabelings", ())]
    assert kept == ([pods_scraped] if pods_scraped else [])


# -- the services ----------------------------------------------------------------------------------------


@CASES
def test_services_get_settings_that_they_have(values: Path) -> None:
    for name, template in pods(render(values)):
        service = component(template)
        if service in ("coordinator", "inference", "reward", "learner"):
            (container,) = template["spec"]["containers"]
            given = {variable for variable in environment(container) if variable.startswith("SYNCLINE_")}
            keys = {variable for variable in given if variable.startswith("SYNCLINE_KEY_")}
            assert given - keys - FOR_THE_WATCH <= settings_of(service), name
            assert "SYNCLINE_REDIS_URL" in given
            assert (
                container["args"][-3:] == ["python3", "-m", f"services.{service}"] or "torch" in container["args"][-1]
            )


def test_the_watch_of_the_coordinator_is_told_where_and_what_it_may_scale() -> None:
    (container,) = find(render(DEFAULT), "Deployment", "rl-syncline-coordinator")["spec"]["template"]["spec"][
        "containers"
    ]
    variables = environment(container)
    assert variables["SYNCLINE_KUBERNETES_NAMESPACE"] == "lab"
    assert variables["SYNCLINE_KUBERNETES_STATEFULSET"] == "rl-syncline-inference"
    assert variables["SYNCLINE_MEMBER_ID"] == "$(POD_NAME)"


@CASES
def test_a_pod_has_longer_to_leave_than_its_service_takes_to_drain(values: Path) -> None:
    for name, template in pods(render(values)):
        if component(template) == "quickstart":
            continue
        (container,) = template["spec"]["containers"]
        hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
        drain = int(environment(container).get("SYNCLINE_GRACE_S", 30))
        assert template["spec"]["terminationGracePeriodSeconds"] >= int(hook[1]) + drain + 10, name


@CASES
def test_probes_are_on_and_liveness_is_not_readiness(values: Path) -> None:
    for name, template in pods(render(values)):
        if component(template) == "quickstart":
            continue
        (container,) = template["spec"]["containers"]
        live, ready = container["livenessProbe"], container["readinessProbe"]
        assert live["failureThreshold"] * live["periodSeconds"] >= 60, name
        if component(template) not in ("judge", "reward-model"):  # they have but one answer
            assert {k: live.get(k) for k in ("grpc", "httpGet", "exec")} != {
                k: ready.get(k) for k in ("grpc", "httpGet", "exec")
            }, name
        startup = container["startupProbe"]
        if component(template) in ("inference", "judge", "reward-model"):
            assert startup["failureThreshold"] * startup["periodSeconds"] >= 3600, name
    assert not any("Probe" in json.dumps(one) for one in render(values, values={"probes": {"enabled": False}}))


def test_an_engine_is_spread_over_the_gpus_of_its_pod_and_0_is_the_cpu() -> None:
    def inference(**values: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        spec = find(render(DEFAULT, values={"inference": values}), "StatefulSet", "rl-syncline-inference")["spec"]
        (container,) = spec["template"]["spec"]["containers"]
        return container["resources"]["limits"], json.loads(environment(container)["SYNCLINE_ENGINE_OPTIONS"])

    limits, options = inference(gpu={"count": 1, "resourceName": "nvidia.com/mig-3g.40gb"})
    assert (limits["nvidia.com/mig-3g.40gb"], options["tensor_parallel_size"]) == ("1", 1)
    limits, options = inference(gpu={"count": 4}, engineOptions={"max_model_len": 8192})
    assert (limits["nvidia.com/gpu"], options["tensor_parallel_size"], options["max_model_len"]) == ("4", 4, 8192)
    limits, options = inference(gpu={"count": 0})
    assert (limits, options["tensor_parallel_size"]) == ({"memory": "96Gi"}, 1)
    assert inference(engine="transformers", gpu={"count": 0})[1] == {}


def test_an_autoscaler_takes_the_number_of_generators_out_of_the_first_manifest() -> None:
    """test_helm.py shows what an upgrade makes of it."""

    def spec(kind: str) -> dict[str, Any]:
        address = {"kind": kind, "prometheusAddress": "http://prometheus:9090"}
        manifests = render(DEFAULT, values={"inference": {"autoscaling": address}, "networkPolicy": SCRAPED})
        found: dict[str, Any] = find(manifests, "StatefulSet", "rl-syncline-inference")["spec"]
        return found

    assert spec("none")["replicas"] == 1
    assert "replicas" not in spec("hpa")
    assert "replicas" not in spec("keda")


def test_claims_are_kept_when_the_chart_is_uninstalled() -> None:
    manifests = render(CPU)
    kept = {
        one["metadata"]["name"]
        for one in manifests
        if one["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    }
    assert kept == {"rl-syncline-models", "rl-syncline-data", "rl-syncline-runs", "rl-syncline-redis"}
    assert not [one for one in render(DEFAULT) if one["kind"] == "PersistentVolumeClaim"]
    for name, template in pods(manifests):
        for mount in template["spec"]["containers"][0]["volumeMounts"]:
            if mount["name"] in ("models", "data") and component(template) not in ("quickstart", "redis"):
                assert mount["readOnly"] is True, name


def test_the_recipe_of_the_readme_gives_a_private_ca_to_the_four_services(tmp_path: Path) -> None:
    blocks = (chart.CHART / "README.md").read_text().split("```")
    (recipe,) = [block.removeprefix("yaml\n") for block in blocks if "name: SSL_CERT_FILE" in block]
    file = tmp_path / "values.yaml"
    file.write_text(recipe)
    trusted = set()
    for name, template in pods(render(DEFAULT, file)):
        (container,) = template["spec"]["containers"]
        path = environment(container).get("SSL_CERT_FILE", "")
        if path and any(path.startswith(mount["mountPath"] + "/") for mount in container["volumeMounts"]):
            assert environment(container)["AWS_CA_BUNDLE"] == path
            trusted.add(name.removeprefix("rl-syncline-"))
    assert trusted == {"coordinator", "inference", "reward", "learner"}
