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
from syncline.errors import InvalidSpec
from syncline.rewardspec import MathSpec, VerifierSpec
from tests.integration.reward_groups import until
from tests.integration.verifier_processes import cpu_seconds

pytestmark = pytest.mark.asyncio(loop_scope="module")

SPEC = MathSpec(type="math")
GOLD = "42"

TIMEOUT = {("timeout", "more than 0.5 s of CPU time"), ("timeout", "verifier ended: SIGVTALRM")}
WRONG = {("scored", "")}
NONE = {("unparsable", "no answer found")}
TOO_LONG = {("unparsable", "answer above 4096 characters")}
SLOW_OR_WRONG = TIMEOUT | WRONG
"""How a hostile answer ends, with the cause. Some are slow to read, and a fast machine reads them in time."""

FORMULAS = {
    "tower of powers": (r"9^{9^{9^9}}", TIMEOUT),
    "tower of small powers": (r"2^{2^{2^{2^{2^{2^2}}}}}", TIMEOUT),
    "power of a huge exponent": (r"3^{10^9}", TIMEOUT),
    "power of a power of ten": (r"10^{10^{10}}", TIMEOUT),
    "published killer of the parser": (
        r"\dfrac{5^{\left(5^{\left(5^{\left(5^5\right)}\right)} - 4\right)} - 5}{16}",
        TIMEOUT,
    ),
    "factorial of a billion": (r"1000000000!", TIMEOUT),
    "factorial of factorials": (r"((9!)!)!", TIMEOUT),
    "binomial of millions": (r"\binom{1000000}{500000}", TIMEOUT),
    "product of a million": (r"\prod_{n=1}^{1000000} n", TIMEOUT),
    "endless sum": (r"\sum_{n=1}^{\infty} \frac{\sin(n)^{n}}{n!}", SLOW_OR_WRONG),
    "integral without an end": (r"\int_0^{\infty} e^{-x^x} \sin(x^{x}) dx", TIMEOUT),
    "polynomial of a high power": (r"(x+y+z+w)^{300}", TIMEOUT),
    "large set": (r"\{" + ",".join(map(str, range(900))) + r"\}", SLOW_OR_WRONG),
    "nested brackets": ("(" * 500 + "1" + ")" * 500, SLOW_OR_WRONG),
    "nested fractions": (r"\frac{1}{" * 100 + "1" + "}" * 100, SLOW_OR_WRONG),
    "nested roots": (r"\sqrt{" * 300 + "2" + "}" * 300, SLOW_OR_WRONG),
    "nested braces": ("{" * 2000 + "1" + "}" * 2000, SLOW_OR_WRONG),
    "unclosed braces": (r"\frac{" * 500, SLOW_OR_WRONG),
    "thousands of signs": ("-" * 4000 + "1", SLOW_OR_WRONG),
    "4,000 digits": ("7" * 4000, WRONG),
    "division by zero": (r"\frac{0}{0}", WRONG),
    "code": ('__import__("os").abort()', WRONG),
    "pieces of LaTeX": ("qwe{ $#" * 500, SLOW_OR_WRONG),
}
COMPLETIONS = {name: (rf"\boxed{{{formula}}}", ends) for name, (formula, ends) in FORMULAS.items()} | {
    "megabyte of digits": ("7" * 1_000_000, WRONG),
    "megabyte in a box": (r"\boxed{" + "1+" * 500_000 + "1}", TOO_LONG),
    "megabyte of words": ("so it goes " * 100_000, NONE),
    "megabyte of dollars": ("$" * 1_000_000, NONE),
    "megabyte of backslashes": ("\\" * 1_000_000, NONE),
    "megabyte of opened boxes": (r"\boxed{" * 140_000, NONE),
    "megabyte on one marked line": ("#### " + "9" * 1_000_000, WRONG),
    "thousands of boxes": (r"\boxed{1} " * 5_000, TOO_LONG),
    "thousands of boxes with every number": ("".join(rf"\boxed{{{number}}}" for number in range(3_000)), TOO_LONG),
    "control characters": ("".join(map(chr, range(32))) + "41" + "".join(map(chr, range(32))), WRONG),
    "control characters in a box": ("\\boxed{\0\x1b[2J\x07 41 \r\n\x85\u2028}", WRONG),
    "marks of writing direction": ("\u202e\u2067\u200f24\u2069\u202c", WRONG),
    "combining characters": ("4" + "\u0301" * 3_000 + "1", WRONG),
    "half of a surrogate pair": ("\ud83d 41", WRONG),
    "lines that look like the wire": ('41\n[1.0, "math", "42", "42", "{}"]\n["scored", 1.0]\n41', WRONG),
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


@pytest.mark.parametrize(("hostile", "ends"), COMPLETIONS.values(), ids=COMPLETIONS)
async def test_a_hostile_completion_is_worth_nothing_and_holds_nobody_up(
    pool: VerifierPool, hostile: str, ends: set[tuple[str, str]]
) -> None:
    reward = Verification(pool, answer_chars=4096)
    await until(lambda: len(pool.pids) == pool.size, what="the pool is whole")
    spent_s = cpu_seconds(pool)
    # when a hostile and an honest answer are scored at the same time
    cpu_s = time.process_time()
    attack = asyncio.create_task(reward.score(SPEC, [Item("", hostile, GOLD)]))
    [honest] = await asyncio.wait_for(reward.score(SPEC, [Item("", r"\boxed{42}", GOLD)]), timeout=30)
    # then the honest one is answered, and the hostile one too, in the end
    assert (honest.status, honest.score) == ("scored", 1.0)
    [verdict] = await asyncio.wait_for(attack, timeout=60)
    assert (verdict.status, verdict.cause) in ends
    assert verdict.score == 0.0
    # and the workers spent no more on it than its three tries may take; CPU time, as that is the same on a busy machine
    assert cpu_seconds(pool) - spent_s < (0.05 + 0.3 + 0.5) + 2 * 0.25 + 0.5
    # and this process, where everything else happens, did hardly work for it
    assert time.process_time() - cpu_s < 1.0
    await until(lambda: len(pool.pids) == pool.size, what="the pool is whole")


async def test_honest_answers_overtake_hostile_ones(pool: VerifierPool) -> None:
    reward = Verification(pool, answer_chars=4096)
    # given more hostile answers than there are workers, each of which needs its whole limit
    slow, _ = FORMULAS["tower of powers"]
    attacks = asyncio.create_task(
        reward.score(SPEC, [Item("", rf"\boxed{{{slow}}}", str(gold)) for gold in range(100, 112)])
    )
    # when honest ones come after them
    honest = await reward.score(SPEC, [Item("", str(number), str(number)) for number in range(200)])
    # then they have their verdicts first
    assert not attacks.done()
    assert [verdict.score for verdict in honest] == [1.0] * 200
    assert {verdict.status for verdict in await attacks} == {"timeout"}


async def test_a_completion_that_is_looked_at_as_a_whole_is_capped_too(pool: VerifierPool) -> None:
    reward = Verification(pool, answer_chars=64, completion_chars=100)
    exact = VerifierSpec(type="verifier", name="exact_match")
    short, long = await reward.score(exact, [Item("", "a" * 100, "a" * 100), Item("", "a" * 101, "a" * 100)])
    assert (short.status, short.score) == ("scored", 1.0)
    assert (long.status, long.score, long.cause) == ("unparsable", 0.0, "completion above 100 characters")


@pytest.mark.parametrize(
    ("spec", "gold"),
    [(SPEC, r"\boxed{" + "1+" * 60 + "1}"), (VerifierSpec(type="verifier", name="exact_match"), "a" * 101)],
    ids=["a part of it", "the whole"],
)
async def test_a_gold_answer_above_the_cap_is_an_error_of_the_data(
    pool: VerifierPool, spec: MathSpec | VerifierSpec, gold: str
) -> None:
    reward = Verification(pool, answer_chars=64, completion_chars=100)
    with pytest.raises(InvalidSpec, match=r"answer: .* has 1\d\d characters, and (64|100) are checked"):
        await reward.score(spec, [Item("", "1", gold)])
