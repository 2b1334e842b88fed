"""A cluster on this machine to look around in: `python -m tests.kubernetes`, until Ctrl-C. Needs root."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path

from tests.kubernetes.chart import CHART
from tests.kubernetes.control_plane.server import ControlPlane, is_built
from tests.kubernetes.kubelet.network import Network
from tests.kubernetes.kubelet.node import Kubelet, Node, remove_folder
from tests.kubernetes.release import IMAGES, NAME, NAMESPACE, Release
from tests.kubernetes.tools import CACHE


def main() -> int:
    if not is_built():
        print("there is no control plane; run 'make control-plane'", file=sys.stderr)
        return 1
    folder = Path(tempfile.mkdtemp(prefix="syncline-"))
    nodes = (Node("node-a"), Node("node-b"))
    try:
        with (
            Network() as network,
            ControlPlane(folder / "control-plane", address=network.gateway) as control_plane,
            Kubelet(control_plane, network, folder / "pods", images=IMAGES, nodes=nodes) as kubelet,
        ):
            release = Release(control_plane, kubelet, folder)
            release.prepare()
            where = f"--namespace {NAMESPACE} {' '.join(release.values)}"
            print(f"export KUBECONFIG={control_plane.kubeconfig}")
            print(f"{CACHE / 'helm3'} install {NAME} {CHART} {where} --wait")
            print("# Without port-forward: the coordinator is at port 8080 of its pod's IP (kubectl get pod -o wide)")
            print(f"# What pods write is in {folder / 'pods'}. Ctrl-C ends it all.", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print("stopping")
    finally:
        remove_folder(folder)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
