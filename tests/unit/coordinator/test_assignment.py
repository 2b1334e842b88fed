"""Which version a generator should hold."""

from __future__ import annotations

from services.coordinator.control.assignment import target_version


def test_without_work_the_fleet_gets_ready_for_the_latest_version() -> None:
    assert target_version({0: 0, 10: 0}, evaluating=frozenset(), latest=10) == 10


def test_the_oldest_version_with_work_comes_first() -> None:
    assert target_version({0: 3, 10: 7}, evaluating=frozenset(), latest=10) == 0


def test_an_evaluation_goes_before_training_and_the_fleet_returns_after_it() -> None:
    assert target_version({0: 3, 25: 5}, evaluating=frozenset({25}), latest=0) == 25
    assert target_version({0: 3, 25: 0}, evaluating=frozenset({25}), latest=0) == 0


def test_without_training_prompts_generators_are_left_alone_but_for_evaluations() -> None:
    assert target_version({0: 0, 25: 5}, evaluating=frozenset({25}), latest=None) == 25
    assert target_version({0: 0, 25: 0}, evaluating=frozenset({25}), latest=None) is None
