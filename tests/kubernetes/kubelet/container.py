"""One run of a container: a process in namespaces of its own, below a root of bind mounts, within a memory limit."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.kubernetes.tools import PROJECT

_CGROUPS = Path("/sys/fs/cgroup/memory")
_FROM_THE_MACHINE = ("/usr", "/etc/alternatives", "/etc/ssl", "/dev", "/sys")
_FILES = ("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/ld.so.cache", "/etc/mime.types")
_PYTHON = tuple(dict.fromkeys(path for path in (sys.base_prefix, sys.prefix, str(PROJECT)) if path != "/usr"))


# What tini does in the images: process 1 gets no signal that it has no handler for, so it is not the service.
_INIT = """
"$@" & child=$!
trap 'kill -TERM $child' TERM
while :; do wait $child; code=$?; kill -0 $child 2>/dev/null || exit $code; done"""


def has_memory_limits() -> bool:
    """Whether this machine lets us limit memory (cgroup v1); elsewhere containers have what they take."""
    return _CGROUPS.is_dir() and os.access(_CGROUPS, os.W_OK)


@dataclass(frozen=True, slots=True)
class Mount:
    source: Path
    target: str
    read_only: bool


@dataclass(slots=True)
class Container:
    """What is run, and where. `start`, then `wait`."""

    name: str
    folder: Path
    """A folder for its root and its log."""
    network: str
    command: Sequence[str]
    environment: Mapping[str, str]
    mounts: Sequence[Mount]
    hosts: Path
    user: int
    group: int
    read_only: bool
    memory_bytes: int
    entrypoint: bool
    """Whether the image's own entry point runs the command: an init that passes signals on."""
    _process: asyncio.subprocess.Process | None = field(init=False, default=None)

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def _cgroup(self) -> Path:
        return _CGROUPS / f"syncline-{os.getpid()}-{self.folder.name}-{self.name}"

    async def start(self) -> None:
        root = self.folder / f"{self.name}.root"
        self._lay_out(root)
        limit = self._limit_memory()
        outer = ["setpriv", "--pdeathsig=KILL", "nsenter", f"--net={self.network}"]  # nothing outlives the kubelet
        outer += ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        init = ["sh", "-c", _INIT, "init"] if self.entrypoint else []
        script = "\n".join(["set -e", *limit, *self._mounting(root), self._entering(root)])
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(*outer, "sh", "-c", script, "sh", *init, *self.command),
                env=dict(self.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def wait(self) -> tuple[int, str]:
        """Exit code, and Kubernetes' word for such an end."""
        assert self._process is not None, "start comes before wait"
        code = await self._process.wait()
        code = 128 - code if code < 0 else code
        out_of_memory = self._killed_for_memory()
        with suppress(OSError):
            self._cgroup.rmdir()
        return code, "OOMKilled" if out_of_memory else "Error" if code else "Completed"

    def signal(self, number: signal.Signals) -> None:
        """Tell the container's first process; with that one end all of them."""
        with suppress(ProcessLookupError):
            if (pid := self.pid) is not None:
                os.kill(pid, number)
            elif self._process is not None and number is signal.SIGKILL:
                self._process.kill()

    @property
    def pid(self) -> int | None:
        """The container's first process, by this machine's count."""
        if self._process is None:
            return None
        with suppress(OSError, ValueError, IndexError):
            outer = self._process.pid
            return int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])
        return None

    async def execute(self, command: Sequence[str], *, timeout_s: float) -> bool:
        """Run a command in the container; whether it succeeded in time."""
        if self.pid is None:
            return False
        inside = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--root", "--wd=/"]
        inside += [f"--setuid={self.user}", f"--setgid={self.group}"]
        done = await asyncio.create_subprocess_exec(
            *(*inside, "--", *command),
            env=dict(self.environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(timeout_s):
                return await done.wait() == 0
        except TimeoutError:
            return False
        finally:
            if done.returncode is None:
                done.kill()
                await done.wait()

    # -- the root ------------------------------------------------------------------------------------

    def _lay_out(self, root: Path) -> None:
        """Places to mount at: a root that is read-only takes no new ones."""
        targets = [*_FROM_THE_MACHINE, *_PYTHON, "/proc", "/tmp", *(mount.target for mount in self.mounts)]
        for target in targets:
            (root / target.lstrip("/")).mkdir(parents=True, exist_ok=True)
        (root / "etc/hosts").touch()
        for file in _FILES:
            if Path(file).exists():
                shutil.copy(file, root / file.lstrip("/"))
        for name in ("bin", "lib", "lib64", "sbin"):
            if not (root / name).is_symlink():
                (root / name).symlink_to(f"usr/{name}")

    def _mounting(self, root: Path) -> list[str]:
        machine = [Mount(Path(path), path, read_only=path != "/dev") for path in _FROM_THE_MACHINE]
        python = [Mount(Path(path), path, read_only=True) for path in _PYTHON]  # above /tmp, should they be below it
        lines = [f"mount --bind {root} {root}", *([f"mount -o remount,bind,ro {root}"] if self.read_only else [])]
        for mount in (*machine, *sorted(self.mounts, key=lambda mount: mount.target), *python):
            source, target = shlex.quote(str(mount.source)), shlex.quote(f"{root}{mount.target}")
            lines.append(f"mkdir -p {target}; mount --rbind {source} {target}")
            if mount.read_only:
                lines.append(f"mount -o remount,bind,ro {target}")
        return [*lines, f"mount --bind {self.hosts} {root}/etc/hosts", f"mount -t proc proc {root}/proc"]

    def _entering(self, root: Path) -> str:
        become = f"setpriv --reuid={self.user} --regid={self.group} --clear-groups --pdeathsig=KILL"
        return f'exec chroot {root} {become} -- "$@"'

    # -- memory --------------------------------------------------------------------------------------

    def _limit_memory(self) -> list[str]:
        if not self.memory_bytes or not has_memory_limits():
            return []
        self._cgroup.mkdir(exist_ok=True)
        (self._cgroup / "memory.limit_in_bytes").write_text(str(self.memory_bytes))
        return [f"echo $$ > {self._cgroup}/cgroup.procs"]

    def _killed_for_memory(self) -> bool:
        with suppress(OSError):
            counts = dict(line.split() for line in (self._cgroup / "memory.oom_control").read_text().splitlines())
            return int(counts.get("oom_kill", "0")) > 0
        return False
