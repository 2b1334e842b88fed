"""A checkpoint folder is whole and proven, or it is an error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline import checkpoints, published
from syncline.errors import CheckpointError, DigestMismatch
from syncline.storage import FolderStorage, prune
from tests.integration.published import staged

META = {
    "run_id": "r",
    "version": 3,
    "dtype": "float32",
    "probe": {"token_ids": [1, 2], "log_probs": [-0.5], "tolerance": 1e-3},
}


def fill(folder: Path) -> Mapping[str, Any]:
    (folder / "weights.bin").write_bytes(b"w" * 10_000)
    (folder / "config.json").write_text("{}")
    return META


def test_a_written_folder_verifies_and_names_itself(tmp_path: Path) -> None:
    storage, target = FolderStorage(tmp_path), tmp_path / published.name_of(3)
    manifest = storage.write(published.name_of(3), fill)
    assert checkpoints.verify_folder(target, digest=manifest.digest) == manifest
    handle = published.handle_of(storage, 3)
    assert (handle.version, handle.manifest_digest) == (3, manifest.digest)
    assert staged(handle) == target
    assert published.versions(storage) == [3]
    assert [path.name for path in target.parent.iterdir()] == ["v000003"], "no temporary folder is left"


def test_a_handle_finds_its_folder_whatever_the_path_is_called(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path / "a run, 100% \u00fc")
    storage.write(published.name_of(3), fill)
    assert staged(published.handle_of(storage, 3)) == storage.root / published.name_of(3)


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def break_down(folder: Path) -> Mapping[str, Any]:
        fill(folder)
        raise OSError(28, "No space left on device")

    target = tmp_path / published.name_of(1)
    with pytest.raises(CheckpointError, match=r"No space left.*free space"):
        checkpoints.write_folder(target, break_down)
    assert list(target.parent.iterdir()) == []


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(["weights.bin", "config.json"]), position=st.integers(0, 9_999), change=st.integers(1, 255))
def test_one_changed_byte_anywhere_is_found(
    tmp_path_factory: pytest.TempPathFactory, name: str, position: int, change: int
) -> None:
    target = tmp_path_factory.mktemp("run") / "v"
    checkpoints.write_folder(target, fill)
    data = bytearray((target / name).read_bytes())
    data[position % len(data)] ^= change
    (target / name).write_bytes(data)
    with pytest.raises(DigestMismatch, match=name):
        checkpoints.verify_folder(target)


def test_truncation_a_missing_file_and_a_planted_file_are_found(tmp_path: Path) -> None:
    target = tmp_path / "v"
    checkpoints.write_folder(target, fill)
    (target / "planted.pkl").write_bytes(b"x")
    with pytest.raises(DigestMismatch, match=r"planted\.pkl"):
        checkpoints.verify_folder(target)
    (target / "planted.pkl").unlink()
    (target / "weights.bin").write_bytes(b"w" * 9_999)
    with pytest.raises(DigestMismatch, match="9999 bytes"):
        checkpoints.verify_folder(target)
    (target / "weights.bin").unlink()
    with pytest.raises(DigestMismatch, match=r"lacks \['weights\.bin'\]"):
        checkpoints.verify_folder(target)


def test_another_manifest_than_the_handles_is_refused(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    storage.write(published.name_of(3), fill)
    handle = published.handle_of(storage, 3)
    storage.write(published.name_of(3), lambda folder: {**fill(folder), "version": 4})
    with pytest.raises(DigestMismatch, match="the handle says"):
        staged(handle)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99, "files": {}, "meta": {}}', '{"format": 1}'])
def test_a_damaged_manifest_is_an_error_that_says_so(tmp_path: Path, text: str) -> None:
    target = tmp_path / "v"
    checkpoints.write_folder(target, fill)
    (target / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"manifest"):
        checkpoints.verify_folder(target)


def test_pruning_keeps_the_newest_and_what_is_in_use(tmp_path: Path) -> None:
    storage, names = FolderStorage(tmp_path), [published.name_of(version) for version in range(6)]
    for name in names:
        storage.write(name, fill)
    prune(storage, names, keep=2, in_use=[names[0]])
    assert published.versions(storage) == [0, 4, 5]


def test_writing_the_same_folder_again_changes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "v"
    first = checkpoints.write_folder(target, fill)
    inode = (target / "weights.bin").stat().st_ino
    assert checkpoints.write_folder(target, fill) == first
    assert (target / "weights.bin").stat().st_ino == inode
