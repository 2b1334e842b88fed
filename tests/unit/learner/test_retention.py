"""Which versions are published and which are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.learner.retention import is_published, sync_versions_at, versions_in_use
from syncline import standings as standings_file
from syncline.runspec import RunSpec
from syncline.standings import BestVersion, Standings
from syncline.storage import FolderStorage
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
    kept = versions_in_use(spec, version=version, published=[], saved_steps=saved, standings=Standings())
    for start in (*saved, version, max(0, version - 1)):
        needed = {spec.schedule().version_for_step(step) for step in range(start, spec.steps)}
        assert {v for v in needed if v <= start} <= kept
        assert {v for v in needed if v <= start} == set(sync_versions_at(spec, start)) or start == spec.steps
    assert {0, version} <= kept


def test_a_version_stays_until_all_its_evaluations_are_in_and_the_best_one_for_good() -> None:
    spec = _spec(period="never", lag=0, steps=20, every=3)

    def kept(*, version: int, results: frozenset[int] | set[int] = frozenset(), best: int | None = None) -> set[int]:
        standing = BestVersion(best, "e", "score", 0.5) if best is not None else None
        standings = Standings({"e": frozenset(results)}, standing)
        published = range(0, version + 1, 3)
        return versions_in_use(spec, version=version, published=published, saved_steps=[], standings=standings)

    assert kept(version=14) == {0, 3, 6, 9, 12, 14}
    assert kept(version=14, results={0, 3, 6}, best=3) == {0, 3, 9, 12, 14}
    assert kept(version=14, results={0, 3, 6, 9, 12}, best=9) == {0, 9, 14}


def test_a_result_of_one_set_does_not_let_a_version_go_that_another_set_waits_for() -> None:
    sets = [{"name": name, "data": "unused", "every": 3} for name in ("e", "f")]
    spec = spec_of(Path("unused"), sync={"period": "never"}, steps=9, evaluation=sets)
    standings = Standings({"e": frozenset({3, 6}), "f": frozenset({3})})
    found = versions_in_use(spec, version=7, published=[0, 3, 6], saved_steps=[], standings=standings)
    assert found == {0, 6, 7}


def test_standings_are_read_as_they_were_written_and_damaged_ones_protect_everything(tmp_path: Path) -> None:
    assert standings_file.read(FolderStorage(tmp_path)) == Standings()
    found = Standings({"e": frozenset({0, 3})}, BestVersion(3, "e", "score", 0.25))
    standings_file.write(FolderStorage(tmp_path), found)
    assert standings_file.read(FolderStorage(tmp_path)) == found
    (tmp_path / "standings.json").write_text("[]")
    assert standings_file.read(FolderStorage(tmp_path)) == Standings()


def test_what_other_runs_start_from_stays(tmp_path: Path) -> None:
    spec = _spec(period=2, lag=0, steps=12, every=None)
    standings_file.write(FolderStorage(tmp_path), Standings(lent=frozenset({4})))
    standings = standings_file.read(FolderStorage(tmp_path))
    kept = versions_in_use(spec, version=10, published=range(11), saved_steps=[8, 10], standings=standings)
    assert kept == {0, 4, 8, 10}
