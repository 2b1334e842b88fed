"""Where the answer is in a text. Pure string work, linear in the text, safe to run beside the event loop."""

from __future__ import annotations

import re
from itertools import pairwise

_BRACES = re.compile(r"\\boxed\{|\\[{}]|[{}]")
_PLAIN_NUMBER = re.compile(r"[-+]?((\d{1,3}(,\d{3})+|\d+)\.?\d*|\.\d+)%?")
_MATH_DELIMITER = re.compile(r"(?<!\\)\$|\\[(\[]")
_DELIMITERS = re.compile(r"(?<!\\)\$+|\\[()\[\]]")
_LATEX_TEXT = re.compile(r"\\(text|mathrm|textbf|mbox)\s*\{[^{}]*\}|\\[a-zA-Z]+")
_WORD = re.compile(r"(?:^|(?<=\s))[^\W\d_]{2,}(?=[\s.,:;!?]|$)")
_FORMULA_CHARS = 1024
_INVISIBLE = dict.fromkeys((0xAD, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF))
"""Soft hyphens, zero-width characters, marks of writing direction: nobody sees them, so they change no answer."""
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_UNIT = r"(?:[^\W\d_]{2,}|[mghLsVAWJN](?![^\W\d_]))(?:\^\d|²|³)?(?!\()"
"""Words of two letters and more, and the shortest units: other single letters are variables."""
_UNITS = rf"{_UNIT}(?:[ /*·.-]+{_UNIT})*"
_REMARK = r"\([^\W\d_]{2,}(?:[ -][^\W\d_]{2,})*\)"
_SUM = r"\(\d[\d\s.,]*[-+*/\xd7·=][\d\s.,+*/\xd7·=-]*\)"
_AMOUNT = re.compile(
    rf"(?P<number>[-+]?[$€£]?{_DIGITS}(?:/\d+)?)%?(?:°[CF]?| ?/ ?{_UNITS}| +(?:{_UNITS}|{_REMARK}|{_SUM}))?\.?"
)
"""20 miles/hour, 20 cm^2, 90°, 12 (twelve), 72 (48+24)."""
_AMOUNT_CHARS = 100
_NO_UNIT = re.compile(r"\b(and|or|to|not|plus|minus|times|over|by)\b", re.IGNORECASE)
_NEIGHBOUR_CHARS = 70
"""Boxes closer than this may belong together ("\\boxed{1} or \\boxed{2}"); Math-Verify has the same bound."""


def last_boxes(text: str) -> str | None:
    r"""The last complete \boxed{...} with the boxes right before it, or None when there is none.

    Neighbours stay, so that Math-Verify sees two answers as two: a completion that boxes
    every candidate in turn is then a set, and wrong, instead of right by its last guess.

    >>> last_boxes(r"First \boxed{3}. After a long second thought, and one more look at the question: \boxed{4}.")
    '\\boxed{4}'
    """
    spans: list[tuple[int, int]] = []
    opened: list[int | None] = []  # where the box began, or None for a brace of another kind
    for match in _BRACES.finditer(text):
        brace = match[0]
        if brace == r"\boxed{":
            opened.append(match.start())
        elif brace == "{":
            opened.append(None)
        elif brace == "}" and opened:
            start = opened.pop()
            if start is not None:
                while spans and spans[-1][0] > start:  # a box around boxes stands for all of them
                    spans.pop()
                spans.append((start, match.end()))
    if not spans:
        return None
    first = spans[-1][0]
    for earlier, later in pairwise(reversed(spans)):
        if earlier[0] - later[1] >= _NEIGHBOUR_CHARS:
            break
        first = later[0]
    return text[first : spans[-1][1]]


def answer_in(completion: str, /, *, longest: int) -> str | None:
    """The part of a completion to check: its last boxes, what follows its last ####, or else its tail.

    None when the boxes are too long. A formula that is cut is another formula, so boxes are never cut;
    plain text is, at white space. A completion that is nothing but a formula is boxed.
    """
    completion = completion.translate(_INVISIBLE)
    boxes = last_boxes(completion)
    if boxes is not None:
        return boxes if len(boxes) <= longest else None
    text = completion.strip()
    if "####" in text:  # the form of GSM8K; what a model writes after that line is another matter
        text = text.rpartition("####")[2].strip().partition("\n")[0]
    formula = text.rstrip(".").strip("*`")  # Markdown's bold and code
    if _is_formula(formula):
        return _boxed(formula)
    if len(text) <= longest:
        return text
    tail = text[-longest:]
    return tail.split(maxsplit=1)[-1]


def gold_in(answer: str) -> str:
    r"""The gold answer as Math-Verify wants it: a plain number, text in delimiters, or \boxed{...}.

    GSM8K's `... #### 72` and worked solutions that end in a box are understood.
    """
    if "####" in answer:
        answer = answer.rpartition("####")[2]
    answer = answer.strip()
    boxes = last_boxes(answer)
    if boxes is not None:
        return boxes
    if not answer or _MATH_DELIMITER.search(answer):
        return answer
    return _boxed(answer)


def gold_boxed(answer: str) -> str:
    r"""The gold answer as a model should write it: its formula in a \boxed{}.

    >>> gold_boxed("8 + 8 = 16\n#### 16"), gold_boxed("$x^2$")
    ('\\boxed{16}', '\\boxed{x^2}')
    """
    gold = gold_in(answer)
    if last_boxes(gold) is not None:
        return gold
    return rf"\boxed{{{_DELIMITERS.sub('', gold)}}}"


def amount_in(text: str) -> str | None:
    r"""The number of a plain number or of an amount of something, alone or in one box; else None.

    >>> amount_in("20 miles/hour"), amount_in(r"\boxed{20 cm^2}"), amount_in("72 (48+24)"), amount_in("2 (x+1)")
    ('20', '20', '72', None)
    """
    text = text.removeprefix(r"\boxed{").removesuffix("}") if text.startswith(r"\boxed{") else text
    found = _AMOUNT.fullmatch(text) if len(text) <= _AMOUNT_CHARS else None
    return None if found is None or _NO_UNIT.search(text) else re.sub(r"[$€£+]", "", found["number"])


def _boxed(text: str) -> str:
    if _PLAIN_NUMBER.fullmatch(text):
        return text.removeprefix("+")
    return rf"\boxed{{{text}}}"


def _is_formula(text: str) -> bool:
    """Whether a text is mathematics from end to end: one line without words, and without delimiters inside it."""
    if len(text) > _FORMULA_CHARS or "\n" in text or _MATH_DELIMITER.search(text):
        return False
    if not any(char.isalnum() for char in text):
        return False
    return not _WORD.search(_LATEX_TEXT.sub("", text))
