"""The object store, over real HTTP: what comes back is what was put there, and every refusal says what to do."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from syncline.errors import NotFound, StoreRefused, StoreUnreachable
from syncline.objects import Objects, split
from tests.object_store import ObjectStore, free_port


def test_objects_are_named_relative_to_their_url(object_store: ObjectStore) -> None:
    bucket = object_store.bucket()
    objects = Objects(f"{bucket}/runs/")
    objects.write("a/one", b"1")
    objects.write("a/b/two", b"22")
    object_store.put(f"{bucket}/runs-of-others/three", b"333")
    assert {name: found.num_bytes for name, found in objects.below().items()} == {"a/b/two": 2, "a/one": 1}
    assert list(objects.below("a/b")) == ["a/b/two"]
    assert objects.read("a/b/two") == b"22"
    assert Objects(bucket).read("runs/a/one") == b"1"
    objects.delete(["a/one", "never-there"])
    assert list(objects.below()) == ["a/b/two"]


def test_a_file_of_several_parts_comes_back_as_it_was(object_store: ObjectStore, tmp_path: Path) -> None:
    objects = Objects(f"{object_store.bucket()}/files")
    content = bytes(range(256)) * (80 << 10)  # 20 MiB: more than one part
    (tmp_path / "large").write_bytes(content)
    (tmp_path / "empty").write_bytes(b"")
    objects.upload({"large": tmp_path / "large", "empty": tmp_path / "empty"})
    objects.download({"large": tmp_path / "again", "empty": tmp_path / "nothing"})
    assert (tmp_path / "again").read_bytes() == content
    assert (tmp_path / "nothing").read_bytes() == b""


def test_an_etag_tells_that_an_object_changed(object_store: ObjectStore) -> None:
    objects = Objects(f"{object_store.bucket()}/x")
    objects.write("y", b"old")
    before = objects.find("y")
    objects.write("y", b"new")
    assert before.num_bytes == objects.find("y").num_bytes
    assert before.etag != objects.find("y").etag


def test_a_bucket_that_is_not_there_is_named(object_store: ObjectStore, tmp_path: Path) -> None:
    objects = Objects("s3://no-such-bucket/runs")
    (tmp_path / "file").write_bytes(b"x")
    for ask in (objects.below, lambda: objects.write("a", b""), lambda: objects.upload({"a": tmp_path / "file"})):
        with pytest.raises(StoreRefused, match=r"s3://no-such-bucket/runs.*no bucket 'no-such-bucket'; make it"):
            ask()


def test_an_object_that_is_not_there_is_named(object_store: ObjectStore, tmp_path: Path) -> None:
    url = f"{object_store.bucket()}/runs"
    objects = Objects(url)
    for ask in (objects.read, objects.find, lambda name: objects.download({name: tmp_path / "file"})):
        with pytest.raises(NotFound, match=f"{url}/missing does not exist"):
            ask("missing")
    assert not (tmp_path / "file").exists()


def test_who_may_not_enter_is_told_which_right_is_missing(object_store: ObjectStore) -> None:
    objects = Objects(f"{object_store.bucket()}/runs")
    with object_store.nobody_may_enter():
        with pytest.raises(StoreRefused, match=r"access is denied \(InvalidAccessKeyId.*need s3:GetObject there"):
            objects.read("a")
        with pytest.raises(StoreRefused, match="s3:PutObject"):
            objects.write("a", b"")
    objects.write("a", b"")


def test_a_store_that_does_not_answer_is_given_up_in_time(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    started = time.monotonic()
    with pytest.raises(StoreUnreachable, match=r"s3://some-bucket/a: .*does not answer after 4 attempts.*ENDPOINT"):
        Objects("s3://some-bucket").read("a")
    assert time.monotonic() - started < 30.0


def test_without_credentials_the_variables_are_named(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", object_store.endpoint.replace("127.0.0.1", "localhost"))  # another client
    with pytest.raises(StoreRefused, match=r"no credentials.*AWS_ACCESS_KEY_ID"):
        Objects("s3://some-bucket").read("a")


@pytest.mark.parametrize("url", ["s3://", "s3:///key", "file:///etc/passwd", "s3://bucket/a/../b", "s3://bucket//a"])
def test_what_is_no_url_of_an_object_is_refused_before_anybody_is_asked(url: str) -> None:
    with pytest.raises(StoreRefused, match="write s3://bucket/prefix"):
        split(url)
