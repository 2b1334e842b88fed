"""Settings of the coordinator."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import SecretStr, field_validator, model_validator

from syncline import addresses
from syncline.settings import ServiceSettings


class CoordinatorSettings(ServiceSettings):
    """Closed by default: the REST API binds to loopback, and to anything else only with a token."""

    rest_bind: str = "127.0.0.1:8080"
    """host:port of the REST API and the web page."""
    token: SecretStr = SecretStr("")
    """Bearer token that every request but the health checks must carry; empty asks for none."""
    checkpoint_store: str = ""
    """s3:// URL below which runs keep checkpoints, training states, recorded rollouts and standings, for installations
    without a disk that coordinator, learner and generators share. Empty: the run's folder."""
    remote_prefixes: str = ""
    """s3:// and hf:// URLs, separated by commas, at or below which run specs may name models and data: s3://bucket/models,
    hf://org, or hf:// for the whole hub. Empty: nothing remote."""
    load_deadline_s: float = 600.0
    """Longest a generator may take to stage, load and prove a checkpoint; the first load starts the engine."""
    stall_after_s: float = 60.0
    """Seconds without progress after which a run is reported as stalled."""
    max_attempts: int = 5
    """Attempts in a row that get no further than those before, after which a run fails."""
    kubernetes_namespace: str = ""
    """Namespace whose pods are watched; empty asks nothing of Kubernetes."""
    kubernetes_selector: str = ""
    """Labels of the pods of this release; empty is every pod of the namespace."""
    kubernetes_statefulset: str = ""
    """StatefulSet of the generators, which `PATCH /v1/fleet` scales."""
    kubernetes_autoscaler: str = ""
    """Kind and name of what chooses its number; `PATCH /v1/fleet` then refuses. Empty: nothing else does."""
    kubeconfig: Path | None = None
    """How to reach the cluster from outside; empty takes the pod's own service account."""
    generators_file: Path | None = None
    """File that a local stack's supervisor reads the wanted number of generators from."""

    @property
    def prefixes(self) -> tuple[str, ...]:
        """`remote_prefixes`, one by one."""
        return tuple(filter(None, (one.strip() for one in self.remote_prefixes.split(","))))

    @property
    def rest_host(self) -> str:
        return addresses.listening(self.rest_bind)[0]

    @property
    def rest_port(self) -> int:
        return addresses.listening(self.rest_bind)[1]

    @field_validator("checkpoint_store")
    @classmethod
    def _is_a_bucket(cls, url: str) -> str:
        if url and not re.fullmatch(r"s3://[^/]+(/[^/]+)*/?", url):
            raise ValueError(f"{url!r} is not a URL of an object store; write s3://bucket/prefix")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _prefixes_are_urls(self) -> CoordinatorSettings:
        for prefix in self.prefixes:
            if not re.fullmatch(r"s3://[^/]+(/[^/]+)*/?|hf://([^/]+(/[^/]+)?/?)?", prefix):
                raise ValueError(f"{prefix!r} of SYNCLINE_REMOTE_PREFIXES is neither s3://bucket/prefix nor hf://org")
        return self

    @model_validator(mode="after")
    def _open_only_with_a_token(self) -> CoordinatorSettings:
        if not (addresses.is_loopback(self.rest_host) or self.token.get_secret_value()):
            raise ValueError(
                f"SYNCLINE_REST_BIND={self.rest_bind} would be reachable from other machines without a token; "
                "set SYNCLINE_TOKEN, or bind to 127.0.0.1"
            )
        return self
