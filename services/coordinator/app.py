"""Builds the FastAPI application from its parts."""

from __future__ import annotations

import hmac
from functools import cache, partial
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from redis.asyncio import Redis
from starlette.types import ASGIApp, Receive, Scope, Send

from services.coordinator.api import evaluations, events, fleet, openapi, page, problems, runs
from services.coordinator.api.bodies import BodyLimit
from services.coordinator.cluster.fleet import Fleet
from services.coordinator.cluster.scaling import NoScale, Scale
from services.coordinator.control.runs import Runs
from syncline.addresses import is_loopback
from syncline.errors import Unauthorized

_OPEN_PATHS = frozenset({"/healthz", "/readyz", "/openapi.json"}) | page.PATHS
_OTHER_SITES = frozenset({"cross-site", "same-site"})


def create_app(*, runs_: Runs, fleet_: Fleet, redis: Redis, token: str = "", scale: Scale | None = None) -> FastAPI:
    """The REST API and its pages over the given parts. With a token, all but health and what has no data ask for it."""
    app = FastAPI(
        title="Syncline",
        version="1",
        summary="Reinforcement-learning post-training, anywhere between offline and online",
        docs_url=None,  # FastAPI's own page loads its scripts from the internet
        redoc_url=None,
    )
    app.state.runs, app.state.fleet, app.state.redis = runs_, fleet_, redis
    app.state.scale = scale or NoScale()
    problems.install(app)
    for router in (runs.router, events.router, evaluations.router, fleet.router, page.router):
        app.include_router(router)
    app.openapi = cache(partial(openapi.document, app))  # type: ignore[method-assign] # FastAPI's own way to replace it
    app.add_middleware(BodyLimit)  # added before the guard: who may not ask is not listened to
    app.add_middleware(_Guard, token=token)
    return app


class _Guard:
    """Turns away what this coordinator does not answer.

    Plain ASGI on purpose: Starlette's own kind of middleware ends a response that breaks off as if it were whole.
    """

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        token = self._token
        if not token and not is_loopback(request.url.hostname or ""):  # a name that an attacker's DNS points at us
            detail = "without a token this coordinator answers to 127.0.0.1 only; ask it there, or set SYNCLINE_TOKEN"
            return problems.problem(403, "foreign_host", detail)
        # Without a token a browser's visit to another site could otherwise act on a coordinator on the same machine.
        if request.method not in ("GET", "HEAD") and _from_elsewhere(request):
            return problems.problem(403, "cross_site", "a page of another site may not act on this coordinator")
        if token and request.url.path not in _OPEN_PATHS and not _authorized(request, token):
            error = Unauthorized("send the token as 'Authorization: Bearer <token>' (SYNCLINE_TOKEN)")
            return problems.problem(error.http_status, error.code, error.message)
        return None


def _from_elsewhere(request: Request) -> bool:
    """Whether a page of another site made a browser send this. Old browsers only tell the page's own address."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None or origin is None:
        return site in _OTHER_SITES
    return urlsplit(origin).netloc != request.headers.get("host")


def _authorized(request: Request, token: str) -> bool:
    given = request.headers.get("authorization", "")
    return hmac.compare_digest(given.encode(), f"Bearer {token}".encode())
