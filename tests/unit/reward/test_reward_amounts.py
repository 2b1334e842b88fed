"""Numbers with a rest: what the rest does to them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.reward.verifiers.amounts import Reading, read
from services.reward.verifiers.units import is_unit

UNITS = (
    *(
        "cm",
        "miles/hour",
        "km/h",
        "m/s^2",
        "cm\xb2",
        "square feet",
        "feet squared",
        "metres per second squared",
        "dollars",
    ),
    *("dollars per hour", "kilowatt-hours", "degrees Celsius", "clips", "years old", "of apples", "two-liter bottles"),
)
NO_UNITS = (
    *("million", "million dollars", "dozen", "pi", "squared", "cats squared", "cubed", "minus 1", "below zero"),
    *("and a half", "or six", "percent", "over two", "(3+4)", "xyz", "x", "^2", "- x", "and one-half", "twenty-five"),
)


@pytest.mark.parametrize("rest", UNITS)
def test_what_only_says_what_is_measured_or_counted_is_a_unit(rest: str) -> None:
    assert is_unit(rest)


@pytest.mark.parametrize("rest", NO_UNITS)
def test_what_makes_another_number_of_it_is_none(rest: str) -> None:
    assert not is_unit(rest)


@pytest.mark.parametrize(
    ("text", "kind", "number"),
    [
        ("$1,234.50", "number", "1,234.50"),
        ("-$5", "number", "-5"),
        ("1/2 cups/day", "number", r"\boxed{1/2}"),
        ("2.5 million", "formula", "2500000"),
        ("3 hundred thousand", "formula", "300000"),
        ("3 1/2", "formula", r"\boxed{7/2}"),
        ("1e-05", "formula", "0.00001"),
        ("1.6e-19", "formula", r"\boxed{1.6 \times 10^{-19}}"),
        (r"0.1\overline{6}", "formula", r"\boxed{1/6}"),
        ("12 (twelve)", "number", "12"),
        ("72 (48 + 24 = 72)", "number", "72"),
    ],
)
def test_a_number_is_read_without_what_stands_around_it(text: str, kind: str, number: str) -> None:
    for written in (text, rf"\boxed{{{text}}}"):
        assert read(written) == Reading(kind, number)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["2 (3+4)", "72 (48+25)", "5 (million)", "5 - x", "1,00", "1.2.3", "5x", "85, 86", ""])
def test_what_is_no_amount_is_left_to_the_library(text: str) -> None:
    assert read(text) is None


@given(st.text(max_size=120), st.sampled_from(["", "5 ", "1e", "2 (", r"\boxed{3 ", r"0.\overline{"]))
def test_any_text_at_all_is_read_without_an_error(text: str, start: str) -> None:
    assert read(start + text) is None or isinstance(read(start + text), Reading)


def test_hostile_text_is_read_at_once() -> None:
    started = time.process_time()
    for text in (
        "1" * 99,
        "1," * 49,
        "5" + " a" * 49,
        "5 (" + "1+" * 48,
        "5" + " million" * 12,
        "9e99",
        "5 " + "-" * 97,
    ):
        read(text)
        read("1" * 100_000 + text)
    assert time.process_time() - started < 1.0
