"""One control plane for the tests of a process, started when the first of them asks for it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes.control_plane.server import ControlPlane, is_built
from tests.kubernetes.kubelet.network import Network
from tests.kubernetes.tools import missing


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        missing("a cluster needs root and iproute2, for networks of its pods")
    with Network() as network:
        yield network


@pytest.fixture(scope="session")
def control_plane(network: Network) -> Iterator[ControlPlane]:
    if not is_built():
        missing("there is no control plane; run 'make control-plane'")
    if shutil.which("kubectl") is None:
        missing("kubectl is not installed; on Debian: apt-get install kubernetes-client")
    folder = Path(tempfile.mkdtemp(prefix="syncline-"))
    with ControlPlane(folder, address=network.gateway) as started:
        yield started
    shutil.rmtree(folder)
