"""A partition between all services and Redis, longer than every timeout; then a Redis that is merely slow."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pytest

from tests.chaos.bad_line import BadLine
from tests.e2e.local_stack import LocalStack, small_spec
from tests.e2e.test_a_run import assert_trained_exactly_once

_STALL_S = 13.0  # beyond leases (2 s), registrations (2 s) and the socket timeout (10 s)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_partition_and_a_slow_redis_change_nothing_but_the_time(redis_url: str, tmp_path: Path) -> None:
    spec = small_spec(steps=40)
    with (
        tempfile.TemporaryDirectory(prefix="syncline-") as sockets,
        BadLine(Path(sockets, "line.sock"), Path(redis_url.removeprefix("unix://"))) as line,
        LocalStack(tmp_path, project=Path.cwd(), generators=2, redis_url=line.url) as stack,
    ):
        undisturbed = stack.submit(spec)
        stack.finish(undisturbed)
        disturbed = stack.submit(spec)
        stack.at_step(disturbed, 5)
        line.stall()
        stack.until(lambda: "Redis" in stack.run(disturbed).get("reason", ""), what="the run to say what it waits for")
        time.sleep(_STALL_S)  # the one thing that is waited for here is time itself
        held_at = stack.run(disturbed)["progress"]["step"]
        assert held_at < spec["steps"]
        line.delay_s = 0.01
        line.heal()
        stack.finish(disturbed, within_s=200)
        assert_trained_exactly_once(stack, disturbed, spec)
        assert stack.final_weights(disturbed) == stack.final_weights(undisturbed)
