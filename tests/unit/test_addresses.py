"""host:port, of either family, and what is this machine alone."""

from __future__ import annotations

import socket

import pytest

from syncline.addresses import bracketed, is_loopback, listening
from syncline.settings import ServiceSettings


@pytest.mark.parametrize(
    ("written", "dialled"),
    [
        ("10.1.2.3:50051", "10.1.2.3:50051"),
        ("fd00::12:50051", "[fd00::12]:50051"),  # as Kubernetes puts a pod's IPv6 address before a port
        ("[fd00::12]:50051", "[fd00::12]:50051"),
        ("pod.example:1", "pod.example:1"),
        ("unix:/tmp/a:b/c.sock", "unix:/tmp/a:b/c.sock"),
        ("", ""),
    ],
)
def test_an_address_is_dialled_with_its_brackets(written: str, dialled: str) -> None:
    assert bracketed(written) == ServiceSettings(advertise=written).advertise == dialled


def test_every_interface_is_one_word_for_both_families() -> None:
    assert listening("[::]:8080") == ("::" if socket.has_dualstack_ipv6() else "0.0.0.0", 8080)
    assert listening("127.0.0.1:8080") == ("127.0.0.1", 8080)
    assert listening("[::1]:8080") == ("::1", 8080)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1", "[::1]"])
def test_the_loopback_has_several_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "[::]", "10.1.2.3", "127.0.0.1.example", "localhost.example", "127"]
)
def test_nothing_else_is_the_loopback(host: str) -> None:
    assert not is_loopback(host)
