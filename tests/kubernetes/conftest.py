"""One control plane for the tests of a process, started when the first of them asks for it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes.control_plane.server import ControlPlane, is_built
from tests.kubernetes.tools import missing


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    if not is_built():
        missing("there is no control plane; run 'make control-plane'")
    if shutil.which("kubectl") is None:
        missing("kubectl is not installed; on Debian: apt-get install kubernetes-client")
    with tempfile.TemporaryDirectory(prefix="syncline-") as folder, ControlPlane(Path(folder)) as started:
        yield started
