"""Who is alive, also while processes of two versions of Syncline are up."""

from __future__ import annotations

import json

from redis.asyncio import Redis

from syncline import keys
from syncline.membership import Registration, members


def registration(redis: Redis, id: str) -> Registration:
    status = {"phase": "serving"}
    return Registration(redis, role="inference", id=id, address="unix:x", ttl_s=60.0, status=lambda: status)


async def test_a_member_is_found_as_it_described_itself(redis: Redis) -> None:
    await registration(redis, "inference-0").beat()
    [member] = await members(redis, "inference")
    assert (member.id, member.role, member.address, member.status) == (
        "inference-0",
        "inference",
        "unix:x",
        {"phase": "serving"},
    )
    assert await members(redis, "reward") == []


async def test_a_member_of_a_later_version_is_found_without_what_is_not_known_of_it(redis: Redis) -> None:
    await registration(redis, "inference-0").beat()
    key = keys.member("inference", "inference-0")
    record = json.loads(await redis.get(key)) | {"id": "inference-1", "zone": "b", "started_at": 0.0}
    await redis.set(keys.member("inference", "inference-1"), json.dumps(record))
    assert [member.id for member in await members(redis, "inference")] == ["inference-1", "inference-0"]


async def test_a_record_that_does_not_fit_hides_nobody_else(redis: Redis) -> None:
    await registration(redis, "inference-0").beat()
    for number, record in enumerate(["{}", "no JSON", '{"id": "x", "role": "inference", "started_at": "today"}']):
        await redis.set(keys.member("inference", f"odd-{number}"), record)
    assert [member.id for member in await members(redis, "inference")] == ["inference-0"]
