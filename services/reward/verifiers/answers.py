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
_MARK = re.compile(r"(?<!#)####(?!#)([^\n]*)")
_NUMBERED_HEADING = re.compile(r"\d+[.):]\s+[^\W\d_]|[^\W\d_]+\s+\d+\s*(?:[:.]|$)")
"""3. Verification, Step 2: as headings of Markdown are numbered."""
_SCALE = re.compile(r"\$?\s*(?:\\text\{\s*)?(hundred|thousand|million|billion|trillion|dozen)\b")
"""What belongs to the number in a box before it: \\boxed{1.5} million."""
_JOINED = re.compile(
    r"(?:[\s.,;:&$()\[\]{}*|]|\\[,;:!()\[\]]|\\q?quad\b|\\text\b|\\mbox\b|\b(?:and|or)\b|[a-z](?:_\d)?\s*=)*",
    re.IGNORECASE,
)
"""What may stand between two boxes that are one answer: \\boxed{1} or \\boxed{2}; x = \\boxed{1}, y = \\boxed{2}."""


def last_boxes(text: str) -> str | None:
    r"""The last complete \boxed{...} with the boxes that are joined to it, or None when there is none.

    Those stay, so that Math-Verify sees two answers as two: a completion that boxes every candidate
    in turn is then a set, and wrong, instead of right by its last guess.

    >>> last_boxes(r"Thus x = \boxed{3}, hence the answer is \boxed{4}."), last_boxes(r"\boxed{3} or \boxed{4}")
    ('\\boxed{4}', '\\boxed{3} or \\boxed{4}')
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
        if _JOINED.fullmatch(text, later[1], earlier[0]) is None:
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
        if scale := _SCALE.match(completion, completion.rfind(boxes) + len(boxes)):
            boxes = rf"{boxes[:-1]} \text{{ {scale[1]}}}}}"
        return boxes if len(boxes) <= longest else None
    text = completion.strip()
    marked = _marked(text)
    if marked is not None:  # what a model writes after that line is another matter
        text = marked
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
    marked = _marked(answer)
    answer = answer.rpartition("####")[2].strip() if marked is None else marked
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


def _marked(text: str) -> str | None:
    """What GSM8K's mark #### marks: the last line of it that holds a value. Without one it is a heading of Markdown."""
    for found in reversed(list(_MARK.finditer(text))):
        line = found[1].strip()
        has_digit = any(char.isdecimal() for char in line)
        if (has_digit and not _NUMBERED_HEADING.match(line)) or _is_formula(_DELIMITERS.sub("", line).rstrip(".")):
            return line
    return None


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
