"""What a run spec may name: paths under a root, and URLs at or below those that the installation permits."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.coordinator.settings import CoordinatorSettings
from services.coordinator.submission.locations import data_file, permitted, seed_model
from syncline.cache import Cache
from syncline.errors import InvalidSpec


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("s3://bucket/models/a", True),
        ("s3://bucket/models", True),
        ("s3://bucket/models-of-others/a", False),
        ("s3://bucket/models/../secrets", False),
        ("s3://bucket", False),
        ("s3://bucket-2/models/a", False),
        ("hf://org/a", True),
        ("hf://org/a@refs/pr/1", True),
        ("hf://org/a@v1/../..", False),
        ("hf://organisation/a", False),
        ("hf://../org/a", False),
        ("file:///etc/passwd", False),
        ("http://bucket/models/a", False),
    ],
)
def test_urls_are_compared_name_by_name(url: str, allowed: bool) -> None:
    assert permitted(url, ("s3://bucket/models/", "hf://org")) is allowed


def test_the_whole_hub_and_a_whole_bucket_can_be_permitted() -> None:
    assert permitted("hf://org/a@v1", ("hf://",))
    assert permitted("s3://bucket/a/b", ("s3://bucket",))
    assert not permitted("s3://bucket/a", ("hf://",))


def _refusal(model: str = "", data: str = "", **settings: str) -> tuple[str, str, str]:
    known = CoordinatorSettings(**settings)  # type: ignore[arg-type]
    cache = Cache(Path("never-made"))

    def ask() -> object:
        if model:
            return seed_model(model, known, cache, lambda run_id, which: "")
        return data_file(data, known, cache, field="tasks.0.data")

    with pytest.raises(InvalidSpec) as raised:
        ask()
    (problem,) = raised.value.problems
    return problem.path, problem.problem, problem.allowed


def test_nothing_remote_is_read_unless_the_installation_permits_it() -> None:
    for model in ("s3://bucket/model", "hf://org/name"):
        path, problem, allowed = _refusal(model)
        assert (path, allowed) == ("model.path", "a path under the configured root")
        assert f"{model} is not below a URL that this installation lets runs read (SYNCLINE_REMOTE_PREFIXES)" in problem


def test_a_refusal_names_what_is_permitted() -> None:
    prefixes = "s3://bucket/models, s3://bucket/data,hf://org"
    _, _, allowed = _refusal("s3://other/model", remote_prefixes=prefixes, checkpoint_store="s3://bucket/runs/")
    for prefix in ("s3://bucket/models", "hf://org", "s3://bucket/runs"):
        assert f"a URL below {prefix}" in allowed
    path, _, allowed = _refusal(
        data="s3://other/data.jsonl", remote_prefixes=prefixes, checkpoint_store="s3://bucket/r"
    )
    assert path == "tasks.0.data"
    assert "hf://" not in allowed, "the hub's data sets are not read"
    assert "s3://bucket/r" not in allowed.split(), "nobody's prompts are another run's training state"


def test_other_schemes_are_refused_with_those_that_are_known() -> None:
    assert _refusal("https://host/model")[2] == "a path under the configured root or s3://... or hf://..."
    assert _refusal(data="hf://org/data")[1] == "hf://org/data is not supported"


@pytest.mark.parametrize(
    "settings",
    [
        {"checkpoint_store": "/runs"},
        {"checkpoint_store": "s3://"},
        {"remote_prefixes": "bucket/models"},
        {"remote_prefixes": "s3://bucket/models,https://host"},
        {"remote_prefixes": "hf://org/name/file"},
    ],
)
def test_settings_that_are_no_urls_are_refused_at_the_start(settings: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="s3://bucket/prefix"):
        CoordinatorSettings(**settings)  # type: ignore[arg-type]
