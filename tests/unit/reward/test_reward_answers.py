"""Cutting the answer out of a text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.reward.verifiers.answers import answer_in, gold_boxed, gold_in, last_boxes

FAR = " and after much more thought, with every step looked at once again, it turns out that it is "


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("no box", None),
        (r"so \boxed{85}.", r"\boxed{85}"),
        (rf"\boxed{{3}}{FAR}\boxed{{4}}", r"\boxed{4}"),
        (r"\boxed{1} or \boxed{2}.", r"\boxed{1} or \boxed{2}"),
        (rf"\boxed{{0}}{FAR}\boxed{{1}} or \boxed{{2}}", r"\boxed{1} or \boxed{2}"),
        (r"\boxed{\frac{1}{2}}", r"\boxed{\frac{1}{2}}"),
        (r"\boxed{\boxed{5}}", r"\boxed{\boxed{5}}"),
        (r"\boxed{\{1, 2\}}", r"\boxed{\{1, 2\}}"),
        (r"let A = { be open, \boxed{5}", r"\boxed{5}"),
        (r"\boxed{5}}} closed too often", r"\boxed{5}"),
        (rf"\boxed{{5}}{FAR}\boxed{{6", r"\boxed{5}"),
        (r"\boxed{never closed", None),
        (r"\boxed 5", None),
    ],
)
def test_the_last_boxes_are_found(text: str, boxes: str | None) -> None:
    assert last_boxes(text) == boxes


@given(st.lists(st.sampled_from(["\\boxed{", "\\{", "{", "}", "1", " "]), max_size=60).map("".join))
def test_boxes_are_always_a_piece_of_the_text(text: str) -> None:
    boxes = last_boxes(text)
    if boxes is not None:
        assert boxes in text
        assert boxes.startswith(r"\boxed{")
        assert boxes.endswith("}")


def test_hostile_text_is_searched_in_linear_time() -> None:
    started = time.process_time()
    assert last_boxes(r"\boxed{" * 100_000) is None
    assert last_boxes(r"\boxed{1}" * 100_000) is not None
    assert time.process_time() - started < 5.0


def test_a_plain_answer_is_taken_whole_without_its_surrounding_space() -> None:
    assert answer_in(" 85\n", longest=100) == "85"


def test_long_plain_text_is_cut_from_its_end_at_white_space() -> None:
    assert answer_in("x" * 100 + " 12345 then 85", longest=12) == "then 85"


def test_a_box_that_is_too_long_is_no_answer_rather_than_half_of_one() -> None:
    assert answer_in(r"\boxed{" + "1+" * 100 + "1}", longest=100) is None


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("72", "72"),
        (" +1,234.5 ", "1,234.5"),
        ("-3", "-3"),
        ("50%", "50%"),
        ("She sells 8 and 8.\n8 + 8 = 16\n#### 16", "16"),
        ("#### 1,234", "1,234"),
        (r"\frac{1}{2}", r"\boxed{\frac{1}{2}}"),
        ("x^2 + 1", r"\boxed{x^2 + 1}"),
        ("1/2", r"\boxed{1/2}"),
        ("$x$", "$x$"),
        (r"\(x\)", r"\(x\)"),
        (r"We see that it is \boxed{7}.", r"\boxed{7}"),
        ("", ""),
    ],
)
def test_gold_is_put_as_math_verify_wants_it(answer: str, gold: str) -> None:
    assert gold_in(answer) == gold


@pytest.mark.parametrize(
    ("answer", "boxed"),
    [
        ("72", r"\boxed{72}"),
        ("8 + 8 = 16\n#### 16", r"\boxed{16}"),
        (r"Hence \boxed{7}.", r"\boxed{7}"),
        (r"\frac{1}{2}", r"\boxed{\frac{1}{2}}"),
        ("$x^2$", r"\boxed{x^2}"),
        (r"\(x^2\)", r"\boxed{x^2}"),
        (r"\$18.90", r"\boxed{\$18.90}"),
    ],
)
def test_gold_is_boxed_as_a_model_should_write_it(answer: str, boxed: str) -> None:
    assert gold_boxed(answer) == boxed


PIECES = ["\\boxed{", "\\frac{", "{", "}", "$", "####", "\n", " ", "1", "7,", "x", "so", "*", ".", "\u200f", "\0", "\\"]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join), st.integers(1, 60))
def test_whatever_a_completion_is_what_is_cut_out_of_it_is_short_enough(text: str, longest: int) -> None:
    answer = answer_in(text, longest=longest)
    boxed = len(r"\boxed{}")  # a formula of one line is boxed
    assert answer is None or len(answer) <= max(longest, len(text) + boxed)
    assert answer == answer_in(text, longest=longest)
    if answer is not None and (boxes := last_boxes(text)) is not None and "\u200f" not in text:
        assert answer == boxes


@given(st.text(max_size=200), st.integers(1, 100))
def test_any_text_at_all_is_cut_without_an_error(text: str, longest: int) -> None:
    assert answer_in(text, longest=longest) is None or isinstance(answer_in(text, longest=longest), str)
    assert isinstance(gold_in(text), str)
    assert gold_boxed(text).startswith("\\boxed{")
