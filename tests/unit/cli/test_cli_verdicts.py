"""The samples of a step by verdict and cause."""

from __future__ import annotations

from services.cli.verdicts import verdicts_of


def test_the_shares_of_all_tasks_are_added_and_the_commonest_causes_named() -> None:
    tasks = [
        {"verdicts": {"scored": 6, "unparsable": 1}, "causes": {"unparsable: no answer found": 1}},
        {
            "verdicts": {"scored": 1, "unparsable": 8},
            "causes": {"unparsable: no judgment: missing 1": 4, "unparsable: no judgment: refusal 1": 2}
            | {"unparsable: other causes": 2},
        },
    ]
    why = "no judgment: missing 1 4; no judgment: refusal 1 2; ..."
    assert verdicts_of(tasks) == f"unparsable 56.2% ({why}), scored 43.8%"


def test_before_anything_arrived_there_is_nothing_to_say() -> None:
    assert verdicts_of([]) == ""
