"""Seed models from an object store and from a hub: one local copy for each content, and never a pickle."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from syncline import published, seeds
from syncline.cache import Cache
from syncline.errors import CheckpointError, NotFound
from syncline.storage import storage_at
from tests.object_store import ObjectStore, free_port

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"max_position_embeddings": 64}',
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"a pickle",
    "README.md": b"words",
    "onnx/config.json": b"another program's",
}
DESCRIPTION = ["chat_template.jinja", "config.json", "tokenizer.json"]


# ---- s3://


@pytest.fixture
def url(object_store: ObjectStore) -> str:
    url = f"{object_store.bucket()}/models/tiny"
    for name, content in FILES.items():
        object_store.put(f"{url}/{name}", content)
    return url


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_weights_are_fetched_where_they_are_asked_for_and_pickles_never(url: str, tmp_path: Path) -> None:
    without = seeds.fetch(url, cache=Cache(tmp_path), weights=False)
    assert names(without.folder) == DESCRIPTION
    assert "model.safetensors" in without.files
    whole = seeds.fetch(f"{url}/", cache=Cache(tmp_path), weights=True)
    assert names(whole.folder) == sorted([*DESCRIPTION, "model.safetensors"])
    assert (whole.folder / "model.safetensors").read_bytes() == b"weights"


def test_one_content_is_fetched_once_and_a_changed_one_anew(
    object_store: ObjectStore, url: str, tmp_path: Path
) -> None:
    cache = Cache(tmp_path)
    first = seeds.fetch(url, cache=cache, weights=True)
    assert seeds.fetch(url, cache=cache, weights=True) == first
    object_store.put(f"{url}/model.safetensors", b"others!")
    second = seeds.fetch(url, cache=cache, weights=True)
    assert second.folder != first.folder
    assert (second.folder / "model.safetensors").read_bytes() == b"others!"
    assert first.folder.is_dir(), "a run that has begun keeps its seed"


def test_a_prefix_without_a_model_says_so(object_store: ObjectStore, url: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"models has no config\.json; is it the folder of a model"):
        seeds.fetch(url.rpartition("/")[0], cache=Cache(tmp_path), weights=False)


def test_another_runs_checkpoint_is_proven_by_its_manifest(object_store: ObjectStore, tmp_path: Path) -> None:
    bucket = object_store.bucket()

    def fill(folder: Path) -> dict[str, int]:
        for name in (*DESCRIPTION, "model.safetensors"):
            (folder / name).write_bytes(FILES[name])
        return {"version": 3}

    storage_at(f"{bucket}/run", cache=Cache(tmp_path / "learner")).write(published.name_of(3), fill)
    url = f"{bucket}/run/{published.name_of(3)}"
    object_store.put(f"{url}/model.safetensors", b"wEIGHTS")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is 7 bytes with SHA-256"):
        seeds.fetch(url, cache=Cache(tmp_path / "another"), weights=True)
    assert names(seeds.fetch(url, cache=Cache(tmp_path / "another"), weights=False).folder) == sorted(
        [*DESCRIPTION, "manifest.json"]
    )


# ---- hf://


class _Hub(BaseHTTPRequestHandler):
    """The few routes of the hub that a snapshot takes. One repository: org/tiny."""

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        listed = [{"type": "file", "path": name, "size": len(text), "oid": _oid(text)} for name, text in FILES.items()]
        siblings = [{"rfilename": name} for name in FILES]
        about = {"id": "org/tiny", "sha": COMMIT, "siblings": siblings, "private": False, "tags": [], "downloads": 0}
        if re.fullmatch(rf"/api/models/org/tiny(/revision/(main|v1|{COMMIT}))?", path):
            self._send(json.dumps(about).encode(), body=body)
        elif path == f"/api/models/org/tiny/tree/{COMMIT}":
            self._send(json.dumps(listed).encode(), body=body)
        elif path.startswith(f"/org/tiny/resolve/{COMMIT}/") and path.rpartition(f"{COMMIT}/")[2] in FILES:
            self._send(FILES[path.rpartition(f"{COMMIT}/")[2]], body=body)
        elif "/gated" in path:
            self._send(b"{}", body=body, status=403, **{"X-Error-Code": "GatedRepo", "X-Error-Message": "ask for it"})
        elif "/revision/" in path and "org/tiny" in path:
            self._send(b"{}", body=body, status=404, **{"X-Error-Code": "RevisionNotFound"})
        else:
            self._send(b"{}", body=body, status=401, **{"X-Error-Code": "RepoNotFound"})

    def _send(self, content: bytes, *, body: bool, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        known = {"Content-Length": str(len(content)), "X-Repo-Commit": COMMIT, "ETag": f'"{_oid(content)}"'}
        for name, value in (known | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(timeout=10)
    server.server_close()


def ask(url: str, *, hub: str, home: Path, weights: bool = False, offline: bool = False) -> list[str]:
    """What `seeds.fetch` says in a process of its own: the client reads its environment when it is imported.

    [path, files there, files here], or [code, message] of an error.
    """
    code = (
        "import json, sys, pathlib\n"
        "from syncline import seeds, cache, errors\n"
        "try:\n"
        "    weights, unused = sys.argv[2] == 'True', cache.Cache(pathlib.Path('unused'))\n"
        "    seed = seeds.fetch(sys.argv[1], cache=unused, weights=weights)\n"
        "    print(json.dumps([seed.path, sorted(seed.files), sorted(p.name for p in seed.folder.iterdir())]))\n"
        "except errors.SynclineError as error:\n"
        "    print(json.dumps([error.code, error.message]))\n"
    )
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": hub,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": str(int(offline)),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, "-c", code, url, str(weights)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answer: list[str] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def test_a_model_of_the_hub_is_pinned_to_its_commit_and_then_needs_no_hub(hub: str, tmp_path: Path) -> None:
    top = sorted(name for name in FILES if "/" not in name)
    path, there, here = ask("hf://org/tiny", hub=hub, home=tmp_path / "coordinator")
    assert path == f"hf://org/tiny@{COMMIT}"
    assert (there, here) == (top, DESCRIPTION)
    path, _, here = ask(path, hub=hub, home=tmp_path / "learner", weights=True)
    assert (path, here) == (f"hf://org/tiny@{COMMIT}", sorted([*DESCRIPTION, "model.safetensors"]))
    offline = ask(f"hf://org/tiny@{COMMIT}", hub=hub, home=tmp_path / "learner", weights=True, offline=True)
    assert offline == [path, here, here]
    assert ask("hf://org/tiny@v1", hub=hub, home=tmp_path / "coordinator")[0] == path


@pytest.mark.parametrize(
    ("url", "offline", "code", "says"),
    [
        ("hf://org/missing", False, "not_found", "does not exist, or is private; then set HF_TOKEN"),
        ("hf://org/gated", False, "store_refused", "is gated; ask for access, and set HF_TOKEN"),
        ("hf://org/tiny@v9", False, "not_found", "the model has no such revision"),
        ("hf://org/tiny", True, "store_refused", "is not in the hub's cache, and HF_HUB_OFFLINE is set"),
        ("hf://a/b/c", False, "store_refused", "write hf://org/name"),
    ],
)
def test_what_the_hub_does_not_give_is_told_with_what_to_do(
    hub: str, tmp_path: Path, url: str, offline: bool, code: str, says: str
) -> None:
    found, message = ask(url, hub=hub, home=tmp_path, offline=offline)
    assert (found, url in message, says in message) == (code, True, True), message


def test_a_hub_that_does_not_answer_is_no_refusal(tmp_path: Path) -> None:
    code, message = ask("hf://org/tiny", hub=f"http://127.0.0.1:{free_port()}", home=tmp_path)
    assert (code, "the hub does not answer" in message) == ("store_unreachable", True), message
