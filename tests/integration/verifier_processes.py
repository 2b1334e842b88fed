"""What /proc tells of a verifier's processes."""

from __future__ import annotations

import os
from pathlib import Path

from services.reward.verifiers.pool import VerifierPool


def stat_of(pid: int) -> list[int]:
    """The numbers of /proc/PID/stat, from the parent's id on; zeros for a process that is gone."""
    try:
        fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return [0] * 50
    return [int(field) for field in fields[1:]]


def parent_of(pid: int) -> int:
    return stat_of(pid)[0]


def cpu_ticks(pid: int) -> int:
    """Hundredths of a second of CPU time that a process has used."""
    return sum(stat_of(pid)[10:12])


def niceness(pid: int) -> int:
    return stat_of(pid)[15]


def cpu_seconds(pool: VerifierPool) -> float:
    """CPU time of all workers so far, of those that are gone too: their parent keeps what they have used."""
    zygote = parent_of(next(iter(pool.pids)))
    ticks = sum(stat_of(zygote)[12:14]) + sum(cpu_ticks(pid) for pid in pool.pids)
    return ticks / os.sysconf("SC_CLK_TCK")
