"""Rows of a file to score: what each asks for, and what is told of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from services.reward.verdicts import Item, Verdict, messages_of
from syncline.data_rows import BadRow, DataRow, answer_of, is_prompt
from syncline.errors import InvalidSpec


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the file that can be scored."""

    line: int
    reward_json: str
    item: Item


def read(row: DataRow, *, reward_json: str, golds: bool) -> Row | BadRow:
    """What a row asks for. `reward_json` is the reward of rows that name none; with `golds` the gold answer is its own
    completion."""
    answer = answer_of(row)
    if isinstance(answer, BadRow):
        return answer
    completion = answer if golds else row.fields.get("completion")
    if not isinstance(completion, str):
        problem = "has a `completion` that is no text" if completion is not None else "has no `completion`"
        return BadRow(row.line, problem, "text; to check gold answers alone, say --golds")
    own = row.fields.get("reward")
    if own is not None:
        reward_json = json.dumps(own, sort_keys=True)
    prompt = row.fields.get("prompt") or ""
    if prompt and not is_prompt(prompt):
        return BadRow(row.line, "has a `prompt` that is neither text nor messages", "text, or messages, or none")
    counts = [row.fields.get(name, 0) for name in ("tokens", "max_tokens")]
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        return BadRow(row.line, "has `tokens` or `max_tokens` that are no counts", "whole numbers, or none")
    messages_json = "" if isinstance(prompt, str) else json.dumps(prompt)
    text = prompt if isinstance(prompt, str) else ""
    return Row(
        row.line,
        reward_json,
        Item(
            text,
            completion,
            answer,
            messages=messages_of(messages_json, prompt_text=text),
            tokens=counts[0],
            max_tokens=counts[1],
        ),
    )


def told(line: int, verdict: Verdict | InvalidSpec, *, graded: bool) -> dict[str, Any]:
    """The verdict of a row, or what kept it from having one. `graded`: its score is more than right or wrong."""
    if isinstance(verdict, InvalidSpec):
        return {"line": line, "problem": verdict.message}
    if verdict.status == "unavailable":
        return {"line": line, "problem": f"no verdict: {verdict.cause}"}
    row = {"line": line, "status": verdict.status, "score": verdict.score, "cause": verdict.cause}
    return row | {"seconds": round(verdict.seconds, 6)} | ({"graded": True} if graded else {})


def told_of_gold(line: int, plain: Verdict | InvalidSpec, best: Verdict | InvalidSpec) -> dict[str, Any]:
    """What is told of a gold answer: its verdict when it equals itself however it is written."""
    as_it_is, boxed = told(line, plain, graded=False), told(line, best, graded=False)
    if "problem" in as_it_is or "problem" in boxed:
        return as_it_is if "problem" in as_it_is else boxed
    match as_it_is["score"] == 1.0, boxed["score"] == 1.0:
        case True, True:
            return as_it_is
        case True, False:
            problem = "the gold answer equals itself as text only; as mathematics, in a box, it does not"
        case False, True:
            problem = "the gold answer equals itself in a box only; as it is, it reads as something else"
        case _:
            problem = f"the gold answer does not equal itself ({as_it_is['status']} {as_it_is['cause']})"
    return {"line": line, "problem": problem}
