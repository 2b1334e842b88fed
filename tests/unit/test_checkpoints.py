"""A checkpoint folder is whole and proven, or it is an error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline import checkpoints
from syncline.errors import CheckpointError, DigestMismatch, Unavailable

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
    target = checkpoints.version_folder(tmp_path, 3)
    manifest = checkpoints.write_folder(target, fill)
    assert checkpoints.verify_folder(target, digest=manifest.digest) == manifest
    handle = checkpoints.handle_of(target)
    assert (handle.version, handle.manifest_digest) == (3, manifest.digest)
    assert checkpoints.stage(handle) == target
    assert checkpoints.published(tmp_path) == [3]
    assert [path.name for path in target.parent.iterdir()] == ["v000003"], "no temporary folder is left"


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def break_down(folder: Path) -> Mapping[str, Any]:
        fill(folder)
        raise OSError(28, "No space left on device")

    target = checkpoints.version_folder(tmp_path, 1)
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
    target = checkpoints.version_folder(tmp_path, 3)
    checkpoints.write_folder(target, fill)
    handle = checkpoints.handle_of(target)
    checkpoints.write_folder(target, lambda folder: {**fill(folder), "version": 4})
    with pytest.raises(DigestMismatch, match="the handle says"):
        checkpoints.stage(handle)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99, "files": {}, "meta": {}}', '{"format": 1}'])
def test_a_damaged_manifest_is_an_error_that_says_so(tmp_path: Path, text: str) -> None:
    target = tmp_path / "v"
    checkpoints.write_folder(target, fill)
    (target / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"manifest"):
        checkpoints.verify_folder(target)


def test_what_is_there_and_cannot_be_read_is_no_damage(tmp_path: Path) -> None:
    for name in ("weights.bin", checkpoints.MANIFEST):
        target = checkpoints.version_folder(tmp_path / name, 3)
        checkpoints.write_folder(target, fill)
        (target / name).unlink()
        (target / name).symlink_to("/proc/self/mem")  # an I/O error, for root too
        with pytest.raises(Unavailable, match=r"cannot be read at the moment \(.*Input/output error"):
            checkpoints.verify_folder(target)
    (tmp_path / "checkpoints").symlink_to(tmp_path / "checkpoints")  # a loop
    with pytest.raises(Unavailable, match="cannot be read at the moment"):
        checkpoints.published(tmp_path)
    assert checkpoints.published(tmp_path / "nothing") == []


def test_what_is_set_aside_is_out_of_sight_until_it_is_swept_and_the_first_of_a_name_stays(tmp_path: Path) -> None:
    target = checkpoints.version_folder(tmp_path, 3)
    for content in (b"first", b"second"):
        checkpoints.write_folder(target, lambda folder, content=content: {"n": (folder / "w").write_bytes(content)})
        checkpoints.set_aside([target])
        assert checkpoints.published(tmp_path) == []
    checkpoints.sweep(target.parent)
    (aside,) = target.parent.iterdir()
    assert (aside / "w").read_bytes() == b"first"
    checkpoints.sweep(target.parent, kinds=[checkpoints.ASIDE])
    assert list(target.parent.iterdir()) == []


def test_pruning_keeps_the_newest_and_what_is_in_use(tmp_path: Path) -> None:
    folders = [checkpoints.version_folder(tmp_path, version) for version in range(6)]
    for folder in folders:
        checkpoints.write_folder(folder, fill)
    gone = checkpoints.prune(folders, keep=2, in_use=[folders[0]])
    assert gone == folders[1:4]
    assert checkpoints.published(tmp_path) == [0, 4, 5]


def test_writing_the_same_folder_again_changes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "v"
    first = checkpoints.write_folder(target, fill)
    inode = (target / "weights.bin").stat().st_ino
    assert checkpoints.write_folder(target, fill) == first
    assert (target / "weights.bin").stat().st_ino == inode
