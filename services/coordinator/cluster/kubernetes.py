"""The Kubernetes API: the pods of this release, followed, and the scale of its generators.

Needs pods get/list/watch in one namespace, and statefulsets/scale get/patch by name. The run never waits for it: while
the API server is away the last picture stays, and generators are found by their registration as everywhere.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import structlog
from kubernetes.aio import client, config

from services.coordinator.cluster import pods
from services.coordinator.cluster.pods import Picture, Pod
from syncline.backoff import Backoff
from syncline.errors import Conflict, NotFound, SynclineError, Unavailable

log = structlog.get_logger()
_ANSWER_S = 5.0
_WATCH_S = 30
"""Longest a watch lives. The server ends it; a connection that died in silence is noticed just after."""
_BACKOFF = Backoff(first_s=0.2, longest_s=5.0, jitter=0.5)
_FRESH_S = 2.0
_SHORTAGE_S = 5.0
_FAILURES = (aiohttp.ClientError, TimeoutError, OSError, json.JSONDecodeError)
_PAGE = 500


@asynccontextmanager
async def connected(kubeconfig: Path | None) -> AsyncIterator[client.ApiClient]:
    """A client by the pod's own service account, or by a kubeconfig. Raises Unavailable without either."""
    settings = client.Configuration()
    try:
        if kubeconfig is None:
            config.load_incluster_config(client_configuration=settings)
        else:
            await config.load_kube_config(config_file=str(kubeconfig), client_configuration=settings)
    except config.ConfigException as error:
        raise Unavailable(
            f"cannot reach the Kubernetes API ({error}); mount the service account's token, "
            "or unset SYNCLINE_KUBERNETES_NAMESPACE"
        ) from error
    settings.retries = 1  # our own loops know better when to try again
    # No proxy has a way to the API server, and Python does not read the ranges that a cluster writes into NO_PROXY.
    settings.client_session_kwargs = {"trust_env": False}
    async with client.ApiClient(settings) as api:
        yield api


class PodWatch:
    """Follows pods by a list and a watch from there on; survives whatever happens to the watch."""

    def __init__(
        self,
        api: client.ApiClient,
        picture: Picture,
        *,
        namespace: str,
        selector: str,
        gone: Callable[[Pod], Awaitable[object]],
    ) -> None:
        """Keeps `picture` current. `gone` is awaited for each pod that was removed: its processes have ended."""
        self._core = client.CoreV1Api(api)
        self._namespace = namespace
        self._selector = selector
        self._gone = gone
        self._version = ""
        """Resource version that the watch goes on from; empty asks for a list first."""
        self._picture = picture

    async def run(self) -> None:
        """Follow until cancelled."""
        pauses = _BACKOFF.pauses()
        while True:
            began = time.monotonic()
            try:
                if not self._version:
                    await self._list()
                await self._watch()
                problem = ""
            except _Gone as gone:
                self._version, problem = "", str(gone)
            except SynclineError as error:
                problem = self._picture.trouble = error.message
            if problem:
                log.warning("pod_watch_broke", error=problem)
            if time.monotonic() - began > _BACKOFF.longest_s:
                pauses = _BACKOFF.pauses()
            await asyncio.sleep(next(pauses))

    async def _list(self) -> None:
        found: dict[str, Pod] = {}
        following = ""
        while True:
            body = await self._get(limit=_PAGE, **({"_continue": following} if following else {}))
            found |= {pod.name: pod for pod in map(pods.observe, body["items"])}
            following = body["metadata"].get("continue", "")
            if not following:
                break
        missing = [pod for name, pod in self._picture.pods.items() if name not in found]
        self._picture.pods, self._version = found, body["metadata"]["resourceVersion"]
        for pod in missing:  # a name that came back is another process by now: its lease knows better
            await self._gone(pod)

    async def _get(self, **options: Any) -> dict[str, Any]:
        async with _answered("list pods"), asyncio.timeout(_ANSWER_S):
            response = await self._core.list_namespaced_pod_without_preload_content(
                self._namespace, label_selector=self._selector, **options
            )
            body: dict[str, Any] = _checked(await response.read(), response.status)
            return body

    async def _watch(self) -> None:
        """Take in events until the server ends the watch. Raises _Gone when the history does not reach back."""
        async with _answered("watch pods"):
            response = await self._core.list_namespaced_pod_without_preload_content(
                self._namespace,
                label_selector=self._selector,
                watch=True,
                allow_watch_bookmarks=True,
                resource_version=self._version,
                timeout_seconds=_WATCH_S,
                _request_timeout=_WATCH_S + _ANSWER_S,
            )
            try:
                if response.status != HTTPStatus.OK:
                    _checked(await response.read(), response.status)
                self._picture.trouble = ""
                async for line in response.content:
                    await self._take_in(json.loads(line))
            finally:
                response.close()

    async def _take_in(self, event: Mapping[str, Any]) -> None:
        kind, thing = event["type"], event["object"]
        if kind == "ERROR":
            _checked(json.dumps(thing).encode(), int(thing.get("code", HTTPStatus.INTERNAL_SERVER_ERROR)))
        self._version = thing["metadata"]["resourceVersion"]
        if kind == "BOOKMARK":
            return
        pod = pods.observe(thing)
        if kind == "DELETED":
            self._picture.pods.pop(pod.name, None)
            await self._gone(pod)
        else:
            self._picture.pods[pod.name] = pod


@dataclass(slots=True)
class StatefulSetScale:
    """The scale of one StatefulSet: `services.coordinator.cluster.scaling.Scale`."""

    api: client.ApiClient
    namespace: str
    name: str
    _last: int | None = None
    _asked_at: float = float("-inf")

    async def wanted(self) -> int | None:
        """The number that was asked for last, by whomever; the last known one while the API server is away."""
        if time.monotonic() - self._asked_at > _FRESH_S:
            self._asked_at = time.monotonic()  # first: who asks meanwhile takes the last answer
            with suppress(SynclineError):
                self._last = await self._call("read the scale of", "read_namespaced_stateful_set_scale")
        return self._last

    async def change(self, replicas: int) -> None:
        """As `kubectl scale` does. Raises Unavailable, NotFound, or Conflict where it is forbidden."""
        patch = {"spec": {"replicas": replicas}}
        verb = "patch_namespaced_stateful_set_scale"
        self._last = await self._call("scale", verb, body=patch, _content_type="application/merge-patch+json")
        self._asked_at = time.monotonic()

    async def _call(self, what: str, method: str, **options: Any) -> int:
        call = getattr(client.AppsV1Api(self.api), f"{method}_without_preload_content")
        async with _answered(f"{what} StatefulSet {self.name}"), asyncio.timeout(_ANSWER_S):
            response = await call(self.name, self.namespace, **options)
            scale = _checked(await response.read(), response.status)
            return int(scale["spec"].get("replicas", 0))


async def watch_for_shortage(scale: StatefulSetScale, picture: Picture) -> None:
    """Tell for as long as pods are missing: a quota or an admission hook that refuses them leaves none to look at."""
    before = 0
    while True:
        wanted = await scale.wanted() or 0
        there = sum(pod.role == "inference" and not pod.ended for pod in picture.pods.values())
        missing = max(0, wanted - there)
        lasting = missing > 0 and before > 0  # pods that are just being made are not missing
        picture.shortage = (
            f"{wanted} generators are wanted, and {there} of their pods exist; "
            f"'kubectl --namespace {scale.namespace} describe statefulset {scale.name}' says why"
            if lasting
            else ""
        )
        before = missing
        await asyncio.sleep(_SHORTAGE_S)


class _Gone(Exception):
    """410: the server's history begins after our resource version."""


@asynccontextmanager
async def _answered(what: str) -> AsyncIterator[None]:
    """Turns what a request can fail with into our errors; `what` completes "cannot ..."."""
    try:
        yield
    except _FAILURES as error:
        raise Unavailable(
            f"cannot {what}: the Kubernetes API does not answer ({error or type(error).__name__})"
        ) from error
    except _Refused as refused:
        raise refused.as_error(what) from refused


@dataclass
class _Refused(Exception):
    """The server's answer to a request that it did not serve."""

    status: int
    message: str

    def as_error(self, what: str) -> SynclineError:
        if self.status == HTTPStatus.NOT_FOUND:
            return NotFound(f"cannot {what}: {self.message}")
        if self.status in (HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED):
            return Conflict(f"cannot {what}: {self.message}; give the coordinator's service account the chart's Role")
        return Unavailable(f"cannot {what}: the Kubernetes API answers {self.status}: {self.message}")


def _checked(body: bytes, status: int) -> dict[str, Any]:
    """The object of an answer. Raises _Gone or _Refused."""
    if status == HTTPStatus.GONE:
        raise _Gone("410 Gone: the pods are listed anew")
    found: dict[str, Any] = json.loads(body)
    if status >= HTTPStatus.BAD_REQUEST:
        raise _Refused(status, str(found.get("message", "")))
    return found
