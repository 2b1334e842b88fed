"""Whose doing the end of a verifier worker was: its check's, or somebody else's."""

from __future__ import annotations

import signal

import pytest

from services.reward.verifiers.processes import End, WorkerEnded


@pytest.mark.parametrize(
    ("end", "why", "how"),
    [
        (End(-signal.SIGVTALRM, begun=1, grown=False), "time", "SIGVTALRM"),
        (End(-signal.SIGSEGV, begun=1, grown=False), "fault", "SIGSEGV"),
        (End(1, begun=1, grown=False), "fault", "exit code 1"),
        (End(-signal.SIGKILL, begun=1, grown=False), "outside", "SIGKILL"),
        (End(-signal.SIGTERM, begun=1, grown=True), "outside", "SIGTERM"),
        (End(-signal.SIGKILL, begun=1, grown=True), "fault", "SIGKILL, as it had grown large"),
    ],
)
def test_an_end_is_told_by_whose_doing_it_was(end: End, why: str, how: str) -> None:
    ended = WorkerEnded.by(end)
    assert (ended.why, ended.how) == (why, how)
