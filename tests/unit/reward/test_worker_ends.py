"""Whose doing the end of a verifier worker was: its check's, or somebody else's."""

from __future__ import annotations

import signal
from typing import Literal

import pytest

from services.reward.verifiers.pool import after_loss
from services.reward.verifiers.processes import End, WorkerEnded
from services.reward.verifiers.wire import Outcome
from syncline.errors import Unavailable


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


TIMEOUT = Outcome("timeout", cause="verifier ended: SIGX")


@pytest.mark.parametrize(
    ("why", "losses", "said"),
    [
        ("time", 1, TIMEOUT),
        ("fault", 1, TIMEOUT),
        ("outside", 1, None),
        ("outside", 2, None),
        ("silence", 2, None),
        ("silence", 3, Outcome("timeout", cause="SIGX, 3 times", accident=True)),
    ],
)
def test_a_check_that_lost_its_worker_has_a_verdict_or_is_asked_again(
    why: Literal["time", "fault", "silence", "outside"], losses: int, said: Outcome | None
) -> None:
    assert after_loss(WorkerEnded("SIGX", why=why), losses=losses) == said


def test_a_check_whose_workers_are_killed_from_outside_three_times_is_unavailable() -> None:
    said = after_loss(WorkerEnded("SIGKILL", why="outside"), losses=3)
    assert isinstance(said, Unavailable)
    assert said.message.startswith("3 verifier workers were killed over one answer, and not by us: SIGKILL")
