"""What counts as equal. Runs the verifier in this process: pytest runs tests in the main thread."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from services.reward.verifiers import limited
from services.reward.verifiers.answers import answer_in, gold_in
from services.reward.verifiers.wire import Outcome, Question
from tests.unit.reward.answer_table import KNOWN_DIFFERENCES, NONE, RIGHT, TABLE, WRONG

CPU_S = 20.0  # generous: these tests are about answers, not about limits


def check(gold: str, completion: str) -> Outcome:
    answer = answer_in(completion, longest=4096)
    assert answer is not None
    return ask(gold_in(gold), answer, cpu_s=CPU_S)


def ask(gold: str, answer: str, *, cpu_s: float) -> Outcome:
    return replace(limited.check(Question("math", gold=gold, answer=answer), cpu_s=cpu_s), seconds=0.0)


ROWS = [pytest.param(*row, id=f"{group}: {row[0]} | {row[1]!r}") for group, rows in TABLE.items() for row in rows]
DATA = Path(__file__).parents[4] / "shared" / "data"
OUTCOMES = {
    RIGHT: Outcome("scored", score=1.0),
    WRONG: Outcome("scored", score=0.0),
    NONE: Outcome("unparsable", cause="no answer found"),
}


@pytest.mark.parametrize(("gold", "completion", "worth", "why"), ROWS)
def test_an_answer_is_worth_what_the_table_says(gold: str, completion: str, worth: str, why: str) -> None:
    assert check(gold, completion) == OUTCOMES[worth], why


@pytest.mark.parametrize(("gold", "completion", "worth", "why"), KNOWN_DIFFERENCES)
def test_known_differences_are_still_as_they_are_told(gold: str, completion: str, worth: str, why: str) -> None:
    assert check(gold, completion) == OUTCOMES[worth], why


def test_the_table_is_large_enough_to_be_trusted() -> None:
    assert len(ROWS) >= 150
    assert len({(row.values[0], row.values[1]) for row in ROWS}) == len(ROWS)


def answers_of(name: str) -> list[str]:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return [json.loads(line)["answer"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_gold_answer_of_gsm8k_equals_itself() -> None:
    golds = answers_of("gsm8k_test.jsonl")
    assert len(golds) == 1319
    for gold in golds:
        number = gold.rpartition("####")[2].strip()
        for completion in (gold, f"So the answer is {number}.", rf"\boxed{{{number}}}"):
            assert check(gold, completion).score == 1.0, (gold, completion)


def test_every_gold_answer_of_math_500_equals_itself() -> None:
    golds = answers_of("math500.jsonl")
    assert len(golds) == 500
    for gold in golds:
        for completion in (rf"Hence \boxed{{{gold}}}.", f"The answer is ${gold}$." if "$" not in gold else gold):
            assert check(gold, completion).score == 1.0, (gold, completion)


@pytest.mark.parametrize("gold", ["", r"\boxed{}", "$$"])
def test_a_gold_answer_that_cannot_be_read_is_told_apart_from_a_wrong_answer(gold: str) -> None:
    assert check(gold, "85").status == "gold"


def test_a_check_ends_at_its_cpu_limit() -> None:
    started = time.process_time()
    outcome = ask("42", r"\boxed{9^{9^{9^9}}}", cpu_s=0.3)
    assert outcome.status == "timeout"
    assert time.process_time() - started < 5.0


def test_the_parser_that_swallows_alarms_ends_too() -> None:
    """Math-Verify issue 65: hangs for ever under the library's own limit."""
    outcome = ask(
        "42", r"\boxed{\dfrac{5^{\left(5^{\left(5^{\left(5^5\right)}\right)} - 4\right)} - 5}{16}}", cpu_s=0.3
    )
    assert outcome.status == "timeout"


def test_hostile_text_is_not_logged(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    ask("42", r"\boxed{SECRET 9^{9^{9^9}}}", cpu_s=0.3)
    ask("42", r"SECRET $\frac{$", cpu_s=5.0)
    assert "SECRET" not in caplog.text
    captured = capfd.readouterr()
    assert "SECRET" not in captured.out + captured.err
