"""Closed by default."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.coordinator.settings import CoordinatorSettings


@pytest.mark.parametrize("bind", ["0.0.0.0:8080", "[::]:8080", "10.1.2.3:80", "pod.example:8080"])
def test_another_interface_needs_a_token(bind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCLINE_REST_BIND", bind)
    with pytest.raises(ValidationError, match="set SYNCLINE_TOKEN"):
        CoordinatorSettings()
    monkeypatch.setenv("SYNCLINE_TOKEN", "secret")
    assert CoordinatorSettings().rest_port > 0


@pytest.mark.parametrize("bind", ["127.0.0.1:8080", "localhost:8080", "[::1]:8080"])
def test_loopback_needs_none(bind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCLINE_REST_BIND", bind)
    assert CoordinatorSettings().rest_bind == bind
