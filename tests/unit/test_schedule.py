"""The schedule is exact: properties over all periods, lags and steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.algo.schedule import Change, Period, Schedule

periods = st.one_of(st.integers(1, 120), st.just("never"))
lags = st.sampled_from([0, 1])


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Schedules with up to three changes of the period."""
    period: Period = draw(periods)  # type: ignore[assignment]
    steps = draw(st.integers(1, 400))
    at = sorted(draw(st.lists(st.integers(0, steps), max_size=3)))
    return Schedule(
        period=period,
        lag=draw(lags),
        steps=steps,
        ahead=draw(st.integers(1, 64)),
        changes=tuple(Change(step, draw(periods)) for step in at),  # type: ignore[arg-type]
    )


@given(periods, lags, st.integers(1, 400), st.data())
def test_without_a_change_the_schedule_is_the_formula_of_the_design(
    period: Period, lag: int, steps: int, data: st.DataObject
) -> None:
    step = data.draw(st.integers(0, steps - 1))
    expected = 0 if period == "never" else max(0, (step // period - lag) * period)
    assert Schedule(period=period, lag=lag, steps=steps).version_for_step(step) == expected


@given(periods, lags, st.integers(1, 400), st.data())
def test_staleness_is_bounded_by_the_windows_behind(period: Period, lag: int, steps: int, data: st.DataObject) -> None:
    schedule = Schedule(period=period, lag=lag, steps=steps)
    step = data.draw(st.integers(0, schedule.steps - 1))
    staleness = schedule.staleness(step)
    if schedule.period == "never":
        assert staleness == step
        return
    s, lag = schedule.period, schedule.lag
    assert 0 <= staleness <= (lag + 1) * s - 1
    if step >= lag * s:
        assert staleness >= lag * s


@given(st.integers(0, 1000))
def test_online_trains_on_its_own_rollouts(step: int) -> None:
    assert Schedule(period=1, lag=0, steps=1001).staleness(step) == 0


@given(schedules())
def test_versions_never_go_back_and_change_only_between_windows(schedule: Schedule) -> None:
    versions = [schedule.version_for_step(step) for step in range(schedule.steps)]
    assert versions == sorted(versions)
    for step, version in enumerate(versions):
        window = schedule.window(step)
        assert window.version == version
        assert window.start <= step < window.stop
        assert set(versions[window.start : window.stop]) == {version}


@given(schedules())
def test_the_sync_versions_are_exactly_those_that_some_step_trains_on(schedule: Schedule) -> None:
    needed = {schedule.version_for_step(step) for step in range(schedule.steps)}
    announced = {version for version in range(schedule.steps + 1) if schedule.is_sync_version(version)}
    assert announced == needed


def test_the_number_of_syncs_is_that_of_the_paper() -> None:
    # Given 100 steps, syncs after the start happen at the starts of steps s, 2s, ... (and none offline)
    for period, expected in [(1, 99), (5, 19), (10, 9), (100, 0), ("never", 0)]:
        schedule = Schedule(period=period, lag=0, steps=100)  # type: ignore[arg-type]
        assert sum(schedule.is_sync_version(version) for version in range(1, 100)) == expected


@given(schedules(), st.data())
def test_prompts_are_admitted_only_for_published_versions_and_at_most_one_window_ahead(
    schedule: Schedule, data: st.DataObject
) -> None:
    learner_step = data.draw(st.integers(0, schedule.steps - 1))
    published = [v for v in range(learner_step + 1) if schedule.is_sync_version(v)]
    steps = schedule.admissible_steps(learner_step=learner_step, latest_version=published[-1])
    assert steps.start == learner_step
    assert learner_step in steps, "the step in work must always be admissible, or the run would hang"
    for step in steps:
        assert schedule.version_for_step(step) <= published[-1]
        assert schedule.window(step).start <= schedule.window(learner_step).stop
    assert len(steps) <= schedule.ahead


def test_at_lag_one_the_next_window_is_generated_while_this_one_trains() -> None:
    schedule = Schedule(period=5, lag=1, steps=20)
    assert schedule.admissible_steps(learner_step=5, latest_version=5) == range(5, 15)
    assert {schedule.version_for_step(step) for step in range(10, 15)} == {5}


def test_at_lag_zero_the_next_window_waits_for_its_weights() -> None:
    schedule = Schedule(period=5, lag=0, steps=20)
    assert schedule.admissible_steps(learner_step=5, latest_version=5) == range(5, 10)


@given(schedules(), periods, st.data())
def test_a_change_alters_nothing_before_the_next_window(
    schedule: Schedule, period: Period, data: st.DataObject
) -> None:
    last = max((change.step for change in schedule.changes), default=0)
    step = data.draw(st.integers(last, max(last, schedule.steps)))
    changes = (*schedule.changes, Change(step, period))
    changed = Schedule(period=schedule.period, lag=schedule.lag, steps=schedule.steps, changes=changes)
    unchanged_until = min(step, schedule.steps)
    for before in range(unchanged_until):
        assert changed.version_for_step(before) == schedule.version_for_step(before)
        assert changed.window(before).start == schedule.window(before).start


def test_a_change_takes_effect_at_the_next_window() -> None:
    schedule = Schedule(period=10, lag=0, steps=40, changes=(Change(13, 4), Change(27, "never")))
    assert [schedule.window(step).start for step in (0, 13, 19, 20, 24, 28, 39)] == [0, 10, 10, 20, 24, 28, 28]
    assert [schedule.period_at(step) for step in (19, 20, 27, 28)] == [10, 4, 4, "never"]


@given(schedules(), st.integers(0, 200))
def test_a_change_to_the_period_that_holds_already_changes_nothing(schedule: Schedule, later: int) -> None:
    """An endless window, say, goes on: no sync comes of it."""
    step = max((change.step for change in schedule.changes), default=0) + later
    last = schedule.changes[-1].period if schedule.changes else schedule.period
    changes = (*schedule.changes, Change(step, last))
    again = Schedule(period=schedule.period, lag=schedule.lag, steps=schedule.steps, changes=changes)
    assert [again.window(step) for step in range(again.steps)] == [schedule.window(s) for s in range(schedule.steps)]


def test_an_endless_window_ends_where_the_period_changes() -> None:
    schedule = Schedule(period="never", lag=0, steps=30, changes=(Change(12, 5),))
    assert [schedule.version_for_step(step) for step in (0, 11, 12, 16, 17)] == [0, 0, 12, 12, 17]


@pytest.mark.parametrize(("period", "lag"), [(0, 0), (-1, 0), (1, 2)])
def test_a_schedule_that_makes_no_sense_is_refused(period: int, lag: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        Schedule(period=period, lag=lag, steps=10)
