"""Addresses for pods: a bridge of this machine, and a network namespace for each pod."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from itertools import count


class Network:
    """`with Network() as network:` its gateway is this machine as pods see it."""

    def __init__(self) -> None:
        number = os.getpid() % 200 + 30  # tests of several processes run side by side
        self._bridge = f"syncline{number}"
        self._prefix = f"10.213.{number}"
        self.gateway = f"{self._prefix}.1"
        self._numbers = count(2)
        self._namespaces: dict[str, str] = {}

    def __enter__(self) -> Network:
        with suppress(subprocess.CalledProcessError):
            _ip("link", "delete", self._bridge)  # of a process that was killed
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("address", "add", f"{self.gateway}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        return self

    def __exit__(self, *error: object) -> None:
        for address in list(self._namespaces):
            self.remove(address)
        _ip("link", "delete", self._bridge)

    def add(self) -> str:
        """The address of a new namespace."""
        number = next(self._numbers)
        address, name, outside = f"{self._prefix}.{number}", f"{self._bridge}-{number}", f"{self._bridge[-5:]}v{number}"
        with suppress(subprocess.CalledProcessError):
            _ip("netns", "delete", name)
        _ip("netns", "add", name)
        _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", outside, "master", self._bridge, "up")
        _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "route", "add", "default", "via", self.gateway)
        self._namespaces[address] = name
        return address

    def path(self, address: str) -> str:
        """The file that names the namespace of an address."""
        return f"/run/netns/{self._namespaces[address]}"

    def remove(self, address: str) -> None:
        """Forget an address; its link goes with the namespace."""
        with suppress(subprocess.CalledProcessError):
            _ip("netns", "delete", self._namespaces.pop(address))


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
