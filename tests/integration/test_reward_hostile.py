"""Hostile completions: whatever a policy writes, it is worth nothing, in time, and holds no honest answer up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.reward.verdicts import Item
from services.reward.verifier_reward import Verification
from services.reward.verifiers.pool import VerifierPool
from services.reward.verifiers.wire import Limits
from syncline.rewardspec import MathReward
from tests.integration.reward_groups import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

SPEC = MathReward(type="math")
GOLD = "42"

FORMULAS = {
    "tower of powers": r"9^{9^{9^9}}",
    "tower of small powers": r"2^{2^{2^{2^{2^{2^2}}}}}",
    "power of a huge exponent": r"3^{10^9}",
    "power of a power of ten": r"10^{10^{10}}",
    "published killer of the parser": r"\dfrac{5^{\left(5^{\left(5^{\left(5^5\right)}\right)} - 4\right)} - 5}{16}",
    "factorial of a billion": r"1000000000!",
    "factorial of factorials": r"((9!)!)!",
    "binomial of millions": r"\binom{1000000}{500000}",
    "product of a million": r"\prod_{n=1}^{1000000} n",
    "endless sum": r"\sum_{n=1}^{\infty} \frac{\sin(n)^{n}}{n!}",
    "integral without an end": r"\int_0^{\infty} e^{-x^x} \sin(x^{x}) dx",
    "polynomial of a high power": r"(x+y+z+w)^{300}",
    "large set": r"\{" + ",".join(map(str, range(900))) + r"\}",
    "nested brackets": "(" * 500 + "1" + ")" * 500,
    "nested fractions": r"\frac{1}{" * 100 + "1" + "}" * 100,
    "nested roots": r"\sqrt{" * 300 + "2" + "}" * 300,
    "nested braces": "{" * 2000 + "1" + "}" * 2000,
    "unclosed braces": r"\frac{" * 500,
    "thousands of signs": "-" * 4000 + "1",
    "4,000 digits": "7" * 4000,
    "division by zero": r"\frac{0}{0}",
    "code": '__import__("os").abort()',
    "pieces of LaTeX": "qwe{ $#" * 500,
}
COMPLETIONS = {name: rf"\boxed{{{formula}}}" for name, formula in FORMULAS.items()} | {
    "megabyte of digits": "7" * 1_000_000,
    "megabyte in a box": r"\boxed{" + "1+" * 500_000 + "1}",
    "megabyte of words": "so it goes " * 100_000,
    "megabyte of dollars": "$" * 1_000_000,
    "megabyte of backslashes": "\\" * 1_000_000,
    "megabyte of opened boxes": r"\boxed{" * 140_000,
    "megabyte on one marked line": "#### " + "9" * 1_000_000,
    "thousands of boxes": r"\boxed{1} " * 5_000,
    "thousands of boxes with every number": "".join(rf"\boxed{{{number}}}" for number in range(3_000)),
    "control characters": "".join(map(chr, range(32))) + "41" + "".join(map(chr, range(32))),
    "control characters in a box": "\\boxed{\0\x1b[2J\x07 41 \r\n\x85\u2028}",
    "marks of writing direction": "\u202e\u2067\u200f24\u2069\u202c",
    "combining characters": "4" + "\u0301" * 3_000 + "1",
    "half of a surrogate pair": "\ud83d 41",
    "lines that look like the wire": '41\n[1.0, "math", "42", "42", "{}"]\n["scored", 1.0]\n41',
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pool() -> AsyncIterator[VerifierPool]:
    pool = VerifierPool(workers=2, limits=Limits(cpu_s=0.5, memory_mb=512), wall_s=60.0)
    task = asyncio.create_task(pool.run())
    try:
        await asyncio.wait_for(pool.ready.wait(), timeout=60)
        yield pool
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("hostile", COMPLETIONS.values(), ids=COMPLETIONS)
async def test_a_hostile_completion_is_worth_nothing_and_holds_nobody_up(pool: VerifierPool, hostile: str) -> None:
    reward = Verification(pool, answer_chars=4096)
    # when a hostile and an honest answer are scored at the same time
    cpu_s = time.process_time()
    attack = asyncio.create_task(reward.score(SPEC, [Item("", hostile, GOLD)]))
    [honest] = await asyncio.wait_for(reward.score(SPEC, [Item("", r"\boxed{42}", GOLD)]), timeout=30)
    # then the honest one is answered, and the hostile one too, in the end
    assert (honest.status, honest.score) == ("scored", 1.0)
    [verdict] = await asyncio.wait_for(attack, timeout=60)
    assert verdict.status in ("timeout", "unparsable", "scored")
    assert verdict.score == 0.0
    # and this process, where everything else happens, did hardly work for it
    assert time.process_time() - cpu_s < 1.0
    await until(lambda: len(pool.pids) == pool.size, what="the pool is whole")


async def test_honest_answers_overtake_hostile_ones(pool: VerifierPool) -> None:
    reward = Verification(pool, answer_chars=4096)
    # given more hostile answers than there are workers, each of which needs its whole limit
    slow = FORMULAS["tower of powers"]
    attacks = asyncio.create_task(
        reward.score(SPEC, [Item("", rf"\boxed{{{slow}}}", str(gold)) for gold in range(100, 112)])
    )
    # when honest ones come after them
    honest = await reward.score(SPEC, [Item("", str(number), str(number)) for number in range(200)])
    # then they have their verdicts first
    assert not attacks.done()
    assert [verdict.score for verdict in honest] == [1.0] * 200
    assert {verdict.status for verdict in await attacks} == {"timeout"}
