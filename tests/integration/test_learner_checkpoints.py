"""What the learner leaves on disk: weights that any engine reads, and states that a run goes on from."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch
from redis.asyncio import Redis
from structlog.testing import capture_logs
from transformers import AutoModelForCausalLM

from syncline import published, standings
from syncline.storage import FolderStorage
from tests.integration.learner_world import (
    World,
    digest_of,
    final_digest,
    flip_a_byte,
    groups_of,
    kinds,
    learner_world,
    spec_of,
    steps_of,
    until_idle,
    version_file,
    versions_on_disk,
)
from tests.integration.published import staged
from tests.integration.tiny_models import make_tiny_model

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("seed"), seed=0, hidden=16, layers=1, heads=1)


@pytest.fixture
async def world(redis: Redis, tmp_path: Path) -> AsyncIterator[World]:
    async with learner_world(redis, tmp_path / "run") as world:
        yield world


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [False, True])
async def test_the_probe_of_a_checkpoint_is_what_the_loaded_folder_computes(
    world: World, tmp_path: Path, dtype: str, tied: bool
) -> None:
    seed = make_tiny_model(tmp_path / "seed", seed=1, hidden=16, layers=1, heads=1, tied=tied)
    spec = spec_of(seed, model={"path": str(seed), "dtype": dtype}, steps=2)
    events = await world.train_on(spec, groups_of(spec, range(2)))
    for handle in (events[0].loaded.published[0], events[-2].published.handle):
        folder = staged(handle)
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        assert str(loaded.dtype) == f"torch.{dtype}" == f"torch.{handle.dtype}"
        ids = torch.tensor([list(handle.probe.token_ids)])
        with torch.no_grad():
            scores = loaded(input_ids=ids).logits.float().log_softmax(-1)
        found = scores[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
        torch.testing.assert_close(found, torch.tensor(list(handle.probe.log_probs)), rtol=0, atol=1e-6)
        assert handle.probe.tolerance == pytest.approx({"float32": 1e-3, "bfloat16": 0.35}[dtype])
        for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            assert (folder / name).read_bytes() == (seed / name).read_bytes()


async def test_old_versions_and_states_are_pruned_but_not_those_in_use(model: Path, world: World) -> None:
    spec = spec_of(
        model,
        steps=12,
        sync={"period": 1},
        evaluation=[{"name": "held-out", "data": "unused", "every": 4}],
        checkpoints={"every": 5, "keep": 2},
    )
    best = standings.BestVersion(3, "held-out", "score", 0.5)
    world.run_dir.mkdir()
    standings.write(FolderStorage(world.run_dir), standings.Standings({"held-out": frozenset({0, 4})}, best))
    await world.train_on(spec, groups_of(spec, range(12)))
    # The seed; the best; evaluations without a result, 8 and 12; what a run needs that goes on from the states at 10
    # and 12.
    assert versions_on_disk(world) == [0, 3, 8, 10, 11, 12]
    states = sorted((world.run_dir / "state").iterdir())
    assert [path.name for path in states] == ["step-000010", "step-000012"]
    assert {file.suffix for path in states for file in path.iterdir()} == {".json", ".jsonl", ".safetensors"}


# ---- going on


@pytest.mark.parametrize("killed_after", ["step 0", "step 1", "published 2", "step 2", "step 3", "published 4"])
async def test_a_run_that_was_cut_off_ends_with_the_same_bytes(
    model: Path, redis: Redis, tmp_path: Path, killed_after: str
) -> None:
    spec = spec_of(model, steps=5, reference={"sync": True})
    groups = groups_of(spec, range(5))
    undisturbed = await digest_of(redis, tmp_path / "a", spec, groups)

    async with learner_world(redis, tmp_path / "b") as world:
        # Given an attempt whose client went away somewhere
        await world.add(groups)
        await world.train(spec, until=lambda event: kinds([event]) == [killed_after])
        # When the coordinator starts anew, with the work of the steps that are not saved
        await redis.flushall()
        events = await world.train_on(spec, groups)
        # Then
        first = events[0].loaded.first_step
        assert [report.step for report in steps_of(events)] == list(range(first, 5))
        assert final_digest(events) == undisturbed


async def test_a_finished_run_is_finished_again_at_once(model: Path, world: World) -> None:
    spec = spec_of(model)
    first = await world.train_on(spec, groups_of(spec, range(4)))
    again = await world.train(spec)
    assert kinds(again) == ["loaded 4", "finished 4"]
    assert again[0].loaded.published[-1].manifest_digest == final_digest(first)


@pytest.mark.parametrize("damage", ["state", "version"])
async def test_a_damaged_state_is_skipped_and_said_so(model: Path, redis: Redis, tmp_path: Path, damage: str) -> None:
    spec = spec_of(model, steps=6, sync={"period": 4}, checkpoints={"every": 1, "keep": 3})
    groups = groups_of(spec, range(6))
    undisturbed = await digest_of(redis, tmp_path / "a", spec, groups)

    async with learner_world(redis, tmp_path / "b") as world:
        # Given states of 3, 4 and 5 updates, the newest of which is no good: its own bytes, or those of version 4
        # that its steps train on
        await world.add(groups)
        await world.train(spec, until=lambda event: kinds([event]) == ["step 5"])
        await until_idle(world)
        await redis.flushall()
        for newer in (world.run_dir / "state").glob("step-000006"):
            newer.rename(tmp_path / "gone")
        state = world.run_dir / "state" / "step-000005"
        broken = state / "tensors-00000.safetensors" if damage == "state" else version_file(world, 4)
        flip_a_byte(broken)
        # When
        with capture_logs() as logs:
            events = await world.train_on(spec, groups)
        # Then: state 4 republishes version 4 itself
        assert [entry["step"] for entry in logs if entry["event"] == "state_skipped"] == [5]
        assert events[0].loaded.first_step == 4
        assert [handle.version for handle in events[0].loaded.published] == [0, 4]
        assert final_digest(events) == undisturbed


async def test_a_damaged_checkpoint_of_the_seed_is_published_anew(model: Path, world: World) -> None:
    spec = spec_of(model, steps=1)
    seed = (await world.train_on(spec, groups_of(spec, [0])))[0].loaded.published[0]
    flip_a_byte(version_file(world, 0))
    again = await world.train(spec)
    staged(again[0].loaded.published[0])
    assert again[0].loaded.published[0].manifest_digest == seed.manifest_digest


class _Trap:
    """Pickled, it is an order to whoever unpickles it."""

    def __init__(self, sprung: Path) -> None:
        self._sprung = sprung

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return Path.write_text, (self._sprung, "sprung")  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["optimizer.pt", "state.pkl", "pytorch_model.bin", "tensors-00000.safetensors"])
async def test_a_planted_pickle_is_refused_unread(model: Path, redis: Redis, tmp_path: Path, name: str) -> None:
    """In a state beside or in place of its files, and in a version that the reference would be loaded from."""
    spec = spec_of(model, steps=6, reference={"sync": True}, checkpoints={"every": 2})
    groups = groups_of(spec, range(6))
    undisturbed = await digest_of(redis, tmp_path / "a", spec, groups)
    trap = pickle.dumps(_Trap(tmp_path / "sprung"))
    pickle.loads(trap)
    (tmp_path / "sprung").unlink()  # it does work

    async with learner_world(redis, tmp_path / "b") as world:
        await world.train_on(spec, groups)
        (world.run_dir / "state" / "step-000006" / name).write_bytes(trap)
        (world.run_dir / published.name_of(6) / name).write_bytes(trap)
        await redis.flushall()
        with capture_logs() as logs:
            events = await world.train_on(spec, groups)

    assert [(entry["event"], name in entry["error"]) for entry in logs if "error" in entry] == [
        ("checkpoint_discarded", True),
        ("state_skipped", True),
    ]
    assert kinds(events)[0] == "loaded 4"
    assert final_digest(events) == undisturbed
    assert not (tmp_path / "sprung").exists()
