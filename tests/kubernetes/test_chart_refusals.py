"""Bad values are refused before anything is installed, with what to write instead."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kubernetes.chart import DEFAULT, Refused, render
from tests.kubernetes.test_chart_values import nested

FAILS = {
    "storage.models.existingClaim=": "storage.models has neither a claim nor a class: set storage.models.existingClaim",
    "storage.runs.storageClass=nfs": "storage.runs has both a claim and a class: set storage.runs.existingClaim",
    "storage.models.url=s3://lab/models": "storage.models has both a URL and a claim: leave",
    "storage.records.existingClaim=a": "storage.records is for the coordinator alone",
    "storage.runs.existingClaim= storage.runs.url=s3://lab/runs s3.endpoint=minio:9000": "write a URL, as in http://",
    "s3.existingSecret=a": "nothing lies there: set storage.models.url, storage.data.url or storage.runs.url",
    "storage.data.existingClaim= storage.data.url=s3://lab/data quickstart.enabled=true": "set quickstart.enabled to",
    "storage.models.existingClaim= storage.models.url=s3://lab/models judge.enabled=true judge.model=a": (
        "judge.enabled serves a folder"
    ),
    "redis.auth.password=a redis.auth.existingSecret=b": "set redis.auth.password or redis.auth.existingSecret",
    "redis.external.url=redis://a:1 redis.external.existingSecret=b": "set redis.external.url or",
    "redis.external.url=redis://a:1 redis.auth.password=b": "leave redis.auth alone",
    "redis.external.url=redis://:secret@a:1": "put the URL into a secret",
    "redis.persistence.existingClaim=a redis.persistence.storageClass=b": "redis.persistence has both",
    "redis.persistence.enabled=false redis.persistence.existingClaim=a": "set it to true, or leave existingClaim",
    "redis.external.existingSecret=a": "set redis.external.port to that of its URL",
    "auth.token=a auth.existingSecret=b": "set auth.token or auth.existingSecret, not both",
    "judge.tensorParallelism=4 judge.gpu.count=2": "set judge.gpu.count to at least as many",
    "judge.enabled=true": "set judge.model to a folder",
    "rewardModel.enabled=true": "set rewardModel.model to a folder",
    "inference.autoscaling.kind=hpa inference.autoscaling.minReplicas=9": "minReplicas is above maxReplicas",
    "inference.autoscaling.kind=keda": "set inference.autoscaling.prometheusAddress",
    "coordinator.ingress.enabled=true networkPolicy.enabled=false": "set coordinator.ingress.host",
    "coordinator.httpRoute.enabled=true networkPolicy.enabled=false": "set coordinator.httpRoute.parentRefs",
    "learner.ranksPerNode=4 learner.gpu.count=2": "set it to 0 to have one for each",
    "inference.gpu.resourceName=nvidia.com/mig-1g.10gb inference.gpu.count=2": "set inference.gpu.count to 1",
    "learner.gpu.resourceName=nvidia.com/mig-1g.10gb learner.gpu.count=2": "set learner.gpu.count to 1",
    "coordinator.ingress.enabled=true coordinator.ingress.host=a": "set coordinator.networkPolicy.ingressFrom to",
    "coordinator.httpRoute.enabled=true": "httpRoute.enabled is true, but the network policy lets nobody in",
    "coordinator.service.type=LoadBalancer": "service.type is LoadBalancer, but the network policy lets nobody in",
    "coordinator.service.type=NodePort": "coordinator.service.externalTrafficPolicy to Local",
    "coordinator.service.externalTrafficPolicy=Local": "set coordinator.service.type to LoadBalancer or NodePort",
    "coordinator.service.loadBalancerClass=a": "its type is ClusterIP: set coordinator.service.type to LoadBalancer",
    "coordinator.service.nodePort=30080": "its type is ClusterIP: set coordinator.service.type to NodePort",
    "monitoring.serviceMonitor.enabled=true": "set networkPolicy.metricsFrom to where Prometheus is",
    "monitoring.alerts.enabled=true": "set networkPolicy.metricsFrom to where Prometheus is",
    "inference.autoscaling.kind=hpa": "inference.autoscaling.kind is hpa, but the network policy lets nobody scrape",
    "nameOverride=My_Lab": "nameOverride is My_Lab, which is no name in Kubernetes",
    "fullnameOverride=my.lab": "objects would be called my.lab-coordinator",
    "fullnameOverride=1lab": "set fullnameOverride to lower-case letters",
    "storage.runs.subPath=/teams/rl": "storage.runs.subPath is /teams/rl, and must lie in the claim",
    "storage.data.subPath=teams/../rl": "storage.data.subPath is teams/../rl, and must lie in the claim",
    "s3.port=9000": "nothing lies there",
    "hub.existingSecret=a": "set hub.prefixes",
    "redis.external.port=6380": "set redis.external.url or redis.external.existingSecret",
    "rewardModel.tensorParallelism=3 rewardModel.gpu.count=4": "set rewardModel.tensorParallelism to 0 to take them",
    "judge.tensorParallelism=3 judge.gpu.count=4": "judge.tensorParallelism is 3, and does not divide the 4 GPUs",
    "inference.engineOptions.tensor_parallel_size=2": "set inference.gpu.count",
    "inference.engine=transformers inference.gpu.count=2": "inference.engine is transformers, which works on one GPU",
    "judge.enabled=true judge.model=/models/a": "judge.model is /models/a, and must be a folder below the claim",
    "rewardModel.enabled=true rewardModel.model=../a": "rewardModel.model is ../a, and must be a folder below",
    "coordinator.ingress.host=https://rl.example.com": "leave out scheme, port and path, as in rl.example.com",
    "inference.env=twice": "inference.env names a variable twice",
    "commonLabels=selector": "commonLabels sets app.kubernetes.io/name, by which services and policies find the pods",
    "learner.podLabels=selector": "learner.podLabels sets app.kubernetes.io/name",
    "learner.resources.limits.memory=32Gi": "learner.resources.requests.memory is 64Gi, above the limit of 32Gi",
    "coordinator.resources.limits.cpu=250m": "set coordinator.resources.limits.cpu to at least as much",
    "inference.sharedMemory=97Gi": "set that to more, or inference.sharedMemory to less",
    "judge.sharedMemory=100G judge.resources.limits.memory=93Gi": "judge.sharedMemory is 100G, which counts as memory",
    "reward.verifierWorkers=3": "set that to 4608Mi or more, or reward.verifierWorkers to fewer",
    "redis.maxMemory=3gb": "redis.maxMemory is 3gb, above redis.resources.limits.memory, which is 2Gi",
    "redis.maxMemory=2200000k": "set redis.maxMemory to three quarters of the limit",
}
NOT_IN_THE_SCHEMA = [
    "inference.gpu.count=-1",
    "inference.replicas=-1",
    "learner.nodes=0",
    "reward.verifierWorkers=0",
    "inference.gpus=2",
    "inference.gpu=null",
    "auth=null",
    "storage.models.s3=bucket",
    "storage.models.url=https://bucket",
    "hub.prefixes=hf://org",
    "unknown=1",
    "inference.replicas=many",
    "inference.autoscaling.kind=often",
    "redis.maxMemory=lots",
    "redis.persistence.size=lots",
    "storage.runs.size=1TB",
    "storage.runs.size=-1Gi",
    "inference.sharedMemory=huge",
    "learner.env=number",
    "learner.resources.requests.cpu=-1",
    "learner.resources.limits.memory=64GB",
    "inference.autoscaling.cooldownSeconds=3601",
    "coordinator.service.externalTrafficPolicy=Anywhere",
    "coordinator.podDisruptionBudget.maxUnavailable=half",
    "inference.podDisruptionBudget.maxUnavailable=101%",
    "inference.podDisruptionBudget.maxUnavailable=-1",
    # Objects of Kubernetes' API, however deep
    "inference.resources.limit=1Gi",
    "learner.podSecurityContext.runAsUsr=1",
    "containerSecurityContext.privilege=true",
    "reward.containerSecurityContext.capabilities.dropp=a",
    "coordinator.env=misspelt",
    "redis.envFrom=misspelt",
    "judge.tolerations=misspelt",
    "learner.tolerations=operator",
    "learner.tolerations=effect",
    "inference.updateStrategy.type=Rolling",
    "learner.resources.limits.memroy=64Gi",
    "reward.resources.requests.gpu=1",
    "learner.affinity.nodeAffinty=a",
    "inference.extraVolumes=misspelt",
    "inference.extraVolumeMounts=misspelt",
    "inference.initContainers=misspelt",
    "inference.extraContainers=misspelt",
    "inference.updateStrategy.rollingUpdate.maxUnavailble=2",
    "reward.networkPolicy.egress=misspelt",
    "coordinator.networkPolicy.ingressFrom=misspelt",
    "networkPolicy.dnsTo=misspelt",
    "coordinator.httpRoute.parentRefs=misspelt",
]


def values_of(text: str) -> dict[str, Any]:
    """`a.b=1 c=x` as nested values, over the defaults of the tests."""
    values: dict[str, Any] = {}
    for path, _, value in (one.partition("=") for one in text.split()):
        words = {
            "true": True,
            "false": False,
            "null": None,
            "twice": [{"name": "A"}, {"name": "A"}],
            "selector": {"app.kubernetes.io/name": "a"},
            "number": [{"name": "A", "value": 1}],
            "small": [{"name": "SYNCLINE_CHECK_MEMORY_MB", "value": "256"}],
            "operator": [{"key": "a", "operator": "Exist"}],
            "effect": [{"key": "a", "effect": "NoScheduling"}],
            "misspelt": [{"name": "a", "image": "a", "mountPath": "a", "misspelt": "a"}],
        }
        typed = int(value) if value.lstrip("-").isdigit() else words.get(value, value)
        values = nested(path, typed, values)
    return values


@pytest.mark.parametrize("program", ["helm3", "helm4"])
@pytest.mark.parametrize(("values", "advice"), FAILS.items(), ids=lambda text: text if "=" in text else "")
def test_a_contradiction_is_refused_with_what_to_write_instead(values: str, advice: str, program: str) -> None:
    with pytest.raises(Refused) as refused:
        render(DEFAULT, values=values_of(values), program=program)
    assert advice in str(refused.value)


@pytest.mark.parametrize("program", ["helm3", "helm4"])
@pytest.mark.parametrize(
    ("path", "value", "advice"),
    [
        ("redis.auth.password", "p@ss/w", "redis.auth.password has characters that end a URL: take letters"),
        ("redis.external.url", "unix://:p@ss/w", "redis.external.url is no URL of Redis: write redis://"),
        ("redis.external.url", "redis://:p@ss w", "put the URL into a secret"),
        ("auth.token", "p@ss/w\n", "auth.token has white space"),
    ],
)
def test_a_refusal_does_not_tell_a_secret(path: str, value: str, advice: str, program: str) -> None:
    with pytest.raises(Refused) as refused:
        render(DEFAULT, values=nested(path, value, {}), program=program)
    assert advice in str(refused.value)
    assert "p@ss" not in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        "learner.resources.limits.memory=null learner.sharedMemory=999Gi",
        "learner.resources.limits.memory=68719476736",
        "judge.sharedMemory= judge.resources.limits.memory=33e9 judge.resources.requests.memory=32000000000",
        "reward.verifierWorkers=3 reward.resources.limits.memory=4831838208",
        "reward.verifierWorkers=9 reward.env=small",
        "redis.maxMemory=2G",
        "redis.maxMemory=9gb redis.external.url=redis://a:1",
    ],
)
def test_memory_that_fits_in_whatever_words_is_taken(values: str) -> None:
    assert render(DEFAULT, values=values_of(values))


@pytest.mark.parametrize("program", ["helm3", "helm4"])
@pytest.mark.parametrize("values", NOT_IN_THE_SCHEMA)
def test_a_value_of_a_wrong_kind_is_refused_by_its_path(values: str, program: str) -> None:
    with pytest.raises(Refused) as refused:
        render(DEFAULT, values=values_of(values), program=program)
    key = values.partition("=")[0].rpartition(".")[2]
    assert "don't meet the specifications of the schema" in str(refused.value)
    assert key in str(refused.value)
