"""The reason for the probe: vLLM says that it has loaded tied embeddings, and computes something else.

Remove the probe from services.inference.generator and this test fails: nothing else notices.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from services.inference.engines import create_engine
from services.inference.generator import Generator
from syncline.cache import Cache
from syncline.errors import EngineDead, ProbeMismatch
from tests.integration.published import publish
from tests.integration.tiny_models import make_tiny_model

pytest.importorskip("vllm")
pytestmark = [pytest.mark.timeout(300), pytest.mark.vllm, pytest.mark.slow]


async def test_a_reload_that_vllm_gets_wrong_is_found_and_the_generator_is_not_ready(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model", seed=1, tied=True)
    handle = publish(tmp_path / "run", model, version=0)
    # Given vLLM's own handling of tied embeddings, without our cure
    engine = create_engine("vllm", {"cpu_kv_cache_bytes": 64 << 20, "tied_embeddings": "native"})
    generator = Generator(engine, cache=Cache(Path("never-made")))
    try:
        # When the engine loads without a complaint
        await engine.load(Path(handle.uri.removeprefix("file://")), dtype="float32")
        await engine.check()
        # Then the probe tells, with both numbers, and the generator holds nothing
        with pytest.raises(ProbeMismatch, match=r"the engine computes log-probability -?\d+\.\d+, the learner -?\d"):
            await generator.load(handle)
        assert generator.held is None
        with pytest.raises(EngineDead, match="the generator is failed"):
            await generator.check()
    finally:
        await generator.close()


async def test_with_the_cure_the_same_checkpoint_is_proven(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model", seed=1, tied=True)
    later = make_tiny_model(tmp_path / "later", seed=2, tied=True)
    generator = Generator(create_engine("vllm", {"cpu_kv_cache_bytes": 64 << 20}), cache=Cache(Path("never-made")))
    try:
        for version, folder in enumerate((model, later)):
            times = await generator.load(publish(tmp_path / "run", folder, version=version))
            assert times.probe_error < 1e-3
    finally:
        await generator.close()
