"""A tool that is missing is told of, and never hides a test from CI."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kubernetes.tools import require


def test_a_missing_tool_skips_and_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="run 'make tools-kubernetes'"):
        require(tmp_path / "helm4")


def test_a_missing_tool_is_a_failure_in_ci(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="run 'make tools-kubernetes'"):
        require(tmp_path / "helm4")
