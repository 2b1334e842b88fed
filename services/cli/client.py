"""The coordinator's REST API as the command line uses it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from syncline.addresses import is_loopback
from syncline.errors import FieldProblem, InvalidSpec, SynclineError, Unavailable, all_errors

_TIMEOUT = httpx.Timeout(15.0)
_GREETING_TIMEOUT = httpx.Timeout(3.0)  # whatever else listens there may never answer
_CHECKING_TIMEOUT = httpx.Timeout(15.0, read=1800.0)  # the coordinator reads every file that a spec names
_SILENCE_S = 45.0  # the event stream sends a heartbeat every 15 s
_GIVE_UP_AFTER_S = 60.0
_BY_CODE = {error.code: error for error in all_errors()}
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    id: str
    type: str
    data: Mapping[str, Any]


class Api:
    """A coordinator at an address. Every refusal comes back as the SynclineError that the server raised."""

    def __init__(self, server: str, *, token: str = "", transport: httpx.BaseTransport | None = None) -> None:
        """Raises SynclineError for an address or a token that no request can carry."""
        self.server = server.rstrip("/")
        if not re.fullmatch("[!-~]*", token):
            raise SynclineError("the token holds spaces, or characters that are not ASCII; give the coordinator's own")
        try:
            address = urlsplit(self.server)
            address.port  # noqa: B018 - reading it checks it
            self._http = httpx.Client(
                base_url=self.server,
                timeout=_TIMEOUT,
                headers={"Authorization": f"Bearer {token}"} if token else {},
                # A proxy, if the environment names one, has no way to this machine's loopback.
                trust_env=not is_loopback(address.hostname or ""),
                transport=transport,
            )
        except (ValueError, httpx.InvalidURL) as error:
            raise SynclineError(f"{server} is no address ({error}); give one like http://127.0.0.1:8080") from None

    def close(self) -> None:
        self._http.close()

    def answers(self) -> bool:
        """Whether a coordinator (and not some other program) answers at the address."""
        try:
            return "runs" in self._call("GET", "/v1/runs", params={"page_size": 1}, timeout=_GREETING_TIMEOUT)
        except Unavailable:
            return False
        except SynclineError as error:
            return error.code == "unauthorized"

    def submit(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        return self._call("POST", "/v1/runs", json=spec, timeout=_CHECKING_TIMEOUT)

    def run(self, run_id: str) -> dict[str, Any]:
        return self._call("GET", f"/v1/runs/{run_id}")

    def runs(self) -> list[dict[str, Any]]:
        """All runs, newest first."""
        found = self._pages("/v1/runs", "runs")
        return sorted(found, key=lambda run: run["created_at"], reverse=True)

    def newest(self) -> dict[str, Any]:
        """The run that commands mean when none is named."""
        runs = self.runs()
        if not runs:
            raise SynclineError("there are no runs yet; start one with: syncline submit SPEC")
        return runs[0]

    def at_work(self) -> dict[str, Any]:
        """The run that commands mean that look at one, when none is named: the one at work, or else the newest."""
        working = [run for run in self.runs() if run["state"] not in (*TERMINAL, "pending")]
        return working[0] if working else self.newest()

    def only_active(self) -> dict[str, Any]:
        """The run that commands mean that stop something, when none is named and no other can be meant."""
        active = [run for run in self.runs() if run["state"] not in TERMINAL]
        if not active:
            raise SynclineError("no run is active; name the one that you mean")
        if len(active) > 1:
            listed = ", ".join(f"{run['id']} ({run['state']})" for run in active)
            raise SynclineError(f"{len(active)} runs are active, so name the one that you mean: {listed}")
        return active[0]

    def only_held(self) -> dict[str, Any]:
        """The run that `resume` means when none is named: the one that is paused, else the newest, if it can go on."""
        runs = self.runs()
        paused = [run for run in runs if run["state"] == "paused"]
        if paused:
            return paused[0]
        if not runs or runs[0]["state"] not in ("failed", "cancelled"):
            raise SynclineError("no run is paused, and the newest has not failed; name the one that you mean")
        return runs[0]

    def delete(self, run_id: str) -> None:
        """Delete a run that is over, with its folder."""
        self._send("DELETE", f"/v1/runs/{run_id}")

    def steps(self, run_id: str) -> list[dict[str, Any]]:
        return self._pages(f"/v1/runs/{run_id}/steps", "steps")

    def evaluations(self, run_id: str) -> list[dict[str, Any]]:
        return self._pages(f"/v1/runs/{run_id}/evaluations", "evaluations")

    def summary(self, run_id: str) -> dict[str, Any]:
        """What came of a run that is over."""
        return self._call("GET", f"/v1/runs/{run_id}/summary")

    def act(self, run_id: str, verb: Literal["cancel", "pause", "resume"]) -> dict[str, Any]:
        """Do something to a run; it answers as it then is."""
        return self._call("POST", f"/v1/runs/{run_id}:{verb}")

    def change_period(self, run_id: str, period: int | str) -> dict[str, Any]:
        """Another sync period from the next window on."""
        return self._call("PATCH", f"/v1/runs/{run_id}", json={"sync": {"period": period}})

    def fleet(self) -> dict[str, Any]:
        return self._call("GET", "/v1/fleet")

    def scale(self, generators: int) -> dict[str, Any]:
        """Want another number of generators; the fleet as it then is."""
        return self._call("PATCH", "/v1/fleet", json={"replicas": generators})

    def rollouts(self, run_id: str, *, form: str, task: str = "") -> Iterator[bytes]:
        """What a run trained on, as chunks of JSON lines. Raises Unavailable when they break off."""
        params = {"format": form} | ({"task": task} if task else {})
        try:
            with self._http.stream("GET", f"/v1/runs/{run_id}/rollouts", params=params) as response:
                if response.is_error:
                    response.read()
                    raise _refusal(response)
                yield from response.iter_bytes()
        except httpx.TransportError as error:
            raise Unavailable(f"{self.server} broke off the export of {run_id} ({error}); see its log") from None

    def follow(self, run_id: str) -> Iterator[Event]:
        """Events of a run, from its first on, until it is over.

        The connection is made anew when it breaks, from the last event on. Raises Unavailable when the
        server stays away.
        """
        last_id, lost_at = "", None
        while True:
            try:
                for event in self._events(run_id, last_id):
                    last_id, lost_at = event.id or last_id, None
                    yield event
                if self.run(run_id)["state"] in TERMINAL:
                    return
            except (httpx.TransportError, Unavailable) as error:
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > _GIVE_UP_AFTER_S:
                    raise Unavailable(f"{self.server} has not answered for {_GIVE_UP_AFTER_S:g} s ({error})") from None
            time.sleep(0.5)

    def _events(self, run_id: str, last_id: str) -> Iterator[Event]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
        timeout = httpx.Timeout(15.0, read=_SILENCE_S)
        with self._http.stream("GET", f"/v1/runs/{run_id}/events", headers=headers, timeout=timeout) as response:
            if response.status_code != httpx.codes.OK:
                response.read()
                raise _refusal(response)
            yield from parse_events(response.iter_lines())

    def _pages(self, path: str, field: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            page = self._call("GET", path, params={"page_size": 500} | ({"page_token": token} if token else {}))
            found.extend(page[field])
            token = page.get("next_page_token") or ""
            if not token:
                return found

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise Unavailable(
                f"nothing answers at {self.server} ({error}); start a stack with `make up`, or name one with --server"
            ) from None
        if response.is_error:
            raise _refusal(response)
        return response

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        response = self._send(method, path, **options)
        try:
            answer = response.json()
        except json.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict):
            raise SynclineError(f"what answers at {self.server} is not Syncline; name another server or port")
        return answer


def parse_events(lines: Iterator[str]) -> Iterator[Event]:
    """Server-sent events from the lines of a response; comments (heartbeats) and empty events are left out."""
    id, kind, data = "", "message", list[str]()
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "id":
            id = value
        elif field == "event":
            kind = value
        elif field == "data":
            data.append(value)
        elif not line and data:
            content = json.loads("\n".join(data))
            yield Event(id=id, type=kind, data=content if isinstance(content, dict) else {"value": content})
            id, kind, data = "", "message", []


def _refusal(response: httpx.Response) -> SynclineError:
    """The error that a problem+json answer stands for."""
    try:
        problem = response.json()
    except json.JSONDecodeError:
        problem = None
    if not isinstance(problem, dict):
        return SynclineError(f"{response.url} answered {response.status_code} {response.reason_phrase}")
    if problem.get("errors"):
        return InvalidSpec(
            [
                FieldProblem(**{key: error.get(key, "") for key in ("path", "problem", "allowed")})
                for error in problem["errors"]
            ]
        )
    error = _BY_CODE.get(str(problem.get("code", "")), SynclineError)
    message = str(problem.get("detail") or problem.get("title") or response.reason_phrase)
    return SynclineError(message) if error is InvalidSpec else error(message)
