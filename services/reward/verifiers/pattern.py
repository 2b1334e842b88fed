"""The completion has a format: a regular expression that must match. Needs no gold answer."""

from __future__ import annotations

import re


def pattern(completion: str, answer: str, *, regex: re.Pattern[str], whole: bool = False) -> float:
    """1 when `regex` matches anywhere in the completion; with `whole`, the completion from end to end.

    A row's gold answer, if it has one, must then also be the first group of the match, where there is a group.
    """
    match = regex.fullmatch(completion.strip()) if whole else regex.search(completion)
    if match is None:
        return 0.0
    return float(not (answer and regex.groups) or (match[1] or "").strip() == answer.strip())
