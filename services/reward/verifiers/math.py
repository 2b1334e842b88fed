"""Math-Verify: whether two answers are the same mathematics. Runs in worker processes and nowhere else.

Math-Verify's own limit is wall time by SIGALRM, in whole seconds, for each of several calls. It is
switched off here: the worker sets one limit of CPU time around the whole check.

The library is imported by the first check. The service reads the registry too, and must not load an
algebra that it never uses.

Two plain numbers are compared without the library, whose answer is known: most answers of GSM8K are such.
"""

from __future__ import annotations

import logging
import re
from decimal import Decimal
from functools import lru_cache
from itertools import product
from math import isclose
from typing import Any

from services.reward.verifiers.amounts import Reading, read, spelled_out
from services.reward.verifiers.verifier import Unparsable, UnreadableGold

for _name in ("math_verify", "latex2sympy2_extended"):  # they log whole completions: hostile text in our logs
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

_NUMBER = re.compile(r"-?(?:[1-9][0-9]{0,2}(?:,[0-9]{3}){1,3}|0|[1-9][0-9]{0,11})(?:\.[0-9]{1,3})?")
"""At most 15 digits, as the library has no more of a decimal; and no zero in front, which it does not always read."""
_PRICE = re.compile(rf"(?:\\?\$)?({_NUMBER.pattern})")
_BOXED_PRICE = re.compile(rf"\\boxed\{{{_PRICE.pattern}\}}")
_BOUND = re.compile(r"(?:\\boxed\{)?\s*([<>]=?|[\u2264\u2265\u2260]|\\(?:leq?|geq?|neq?|lt|gt)(?![a-zA-Z]))")
_SMALL = 1e-3
_LIKE_SMALL = 2e-6
_ZERO = 1e-12
"""The library rounds to six digits behind the point. Of numbers below _SMALL these are too few; they are compared by
their own size."""

SELF_TEST = (("1/2", "2/4", 1.0), ("1/3", "2/4", 0.0))
WARM_UP = (
    ("1/2", "2/4"),
    ("1/3", "2/4"),
    ("7", "The answer is 7."),
    ("18.90", r"\boxed{\$18.90}"),
    ("50%", r"\boxed{\frac{1}{2}}"),
    ("50%", r"\boxed{49\%}"),
    (r"5\text{ cm}", r"\boxed{5}"),
    (r"90^\circ", r"\boxed{91}"),
    (r"\frac{12}{35}", r"\boxed{\frac{24}{70}}"),
    (r"\frac{12}{35}", r"\boxed{\frac{39}{105}}"),
    (r"2\sqrt{2}", r"\boxed{\frac{\sqrt{32}}{2}}"),
    (r"2\sqrt{2}", r"\boxed{\sqrt{6}}"),
    ("(x+1)(x-2)", r"\boxed{\frac{2x^2 - 2x - 4}{2}}"),
    ("(x+1)(x-2)", r"\boxed{x^2 - x - 3}"),
    (r"\left[1, 2\right)", r"\boxed{\left[\frac{2}{2}, 2\right)}"),
    (r"[1, 2) \cup (3, \infty)", r"\boxed{(3, \infty) \cup [1, 2]}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\boxed{\begin{pmatrix} \frac{2}{2} \\ 2 \end{pmatrix}}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\boxed{\begin{pmatrix} 1 \\ 3 \end{pmatrix}}"),
    (r"2 + 3\pi", r"\boxed{3\pi + \frac{4}{2}}"),
    (r"2 + 3\pi", r"\boxed{5\pi}"),
    (r"\{1, 2\}", r"\boxed{2, \frac{3}{3}}"),
    ("x = 5", r"\boxed{x = \frac{10}{2}}"),
    ("y = 2x + 3", r"\boxed{y = 2x + 4}"),
    ("x > 2", r"\boxed{(3, \infty)}"),
)
"""(gold, completion) of every kind, equal and unequal: the first of its kind costs ten times as much as later ones."""


def equal(answer: str, gold: str) -> float:
    """1 when `answer` equals `gold`, both as `answers` cut them out, else 0."""
    known = same_numbers(answer, gold)
    if known is None:
        answer, gold = as_read(answer, gold)
        known = same_words(answer, gold)
    if known is None:
        known = same_numbers(answer, gold)
    return same_mathematics(answer, gold) if known is None else float(known)


def as_read(answer: str, gold: str) -> tuple[str, str]:
    """Both as Math-Verify reads them, and amounts as their numbers where both are numbers."""
    found, wanted = read(answer), read(gold)
    numbers = all(one is not None and one.kind in ("number", "formula") for one in (found, wanted))
    return _as_read(answer, found, number=numbers), _as_read(gold, wanted, number=numbers)


def _as_read(text: str, reading: Reading | None, *, number: bool) -> str:
    taken = ("number", "formula") if number else ("formula",)
    if reading is not None and reading.kind in taken:
        return reading.text
    return text if reading is not None or "\\boxed{" in text else spelled_out(text)


def same_words(answer: str, gold: str) -> bool | None:
    """Whether two answers in words are the same, letter by letter; None where that is not how to compare them.

    The library takes letters for variables, so that On = No; and of `10 below zero` it takes the number.
    """
    if _bound(answer) != _bound(gold):
        return False
    found, wanted = read(answer), read(gold)
    kinds = {one.kind for one in (found, wanted) if one is not None}
    if found is None or wanted is None or not kinds <= {"phrase", "word"}:
        return False if "phrase" in kinds else None
    if found.text == wanted.text:
        return True
    return False if "phrase" in kinds or answer.startswith(r"\boxed{") else None  # other prose holds no answer


def _bound(text: str) -> str | None:
    """The sign of an answer like `> 85`, which the library leaves out."""
    found = _BOUND.match(text)
    return found[1].replace("leq", "le").replace("geq", "ge").replace("neq", "ne") if found else None


def same_numbers(answer: str, gold: str) -> bool | None:
    """Whether two plain numbers are equal; None where that takes more than to read them.

    Equal decimals are equal, and different whole numbers are not. Different decimals are left to the library, which
    compares them after rounding.
    """
    found, wanted = _number(answer), _number(gold)
    if found is None or wanted is None:
        return None
    if found == wanted:
        return True
    return False if _is_whole(found) and _is_whole(wanted) else None


def _number(text: str) -> Decimal | None:
    """The value of a plain decimal number, in dollars or not, alone or in one box."""
    found = _BOXED_PRICE.fullmatch(text) or _PRICE.fullmatch(text)
    return Decimal(found[1].replace(",", "")) if found else None


def _is_whole(number: Decimal) -> bool:
    return number == number.to_integral_value()


def same_mathematics(answer: str, gold: str) -> float:
    """What Math-Verify says. Raises UnreadableGold or Unparsable where there is nothing to compare."""
    wanted = _parsed_gold(gold)
    if not wanted:
        raise UnreadableGold("it is not mathematics")
    found = _parsed(answer)
    if not found:
        raise Unparsable("no answer found")
    if any(_contradicts_itself(one) for one in found):
        return 0.0
    if _repeats(answer, found[0], gold, wanted[0]):
        return 0.0
    # Both are [expression, text]. Texts first: equal texts need no algebra.
    return float(any(_equal(one, other) for one, other in product(reversed(wanted), reversed(found))))


def _contradicts_itself(found: Any) -> bool:
    """Whether an answer says `84 = 85`, or `84 = x = 85`, of which the library would take the right-hand side.

    Exact numbers only: who writes 1/3 = 0.33 has rounded.
    """
    from sympy import Equality, Float
    from sympy.logic.boolalg import And

    equations = [one for one in (found.args if isinstance(found, And) else (found,)) if isinstance(one, Equality)]
    sides = [side for equation in equations for side in equation.args]
    values = [_value(side) for side in sides if side.is_number and not side.has(Float)]
    numbers = [value for value in values if value is not None]
    return any(not isclose(number, numbers[0], rel_tol=1e-12) for number in numbers[1:])


def _value(constant: Any) -> float | None:
    """None for what is no finite real number, as 1/0, or a sum that diverges."""
    try:
        value = constant.evalf()
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the boundary to sympy, which raises anything on nonsense
        return None
    return float(value) if value.is_Float and value.is_finite else None


def _rounded_away(gold: Any, found: Any) -> bool:
    """Whether two small numbers differ, which rounding to six digits would make equal."""
    from sympy import Expr, Float

    both = (gold, found)
    if not all(isinstance(one, Expr) and one.is_number for one in both) or not any(one.has(Float) for one in both):
        return False  # exact numbers are compared exactly
    wanted, given = (0.0 if one.is_zero else _value(one) for one in both)
    if wanted is None or given is None or abs(wanted) >= _SMALL:
        return False
    return not isclose(wanted, given, rel_tol=_LIKE_SMALL, abs_tol=0.0 if wanted else _ZERO)


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


def _repeats(answer: str, found: Any, gold: str, wanted: Any) -> bool:
    """Whether one of two lists has a value twice that the other has once. The library takes both for sets."""
    from sympy import FiniteSet

    if not (isinstance(found, FiniteSet) and isinstance(wanted, FiniteSet)):
        return False
    counts = [_values_in(text) for text in (answer, gold)]
    return None not in counts and counts[0] != counts[1]


def _values_in(text: str) -> int | None:
    """Values of a list in one box; None for what is a set, or more than commas part."""
    inside = text.removeprefix(r"\boxed{").removesuffix("}")
    return None if re.search(r"[{}()\[\]]|\\pm|\\cup", inside) else inside.count(",") + 1


def _equal(gold: Any, found: Any) -> bool:
    from math_verify import verify
    from sympy import Interval, Union
    from sympy.logic.boolalg import Boolean

    if isinstance(gold, Interval | Union) and isinstance(found, Boolean):
        gold, found = found, gold  # 0 < x < 3 is (0, 3) for the library in this order only
    try:
        if _rounded_away(gold, found):
            return False
        return bool(verify(gold, found, timeout_seconds=None, raise_on_error=True))  # not symmetric: gold first
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the boundary to sympy, which raises anything on nonsense
        return False
