"""Objects in a bucket that speaks S3: AWS, MinIO, Ceph and others.

Endpoint, region and credentials come from where every AWS client takes them: AWS_ENDPOINT_URL_S3 (or AWS_ENDPOINT_URL),
AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role of the pod's service account. The client library is
loaded with the first request. Each request has a deadline, and is tried four times at most.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from syncline.errors import NotFound, StoreRefused, StoreUnreachable, SynclineError

SCHEME = "s3://"
_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 60.0  # of one read from the socket, not of a whole file
_ATTEMPTS = 4
_TRANSFERS = 8


@dataclass(frozen=True, slots=True)
class Found:
    """An object as a listing tells of it."""

    num_bytes: int
    etag: str
    """Differs where the content does."""


class Objects:
    """The objects below one URL, by their names relative to it. Making one asks nothing of the store.

    Every method raises StoreUnreachable when the store does not answer, StoreRefused when it says no, and NotFound for
    an object that does not exist.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._bucket, self._prefix = split(url)

    def url_of(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    def below(self, name: str = "") -> dict[str, Found]:
        """All objects below `name`, at any depth, in order of their names (which are relative to the URL)."""
        start = f"{self._key(name)}/".lstrip("/")
        skipped = len(self._prefix) + 1 if self._prefix else 0
        with _told(self.url_of(name), "s3:ListBucket"):
            pages = _client().get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=start)
            return {
                found["Key"][skipped:]: Found(found["Size"], found["ETag"].strip('"'))
                for page in pages
                for found in page.get("Contents", ())
            }

    def find(self, name: str = "") -> Found:
        """One object."""
        with _told(self.url_of(name), "s3:GetObject"):
            found = _client().head_object(Bucket=self._bucket, Key=self._key(name))
        return Found(found["ContentLength"], found["ETag"].strip('"'))

    def read(self, name: str) -> bytes:
        """The content of a small object."""
        with _told(self.url_of(name), "s3:GetObject"):
            content: bytes = _client().get_object(Bucket=self._bucket, Key=self._key(name))["Body"].read()
        return content

    def write(self, name: str, content: bytes) -> None:
        """Put a small object there: a reader sees the old content or the new one."""
        with _told(self.url_of(name), "s3:PutObject"):
            _client().put_object(Bucket=self._bucket, Key=self._key(name), Body=content)

    def download(self, files: Mapping[str, Path]) -> None:
        """Objects -> local files, several at a time. Raises OSError when the local disk refuses."""
        self._transfer(files, "s3:GetObject", lambda manager, key, path: manager.download(self._bucket, key, path))

    def upload(self, files: Mapping[str, Path]) -> None:
        """Local files -> objects, several at a time, large ones in parts. An object appears when it is whole."""
        self._transfer(files, "s3:PutObject", lambda manager, key, path: manager.upload(path, self._bucket, key))

    def copy(self, names: Mapping[str, str]) -> None:
        """Copy objects to other names in the given order, within the store. Large ones go in parts."""
        for name, target in names.items():
            with _told(self.url_of(name), "s3:PutObject"):
                source = {"Bucket": self._bucket, "Key": self._key(name)}
                _client().copy(source, self._bucket, self._key(target))

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects in the given order, one by one; those that are not there do not matter.

        One by one, as the checksum that a request for many asks for is another one in each make of store.
        """
        for name in names:
            with _told(self.url_of(name), "s3:DeleteObject"):
                _client().delete_object(Bucket=self._bucket, Key=self._key(name))

    def _transfer(self, files: Mapping[str, Path], right: str, start: Callable[[Any, str, str], Any]) -> None:
        from boto3.s3.transfer import TransferConfig, create_transfer_manager

        config = TransferConfig(max_concurrency=_TRANSFERS, num_download_attempts=_ATTEMPTS)
        with _told(self.url, right), create_transfer_manager(_client(), config) as manager:
            started = [(name, start(manager, self._key(name), str(path))) for name, path in files.items()]
            for name, transfer in started:
                with _told(self.url_of(name), right):
                    transfer.result()

    def _key(self, name: str) -> str:
        return "/".join(part for part in (self._prefix, name) if part)


def split(url: str) -> tuple[str, str]:
    """Bucket and key (or prefix) of an s3:// URL. Raises StoreRefused for what is none."""
    bucket, _, key = url.removeprefix(SCHEME).rstrip("/").partition("/")
    if not url.startswith(SCHEME) or not bucket or any(part in ("", ".", "..") for part in key.split("/") if key):
        raise StoreRefused(f"{url!r} is not a URL of an object; write s3://bucket/prefix")
    return bucket, key


def _client() -> Any:
    # Every other client of AWS reads AWS_REGION, too; the one for Python looks for AWS_DEFAULT_REGION alone.
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None
    return _client_of(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"), region)


@cache
def _client_of(endpoint: str | None, region: str | None) -> Any:
    """One client for the process: it may be used by many threads, and takes a tenth of a second to make."""
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
        tcp_keepalive=True,
        # The newer checksums are unknown to older MinIO and Ceph, and every byte has its SHA-256 in a manifest anyway.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.session.Session(region_name=region).client("s3", endpoint_url=endpoint, config=config)


@contextmanager
def _told(url: str, right: str) -> Iterator[None]:
    """Errors of the library become ours, with the URL and what to do."""
    from boto3.exceptions import RetriesExceededError
    from botocore import exceptions

    try:
        yield
    except SynclineError:
        raise
    except exceptions.ClientError as error:
        raise _answered(url, right, error.response) from error
    except (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.CredentialRetrievalError,
        exceptions.TokenRetrievalError,
    ) as error:
        raise StoreRefused(
            f"{url}: there are no credentials ({error}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the "
            "service account a role"
        ) from error
    except (
        exceptions.ConnectionError,
        exceptions.HTTPClientError,
        exceptions.IncompleteReadError,
        RetriesExceededError,
    ) as error:
        raise StoreUnreachable(
            f"{url}: the object store does not answer after {_ATTEMPTS} attempts ({error}); is AWS_ENDPOINT_URL_S3 "
            "right, and may this machine reach it?"
        ) from error
    except (exceptions.BotoCoreError, ValueError) as error:
        raise StoreRefused(f"{url}: {error}; look at the URL and the AWS_* variables") from error


def _answered(url: str, right: str, response: Any) -> SynclineError:
    code, message = str(response["Error"].get("Code", "")), str(response["Error"].get("Message", ""))
    status = int(response["ResponseMetadata"].get("HTTPStatusCode", 0))
    bucket = split(url)[0]
    if code == "NoSuchBucket":
        return StoreRefused(f"{url}: there is no bucket {bucket!r}; make it, or mend the URL")
    if status == 404:
        return NotFound(f"{url} does not exist")
    if status in (401, 403):
        return StoreRefused(
            f"{url}: access is denied ({code}: {message}); the credentials need {right} there, and s3:ListBucket of "
            f"the bucket {bucket!r}"
        )
    if status >= 500 or status == 429 or code in ("SlowDown", "RequestTimeout"):
        return StoreUnreachable(f"{url}: the object store fails at the moment ({code or status}: {message})")
    return StoreRefused(f"{url}: the object store refuses ({code or status}: {message})")
