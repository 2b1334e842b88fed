"""Outlives the supervisor by a moment: when that is gone, however it went, nothing of its stack is left.

    python -m services.local.guardian MARK

Standard input holds a line +PID for each child that was started and -PID for each that is gone. The end of that
file is the one sign of the supervisor's death that SIGKILL cannot prevent.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress

from services.local.processes import kill_all


class Guardian:
    """The supervisor's end: `watch` every child, `dismiss` when all are gone."""

    def __init__(self, mark: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "services.local.guardian", mark], stdin=subprocess.PIPE, start_new_session=True
        )

    def watch(self, pid: int) -> None:
        """This child, and whatever is in its session, must not outlive the supervisor."""
        self._tell(f"+{pid}")

    def forget(self, pid: int) -> None:
        """This child is gone; its id may become somebody else's."""
        self._tell(f"-{pid}")

    def dismiss(self) -> None:
        """Let it look once more, and end."""
        self._process.communicate(timeout=10.0)

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # somebody killed it; the stack goes on without
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # whoever ends the supervisor must not end its guardian
    sessions: set[int] = set()
    for line in sys.stdin:
        pid = int(line[1:])
        sessions.add(pid) if line[0] == "+" else sessions.discard(pid)
    kill_all(mark=sys.argv[1], sessions=sessions)
    return 0


if __name__ == "__main__":
    sys.exit(main())
