"""The completion is the answer, word for word. For closed questions: labels, names, multiple choice."""

from __future__ import annotations


def exact_match(completion: str, answer: str, *, ignore_case: bool = False) -> float:
    """1 when both are the same text but for the white space around and between words."""
    found, wanted = " ".join(completion.split()), " ".join(answer.split())
    return float(found.casefold() == wanted.casefold() if ignore_case else found == wanted)
