"""What is this machine alone, and what is not."""

from __future__ import annotations

import pytest

from syncline.addresses import is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1", "[::1]"])
def test_the_loopback_has_several_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "[::]", "10.1.2.3", "127.0.0.1.example", "localhost.example", "127"]
)
def test_nothing_else_is_the_loopback(host: str) -> None:
    assert not is_loopback(host)
