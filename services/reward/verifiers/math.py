"""Math-Verify: whether two answers are the same mathematics. Runs in worker processes and nowhere else.

Math-Verify's own limit is wall time by SIGALRM, in whole seconds, for each of several calls. It is
switched off here: the worker sets one limit of CPU time around the whole check.

The library is imported by the first check. The service reads the registry too, and must not load an
algebra that it never uses.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from itertools import product
from typing import Any

from services.reward.verifiers.verifier import Unparsable, UnreadableGold

for _name in ("math_verify", "latex2sympy2_extended"):  # they log whole completions: hostile text in our logs
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)


def equal(answer: str, gold: str) -> float:
    """1 when `answer` equals `gold`, both as `answers` cut them out, else 0."""
    wanted = _parsed_gold(gold)
    if not wanted:
        raise UnreadableGold("it is no mathematics")
    found = _parsed(answer)
    if not found:
        raise Unparsable("no answer found")
    # Both are [expression, text]. Texts first: equal texts need no algebra.
    return float(any(_equal(one, other) for one, other in product(reversed(wanted), reversed(found))))


@lru_cache(maxsize=1024)
def _parsed_gold(gold: str) -> list[Any]:
    return _parsed(gold)


def _parsed(text: str) -> list[Any]:
    from math_verify import parse

    try:
        found: list[Any] = parse(text, parsing_timeout=None, raise_on_error=True)
        return found
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the boundary to sympy, which raises anything on nonsense
        return []


def _equal(gold: Any, found: Any) -> bool:
    from math_verify import verify

    try:
        return bool(verify(gold, found, timeout_seconds=None, raise_on_error=True))  # not symmetric: gold first
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the boundary to sympy, which raises anything on nonsense
        return False
