"""Models behind HTTP: one place for connections, limits, retries and keys.

A call ends in one of three ways. An answer: the decoded JSON. `Refused`: the server will never take this very
input, so no retry helps. `Unavailable`: everything else, a wrong address, model or key included, as somebody can
mend it while the run waits; the message says what to do. Keys are in no message: they are only ever in the
Authorization header.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx

from services.reward.api_keys import ApiKeys
from services.reward.metrics import CHECK_SECONDS, RETRIES
from syncline.backoff import Backoff
from syncline.errors import Unavailable
from syncline.rewardspec import EndpointSpec

Answer = TypeVar("Answer")

_ATTEMPTS = 4
_BACKOFF = Backoff(first_s=0.5, longest_s=20.0, jitter=0.5)
_CONNECT_S = 10.0
_SHOWN_CHARS = 200
_HIGHEST_PORT = 65_535

_TRY_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_TOO_LONG = re.compile(
    r"context[ _]length|context window|maximum (model|input|sequence) length|max_model_len|too long|longer than"
    r"|too many (input )?tokens|reduce the length",
    re.IGNORECASE,
)
_FILTERED = re.compile(r"content_filter|content_policy|content management policy", re.IGNORECASE)


class Refused(Exception):
    """The server will not take this input, now or later."""

    def __init__(self, why: Literal["too_long", "refusal"], cause: str) -> None:
        super().__init__(cause)
        self.why = why
        self.cause = cause


class _Again(Exception):
    """This attempt failed in a way that another one may mend."""

    def __init__(self, cause: str, *, pause_s: float = 0.0) -> None:
        super().__init__(cause)
        self.pause_s = pause_s
        """What the server asks for."""


class Endpoints:
    """Calls the endpoints of all groups. Limits are per endpoint and hold across groups and runs."""

    def __init__(self, *, keys_dir: Path | None = None, backoff: Backoff = _BACKOFF) -> None:
        self._keys = ApiKeys(keys_dir)
        self._backoff = backoff
        self._gates: dict[tuple[str, int, float | None], _Gate] = {}
        self._client: httpx.AsyncClient | None = None

    async def post(
        self, spec: EndpointSpec, url: str, body: Mapping[str, Any], *, read: Callable[[Any], Answer]
    ) -> Answer:
        """Send `body` and return what `read` makes of the decoded answer.

        A `read` that raises KeyError, IndexError, TypeError or ValueError says that the answer has the wrong form:
        that is tried again too, like a busy server or a broken connection, at most four times and for twice
        `timeout_s`. The time that it waits for its turn is not counted: it is no fault of the server.
        """
        key = self._keys.named(spec.key) if spec.key is not None else ""
        gate = self._gate(spec)
        left_s = 2 * spec.timeout_s
        pauses = self._backoff.pauses()
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with gate.turn():
                    started = time.monotonic()
                    return await self._attempt(spec, url, body, key, read)
            except _Again as failed:
                RETRIES.labels(spec.type).inc()
                gate.pause(failed.pause_s)
                pause_s = max(failed.pause_s, next(pauses))
                left_s -= time.monotonic() - started + pause_s
                if attempt == _ATTEMPTS or left_s <= 0:
                    raise Unavailable(f"{failed} (attempts: {attempt})") from None
                await asyncio.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def _gate(self, spec: EndpointSpec) -> _Gate:
        """Tasks that give an endpoint the same limits share them; a task that changes them starts afresh."""
        limits = (spec.endpoint, spec.concurrency, spec.requests_per_minute)
        if limits not in self._gates:
            self._gates[limits] = _Gate(spec)
        return self._gates[limits]

    async def close(self) -> None:
        """Close the connections; calls that are under way fail."""
        if self._client is not None:
            await self._client.aclose()

    async def _attempt(
        self,
        spec: EndpointSpec,
        url: str,
        body: Mapping[str, Any],
        key: str,
        read: Callable[[Any], Answer],
    ) -> Answer:
        if self._client is None:
            # The gates limit; the deadline of the whole request is ours, as httpx only limits single reads.
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
            self._client = httpx.AsyncClient(timeout=httpx.Timeout(None, connect=_CONNECT_S), limits=limits)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        started = time.monotonic()
        try:
            if (httpx.URL(url).port or 0) > _HIGHEST_PORT:  # which else ends deep in the event loop
                raise httpx.InvalidURL(f"no port is above {_HIGHEST_PORT}")
            async with asyncio.timeout(spec.timeout_s):
                response = await self._client.post(url, json=body, headers=headers)
        except (TimeoutError, httpx.TimeoutException):
            raise _Again(f"no answer within {spec.timeout_s:g} s") from None
        except httpx.DecodingError as error:
            said = _shown(str(error), key)
            raise _Again(f"an answer that cannot be unpacked ({said}); is there a proxy in between?") from None
        except httpx.RequestError as error:
            raise _Again(f"{_words(error, key)}; is the server up, and is the address right?") from None
        except (httpx.InvalidURL, UnicodeError) as error:
            raise Unavailable(f"{url} cannot be asked ({_shown(str(error), key)}); mend reward.endpoint") from None
        if response.status_code != 200:
            raise _failure(response, spec, key)
        CHECK_SECONDS.labels(spec.type).observe(time.monotonic() - started)
        try:
            return read(response.json())
        except (KeyError, IndexError, TypeError, ValueError) as error:
            said = _shown(response.text, key)
            raise _Again(f"{url} gave an answer of the wrong form ({type(error).__name__}: {said!r})") from None


class _Gate:
    """How many requests an endpoint has at a time, and how soon after each other they start."""

    def __init__(self, spec: EndpointSpec) -> None:
        self._room = asyncio.Semaphore(spec.concurrency)
        self._apart_s = 60.0 / spec.requests_per_minute if spec.requests_per_minute is not None else 0.0
        self._next_start = 0.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        async with self._room:
            # Until a time, which may move meanwhile: another one may have started, or the server may ask for more.
            while (wait_s := self._next_start - time.monotonic()) > 0:  # noqa: ASYNC110 - a time, not an event
                await asyncio.sleep(wait_s)
            self._next_start = time.monotonic() + self._apart_s
            yield

    def pause(self, seconds: float) -> None:
        """Let nobody start for so long, as the server asks for it."""
        self._next_start = max(self._next_start, time.monotonic() + seconds)


def _failure(response: httpx.Response, spec: EndpointSpec, key: str) -> Exception:
    """What a status other than 200 means."""
    status, said = response.status_code, _message(response, key)
    if status in _TRY_AGAIN:
        return _Again(f"status {status}: {said}", pause_s=_retry_after_s(response))
    if status in (401, 403):
        mend = f"check the key {spec.key!r}" if spec.key else "name its key in reward.key"
        return Unavailable(f"status {status}: it does not let us in; {mend}")  # some servers repeat the key: not shown
    if status == 404:
        return Unavailable(f"status 404: {said}; check reward.endpoint and reward.model ({spec.model!r})")
    if status in (400, 413, 422):
        if status == 413 or _TOO_LONG.search(said):
            return Refused("too_long", said)
        if _FILTERED.search(response.text):
            return Refused("refusal", said)
    return Unavailable(f"status {status}: {said}; check reward.endpoint, reward.model and its options")


def _message(response: httpx.Response, key: str) -> str:
    """The server's own words, shortened: OpenAI's {"error": {"message": ...}} or whatever there is."""
    text = response.text
    try:
        error = response.json()
        error = error.get("error", error)
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except (json.JSONDecodeError, AttributeError, UnicodeDecodeError):
        pass
    return _shown(text, key) or "it gave no reason"


def _shown(text: str, key: str) -> str:
    """One short line, in which a key that the server repeats is not seen."""
    return " ".join((text.replace(key, "***") if key else text).split())[:_SHOWN_CHARS]


def _retry_after_s(response: httpx.Response) -> float:
    """Seconds that the server asks us to wait, within reason; the form with a date is not read."""
    try:
        return min(_BACKOFF.longest_s, max(0.0, float(response.headers.get("retry-after", 0.0))))
    except ValueError:
        return 0.0


def _words(error: httpx.RequestError, key: str) -> str:
    kinds: dict[type[httpx.RequestError], str] = {
        httpx.ConnectError: "no connection",
        httpx.RemoteProtocolError: "the connection broke off",
    }
    kind, said = kinds.get(type(error), type(error).__name__), _shown(str(error), key)
    return f"{kind} ({said})" if said else type(error).__name__
