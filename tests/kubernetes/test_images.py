"""The images: clean Dockerfiles, and three of them built and run for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from services.local import valkey
from syncline.settings import ServiceSettings
from tests.kubernetes.containers import BASE_NAME, Buildah, Contained
from tests.kubernetes.free_port import free_port
from tests.kubernetes.settings_of import settings_of
from tests.kubernetes.tools import CACHE, PROJECT, require
from tests.redis_server import wait_until_up

DOCKER = PROJECT / "docker"
SERVICES = ("coordinator", "inference", "reward", "learner")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("service", SERVICES)
def test_a_dockerfile_is_clean(service: str) -> None:
    hadolint = require(CACHE / "hadolint")
    command = [hadolint, "--config", DOCKER / "hadolint.yaml", DOCKER / f"{service}.Dockerfile"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_runs_as_a_numbered_user_and_can_be_asked_how_it_is(service: str) -> None:
    """Kubernetes cannot tell whether a user with a name is root."""
    lines = (DOCKER / f"{service}.Dockerfile").read_text().splitlines()
    assert "USER 10001:10001" in lines
    assert lines.index("USER 10001:10001") > max(number for number, line in enumerate(lines) if line.startswith("FROM"))
    assert lines[-1] == f'CMD ["python3", "-m", "services.{service}"]'
    assert any(line.startswith("HEALTHCHECK") for line in lines)


@pytest.fixture(scope="module")
def buildah() -> Iterator[Buildah]:
    """A storage for this module. Its folder is not pytest's, whose paths are too long for overlay mounts."""
    with tempfile.TemporaryDirectory(prefix="syncline-images-") as name:
        storage = Buildah.create(Path(name))
        yield storage
        storage("rm", "--all")  # a build may leave a stage mounted


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the three images install, so that their builds need no network and no settings of this machine's pip.

    The lock chooses the versions. It is for newer Pythons than Debian's 3.11.2, for which redis wants async-timeout.
    """
    folder = tmp_path_factory.mktemp("wheels")
    lock = PROJECT / "docker/requirements-cpu.lock"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder), "--constraint", str(lock)]
    wanted = [f"{PROJECT}[coordinator,reward,learner]", "hatchling", "async-timeout"]
    done = subprocess.run([*command, *wanted], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


HOLDS = {"reward": {"math-verify"}, "coordinator": {"transformers"}, "learner": {"torch", "transformers"}}
HOLDS_NOT = {
    "reward": {"torch", "vllm", "triton", "transformers"},
    "coordinator": {"torch", "vllm", "triton", "math-verify"},
    "learner": {"vllm", "triton", "math-verify", "fastapi"},
}


@pytest.fixture(scope="module", params=HOLDS)
def service(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def image(service: str, buildah: Buildah, wheels: Path) -> str:
    return buildah.build(service, wheels=wheels)


@pytest.fixture
def redis_address() -> Iterator[str]:
    """A real server on a port: a container has another file system, but the same network."""
    with tempfile.TemporaryDirectory(prefix="syncline-") as name:
        port = free_port()
        command = [*valkey.command(Path(name)), "--port", str(port), "--bind", "127.0.0.1"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            wait_until_up(Path(name), process)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait(timeout=10)


def until_healthy(
    container: Contained, question: str, environment: dict[str, str], *, deadline_s: float = 90.0
) -> None:
    started = time.monotonic()
    while container.health(question, environment):
        assert container.process.poll() is None, container.log.read_text()
        assert time.monotonic() - started < deadline_s, container.log.read_text()
        time.sleep(0.5)


def test_an_image_answers_its_health_check_and_leaves_on_sigterm(
    service: str, image: str, buildah: Buildah, redis_address: str
) -> None:
    bind = f"127.0.0.1:{free_port()}"
    address = {"SYNCLINE_REST_BIND" if service == "coordinator" else "SYNCLINE_BIND": bind}

    nowhere = {"SYNCLINE_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0", **address}
    with buildah.run(image, nowhere) as container:
        until_healthy(container, "liveness", address)
        assert container.health("readiness", address) == 1  # there is no Redis
        assert container.stop() == 0, container.log.read_text()

    with buildah.run(image, {"SYNCLINE_REDIS_URL": redis_address, **address}) as container:
        until_healthy(container, "readiness", address)
        assert container.stop() == 0, container.log.read_text()


def test_an_image_holds_what_its_service_asks_for_and_no_more(service: str, image: str, buildah: Buildah) -> None:
    holder = buildah("from", "--pull-never", image)
    inside = ("run", "--isolation", "chroot", holder, "--")
    listed = buildah(*inside, "python3", "-m", "pip", "list", "--format=json")
    identity = buildah(*inside, "id", "-u")
    buildah("rm", holder)
    packages = {package["name"].lower() for package in json.loads(listed)}
    assert HOLDS[service] <= packages
    assert not packages & HOLDS_NOT[service]
    assert ("boto3" in packages) == (service != "reward"), "the reward service has nothing to do with an object store"
    assert identity == "10001"


def test_an_image_holds_nothing_of_the_machine_that_built_it(image: str, buildah: Buildah) -> None:
    """Neither pip's settings nor a variable of the environment, in the image's history or in its files."""
    holder = buildah("from", "--pull-never", image)
    mounted = Path(buildah("mount", holder))
    assert not [*mounted.glob("etc/pip*"), *mounted.glob("root/.config/pip*"), *mounted.glob("opt/syncline/pip.conf")]
    assert not (mounted / "build").exists()
    buildah("rm", holder)
    of_the_base = json.loads(buildah("inspect", "--type", "image", BASE_NAME))["Docker"]["config"]["Env"] or []
    inspected = json.loads(buildah("inspect", "--type", "image", image))["Docker"]
    added = {one.partition("=")[0] for one in inspected["config"]["Env"]} - {
        one.partition("=")[0] for one in of_the_base
    }
    assert added <= {"PATH", "PYTHONUNBUFFERED", "HOME"}
    history = json.dumps(inspected["history"])
    for name, value in os.environ.items():
        if name.startswith("PIP_") and "://" in value:
            assert value not in history, name


def test_compose_sets_only_what_the_services_know() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    for service in SERVICES:
        environment = compose["services"][service]["environment"]
        assert {name for name in environment if name.startswith("SYNCLINE_")} <= settings_of(service), service
        drain: float = ServiceSettings.model_fields["grace_s"].default
        assert float(compose["services"][service]["stop_grace_period"].removesuffix("s")) >= drain + 15, service
    assert "SYNCLINE_TOKEN" in compose["services"]["coordinator"]["environment"]
    assert compose["services"]["coordinator"]["ports"] == ["127.0.0.1:8080:8080"]  # no other machine
    assert "ports" not in compose["services"]["redis"]
