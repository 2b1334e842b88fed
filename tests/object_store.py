"""A server that speaks S3, in a process of its own, as moto has it: real HTTP, multipart uploads, errors."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_START_S = 60.0
_numbers = itertools.count()


class ObjectStore:
    """An endpoint, and what the tests do to it behind the services' backs."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.environment: Mapping[str, str] = {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def client(self) -> Any:
        import boto3

        return boto3.session.Session().client("s3", endpoint_url=self.endpoint)

    def bucket(self) -> str:
        """The URL of a new bucket."""
        name = f"bucket-{os.getpid()}-{next(_numbers)}"
        self.client.create_bucket(Bucket=name)
        return f"s3://{name}"

    def put(self, url: str, content: bytes) -> None:
        bucket, _, key = url.removeprefix("s3://").partition("/")
        self.client.put_object(Bucket=bucket, Key=key, Body=content)

    def get(self, url: str) -> bytes:
        bucket, _, key = url.removeprefix("s3://").partition("/")
        content: bytes = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return content

    def put_folder(self, url: str, folder: Path) -> None:
        for file in folder.iterdir():
            self.put(f"{url}/{file.name}", file.read_bytes())

    def keys(self, url: str) -> list[str]:
        """What lies below a URL, relative to it."""
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        found = self.client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/" if prefix else "").get("Contents", [])
        return sorted(entry["Key"].removeprefix(prefix).lstrip("/") for entry in found)

    @contextmanager
    def nobody_may_enter(self) -> Iterator[None]:
        """Inside the block the server checks who asks, and knows nobody."""
        self._check_after(b"0")
        try:
            yield
        finally:
            self._check_after(b"inf")

    def _check_after(self, requests: bytes) -> None:
        url, plain = f"{self.endpoint}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        request = urllib.request.Request(url, data=requests, headers=plain, method="POST")
        urllib.request.urlopen(request, timeout=10).close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def object_store_at(folder: Path) -> Iterator[ObjectStore]:
    """A server for the length of the block; this process and its children find it in their environment."""
    store = ObjectStore(free_port())
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", store.endpoint.rpartition(":")[2]]
    with (folder / "object-store.log").open("wb") as log, pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait_until_up(store, process, log=folder / "object-store.log")
            yield store
        finally:
            process.terminate()
            process.wait(timeout=10)


def _wait_until_up(store: ObjectStore, process: subprocess.Popen[bytes], *, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{store.endpoint}/moto-api/", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the object store did not answer in {_START_S:g} s: {log.read_text()}")
