"""What a judge's reply says, as pure rules. A reply that gives no reading is named and counted, and never becomes a
number.

A reply must end with its verdict: `<score>7.5</score>` for one answer, `<winner>A</winner>` (A, B or tie) for two.
Only punctuation may follow it: a tag in the middle may be a quotation, from the answer itself.
A reply that is nothing else than the verdict (`7.5`, `8/10`, `B`) is read too. What stands between `<think>` and
`</think>` is not looked at.

    reply                                   outcome
    <score>8</score>  8  <score>8/10</score>  8/10      8
    <score>8.25</score>                     8.25: any number of decimals
    several scores                          the last one: a judge that corrects itself means the correction
    <score>11</score>  -1                   out_of_range: it is not moved into the range
    <score>high</score>  <score>8/100</score>       malformed, and so is <score>80%</score>
    **8**  8.  8/10.  `B`                   read: marks around a bare verdict say nothing
    8/100  80%  "I would say 8"             missing: no tag, and not a verdict and nothing else
    <score>8</score> and more words         missing, like no verdict at all
    declined, by a refusal or content filter  refusal
    cut off at max_tokens                   truncated, whatever stands in it: the judge had not finished
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["read", "missing", "malformed", "out_of_range", "refusal", "truncated", "too_long", "unavailable"]
"""too_long: the judge's server refused the question for its length. unavailable: nobody answered."""

LEAST, MOST = 0.0, 10.0
WIN, TIE, LOSS = 1.0, 0.5, 0.0

_SCORE = re.compile(r"<score>(.*?)</score>", re.DOTALL | re.IGNORECASE)
_NUMBER = re.compile(r"([+-]?\d{1,9}(?:\.\d{1,9})?)(?:\s*/\s*10(?:\.0+)?)?")
_WINNER = re.compile(r"<winner>(.*?)</winner>", re.DOTALL | re.IGNORECASE)
_WINNERS = {"a": WIN, "b": LOSS, "tie": TIE}
_NOTHING_MORE = re.compile(r"[\W_]*")
_LONGEST_BARE = 32


@dataclass(frozen=True, slots=True)
class Reply:
    """A chat completion as far as it matters here."""

    text: str
    finished: str = "stop"
    """OpenAI's finish_reason."""
    refused: bool = False
    """The server says so itself, in the message's `refusal` or by its content filter."""


@dataclass(frozen=True, slots=True)
class Judgment:
    """One reading of one reply: a number if, and only if, the outcome is `read`."""

    outcome: Outcome
    value: float | None = None
    cause: str = ""
    """More words where the outcome alone does not say what to do."""


def score(reply: Reply) -> Judgment:
    """A score from 0 to 10."""
    said = _said(reply, _SCORE)
    if isinstance(said, Judgment):
        return said
    number = _NUMBER.fullmatch(said)
    if number is None:
        return Judgment("malformed")
    value = float(number[1])
    return Judgment("read", value) if LEAST <= value <= MOST else Judgment("out_of_range")


def first_wins(reply: Reply) -> Judgment:
    """1 when the first answer (A) is better, 0 when the second one (B) is, 0.5 for a tie."""
    said = _said(reply, _WINNER)
    if isinstance(said, Judgment):
        return said
    value = _WINNERS.get(said.lower())
    return Judgment("malformed") if value is None else Judgment("read", value)


def _said(reply: Reply, tag: re.Pattern[str]) -> str | Judgment:
    """What stands in the last tag, or the whole of a bare reply; else why there is nothing to read."""
    if reply.refused or reply.finished == "content_filter":
        return Judgment("refusal")
    if reply.finished == "length":
        return Judgment("truncated")
    text = reply.text.rpartition("</think>")[2].strip()
    if "<think>" in text:  # it has not come to an end
        return Judgment("missing")
    tagged = list(tag.finditer(text))
    if tagged:
        last = tagged[-1]
        return str(last[1]).strip() if _NOTHING_MORE.fullmatch(text, last.end()) else Judgment("missing")
    bare = text.strip("*_`.") if len(text) <= _LONGEST_BARE else ""
    return bare if _NUMBER.fullmatch(bare) or bare.lower() in _WINNERS else Judgment("missing")
