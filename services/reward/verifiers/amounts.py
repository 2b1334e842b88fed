"""A short answer that is a number and a rest, and what the rest does to the number. Pure string work.

    20 miles/hour       a unit, which says nothing of the number: 20
    $5 million          a scale, which multiplies it: 5000000
    72 clips            so does a noun that is counted: 72
    10 below zero       words that change the value: a phrase, which equals itself and nothing else

Where the rest is none of these, the answer is left to Math-Verify.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal

from services.reward.verifiers.units import SHORTEST_NOUN, SHORTEST_NOUN_OF_PROSE, changes, is_unit, scaled, words_of

_LONGEST = 100
_DECIMALS, _DIGITS = 12, 20
"""Of a number that is written out: Math-Verify has no more than 15 digits of a decimal."""

_PLAIN = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_NUMBER = re.compile(
    rf"""(?P<sign>[-+\u2212]?)\s*\\?[$€£¥]?(?P<later_sign>-?)
    (?: (?P<whole>\d+)\s+(?P<part>\d+/[1-9]\d*)
      | (?P<fraction>{_PLAIN}/[1-9]\d*)
      | (?P<scientific>\d+(?:\.\d+)?[eE][-+]?\d{{1,2}})
      | (?P<repeating>\d*\.\d*\\(?:overline|bar)\{{\d+\}})
      | (?P<plain>{_PLAIN}|\.\d+)
    )(?![\d.,]\d|\d)""",
    re.VERBOSE,
)
_SCALED = re.compile(rf"(?<![\d.,^_/])({_PLAIN})((?: (?:hundred|thousand|million|billion|trillion|dozen))+)\b")
_MARKED = re.compile(r"\\(?:text|mathrm|mbox|textbf|textrm)\s*\{([^{}]*)\}")
_REMARK = re.compile(r"(.*)\(([^()]*)\)")
_SUM = re.compile(r"[\d\s.+*/=\xd7\xb7-]+")

_PERCENT = re.compile(r" ?\\?%| per ?cent", re.IGNORECASE)
_SIGN_OF_UNIT = re.compile(r"°[CF]?| ?[€£¢¥]")

_VARIABLES = re.compile(r"[a-dk-np-z]{2,3}")
"""Short products of the usual names of variables: xy, abc, kt."""
_WORDS = re.compile(r"[^\W\d_]{2,}(?:[ '\u2019-][^\W\d_]+)*")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a short answer says."""

    kind: Literal["number", "formula", "phrase", "word"]
    text: str
    """number: the number without its unit. formula: what Math-Verify cannot read, in words that it can. phrase, word:
    the text to compare."""


def read(text: str) -> Reading | None:
    r"""The reading of an answer as `answers` cuts it out; None for what is left to Math-Verify.

    >>> read("20 miles/hour"), read(r"\boxed{5 \text{ million}}")
    (Reading(kind='number', text='20'), Reading(kind='formula', text='5000000'))
    >>> read(r"\boxed{12 pi}"), read("10 below zero"), read("2 (x+1)")
    (Reading(kind='formula', text='\\boxed{12 \\pi}'), Reading(kind='phrase', text='10 below zero'), None)
    """
    if len(text) > _LONGEST:
        return None
    boxed = text.startswith(r"\boxed{") and text.endswith("}") and text.count(r"\boxed{") == 1
    inside = text[len(r"\boxed{") : -1] if boxed else text
    bare = " ".join(re.sub(r"~|\\[ ,]", " ", _MARKED.sub(r"\1", inside)).split()).rstrip(".")
    found = _NUMBER.match(bare)
    if found is None:
        return Reading("word", bare.casefold()) if _WORDS.fullmatch(bare) and not _VARIABLES.fullmatch(bare) else None
    rest = bare[found.end() :]
    scale, rest = scaled(rest)
    marked = _MARKED.search(inside) is not None
    kind = _kind_of(rest, boxed=boxed and not marked, number=found)
    if kind == "pi":
        return Reading("formula", rf"\boxed{{{found[0]} \pi}}")
    if kind == "phrase":
        return Reading("phrase", bare.casefold())
    if kind is None:
        return None
    sign_of_percent = "%" if kind == "percent" else ""
    if scale == 1 and (found["plain"] or found["fraction"]):
        return Reading("number", _as_written(found) + sign_of_percent)
    return None if sign_of_percent else Reading("formula", _worked_out(found, scale))


def spelled_out(prose: str) -> str:
    """A text whose numbers are in digits only, as Math-Verify takes the last one for the answer.

    >>> spelled_out("So 1.5 million people came.")
    'So 1500000 people came.'
    """

    def product(found: re.Match[str]) -> str:
        return format((Decimal(found[1].replace(",", "")) * scaled(found[2])[0]).normalize(), "f")

    return _SCALED.sub(product, prose)


Kind = Literal["number", "percent", "pi", "phrase"]


def _kind_of(rest: str, *, boxed: bool, number: re.Match[str]) -> Kind | None:
    """What the rest makes of the number; None where it says something else."""
    if (remark := _REMARK.fullmatch(rest)) is not None:
        if not _only_explains(remark[2], number):
            return None
        rest = remark[1].rstrip()
    rest = rest.removesuffix(" times")
    if _PERCENT.fullmatch(rest):
        return "percent"
    if rest.casefold() == " pi":
        return "pi"
    if not rest or _SIGN_OF_UNIT.fullmatch(rest):
        return "number"
    if rest[0] not in " /":
        return None
    if is_unit(rest, shortest=SHORTEST_NOUN if boxed else SHORTEST_NOUN_OF_PROSE):
        return "number"
    return "phrase" if any(changes(word) for word in words_of(rest)) else None


def _only_explains(remark: str, number: re.Match[str]) -> bool:
    """Whether what stands in brackets behind a number leaves it as it is: 12 (twelve), 72 (48+24)."""
    if _SUM.fullmatch(remark):
        return _is_sum_of(number, remark)
    words = words_of(remark)
    return any(len(word) > 1 for word in words) and not any(changes(word, numbers=False) for word in words)


def _is_sum_of(number: re.Match[str], text: str) -> bool:
    """Whether a remark like 48+24 shows how the number was found."""
    if not _SUM.fullmatch(text) or not re.search(r"[-+*/\xd7\xb7=]", text):
        return False
    try:
        sides = [_sum(side) for side in text.split("=") if side.strip()]
    except (ValueError, ZeroDivisionError):
        return False
    value = _value(number)
    return bool(sides) and all(side == value for side in sides)


def _sum(text: str) -> Fraction:
    """A sum of products without brackets. Raises ValueError for what is none."""
    total = Fraction(0)
    for product in re.sub(r"(?<=[\d.])\s*-", "+-", text).split("+"):
        value, *factors = re.split(r"([*/\xd7\xb7])", product)
        result = Fraction(value.replace(" ", ""))
        for sign, factor in zip(factors[::2], factors[1::2], strict=True):
            result = result / Fraction(factor.strip()) if sign == "/" else result * Fraction(factor.strip())
        total += result
    return total


def _value(found: re.Match[str]) -> Fraction:
    sign = -1 if found["sign"] in ("-", "\u2212") or found["later_sign"] else 1
    if found["whole"]:
        return sign * (int(found["whole"]) + Fraction(found["part"]))
    if found["fraction"]:
        above, below = found["fraction"].replace(",", "").split("/")
        return sign * Fraction(above) / int(below)
    if found["repeating"]:
        return sign * _repeating(found["repeating"])
    return sign * Fraction((found["scientific"] or found["plain"]).replace(",", ""))


def _repeating(text: str) -> Fraction:
    r"""0.1\overline{6} is 1/10 and 6/90."""
    once, again = re.split(r"\\(?:overline|bar)\{", text.removesuffix("}"))
    whole, _, decimals = once.partition(".")
    return Fraction(f"{whole or 0}.{decimals or 0}") + Fraction(
        int(again), (10 ** len(again) - 1) * 10 ** len(decimals)
    )


def _as_written(found: re.Match[str]) -> str:
    if found["fraction"]:
        return _fraction(_value(found))
    negative = found["sign"] in ("-", "\u2212") or found["later_sign"]
    return ("-" if negative else "") + found["plain"]


def _worked_out(found: re.Match[str], scale: int) -> str:
    value = _value(found) * scale
    if found["scientific"] and not -_DECIMALS <= Decimal(found["scientific"]).adjusted() <= _DIGITS:
        mantissa, exponent = re.split("[eE]", found[0])
        return rf"\boxed{{{mantissa} \times 10^{{{int(exponent)}}}}}" if scale == 1 else _fraction(value)
    if found["plain"] or found["scientific"]:
        return format(Decimal(value.numerator) / Decimal(value.denominator), "f")
    return _fraction(value)


def _fraction(value: Fraction) -> str:
    return rf"\boxed{{{value.numerator}/{value.denominator}}}" if value.denominator > 1 else str(value.numerator)
