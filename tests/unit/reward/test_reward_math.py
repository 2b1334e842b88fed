"""What counts as equal. Runs the verifier in this process: pytest runs tests in the main thread."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.reward.verifiers import limited
from services.reward.verifiers.answers import answer_in, gold_in
from services.reward.verifiers.math import same_mathematics, same_numbers
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


# -- numbers that are compared without the library ---------------------------------------------

NUMBERS = (
    *("0", "-0", "00", "007", "1", "-1", "1.0", "1.00", "7", "12", "100", "1000", "1,000", "1000.0", "1,000.50"),
    *("1000.5", "12,345,678", "12345678", "0,085", "85", "0.1", "0.10", "0.1000001", "3.000000", "3.0000001"),
    *("0.3333333", "0.333333", "99999999999999.5", "1000000000000", "123456789012345678901", "123456789012345678902"),
    *("0.0000001", "0.0000004", "0.0000000000001", "1,00", "1,0000", "12,34", "5.", ".5", "+5", "1e3", "\u0665"),
)


def wrapped(number: str, boxed: bool) -> str:
    return rf"\boxed{{{number}}}" if boxed else number


def library_says_the_same(answer: str, gold: str) -> bool:
    """Whether two numbers that were compared without Math-Verify are worth what it says; True where they were not."""
    known = same_numbers(answer, gold)
    return known is None or float(known) == same_mathematics(answer, gold)


def test_numbers_that_are_compared_without_the_library_are_worth_what_it_says() -> None:
    golds = {gold_in(wrapped(number, boxed)) for number in NUMBERS for boxed in (True, False)}
    answers = {answer_in(wrapped(number, boxed), longest=4096) or "" for number in NUMBERS for boxed in (True, False)}
    pairs = list(product(golds, answers))
    assert [(gold, answer) for gold, answer in pairs if not library_says_the_same(answer, gold)] == []
    assert sum(same_numbers(answer, gold) is not None for gold, answer in pairs) > 500


digits = st.text("0123456789", min_size=1, max_size=16)
thousands = st.tuples(
    st.text("0123456789", min_size=1, max_size=3), st.lists(st.text("0123456789", min_size=3, max_size=3), max_size=5)
).map(lambda parts: ",".join([parts[0], *parts[1]]))
decimals = st.tuples(
    st.sampled_from(["", "-"]), st.one_of(digits, thousands), st.one_of(st.just(""), digits.map(".{}".format))
).map("".join)
rewritten = {
    "as it is": lambda number: number,
    "without commas": lambda number: number.replace(",", ""),
    "with a zero at the end": lambda number: number + ("0" if "." in number else ".0"),
    "with another digit at the end": lambda number: number + "1",
    "with the other sign": lambda number: number.removeprefix("-") if number.startswith("-") else f"-{number}",
}


@settings(max_examples=1000, deadline=None)
@given(decimals, decimals, st.sampled_from(sorted(rewritten)), st.booleans(), st.booleans(), st.booleans())
def test_any_two_numbers_are_worth_what_the_library_says(
    gold: str, other: str, how: str, related: bool, gold_boxed: bool, answer_boxed: bool
) -> None:
    answer = rewritten[how](gold) if related else other
    assert library_says_the_same(wrapped(answer, answer_boxed), wrapped(gold, gold_boxed))


@pytest.mark.parametrize(
    ("gold", "answer", "known"),
    [
        ("1,234", r"\boxed{1234.00}", True),
        ("85", "86", False),
        ("85", "85.1", None),
        ("1/2", "0.5", None),
        ("85", r"\boxed{85} or \boxed{86}", None),
        ("85", r"\boxed{85\%}", None),
        ("85", "The answer is 85.", None),
        ("85", "1" * 13, None),
        ("85", "085", None),
        ("85", "85.0000", None),
    ],
)
def test_only_what_a_reader_needs_no_mathematics_for_is_compared_without_the_library(
    gold: str, answer: str, known: bool | None
) -> None:
    assert same_numbers(answer, gold) is known


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
