"""What a new user waits for: `syncline run` on the quickstart, after installation.

Measured: seconds from the start of the command to its end, the start and stop of the local stack included, with the
held-out accuracy before and after by its own summary, and the largest memory of all its processes together (sampled;
shared pages count once). Not measured: the installation.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

from tests.bench.machine import tree_bytes
from tests.bench.report import BenchFailed, Figure, Measured, Options

SPEC = "services/local/quickstart/quickstart.yaml"
TARGET_S = 300.0
TARGET_POINTS = 20.0
_DEADLINE_S = 1800.0
_SAMPLE_EVERY_S = 2.0


def measure(options: Options) -> Measured:
    with tempfile.TemporaryDirectory(prefix="syncline-") as folder:
        seconds, peak_bytes, summary = _run(options, folder)
    before, after = (dict(summary["evaluation"][when]) for when in ("before", "after"))
    if summary["state"] != "succeeded" or not after:
        raise BenchFailed(f"the run is {summary['state']} ({summary['reason']}), evaluated on {list(after)}")
    figures = [
        Figure(
            name="syncline run, seconds",
            value=seconds,
            shown=f"{seconds:.0f} s",
            target=f"< {TARGET_S:g} s",
            met=seconds < TARGET_S,
        )
    ]
    for name, row in after.items():
        was, now = before[name]["score"]["mean"], row["score"]["mean"]
        points = 100 * (now - was)
        figures.append(
            Figure(
                name=f"accuracy on {name}, points gained",
                value=points,
                shown=f"{points:+.1f} ({was:.1%} to {now:.1%})",
                target=f">= {TARGET_POINTS:+g}",
                met=points >= TARGET_POINTS,
            )
        )
    figures.append(Figure(name="peak memory of all processes", value=peak_bytes, shown=f"{peak_bytes / 2**30:.2f} GiB"))
    return Measured(figures, {"engine": options.engine, "summary": summary})


def _run(options: Options, folder: str) -> tuple[float, int, dict[str, Any]]:
    """Wall seconds, peak bytes and the run's summary."""
    command = [sys.executable, "-m", "services.cli", "run", SPEC]
    command += ["--folder", folder, "--port", str(_free_port()), "--engine", options.engine, "-o", "json"]
    if options.quick:
        command += ["--set", "steps=4"]
    options.say(f"  syncline {' '.join(command[3:5])} (its progress goes to standard error)")
    started = time.monotonic()
    peak_bytes = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            while True:
                try:
                    output, _ = process.communicate(timeout=_SAMPLE_EVERY_S)
                    break
                except subprocess.TimeoutExpired:
                    peak_bytes = max(peak_bytes, tree_bytes(process.pid))
                if time.monotonic() - started > _DEADLINE_S:
                    raise BenchFailed(f"the quickstart was not over after {_DEADLINE_S:g} s")
            seconds = time.monotonic() - started
        except BaseException:
            process.terminate()  # means what Ctrl-C means: the run is cancelled, the stack stopped
            raise
    if process.returncode:
        raise BenchFailed(f"syncline run ended with exit code {process.returncode}; it said why on standard error")
    summary: dict[str, Any] = json.loads(output)
    return seconds, peak_bytes, summary


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
