"""What `make reproduce` writes, from numbers that are given here, and from those that are in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncline.errors import InvalidSpec
from tests.reproduce import figure, results, table
from tests.reproduce.__main__ import FIGURE
from tests.reproduce.arms import ARMS, Arm, trials
from tests.reproduce.results import Experiment, Result

COMMITTED = Path("tests/reproduce")


def result(arm: str, seed: int, *curve: float) -> Result:
    versions = range(0, 25 * len(curve), 25)
    return Result(arm=arm, seed=seed, accuracies=dict(zip(versions, curve, strict=True)), groups=9, staleness=3)


def experiment(*found: Result) -> Experiment:
    return Experiment(
        command="make it",
        date="1 May 2026",
        machine="a machine",
        engine="light",
        versions={"torch": "2"},
        steps=50,
        results=found,
    )


def arm(key: str) -> Arm:
    return next(arm for arm in ARMS if arm.key == key)


def line(page: str, title: str) -> list[str]:
    """The cells of the first row of this title."""
    return next(
        [cell.strip() for cell in row.split("|")[1:-1]] for row in page.splitlines() if row.startswith(f"| {title} |")
    )


OFFLINE = [result("offline", 0, 0.5, 0.75, 0.25), result("offline", 1, 0.5, 0.625, 0.375)]
ONLINE = [result("s1", 0, 0.5, 0.75, 0.875), result("s1", 1, 0.5, 0.875, 0.75)]


def test_best_and_last_are_means_over_seeds_with_their_standard_deviation() -> None:
    page = table.render(experiment(*OFFLINE, *ONLINE), figure="f.png")
    assert line(page, "offline DPO")[1:5] == ["68.8 ± 8.8", "25", "31.2 ± 8.8", "-50.0 ± 17.7"]
    assert line(page, "online DPO, s = 1")[1:5] == ["87.5 ± 0.0", "25 to 50", "81.2 ± 8.8", ""]


def test_the_papers_row_stands_beside_ours_and_is_empty_where_it_has_none() -> None:
    page = table.render(experiment(*OFFLINE, result("s5", 0, 0.5, 0.75, 0.75)), figure="f.png")
    assert line(page, "offline DPO")[5:] == ["53.7 (1.6)", "36.4 (0.6)", "28.8 (7.0)"]
    assert line(page, "semi-online DPO, s = 5")[5:] == ["-", "-", "-"]
    assert line(page, "seed model")[1:] == ["50.0", "0", "50.0", "", "47.4 (1.6)", "33.9 (0.6)", "23.7 (5.2)"]


def test_one_seed_has_no_spread() -> None:
    page = table.render(experiment(OFFLINE[0]), figure="f.png")
    assert line(page, "offline DPO")[1:4] == ["75.0", "25", "25.0"]
    assert "one seed (0)" in page


def test_the_best_checkpoint_is_a_trained_one_even_where_training_only_harmed() -> None:
    harmed = result("s1", 0, 0.5, 0.25, 0.125)
    assert (harmed.best, harmed.best_version, harmed.last) == (0.25, 25, 0.125)


def test_raw_numbers_survive_the_way_to_the_file_and_back(tmp_path: Path) -> None:
    before = experiment(*OFFLINE, *ONLINE)
    results.save(before, tmp_path / "results.json")
    assert results.load(tmp_path / "results.json") == before


def test_the_figure_is_drawn_for_any_number_of_arms_and_seeds(tmp_path: Path) -> None:
    for number, found in enumerate([OFFLINE[:1], [*OFFLINE, *ONLINE]]):
        path = tmp_path / f"{number}.png"
        figure.draw(experiment(*found), path)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_page_in_the_repository_is_made_of_the_numbers_in_the_repository() -> None:
    committed = results.load(COMMITTED / "results.json")
    assert table.render(committed, figure=FIGURE) == (COMMITTED / "RESULTS.md").read_text(encoding="utf-8")
    assert len(committed.seeds) >= 3
    assert {found.arm for found in committed.results} == {arm.key for arm in ARMS}


def test_arms_differ_in_nothing_but_what_they_compare() -> None:
    specs = {trial.arm.key: trial.spec for trial in trials(ARMS, seeds=[7], steps=200)}
    assert [specs[key].sync.period for key in specs] == ["never", 100, 10, 5, 1, 1]
    online = specs["s1"]
    for key in ("offline", "s100", "s10", "s5"):
        assert specs[key].model_copy(update={"name": online.name, "sync": online.sync}) == online
    differing = {"name": online.name, "algorithm": online.algorithm, "optimizer": online.optimizer}
    assert specs["grpo"].model_copy(update=differing) == online


def test_a_run_with_other_settings_is_another_run() -> None:
    def names(*, seed: int, steps: int) -> set[str]:
        return {trial.spec.name for trial in trials([arm("s1")], seeds=[seed], steps=steps)}

    assert names(seed=0, steps=200) == names(seed=0, steps=200)
    assert len(names(seed=0, steps=200) | names(seed=0, steps=100) | names(seed=1, steps=200)) == 3


def test_a_period_longer_than_the_run_is_refused_before_anything_starts() -> None:
    with pytest.raises(InvalidSpec, match=r"sync\.period"):
        list(trials([arm("s100")], seeds=[0], steps=50))
