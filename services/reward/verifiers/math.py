"""Math-Verify under a CPU limit. Runs in the main thread of a worker process and nowhere else.

Math-Verify's own limit is wall time by SIGALRM, in whole seconds, for each of several calls.
Here one limit of CPU time spans the whole check: a busy machine does not change verdicts.
It cannot stop long C code (a huge integer power); the worker's RLIMIT_CPU and the pool's
deadline do that from outside.
"""

from __future__ import annotations

import logging
import signal
from functools import lru_cache
from itertools import product
from types import FrameType
from typing import Any

from math_verify import parse, verify
from math_verify.errors import TimeoutException

from services.reward.verifiers.wire import Outcome

for _name in ("math_verify", "latex2sympy2_extended"):  # they log whole completions: hostile text in our logs
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

_REPEAT_S = 0.05
"""Raise again and again: library code with a bare `except:` may swallow the first one."""


def check(gold: str, answer: str, *, cpu_s: float) -> Outcome:
    """Whether `answer` equals `gold`, both as `answers` cut them out. Never raises."""
    signal.signal(signal.SIGPROF, _out_of_time)
    try:
        signal.setitimer(signal.ITIMER_PROF, cpu_s, _REPEAT_S)
        try:
            return _check(gold, answer)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except TimeoutException:
        signal.setitimer(signal.ITIMER_PROF, 0)
        return Outcome("timeout", cause=f"more than {cpu_s:g} s of CPU time")
    except MemoryError:
        return Outcome("timeout", cause="memory", last=True)


def _check(gold: str, answer: str) -> Outcome:
    wanted = _parsed_gold(gold)
    if not wanted:
        return Outcome("gold", cause="gold_unparsable")
    found = _parsed(answer)
    if not found:
        return Outcome("unparsable", cause="no answer found")
    # Both are [expression, text]. Texts first: equal texts need no algebra.
    equal = any(_equal(one, other) for one, other in product(reversed(wanted), reversed(found)))
    return Outcome("scored", score=float(equal))


@lru_cache(maxsize=1024)
def _parsed_gold(gold: str) -> list[Any]:
    return _parsed(gold)


def _parsed(text: str) -> list[Any]:
    try:
        found: list[Any] = parse(text, parsing_timeout=None, raise_on_error=True)
        return found
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the boundary to sympy, which raises anything on nonsense
        return []


def _equal(gold: Any, found: Any) -> bool:
    try:
        return bool(verify(gold, found, timeout_seconds=None, raise_on_error=True))  # not symmetric: gold first
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the boundary to sympy, which raises anything on nonsense
        return False


def _out_of_time(number: int, frame: FrameType | None) -> None:
    raise TimeoutException  # a BaseException: the library's own handlers let it pass
