"""The machine under the figures: cores, other people's load, and the memory of a tree of processes."""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TOO_BUSY = 0.5


@dataclass(frozen=True, slots=True)
class Load:
    """Work on the machine while no bench ran."""

    average: float
    """Load average of the last minute. Before all but the first bench it also holds the bench before."""
    cores_in_use: float
    """Cores that were busy during the last second: nobody's but other people's."""
    first: bool

    @property
    def busy(self) -> bool:
        """Whether a figure that is measured now can be trusted less than usual."""
        return self.cores_in_use > _TOO_BUSY or (self.first and self.average > _TOO_BUSY)

    def __str__(self) -> str:
        return f"load average {self.average:.2f}, {self.cores_in_use:.2f} of {len(usable_cores())} cores in use"


def usable_cores() -> list[int]:
    """Cores that this process may use, by their numbers."""
    return sorted(os.sched_getaffinity(0))


def describe() -> str:
    """One line, without a name or an address."""
    model = ""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{len(usable_cores())} cores {model or platform.machine()}, {memory_gib:.0f} GiB, "
        f"Python {platform.python_version()}"
    )


def look(*, first: bool, seconds: float = 1.0) -> Load:
    """Do nothing for a second, and see how busy the machine is all the same."""
    busy, total = _ticks()
    time.sleep(seconds)
    busy_now, total_now = _ticks()
    share = (busy_now - busy) / max(total_now - total, 1)
    return Load(os.getloadavg()[0], share * (os.cpu_count() or 1), first)


def tree_bytes(root: int) -> int:
    """Memory of a process and all its descendants; a page that several of them share counts once."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    tree: set[int] = set()
    found = {root}
    while found:
        tree |= found
        found = {pid for pid, parent in parents.items() if parent in tree} - tree
    return sum(_proportional_bytes(pid) for pid in tree)


def pin(pid: int, core: int) -> None:
    """Bind all threads of a process to one core; threads and children that it starts later inherit that."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):  # a thread that ended meanwhile
            os.sched_setaffinity(int(thread.name), {core})


def _ticks() -> tuple[int, int]:
    """Clock ticks of all cores since the start of the machine: busy ones, and all."""
    user, nice, system, idle, waiting, *rest = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    busy = user + nice + system + sum(rest)
    return busy, busy + idle + waiting


def _proportional_bytes(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
