"""Images and containers by buildah in a storage of their own, without a registry and without a container engine.

Isolation is `chroot`: what a container runs are processes of this machine in the image's file system, with the
machine's network. That is enough to see what an image holds, and that its own command works in it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kubernetes.tools import BASE_IMAGE, PROJECT, missing, require

BASE_NAME = "docker.io/library/python:3.11-slim-bookworm"
"""What the Dockerfiles ask for; here Debian's own packages answer to the name."""


@dataclass(frozen=True, slots=True)
class Buildah:
    """A storage of images below `folder`."""

    folder: Path

    @classmethod
    def create(cls, folder: Path) -> Buildah:
        """An empty storage with the base image in it. Skips or fails where buildah or the base is missing."""
        if shutil.which("buildah") is None:
            missing("buildah is not installed; on Debian: apt-get install buildah runc")
        buildah = cls(folder)
        storage = {"driver": "overlay", "runroot": str(folder / "run"), "graphroot": str(folder / "graph")}
        settings = "[storage]\n" + "".join(f'{key} = "{value}"\n' for key, value in storage.items())
        (folder / "storage.conf").write_text(settings)
        container = buildah("from", "scratch")
        buildah("add", "--quiet", container, str(require(BASE_IMAGE)), "/")
        buildah("commit", "--quiet", container, BASE_NAME)
        buildah("rm", container)
        return buildah

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf")}

    def __call__(self, *arguments: str) -> str:
        """Output of `buildah arguments`."""
        done = subprocess.run(["buildah", *arguments], env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, f"buildah {' '.join(arguments)}: {done.stderr[-4000:]}"
        return done.stdout.strip()

    def build(self, service: str, *, wheels: Path) -> str:
        """The name of the service's image, made by the script of `make images` from these wheels alone."""
        settings = {
            "BUILDER": "buildah",
            "BUILD_OPTIONS": f"--pull-never --isolation chroot --volume {wheels}:/wheels:ro",
            "INSTALL_OPTIONS": "--no-index --find-links /wheels",
            "TAG": "test",
        }
        script = str(PROJECT / "docker/build.sh")
        done = subprocess.run([script, service], env=self.environment | settings, capture_output=True, text=True)
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return f"syncline/{service}:test"

    @contextmanager
    def run(self, image: str, environment: Mapping[str, str]) -> Iterator[Contained]:
        """The image's own command in a new container, with its user; it is ended, and gone, when the block ends."""
        container = self("from", "--pull-never", image)
        config = json.loads(self("inspect", "--type", "image", image))["Docker"]["config"]
        command = ["buildah", "run", "--isolation", "chroot"]
        command += [f"--env={name}={value}" for name, value in environment.items()]
        command += [container, "--", *config["Entrypoint"], *config["Cmd"]]
        log = (self.folder / f"{container}.log").open("wb")
        process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        contained = Contained(self, container, process, config, Path(log.name))
        try:
            yield contained
        finally:
            if process.poll() is None:
                contained.stop()
            log.close()
            self("rm", container)


@dataclass(frozen=True, slots=True)
class Contained:
    """A container with its main process running."""

    buildah: Buildah
    name: str
    process: subprocess.Popen[bytes]
    config: Mapping[str, Any]
    """The image's settings: User, Env, Entrypoint, Cmd, Healthcheck."""
    log: Path

    def health(self, question: str, environment: Mapping[str, str]) -> int:
        """Exit code of the image's own health check, asked for liveness or readiness."""
        (kind, *check) = self.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        command = ["buildah", "run", "--isolation", "chroot", *(f"--env={k}={v}" for k, v in environment.items())]
        done = subprocess.run([*command, self.name, "--", *check[:-1], question], env=self.buildah.environment)
        return done.returncode

    def stop(self) -> int:
        """Send SIGTERM to the container's first process, as a container engine does; the exit code."""
        os.kill(_first_process(self.process.pid, Path(self.config["Entrypoint"][0]).name), signal.SIGTERM)
        return self.process.wait(timeout=60)


def _first_process(ancestor: int, name: str) -> int:
    """The process called `name` below `ancestor`."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            name_there, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
            parents[int(folder.name)] = int(rest.split()[1]), name_there
    for pid, (parent, called) in sorted(parents.items()):
        while called == name and parent in parents:
            if parent == ancestor:
                return pid
            parent = parents[parent][0]
    raise AssertionError(f"no process {name!r} runs in the container")
