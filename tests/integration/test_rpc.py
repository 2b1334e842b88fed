"""gRPC as every service uses it: errors keep their class, deadlines name the peer, health follows readiness."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from syncline import errors, rpc
from syncline.v1 import reward_service_pb2 as pb
from syncline.v1.reward_service_pb2_grpc import (
    RewardServiceServicer,
    RewardServiceStub,
    add_RewardServiceServicer_to_server,
)

NAME = "syncline.v1.RewardService"


class Scripted(RewardServiceServicer):
    """Does what the request's reward says."""

    async def Score(self, request: pb.ScoreRequest, context: rpc.Context) -> pb.ScoreResponse:
        if request.reward_json == "hang":
            await asyncio.Event().wait()
        if request.reward_json == "bug":
            raise KeyError("a secret of the inside")
        if request.reward_json == "refuse":
            problem = errors.FieldProblem("reward.options.regex", "no regular expression: \u00bd", "regex: str")
            raise errors.InvalidSpec([problem] * int(request.items[0].completion))
        error = next((e for e in errors.all_errors() if e.code == request.reward_json), None)
        if error is not None:
            raise error("told by the peer")
        return pb.ScoreResponse()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[rpc.Server]:
    server = rpc.Server(f"unix:{tmp_path}/s.sock")
    server.add(add_RewardServiceServicer_to_server, Scripted(), name=NAME)
    await server.start()
    yield server
    await server.stop(grace_s=0.1)


@pytest.fixture
async def client(server: rpc.Server) -> AsyncIterator[rpc.Client]:
    client = rpc.Client(server.address, peer="reward-1")
    yield client
    await client.close()


async def score(client: rpc.Client, what: str, *, timeout_s: float = 5.0) -> pb.ScoreResponse:
    return await client.call(
        client.stub(RewardServiceStub).Score, pb.ScoreRequest(reward_json=what), timeout_s=timeout_s
    )


@pytest.mark.parametrize(
    "error", [e for e in errors.all_errors() if e not in (errors.SynclineError, errors.InvalidSpec)]
)
async def test_an_error_of_the_tree_arrives_as_its_own_class_with_the_peers_name(
    client: rpc.Client, error: type[errors.SynclineError]
) -> None:
    with pytest.raises(error, match=r"reward-1 at unix:.*told by the peer") as raised:
        await score(client, error.code)
    assert type(raised.value) is error


@pytest.mark.parametrize("problems", [1, 1000])
async def test_a_refused_spec_arrives_with_its_problems(client: rpc.Client, problems: int) -> None:
    request = pb.ScoreRequest(reward_json="refuse", items=[pb.ScoreItem(completion=str(problems))])
    with pytest.raises(errors.InvalidSpec) as raised:
        await client.call(client.stub(RewardServiceStub).Score, request, timeout_s=5.0)
    # as many of them as a call's metadata may hold
    assert 1 <= len(raised.value.problems) <= problems
    problem = errors.FieldProblem("reward.options.regex", "no regular expression: \u00bd", "regex: str")
    assert set(raised.value.problems) == {problem}


async def test_a_deadline_names_the_peer(client: rpc.Client) -> None:
    with pytest.raises(errors.PeerTimeout, match=r"reward-1 at unix:.* did not answer in 0\.2 s"):
        await score(client, "hang", timeout_s=0.2)


async def test_a_bug_is_told_without_its_insides(client: rpc.Client) -> None:
    with pytest.raises(errors.SynclineError, match="KeyError in") as raised:
        await score(client, "bug")
    assert "secret" not in str(raised.value)


async def test_a_peer_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    client = rpc.Client(f"unix:{tmp_path}/nobody.sock", peer="reward-9")
    with pytest.raises(errors.Unavailable, match="reward-9"):
        await score(client, "", timeout_s=2)
    await client.close()


async def test_health_follows_readiness_and_liveness_is_apart(server: rpc.Server) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        async def status(name: str) -> int:
            reply = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
            return int(reply.status)

        serving = health_pb2.HealthCheckResponse.SERVING
        assert await status(NAME) != serving, "a server is not ready before it says so"
        assert await status("liveness") == serving
        await server.set_ready(True)
        assert [await status(name) for name in ("", NAME)] == [serving, serving]


async def test_reflection_lists_the_service(server: rpc.Server) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5)
        async for reply in call:
            assert NAME in {service.name for service in reply.list_services_response.service}
            break


async def test_a_taken_address_is_told_with_what_to_do(tmp_path: Path) -> None:
    first = rpc.Server("127.0.0.1:0")
    await first.start()
    second = rpc.Server(first.address)
    with pytest.raises(errors.Unavailable, match="choose another SYNCLINE_BIND"):
        await second.start()
    await first.stop(grace_s=0.1)
