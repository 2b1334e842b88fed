"""What counts as equal. Runs the verifier in this process: pytest runs tests in the main thread."""

from __future__ import annotations

import time

import pytest

from services.reward.verifiers import math
from services.reward.verifiers.answers import answer_in, gold_in
from services.reward.verifiers.wire import Outcome

CPU_S = 20.0  # generous: these tests are about answers, not about limits


def check(gold: str, completion: str) -> Outcome:
    answer = answer_in(completion, longest=4096)
    assert answer is not None
    return math.check(gold_in(gold), answer, cpu_s=CPU_S)


@pytest.mark.parametrize(
    ("gold", "completion"),
    [
        ("85", "85"),
        ("85", " 85\n"),
        ("85", "085"),
        ("85", "The answer is 85."),
        ("85", "5 * 17 = 85"),
        ("85", r"So we get \boxed{85}."),
        ("85", r"$\boxed{85}$"),
        ("85", r"\boxed{85\text{ cm}}"),
        ("1,234", "1234"),
        ("#### 1,234", r"\boxed{1234}"),
        ("-3", r"\boxed{-3}"),
        ("1/2", "2/4"),
        ("1/2", "0.5"),
        ("0.5", r"\boxed{\frac{1}{2}}"),
        (r"\frac{1}{3}", r"\boxed{\frac{2}{6}}"),
        (r"\dfrac{3}{4}", r"\boxed{0.75}"),
        (r"2\sqrt{2}", r"\boxed{\sqrt{8}}"),
        (r"(x+1)^2", r"\boxed{x^2 + 2x + 1}"),
        ("x = 5", r"\boxed{5}"),
        ("5", r"\boxed{x = 5}"),
        (r"\{1, 2\}", r"\boxed{2, 1}"),
        (r"\{1, 2\}", r"\boxed{1} or \boxed{2}"),
        (r"\text{east}", r"\boxed{\text{East}}"),
        (r"(1, 2)", r"\boxed{(1,2)}"),
        (r"1\frac{1}{2}", r"\boxed{\frac{3}{2}}"),
        ("50%", r"\boxed{50\%}"),
        ("10\\pi", r"\boxed{10 \pi}"),
    ],
)
def test_equal_answers_score_one(gold: str, completion: str) -> None:
    assert check(gold, completion) == Outcome("scored", score=1.0)


@pytest.mark.parametrize(
    ("gold", "completion"),
    [
        ("85", "86"),
        ("85", "8 5"),
        ("85", "-85"),
        ("85", "850"),
        ("85", "85.1"),
        ("85", r"\boxed{85} or \boxed{86}"),
        ("85", r"The first try was 85, but I say \boxed{86}"),
        ("1/3", "2/4"),
        ("1/3", r"\boxed{0.33}"),
        (r"\frac{1}{3}", r"\boxed{\frac{3}{1}}"),
        (r"2\sqrt{2}", r"\boxed{\sqrt{6}}"),
        (r"(x+1)^2", r"\boxed{x^2 + 1}"),
        (r"\{1, 2\}", r"\boxed{1}"),
        (r"(1, 2)", r"\boxed{(2, 1)}"),
        (r"\text{east}", r"\boxed{\text{west}}"),
    ],
)
def test_near_misses_score_zero(gold: str, completion: str) -> None:
    assert check(gold, completion) == Outcome("scored", score=0.0)


@pytest.mark.parametrize("completion", ["", "   ", "I do not know", r"\boxed{}", "?!", "\0"])
def test_a_completion_without_an_answer_is_unparsable(completion: str) -> None:
    assert check("85", completion).status == "unparsable"


@pytest.mark.parametrize("gold", ["", r"\boxed{}", "$$"])
def test_a_gold_answer_that_cannot_be_read_is_told_apart_from_a_wrong_answer(gold: str) -> None:
    assert check(gold, "85").status == "gold"


def test_a_check_ends_at_its_cpu_limit() -> None:
    started = time.process_time()
    outcome = math.check("42", r"\boxed{9^{9^{9^9}}}", cpu_s=0.3)
    assert outcome.status == "timeout"
    assert time.process_time() - started < 5.0


def test_the_parser_that_swallows_alarms_ends_too() -> None:
    """Math-Verify issue 65: hangs for ever under the library's own limit."""
    outcome = math.check(
        "42", r"\boxed{\dfrac{5^{\left(5^{\left(5^{\left(5^5\right)}\right)} - 4\right)} - 5}{16}}", cpu_s=0.3
    )
    assert outcome.status == "timeout"


def test_hostile_text_is_not_logged(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    math.check("42", r"\boxed{SECRET 9^{9^{9^9}}}", cpu_s=0.3)
    math.check("42", r"SECRET $\frac{$", cpu_s=5.0)
    assert "SECRET" not in caplog.text
    captured = capfd.readouterr()
    assert "SECRET" not in captured.out + captured.err
