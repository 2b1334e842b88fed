"""Which versions are published and which are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.learner.retention import is_published, sync_versions_at, versions_in_use
from syncline.runspec import RunSpec
from tests.integration.learner_world import spec_of

periods = st.one_of(st.integers(1, 7), st.just("never"))


def _spec(*, period: Any, lag: int, steps: int, every: int | None) -> RunSpec:
    return spec_of(
        Path("unused"),
        sync={"period": period, "lag": lag},
        steps=steps,
        evaluation=[] if every is None else [{"name": "e", "data": "unused", "every": every}],
    )


specs = st.builds(
    _spec,
    period=periods,
    lag=st.integers(0, 1),
    steps=st.integers(7, 20),
    every=st.one_of(st.none(), st.integers(1, 5)),
)


@given(specs)
def test_every_version_that_a_step_trains_on_is_published_and_so_is_the_result(spec: RunSpec) -> None:
    schedule = spec.schedule()
    assert all(is_published(spec, schedule.version_for_step(step)) for step in range(spec.steps))
    assert is_published(spec, spec.steps)


@given(specs, st.data())
def test_what_the_steps_from_any_saved_state_on_train_on_is_never_deleted(spec: RunSpec, data: st.DataObject) -> None:
    version = data.draw(st.integers(0, spec.steps))
    saved = data.draw(st.sets(st.integers(0, version), max_size=3))
    kept = versions_in_use(spec, version=version, saved_steps=saved)
    for start in (*saved, version, max(0, version - 1)):
        needed = {spec.schedule().version_for_step(step) for step in range(start, spec.steps)}
        assert {v for v in needed if v <= start} <= kept
        assert {v for v in needed if v <= start} == set(sync_versions_at(spec, start)) or start == spec.steps
    assert {0, version} <= kept


def test_the_last_two_evaluated_versions_are_kept() -> None:
    spec = _spec(period="never", lag=0, steps=20, every=3)
    assert versions_in_use(spec, version=14, saved_steps=[]) == {0, 9, 12, 14}
    assert versions_in_use(spec, version=3, saved_steps=[]) == {0, 3}
