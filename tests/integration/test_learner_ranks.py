"""The learner over several ranks: it trains as one rank does, goes on from shards, and says who died."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from redis.asyncio import Redis
from safetensors.torch import load_file

from syncline import published
from syncline.errors import Unavailable
from syncline.runspec import RunSpec
from syncline.v1.learner_service_pb2 import StepReport, TrainResponse
from syncline.v1.rollout_pb2 import ScoredGroup
from tests.integration.learner_ranks import torchrun
from tests.integration.learner_world import final_digest, groups_of, kinds, learner_world, spec_of, steps_of
from tests.integration.published import staged
from tests.integration.tiny_models import make_tiny_model
from tests.object_store import free_port
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("seed"), seed=0, hidden=16, layers=2, heads=1)


async def _alone(
    redis: Redis, run_dir: Path, spec: RunSpec, groups: list[ScoredGroup], **settings: int
) -> list[TrainResponse]:
    async with learner_world(redis, run_dir, **settings) as world:
        return await world.train_on(spec, groups)


def _assert_equal_weights(a: Path, b: Path, *, version: int) -> None:
    one, many = (load_file(run / published.name_of(version) / "model.safetensors") for run in (a, b))
    assert one.keys() == many.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(many[name], tensor, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def _assert_equal_reports(one: list[StepReport], many: list[StepReport]) -> None:
    assert [list(report.trained) for report in one] == [list(report.trained) for report in many]
    for a, b in zip(one, many, strict=True):
        one_metrics, many_metrics = dict(a.metrics), dict(b.metrics)
        for metrics in (one_metrics, many_metrics):  # each rank cuts its own share into micro-batches
            assert 0.0 <= metrics.pop("padding_waste", 0.0) < 1.0
        assert many_metrics == pytest.approx(one_metrics, rel=1e-3, abs=1e-5), f"step {a.step}"
        for one_task, many_task in zip(a.tasks, b.tasks, strict=True):
            assert dict(many_task.metrics) == pytest.approx(dict(one_task.metrics), rel=1e-3, abs=1e-5)


async def test_two_ranks_train_as_one_does(model: Path, redis: Redis, redis_url: str, tmp_path: Path) -> None:
    """Twenty steps, with micro-batches so small that the ranks have different numbers of them."""
    optimizer = {"lr": 1e-3, "eps": 1e-4, "grad_clip": 1.0}
    tied = make_tiny_model(tmp_path / "tied", seed=1, hidden=16, layers=1, heads=1, tied=True)
    cases = {
        "bfloat16": spec_of(
            model,
            model={"path": str(model), "dtype": "bfloat16"},
            steps=2,
            sync={"period": 1},
            reference={"sync": True},
            algorithm={"name": "dpo", "normalize": "pairs"},
            optimizer={"lr": 1e-5, "eps": 1e-4},
        ),
        "dpo": spec_of(model, steps=20, prompts_per_step=6, sync={"period": 5}, optimizer=optimizer),
        "mixed": spec_of(
            model,
            tasks=[{"name": name, "data": "unused", "reward": {"type": "math"}} for name in ("math", "chat")],
            steps=20,
            prompts_per_step=5,
            sync={"period": 5},
            optimizer=optimizer,
        ),
        "grpo": spec_of(
            tied,
            model={"path": str(tied), "activation_checkpointing": True},
            steps=20,
            prompts_per_step=5,
            algorithm={"name": "grpo", "beta": 0.01, "entropy_weight": 0.01},
            reference={"sync": True},
            sync={"period": 5},
            optimizer=optimizer,
        ),
    }
    one = {
        name: await _alone(
            redis, tmp_path / f"one-{name}", spec, groups_of(spec, range(spec.steps)), micro_batch_tokens=40
        )
        for name, spec in cases.items()
    }
    async with torchrun(redis, redis_url, tmp_path, ranks=2, micro_batch_tokens="40") as learner:
        for name, spec in cases.items():
            run_dir = tmp_path / f"two-{name}"
            many = await learner.train(spec, groups_of(spec, range(spec.steps)), run_dir=run_dir)
            assert kinds(many) == kinds(one[name])
            assert many[0].loaded.num_parameters == one[name][0].loaded.num_parameters
            if name == "bfloat16":  # policy and reference are the same weights: the loss is ln 2 on any rank
                assert [report.metrics["loss"] for report in steps_of(many)] == pytest.approx([math.log(2.0)] * 2)
                continue
            _assert_equal_reports(steps_of(one[name]), steps_of(many))
            _assert_equal_weights(tmp_path / f"one-{name}", run_dir, version=20)
            last, probe = (events[-2].published.handle for events in (many, one[name]))
            staged(last)
            assert list(last.probe.log_probs) == pytest.approx(list(probe.probe.log_probs), abs=1e-4)
        learner.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(40):
            await learner.process.wait()
        assert "rank_lost" not in learner.log.read_text()


async def test_a_rank_that_is_killed_is_named_and_the_run_ends_with_the_same_bytes(
    model: Path, redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    spec = spec_of(model, steps=8)
    groups = groups_of(spec, range(8))
    async with torchrun(redis, redis_url, tmp_path, ranks=2, restarts=3) as learner:
        undisturbed = final_digest(await learner.train(spec, groups, run_dir=tmp_path / "a"))

        # Killed while it waits for groups of step 5
        before = await learner.registered()
        events: list[TrainResponse] = []
        attempt = asyncio.create_task(learner.train_into(events, spec, groups[:20], run_dir=tmp_path / "b"))
        async with asyncio.timeout(60):
            while kinds(events)[-1:] != ["step 4"]:
                await asyncio.sleep(0.02)
        killed = learner.pid_of(1)
        os.kill(killed, signal.SIGKILL)
        killed_at = time.monotonic()
        with pytest.raises(Unavailable, match=rf"rank 1 of 2 \(process {killed} on .*\) died") as raised:
            await attempt
        assert time.monotonic() - killed_at < 10.0
        assert "last saved state" in raised.value.message

        # torchrun starts all ranks anew, and the run goes on from the shards of step 4
        await learner.registered(but=before.address)
        resumed = await learner.train(spec, groups, run_dir=tmp_path / "b")
        assert kinds(resumed)[:2] == ["loaded 4", "step 4"]
        assert final_digest(resumed) == undisturbed

    # One rank goes on where two had stopped, to the same weights
    state = tmp_path / "a" / "state"
    assert sorted(path.name.partition("-tensors")[0] for path in (state / "step-000006").glob("*.safetensors")) == [
        "rank-00000",
        "rank-00001",
    ]
    (state / "step-000008").rename(tmp_path / "gone")
    (tmp_path / "a" / published.name_of(8)).rename(tmp_path / "also-gone")
    events = await _alone(redis, tmp_path / "a", spec, groups)
    assert kinds(events)[0] == "loaded 6"
    _assert_equal_weights(tmp_path / "a", tmp_path / "b", version=8)


async def test_a_rank_that_dies_in_an_update_or_hangs_is_named(
    model: Path, redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    spec = spec_of(model, steps=400, sync={"period": "never"}, checkpoints={"every": 400})
    groups = groups_of(spec, range(400))
    async with torchrun(redis, redis_url, tmp_path, ranks=2, restarts=3, rank_timeout_s="8") as learner:
        for signal_sent, words in (
            (signal.SIGKILL, "died while it carried out 'update'|died while it waited"),
            (signal.SIGSTOP, "did not finish 'update' within 8 s"),
        ):
            before = await learner.registered()
            events: list[TrainResponse] = []
            attempt = asyncio.create_task(learner.train_into(events, spec, groups, run_dir=tmp_path / "run"))
            async with asyncio.timeout(60):
                while kinds(events)[-1:] not in (["step 3"], ["step 4"]):
                    await asyncio.sleep(0.001)
            victim = learner.pid_of(1)
            os.kill(victim, signal_sent)
            sent_at = time.monotonic()
            with pytest.raises(Unavailable, match=rf"rank 1 of 2 \(process {victim} on .*\) ({words})"):
                await attempt
            assert time.monotonic() - sent_at < 25.0
            if signal_sent == signal.SIGSTOP:
                os.kill(victim, signal.SIGKILL)  # torchrun would do it after half a minute
            await learner.registered(but=before.address)


async def test_ranks_without_groups_keep_step_with_the_others(
    model: Path, redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    """Three ranks; one group of each step can train, and none of the last step. The state of one rank is cut anew."""
    spec = spec_of(model, steps=4, prompts_per_step=2, checkpoints={"every": 1}, optimizer={"lr": 1e-3, "eps": 1e-4})
    groups = groups_of(spec, range(4))
    groups[7] = ScoredGroup(group={"task": groups[7].group.task}, dropped_cause="poison")
    one = await _alone(redis, tmp_path / "one", spec, groups)
    half = spec_of(model, **{**_fields(spec), "steps": 2})
    await _alone(redis, tmp_path / "half", half, groups[:4])
    async with torchrun(redis, redis_url, tmp_path, ranks=3) as learner:
        many = await learner.train(spec, groups, run_dir=tmp_path / "three")
        assert [list(report.trained) for report in steps_of(many)] == [[1], [1], [1], []]
        _assert_equal_reports(steps_of(one), steps_of(many))
        _assert_equal_weights(tmp_path / "one", tmp_path / "three", version=4)

        more = await learner.train(spec, groups, run_dir=tmp_path / "half")
        assert kinds(more)[0] == "loaded 2"
        _assert_equal_weights(tmp_path / "one", tmp_path / "half", version=4)

        # An error that all ranks share ends the attempt and nothing else
        empty = tmp_path / "empty"
        empty.mkdir()
        (failed,) = await learner.train(spec_of(empty), [], run_dir=tmp_path / "never")
        assert (failed.failed.code, "no config.json" in failed.failed.message) == ("invalid_spec", True)
        (tmp_path / "a-file").write_text("not a folder")
        (failed,) = await learner.train(spec, groups, run_dir=tmp_path / "a-file" / "run")
        assert (failed.failed.code, "mend the storage" in failed.failed.message) == ("checkpoint_error", True)
        again = await learner.train(spec, groups, run_dir=tmp_path / "again")
        assert final_digest(again) == final_digest(many)


def _fields(spec: RunSpec) -> dict[str, object]:
    return {
        "prompts_per_step": spec.prompts_per_step,
        "checkpoints": spec.checkpoints.model_dump(),
        "optimizer": spec.optimizer.model_dump(),
    }


def test_a_rank_that_waits_for_others_says_so_while_it_does(redis_url: str, tmp_path: Path) -> None:
    environment = {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "SYNCLINE_REDIS_URL": redis_url,
        "SYNCLINE_DEVICE": "cpu",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    log = tmp_path / "rank-0.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "services.learner"]
        rank = subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=output)
    try:
        wait_until(lambda: "waiting_for_ranks" in log.read_text(), what="the log to say so")
    finally:
        rank.kill()
        rank.wait(timeout=20)
