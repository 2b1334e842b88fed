"""Every engine, held to the same contract and to transformers' own numbers."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_asyncio

from services.inference.engine import MAX_SEED, Completion, Engine, GroupRequest
from services.inference.engines import create_engine
from syncline.errors import EngineDead, EngineError, LoadFailed
from tests.integration.hf_reference import Reference
from tests.integration.tiny_models import EOS, VOCAB_SIZE, make_tiny_model

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

OPTIONS = {"transformers": {}, "vllm": {"cpu_kv_cache_bytes": 64 << 20}}
PROMPT = (1, 57, 58, 73, 59, 60, 77)
SAMPLED = GroupRequest(PROMPT, seeds=(3, 2**40 + 1, MAX_SEED), max_tokens=24)
TOLERANCE = 1e-4


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=["transformers", pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.slow])],
)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    """One engine for all tests; each test loads what it needs."""
    if request.param == "vllm":
        pytest.importorskip("vllm")
    engine = create_engine(request.param, OPTIONS[request.param])
    yield engine
    await engine.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models with an output matrix of their own, and two with tied embeddings."""
    root = tmp_path_factory.mktemp("models")
    return {
        name: make_tiny_model(root / name, seed=seed, tied=name.startswith("tied"))
        for name, seed in {"a": 1, "b": 2, "tied_a": 1, "tied_b": 2}.items()
    }


@pytest.fixture(scope="module")
def reference(models: dict[str, Path]) -> Reference:
    return Reference(models["a"])


@pytest_asyncio.fixture(loop_scope="module")
async def loaded(engine: Engine, models: dict[str, Path]) -> Engine:
    """The engine with model a."""
    await engine.load(models["a"], dtype="float32")
    return engine


def largest_difference(ours: tuple[float, ...], theirs: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(ours, theirs, strict=True))


def tokens(completions: tuple[Completion, ...]) -> list[tuple[int, ...]]:
    return [completion.token_ids for completion in completions]


async def test_a_seed_gives_the_same_tokens_alone_and_in_a_crowd(loaded: Engine) -> None:
    together = await loaded.generate(SAMPLED)
    alone = [(await loaded.generate(replace(SAMPLED, seeds=(seed,))))[0] for seed in SAMPLED.seeds]
    others = [replace(SAMPLED, prompt_token_ids=(1, n), seeds=tuple(range(n))) for n in range(5, 13)]
    crowd = await asyncio.gather(*(loaded.generate(request) for request in [*others, SAMPLED, *others]))

    assert tokens(together) == tokens(tuple(alone)) == tokens(crowd[len(others)])


async def test_a_repeated_request_gives_the_same_log_probs(loaded: Engine) -> None:
    first, second = await loaded.generate(SAMPLED), await loaded.generate(SAMPLED)

    for one, other in zip(first, second, strict=True):
        assert largest_difference(one.log_probs, list(other.log_probs)) < 1e-5


async def test_different_seeds_give_different_samples(loaded: Engine) -> None:
    completions = await loaded.generate(replace(SAMPLED, seeds=tuple(range(8)), max_tokens=16))

    assert len(set(tokens(completions))) == 8


async def test_temperature_zero_is_greedy(loaded: Engine, reference: Reference) -> None:
    greedy = await loaded.generate(GroupRequest(PROMPT, seeds=(1, 2), max_tokens=48, temperature=0))

    assert tokens(greedy) == [tuple(reference.greedy(PROMPT, 48))] * 2


async def test_a_tiny_top_p_is_greedy(loaded: Engine, reference: Reference) -> None:
    narrow = await loaded.generate(GroupRequest(PROMPT, seeds=(1, 2), max_tokens=24, top_p=1e-6))

    assert tokens(narrow) == [tuple(reference.greedy(PROMPT, 24))] * 2


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.6, 0.8)])
async def test_samples_follow_the_model_at_the_asked_temperature_and_top_p(
    loaded: Engine, reference: Reference, temperature: float, top_p: float
) -> None:
    num_samples = 2000
    probs = reference.next_token_probs(PROMPT, temperature)
    ordered, order = probs.sort(descending=True)
    nucleus = order[ordered.cumsum(0) - ordered < top_p]
    expected = dict(zip(nucleus.tolist(), (probs[nucleus] / probs[nucleus].sum()).tolist(), strict=True))

    request = GroupRequest(PROMPT, tuple(range(num_samples)), max_tokens=1, temperature=temperature, top_p=top_p)
    found = Counter(sample[0] for sample in tokens(await loaded.generate(request)))

    assert found.keys() <= expected.keys()
    variation = sum(abs(expected[token] - found[token] / num_samples) for token in expected) / 2
    assert variation < 0.06  # sampling noise alone gives about 0.03


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 0.9), (0.0, 1.0)])
async def test_log_probs_are_the_models_own_whatever_the_sampling(
    loaded: Engine, reference: Reference, temperature: float, top_p: float
) -> None:
    for completion in await loaded.generate(replace(SAMPLED, temperature=temperature, top_p=top_p)):
        expected = reference.log_probs((*PROMPT, *completion.token_ids))[len(PROMPT) - 1 :]
        assert largest_difference(completion.log_probs, expected) < TOLERANCE


async def test_score_gives_the_log_probs_of_given_tokens(loaded: Engine, reference: Reference) -> None:
    sequence = [5 + (7 * i * i) % 120 for i in range(60)]

    assert largest_difference(await loaded.score(sequence), reference.log_probs(sequence)) < TOLERANCE


async def test_a_completion_ends_at_max_tokens_or_with_the_end_of_text(loaded: Engine) -> None:
    completions = await loaded.generate(replace(SAMPLED, seeds=tuple(range(40)), max_tokens=64))

    stopped = [c for c in completions if c.finish_reason == "stop"]
    cut = [c for c in completions if c.finish_reason == "length"]
    assert stopped
    assert cut
    assert all(c.token_ids[-1] == EOS and EOS not in c.token_ids[:-1] for c in stopped)
    assert all(len(c.token_ids) == 64 and EOS not in c.token_ids for c in cut)


async def test_the_context_bounds_a_completion(loaded: Engine) -> None:
    long_prompt = tuple(5 + i % 100 for i in range(510))

    (completion,) = await loaded.generate(GroupRequest(long_prompt, seeds=(1,), max_tokens=50, temperature=0))
    assert len(completion.token_ids) <= 2
    with pytest.raises(EngineError, match="leave no room"):
        await loaded.generate(GroupRequest((*long_prompt, 5, 6), seeds=(1,), max_tokens=1))


async def test_a_token_beyond_the_vocabulary_is_refused_and_the_engine_lives(loaded: Engine) -> None:
    with pytest.raises(EngineError, match="vocabulary"):
        await loaded.generate(GroupRequest((5, VOCAB_SIZE), seeds=(1, 2), max_tokens=4))

    await loaded.check()
    assert await loaded.generate(SAMPLED)


async def test_many_long_prompts_at_once_answer_like_one(loaded: Engine, reference: Reference) -> None:
    # More prompt tokens than a batch takes: an engine that splits a prompt must still get its seeds right.
    prompts = [tuple(5 + (i * j) % 120 for j in range(300)) for i in range(1, 25)]
    requests = [GroupRequest(prompt, seeds=(1, 2), max_tokens=4) for prompt in prompts]

    crowd = await asyncio.gather(*(loaded.generate(request) for request in requests))

    for request, completions in list(zip(requests, crowd, strict=True))[::8]:
        assert tokens(await loaded.generate(request)) == tokens(completions)
        expected = reference.log_probs((*request.prompt_token_ids, *completions[0].token_ids))[299:]
        assert largest_difference(completions[0].log_probs, expected) < TOLERANCE


@pytest.mark.parametrize("names", [("a", "b", "a"), ("tied_a", "tied_b", "tied_a"), ("a", "tied_b", "b")])
async def test_a_load_replaces_all_of_the_model(
    engine: Engine, models: dict[str, Path], names: tuple[str, ...]
) -> None:
    sequence = [5 + (11 * i) % 120 for i in range(40)]
    scores = []
    for name in names:
        await engine.load(models[name], dtype="float32")
        fresh = Reference(models[name])
        scores.append(await engine.score(sequence))
        (greedy,) = await engine.generate(GroupRequest(PROMPT, seeds=(0,), max_tokens=32, temperature=0))

        assert largest_difference(scores[-1], fresh.log_probs(sequence)) < TOLERANCE
        assert list(greedy.token_ids) == fresh.greedy(PROMPT, 32)

    assert all(largest_difference(old, list(new)) > 0.1 for old, new in pairwise(scores))


async def test_a_folder_without_weights_is_refused_and_the_old_model_serves_on(
    loaded: Engine, models: dict[str, Path], tmp_path: Path
) -> None:
    before = await loaded.generate(SAMPLED)
    (tmp_path / "config.json").write_bytes((models["a"] / "config.json").read_bytes())

    with pytest.raises(LoadFailed, match=r"model\.safetensors"):
        await loaded.load(tmp_path, dtype="float32")
    with pytest.raises(LoadFailed, match="nowhere"):
        await loaded.load(tmp_path / "nowhere", dtype="float32")
    with pytest.raises(LoadFailed, match="int8"):
        await loaded.load(models["a"], dtype="int8")
    assert tokens(await loaded.generate(SAMPLED)) == tokens(before)


async def test_cancelled_work_stops_and_the_next_is_answered(loaded: Engine) -> None:
    before = await loaded.generate(SAMPLED)
    brief = asyncio.create_task(loaded.generate(replace(SAMPLED, max_tokens=1)))
    endless = [
        asyncio.create_task(loaded.generate(GroupRequest((1, n), seeds=tuple(range(8)), max_tokens=500)))
        for n in range(5, 9)
    ]
    await brief  # handed to the engine before the others, which are in it now
    for task in endless:
        task.cancel()

    outcomes = await asyncio.gather(*endless, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert tokens(await loaded.generate(SAMPLED)) == tokens(before)


async def test_close_ends_what_is_in_flight_and_a_load_opens_again(models: dict[str, Path]) -> None:
    # vLLM's turn is in test_vllm_weights.py: there it costs a start of its engine core.
    engine = create_engine("transformers")
    await engine.load(models["a"], dtype="float32")
    before = await engine.generate(SAMPLED)
    brief = asyncio.create_task(engine.generate(replace(SAMPLED, max_tokens=1)))
    work = [asyncio.create_task(engine.generate(replace(SAMPLED, max_tokens=500))) for _ in range(3)]
    await brief  # handed to the engine before the others, which are in it now
    await engine.close()

    outcomes = await asyncio.gather(*work, return_exceptions=True)
    assert all(isinstance(outcome, EngineDead) for outcome in outcomes)
    await engine.load(models["a"], dtype="float32")
    assert await engine.generate(SAMPLED) == before
    await engine.close()


async def test_the_transformers_engine_gives_the_same_bits_in_another_process(models: dict[str, Path]) -> None:
    program = f"""
import asyncio, pathlib
from services.inference.engine import GroupRequest
from services.inference.engines import create_engine

async def main():
    engine = create_engine("transformers")
    await engine.load(pathlib.Path({str(models["a"])!r}), dtype="float32")
    print(await engine.generate({SAMPLED!r}))
    await engine.close()

asyncio.run(main())
"""
    other = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "2"},
    )
    engine = create_engine("transformers")
    await engine.load(models["a"], dtype="float32")
    *_, ours = await asyncio.gather(
        *(engine.generate(replace(SAMPLED, seeds=(n,))) for n in range(20)), engine.generate(SAMPLED)
    )
    await engine.close()

    async with asyncio.timeout(100):
        theirs, _ = await other.communicate()
    assert theirs.decode().strip() == repr(ours)


async def test_an_engine_without_a_model_says_so(engine: Engine) -> None:
    empty = create_engine(engine.name)

    with pytest.raises(EngineDead):
        await empty.check()
    with pytest.raises(EngineDead):
        await empty.generate(SAMPLED)
    await empty.close()
