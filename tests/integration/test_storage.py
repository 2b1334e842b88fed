"""What a run keeps is whole, proven and pruned alike, on a disk that all see and in an object store."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from syncline import published
from syncline.cache import Cache
from syncline.checkpoints import MANIFEST
from syncline.errors import CheckpointError, DigestMismatch, NotFound, StorageError
from syncline.storage import Storage, prune, storage_at
from tests.object_store import ObjectStore

WEIGHTS = b"w" * 10_000
V3 = published.name_of(3)


def fill(folder: Path, *, weights: bytes = WEIGHTS) -> Mapping[str, Any]:
    (folder / "weights.bin").write_bytes(weights)
    (folder / "config.json").write_text("{}")
    probe = {"token_ids": [1, 2], "log_probs": [-0.5], "tolerance": 1e-3}
    return {"run_id": "r", "version": 3, "dtype": "float32", "probe": probe}


@pytest.fixture(params=["folder", "bucket"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "run")
    store: ObjectStore = request.getfixturevalue("object_store")
    return f"{store.bucket()}/runs/run-1"


@pytest.fixture
def storage(uri: str, tmp_path: Path) -> Storage:
    return storage_at(uri, cache=Cache(tmp_path / "cache"))


@pytest.fixture
def bucket(object_store: ObjectStore) -> str:
    return f"{object_store.bucket()}/runs/run-1"


@pytest.fixture
def in_bucket(bucket: str, tmp_path: Path) -> Storage:
    return storage_at(bucket, cache=Cache(tmp_path / "cache"))


# ---- both kinds


def test_what_is_written_is_found_proven_and_read_from_another_machine(
    uri: str, storage: Storage, tmp_path: Path
) -> None:
    manifest = storage.write(V3, fill)
    handle = published.handle_of(storage, 3)
    assert handle.manifest_digest == manifest.digest
    assert storage.check(V3) == manifest
    elsewhere = storage_at(storage.uri, cache=Cache(tmp_path / "another-disk"))
    assert published.versions(elsewhere) == [3]
    staged = published.stage(handle, cache=Cache(tmp_path / "a-third-disk"))
    assert (staged / "weights.bin").read_bytes() == WEIGHTS
    assert (elsewhere.local(V3) / MANIFEST).read_bytes() == (staged / MANIFEST).read_bytes()


def test_pruning_keeps_the_newest_and_what_is_in_use(storage: Storage) -> None:
    names = [published.name_of(version) for version in range(6)]
    for name in names:
        storage.write(name, fill)
    prune(storage, names, keep=2, in_use=[names[0]])
    assert published.versions(storage) == [0, 4, 5]


def test_another_content_replaces_what_was_there(storage: Storage) -> None:
    first = storage.write(V3, lambda folder: {**fill(folder), "extra": (folder / "extra").write_bytes(b"old")})
    second = storage.write(V3, lambda folder: fill(folder, weights=b"other"))
    assert first.digest != second.digest
    staged = storage.stage(V3, digest=second.digest)
    assert sorted(path.name for path in staged.iterdir()) == ["config.json", MANIFEST, "weights.bin"]
    with pytest.raises(DigestMismatch, match="the handle says"):
        storage.stage(V3, digest=first.digest)


def test_a_folder_that_is_not_there_is_no_checkpoint(storage: Storage) -> None:
    for ask in (storage.manifest, storage.check, storage.stage):
        with pytest.raises(CheckpointError, match=rf"v000003.* {MANIFEST}"):
            ask(V3)
    storage.delete([V3])


def test_the_parts_of_several_writers_become_one_folder(storage: Storage) -> None:
    storage.clear_parts(V3)
    parts: dict[str, tuple[int, str]] = {}
    for rank in range(2):

        def write(folder: Path, rank: int = rank) -> list[str]:
            (folder / f"rank-{rank}").write_bytes(b"p" * (rank + 1))
            return [f"rank-{rank}"]

        parts |= storage.write_part(V3, write)
    assert published.versions(storage) == [], "nobody sees parts"
    storage.write(V3, fill, parts=parts)
    staged = storage.stage(V3)
    assert sorted(path.name for path in staged.iterdir()) == [
        "config.json",
        MANIFEST,
        "rank-0",
        "rank-1",
        "weights.bin",
    ]
    assert storage.sweep(published.FOLDER) == []


def test_small_files_are_replaced_listed_and_deleted(storage: Storage) -> None:
    with pytest.raises(NotFound, match=r"rollouts/step-1"):
        storage.read_file("rollouts/step-1")
    storage.write(V3, fill)
    storage.write_file("standings.json", b"{}")
    for content in (b"before", b"after"):
        storage.write_file("rollouts/step-1", content)
    assert storage.read_file("rollouts/step-1") == b"after"
    assert storage.files("rollouts") == ["rollouts/step-1"]
    storage.delete_files(["rollouts/step-1", "rollouts/never-there"])
    assert storage.files("rollouts") == []
    assert storage.read_file("standings.json") == b"{}"


# ---- what only an object store can do


def test_a_folder_is_seen_when_its_manifest_is_there_and_not_before(
    object_store: ObjectStore, bucket: str, in_bucket: Storage
) -> None:
    in_bucket.write(V3, fill)
    manifest = object_store.get(f"{bucket}/{V3}/{MANIFEST}")
    # Given what an upload leaves that was cut off before the end
    for file in ("weights.bin", "config.json"):
        object_store.put(f"{bucket}/{published.name_of(4)}/{file}", object_store.get(f"{bucket}/{V3}/{file}"))
    assert published.versions(in_bucket) == [3]
    object_store.put(f"{bucket}/{published.name_of(4)}/{MANIFEST}", manifest)
    assert published.versions(in_bucket) == [3, 4]
    # and what a deletion leaves
    object_store.client.delete_object(Bucket=bucket.split("/")[2], Key=f"runs/run-1/{published.name_of(4)}/{MANIFEST}")
    assert in_bucket.sweep(published.FOLDER) == [f"{bucket}/{published.name_of(4)}"]
    assert object_store.keys(f"{bucket}/checkpoints") == [
        f"v000003/{f}" for f in ("config.json", MANIFEST, "weights.bin")
    ]


@pytest.mark.parametrize(
    ("damaged", "says"),
    [(WEIGHTS[:-1], "9999 bytes"), (WEIGHTS[:-1] + b"x", "10000 bytes with SHA-256"), (None, "does not exist")],
)
def test_a_truncated_changed_or_missing_object_is_refused_and_leaves_no_copy(
    object_store: ObjectStore, bucket: str, in_bucket: Storage, tmp_path: Path, damaged: bytes | None, says: str
) -> None:
    in_bucket.write(V3, fill)
    handle = published.handle_of(in_bucket, 3)
    url = f"{bucket}/{V3}/weights.bin"
    if damaged is None:
        object_store.client.delete_object(Bucket=bucket.split("/")[2], Key=f"runs/run-1/{V3}/weights.bin")
    else:
        object_store.put(url, damaged)
    with pytest.raises(CheckpointError, match=rf"{V3}.*{says}"):
        published.stage(handle, cache=Cache(tmp_path / "generator"))
    copies = tmp_path / "generator" / "checkpoints"
    assert [path.name for path in copies.iterdir()] == [".lock"]
    # When the learner publishes the same weights again, which sizes alone may show to be necessary
    if damaged is None or len(damaged) != len(WEIGHTS):
        in_bucket.write(V3, fill)
        assert (published.stage(handle, cache=Cache(tmp_path / "generator")) / "weights.bin").read_bytes() == WEIGHTS


def test_a_copy_that_the_local_disk_damaged_is_fetched_anew(in_bucket: Storage) -> None:
    in_bucket.write(V3, fill)
    copy = in_bucket.stage(V3)
    (copy / "weights.bin").write_bytes(b"damaged")
    assert (in_bucket.stage(V3) / "weights.bin").read_bytes() == WEIGHTS


def test_writing_the_same_folder_again_uploads_nothing(
    object_store: ObjectStore, bucket: str, in_bucket: Storage
) -> None:
    def dates() -> list[Any]:
        listed = object_store.client.list_objects_v2(Bucket=bucket.split("/")[2])
        return [(entry["Key"], entry["LastModified"]) for entry in listed["Contents"]]

    in_bucket.write(V3, fill)
    before = dates()
    in_bucket.write(V3, fill)
    assert dates() == before


def test_old_copies_go_but_not_those_that_another_process_uses(in_bucket: Storage, bucket: str, tmp_path: Path) -> None:
    for version in range(5):
        in_bucket.write(published.name_of(version), lambda folder, n=version: fill(folder, weights=bytes([n])))
    code = (
        "import sys, pathlib, syncline.cache, syncline.storage\n"
        "cache = syncline.cache.Cache(pathlib.Path(sys.argv[1]))\n"
        "print(syncline.storage.storage_at(sys.argv[2], cache=cache).stage(sys.argv[3]), flush=True)\n"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "cache"), bucket, published.name_of(0)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        assert theirs.is_dir()
        ours = [in_bucket.stage(published.name_of(version)) for version in (1, 2, 3)]
        assert [path.is_dir() for path in ours] == [False, True, True]
        assert theirs.is_dir()
        other.communicate("", timeout=20)
    in_bucket.stage(published.name_of(4))
    assert not theirs.exists()
    assert len([path for path in theirs.parent.iterdir() if path.is_dir()]) == 2


def test_a_cache_that_cannot_be_written_is_named(bucket: str, in_bucket: Storage, tmp_path: Path) -> None:
    in_bucket.write(V3, fill)
    (tmp_path / "a-file").write_text("not a folder")
    with pytest.raises(StorageError, match=r"a-file.*SYNCLINE_CACHE_ROOT"):
        storage_at(bucket, cache=Cache(tmp_path / "a-file")).stage(V3)


def test_a_run_on_a_disk_loads_no_client_of_an_object_store(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from syncline import published, seeds\n"
        "from syncline.cache import Cache\n"
        "from syncline.storage import storage_at\n"
        "cache = Cache(pathlib.Path('never-made'))\n"
        "storage = storage_at(sys.argv[1], cache=cache)\n"
        "storage.write(published.name_of(0), lambda folder: {'version': (folder / 'f').write_text('x')})\n"
        "seeds.fetch(str(storage.local(published.name_of(0))), cache=cache, weights=True)\n"
        "assert not {'boto3', 'botocore', 'huggingface_hub'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
