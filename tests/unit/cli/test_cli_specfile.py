"""Spec files: overrides, absolute paths, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.cli import specfile
from syncline.errors import InvalidSpec

SPEC: dict[str, Any] = {
    "name": "tiny",
    "model": {"path": "seed"},
    "algorithm": {"name": "dpo"},
    "steps": 4,
    "sync": {"period": 2},
    "tasks": [{"name": "math", "data": "data/train.jsonl", "reward": {"type": "math"}}],
    "evaluation": [{"name": "held-out", "data": "../held.jsonl"}],
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "specs" / "tiny.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(SPEC))
    return path


def test_relative_paths_mean_relative_to_the_spec_file(file: Path) -> None:
    spec = specfile.load(file)
    assert spec.model.path == str(file.parent / "seed")
    assert spec.tasks[0].data == str(file.parent / "data" / "train.jsonl")
    assert spec.evaluation[0].data == str(file.parent.parent / "held.jsonl")


def test_paths_of_overrides_mean_relative_to_the_working_folder(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = specfile.load(file, overrides=["tasks.0.data=mine.jsonl"])
    assert spec.tasks[0].data == str(tmp_path / "mine.jsonl")
    assert spec.model.path == str(file.parent / "seed")


def test_a_file_of_rollouts_is_a_path_like_the_others(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = specfile.load(file, overrides=["sync.period=never", "rollouts.from=rollouts.jsonl.gz"])
    assert spec.rollouts.source == str(tmp_path / "rollouts.jsonl.gz")


@pytest.mark.parametrize("path", ["hf://owner/name", "s3://bucket/model", "/absolute/model"])
def test_addresses_and_absolute_paths_stay_as_they_are(file: Path, path: str) -> None:
    assert specfile.load(file, overrides=[f"model.path={path}"]).model.path == path


def test_json_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(SPEC))
    assert specfile.load(path).name == "tiny"


def test_overrides_are_typed_by_yaml_and_make_missing_parts(file: Path) -> None:
    overrides = ["sync.period=never", "steps=7", "tasks.0.weight=0.5", "optimizer.lr=1e-5", "reference.sync=true"]
    spec = specfile.load(file, overrides=overrides)
    assert (spec.sync.period, spec.steps, spec.tasks[0].weight) == ("never", 7, 0.5)
    assert (spec.optimizer.lr, spec.reference.sync) == (1e-5, True)


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("steps", "--set"),
        ("=3", "--set"),
        ("tasks.3.weight=1", "tasks.3"),
        ("tasks.weight=1", "tasks.weight"),
        ("name.first=x", "name.first"),
        ("steps.more.depth=1", "steps.more"),
        ("steps=[1", "--set steps"),
        ("steps=0", "steps"),
        ("stepz=3", "stepz"),
    ],
)
def test_a_wrong_override_is_refused_with_its_path(file: Path, override: str, path: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        specfile.load(file, overrides=[override])
    assert [problem.path for problem in refused.value.problems] == [path]
    assert all(problem.allowed for problem in refused.value.problems)


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [1\n", "just text", ""])
def test_what_is_no_mapping_is_refused_with_the_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(InvalidSpec, match=r"bad\.yaml"):
        specfile.load(path)


def test_what_is_wrong_is_said_as_it_is(tmp_path: Path, file: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"--set: '=3' names no field"):
        specfile.load(file, overrides=["=3"])
    (tmp_path / "empty.yaml").write_text("\n")
    with pytest.raises(InvalidSpec, match=r"empty\.yaml: the file is empty"):
        specfile.load(tmp_path / "empty.yaml")


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"nowhere\.yaml: cannot be read"):
        specfile.load(tmp_path / "nowhere.yaml")


def test_parts_of_the_wrong_shape_reach_the_check(file: Path) -> None:
    with pytest.raises(InvalidSpec) as refused:
        specfile.load(file, overrides=["model=7", "tasks=none", "evaluation=[1]"])
    assert {problem.path for problem in refused.value.problems} == {"model", "tasks", "evaluation.0"}


def test_a_key_that_stands_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("name: first\nsteps: 4\nname: second\n")
    with pytest.raises(InvalidSpec, match=r"'name' stands twice.*line 3"):
        specfile.load(file, overrides=[])
