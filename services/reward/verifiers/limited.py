"""One check under a limit of CPU time. Runs in the main thread of a worker process, or of the process that forks them.

CPU time, not wall time: a busy machine does not change verdicts. A signal ends the check in good order. It
cannot interrupt long C code (a huge integer power): soon after, the kernel ends the process by a second one.
"""

from __future__ import annotations

import json
import signal
import time
import traceback
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

from services.reward.verifiers.registry import VERIFIERS
from services.reward.verifiers.verifier import Unparsable, UnreadableGold
from services.reward.verifiers.wire import Outcome, Question

_REPEAT_S = 0.05
"""Raise again and again: library code with a bare `except:` may swallow the first one."""
_KILL_AFTER_S = 0.25
"""CPU seconds beyond the limit that a check has to end in good order."""
_CAUSE_CHARS = 120


_WARM_UP_CPU_S = 60.0


class OutOfTime(BaseException):
    """No Exception: a library's own handlers let it pass."""


def warm_up() -> None:
    """Have every verifier load and build, in the process that workers are forked from, what its checks need."""
    for name, verifier in VERIFIERS.items():
        for gold, completion in verifier.warm_up:
            answer = completion if verifier.cut is None else verifier.cut(completion, longest=len(completion))
            check(Question(name, verifier.cut_gold(gold), answer or ""), cpu_s=_WARM_UP_CPU_S)


def check(question: Question, *, cpu_s: float) -> Outcome:
    """What the verifier says. Never raises: a verifier that fails on a completion gives it no score."""
    started = time.perf_counter()
    outcome = _within(question, cpu_s)
    return replace(outcome, seconds=time.perf_counter() - started)


def _within(question: Question, cpu_s: float) -> Outcome:
    if signal.getsignal(signal.SIGPROF) is not _out_of_time:
        signal.signal(signal.SIGPROF, _out_of_time)
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)  # which ends the process
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s + _KILL_AFTER_S)
        signal.setitimer(signal.ITIMER_PROF, cpu_s, _REPEAT_S)
        try:
            return _check(question)
        finally:
            _disarm()
    except OutOfTime:
        _disarm()
        return Outcome("timeout", cause=f"more than {cpu_s:g} s of CPU time")
    except MemoryError:
        return Outcome("timeout", cause="memory", last=True)


def _disarm() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _check(question: Question) -> Outcome:
    verifier = VERIFIERS[question.verifier]
    try:
        score = verifier.check(question.answer, question.gold, **_options(question.verifier, question.options))
    except UnreadableGold as error:
        return Outcome("gold", cause=str(error)[:_CAUSE_CHARS])
    except Unparsable as error:
        return Outcome("unparsable", cause=str(error)[:_CAUSE_CHARS] or "unparsable")
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the boundary to code that anybody may write
        return Outcome("unparsable", cause=f"{question.verifier} failed: {_where(error)}", bug=True)
    if not isinstance(score, int | float) or not -1e30 < score < 1e30:
        kind = type(score).__name__ if not isinstance(score, int | float) else f"{score}"
        return Outcome("unparsable", cause=f"{question.verifier} failed: its score is {kind}", bug=True)
    if verifier.scale == "binary" and score not in (0, 1):
        problem = f"{question.verifier} failed: it is binary and its score is {score:g}"
        return Outcome("unparsable", cause=problem, bug=True)
    return Outcome("scored", score=float(score))


@lru_cache(maxsize=256)
def _options(verifier: str, options: str) -> dict[str, Any]:
    return VERIFIERS[verifier].read_options(json.loads(options))


def _where(error: Exception) -> str:
    """Kind and place. Not the message: it may quote the completion, and this goes to the log."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}"


def _out_of_time(number: int, frame: FrameType | None) -> None:
    raise OutOfTime
