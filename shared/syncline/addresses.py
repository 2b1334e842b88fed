"""Addresses as settings write them: host:port, an IPv6 host in brackets."""

from __future__ import annotations

import socket
from ipaddress import ip_address


def listening(address: str) -> tuple[str, int]:
    """Host and port to listen on. `[::]` is every interface, of both families where the kernel has IPv6."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if host == "::" and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"  # noqa: S104 - it was asked for
    return host, int(port)


def bracketed(address: str) -> str:
    """As peers dial it: a pod's IPv6 address, put before a port, gets its brackets."""
    host, colon, port = address.rpartition(":")
    if ":" in host and not address.startswith(("unix:", "[")):
        return f"[{host}]{colon}{port}"
    return address


def is_loopback(host: str) -> bool:
    """Whether a host, as URLs and settings write it, is this machine and reachable from no other."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
