"""The files of the web page over HTTP: who may read them, and what they may do in a browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from services.coordinator.api import page
from tests.integration.coordinator_thread import Coordinator

UI = Path("services/coordinator/ui")


SVG_NAMESPACE = "http://www.w3.org/2000/svg"


@pytest.fixture
def http(coordinate: Callable[..., Coordinator]) -> Iterator[httpx.Client]:
    """A client of a coordinator that asks for a token, which the client does not have."""
    with httpx.Client(base_url=coordinate(token="secret").url) as client:
        yield client


def test_every_file_of_the_page_is_open_and_carries_the_policy(http: httpx.Client) -> None:
    assert {"/", "/ui/index.html", "/ui/app.js", "/ui/style.css"} < page.PATHS
    assert {f"/ui/{file.name}" for file in UI.iterdir()} < page.PATHS
    for path in page.PATHS:
        answer = http.get(path)
        assert answer.status_code == 200, path
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-cache"
        assert "set-cookie" not in answer.headers
        kind = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}.get(path.rpartition(".")[2])
        assert answer.headers["content-type"].startswith(kind or "text/html")


def test_an_unchanged_file_is_not_sent_again(http: httpx.Client) -> None:
    etag = http.get("/ui/app.js").headers["etag"]
    again = http.get("/ui/app.js", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")
    assert http.get("/ui/app.js", headers={"If-None-Match": '"another"'}).status_code == 200
    assert http.head("/").status_code == 200


@pytest.mark.parametrize("path", ["/ui", "/ui/", "/ui/nothing.js", "/ui/%2e%2e/app.py", "/ui/..%2fapp.py", "/v1/runs"])
def test_nothing_else_is_open(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 401
    allowed = http.get(path, headers={"Authorization": "Bearer secret"})
    assert allowed.status_code == (200 if path == "/v1/runs" else 404)


def test_a_page_of_another_site_cannot_act(coordinate: Callable[..., Coordinator]) -> None:
    coordinator = coordinate()
    run = coordinator.run()
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200)):
        answer = httpx.post(f"{coordinator.url}/v1/runs/{run.id}:cancel", headers={"Sec-Fetch-Site": site})
        assert answer.status_code == status
        assert (run.state == "cancelled") == (status == 200)


def test_the_page_names_no_other_host_and_writes_no_markup() -> None:
    markup = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(|new Function")
    for file in sorted(UI.iterdir()):
        text = file.read_text(encoding="ascii")
        assert "//" not in re.sub(r"^\s*//.*|\s// .*|/\*.*?\*/", "", text.replace(SVG_NAMESPACE, ""), flags=re.M | re.S)
        assert not markup.search(text), file
    html = (UI / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]* src=)", html)
