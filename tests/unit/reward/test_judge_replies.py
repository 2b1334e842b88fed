"""What a judge's reply comes to: every kind of reply has one written outcome."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.reward.judges import replies
from services.reward.judges.replies import Reply


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<score>8</score>", 8.0),
        ("It is complete.\n<score> 7.5 </score>\n", 7.5),
        ("<score>8/10</score>", 8.0),
        ("<score>8 / 10.0</score>", 8.0),
        ("8/10", 8.0),
        ("8.25", 8.25),
        ("8.", 8.0),
        ("**8/10**.", 8.0),
        ("<score>8.25</score>", 8.25),
        ("<SCORE>0</SCORE>", 0.0),
        ("<score>10</score>", 10.0),
        ("**<score>7</score>**.\n", 7.0),
        ("<score>2</score> no, on reflection <score>9</score>", 9.0),
        ("<think>a draft: <score>3</score></think> <score>6</score>", 6.0),
    ],
)
def test_a_score_is_read(text: str, value: float) -> None:
    assert replies.score(Reply(text)) == replies.Judgment("read", value)


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (Reply(""), "missing"),
        (Reply("I cannot grade this."), "missing"),
        (Reply("It deserves 8 of 10 points."), "missing"),
        (Reply("<score>7"), "missing"),
        (Reply("80%"), "missing"),
        (Reply("8/100"), "missing"),
        (Reply("<think>perhaps <score>7</score>"), "missing"),
        (Reply("<score>7</score> <think>or perhaps"), "missing"),
        (Reply("The answer claims '<score>10</score>', which is odd. I give it 2 points."), "missing"),
        (Reply("<score>8</score> Let me explain."), "missing"),
        (Reply("<score>4</score> or <score>6"), "missing"),
        (Reply("<score></score>"), "malformed"),
        (Reply("<score>high</score>"), "malformed"),
        (Reply("<score>8 or 9</score>"), "malformed"),
        (Reply("<score>80%</score>"), "malformed"),
        (Reply("<score>8/100</score>"), "malformed"),
        (Reply("<score>nan</score>"), "malformed"),
        (Reply("<score>1e1</score>"), "malformed"),
        (Reply("tie"), "malformed"),
        (Reply("<score>11</score>"), "out_of_range"),
        (Reply("<score>-1</score>"), "out_of_range"),
        (Reply("<score>4</score> then <score>10.5</score>"), "out_of_range"),
        (Reply("", refused=True), "refusal"),
        (Reply("<score>5</score>", refused=True), "refusal"),
        (Reply("<score>5</score>", finished="content_filter"), "refusal"),
        (Reply("It is good because", finished="length"), "truncated"),
        (Reply("<score>5</score> and fur", finished="length"), "truncated"),
    ],
)
def test_what_cannot_be_read_is_named_and_has_no_value(reply: Reply, outcome: str) -> None:
    judgment = replies.score(reply)
    assert (judgment.outcome, judgment.value) == (outcome, None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<winner>A</winner>", 1.0),
        ("B is shorter.\n<winner> b </winner>", 0.0),
        ("<winner>tie</winner>", 0.5),
        ("A", 1.0),
        ("**B**", 0.0),
        ("A.", 1.0),
        ("<winner>A</winner> or rather <winner>B</winner>", 0.0),
    ],
)
def test_a_comparison_is_read(text: str, value: float) -> None:
    assert replies.first_wins(Reply(text)) == replies.Judgment("read", value)


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (Reply("Both are good."), "missing"),
        (Reply("It says '<winner>A</winner>' itself, and B is right."), "missing"),
        (Reply("<winner>C</winner>"), "malformed"),
        (Reply("<winner>A, B or tie</winner>"), "malformed"),
        (Reply("7"), "malformed"),
        (Reply("<winner>A</winner>", finished="length"), "truncated"),
        (Reply("", refused=True), "refusal"),
    ],
)
def test_a_comparison_that_cannot_be_read_is_named(reply: Reply, outcome: str) -> None:
    judgment = replies.first_wins(reply)
    assert (judgment.outcome, judgment.value) == (outcome, None)


PIECES = [
    "<score>",
    "</score>",
    "<winner>",
    "</winner>",
    "<think>",
    "</think>",
    "8",
    "A",
    "tie",
    "/10",
    "-",
    ".",
    " ",
    "so",
]


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join), st.sampled_from(["stop", "length"]), st.booleans())
def test_any_reply_has_one_outcome_and_a_number_only_when_it_was_read(text: str, finished: str, refused: bool) -> None:
    for read, least, most in ((replies.score, 0.0, 10.0), (replies.first_wins, 0.0, 1.0)):
        judgment = read(Reply(text, finished=finished, refused=refused))
        assert (judgment.value is not None) == (judgment.outcome == "read")
        assert judgment.value is None or least <= judgment.value <= most
        if judgment.outcome == "read":
            assert finished == "stop"
            assert not refused
            # the verdict is the last thing that the reply says
            assert read(Reply(text + " and so on")).outcome != "read"
