"""`python -m services.learner` as a process: it registers, answers, trains, and leaves on SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from redis.asyncio import Redis

from syncline import keys
from syncline.errors import Unavailable
from syncline.membership import members
from syncline.rpc import Client
from syncline.streams import Streams
from syncline.v1.learner_service_pb2 import LearnerServiceGetStatusRequest, TrainRequest
from syncline.v1.learner_service_pb2_grpc import LearnerServiceStub
from tests.integration.learner_world import RUN, groups_of, kinds, spec_of
from tests.integration.tiny_models import make_tiny_model


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_taken_port_is_told_in_a_line(redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        environment = {
            **os.environ,
            "SYNCLINE_REDIS_URL": redis_url,
            "SYNCLINE_BIND": address,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        command = [sys.executable, "-m", "services.learner"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"cannot listen on {address}; choose another SYNCLINE_BIND" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_the_program_serves_until_it_is_told_to_leave(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "seed", seed=0, hidden=16, layers=1, heads=1)
    spec = spec_of(model)
    environment = {
        **os.environ,
        "SYNCLINE_REDIS_URL": redis_url,
        "SYNCLINE_MEMBER_ID": "learner-0",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.learner", env=environment)
    try:
        async with asyncio.timeout(120):
            while not (found := await members(redis, "learner")):
                assert process.returncode is None, "the learner ended before it registered"
                await asyncio.sleep(0.1)
        (member,) = found
        assert (member.id, member.status["phase"]) == ("learner-0", "idle")
        client = Client(member.address, peer="learner-0")
        stub = client.stub(LearnerServiceStub)
        await Streams(redis).open_run(RUN)
        payloads = [group.SerializeToString() for group in groups_of(spec, range(2))]
        await Streams(redis).add_all(keys.scored(RUN), run_id=RUN, payloads=payloads)

        request = TrainRequest(run_id=RUN, spec_json=spec.model_dump_json(), run_dir=str(tmp_path / "run"))
        events = []

        async def train() -> None:
            async for event in client.stream(stub.Train, request):
                events.append(event)
                if kinds([event]) == ["published 2"]:
                    status = await client.call(stub.GetStatus, LearnerServiceGetStatusRequest(), timeout_s=5.0)
                    assert status.run_id == RUN
                    process.send_signal(signal.SIGTERM)

        with pytest.raises(Unavailable, match="shutting down"):
            await train()
        await client.close()

        assert kinds(events) == ["loaded 0", "step 0", "step 1", "published 2"]
        assert await asyncio.wait_for(process.wait(), 30) == 0
        assert await members(redis, "learner") == []
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
