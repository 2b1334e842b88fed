"""How fast answers are checked: two workers behind the pool, against one process that calls Math-Verify directly.

The answers are made here, alike to those of GSM8K (a few sentences, a whole number) and of MATH-500 (fractions, roots,
polynomials, intervals, matrices): groups of eight completions, half of them right, no two questions the same, so that
no memory of earlier answers helps. Two numbers are compared without Math-Verify, also where one has a unit, which is a
kind of its own. What the pool costs where that does not help, the formulas tell.

Direct means `verify(parse(gold), parse(completion))` with the library's own limits, the gold parsed once for its group.
The pool does the same work through everything that stands around a check: cutting out the answer, the way to a worker
process and back, limits.

Then the honest answers once more, while eight hostile ones are always in work, each of which needs a second of CPU time
or has to be killed. What is quoted is the throughput of the honest ones.

Not measured: streams, gRPC.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import math_verify

from services.reward.settings import RewardSettings
from services.reward.verdicts import Item
from services.reward.verifier_reward import Verification
from services.reward.verifiers.answers import gold_in
from services.reward.verifiers.pool import VerifierPool
from syncline.rewardspec import MathSpec
from tests.bench.report import BenchFailed, Figure, Measured, Options

WORKERS = 2
SAMPLES = 8
GROUPS_IN_FLIGHT = 64
HOSTILE_IN_FLIGHT = 8
TARGET_RATIO, TARGET_UNDER_ATTACK = 1.7, 0.7
SPEC = MathSpec(type="math")

HOSTILE = (
    r"9^{{9^{{9^{{9^{{{}}}}}}}}}",
    r"(({}!)!)!",
    r"(x+y+z+w)^{{3{}}}",
    r"\prod_{{n=1}}^{{1000000{}}} n",
    r"3^{{10^9{}}}",
)


@dataclass(frozen=True, slots=True)
class Group:
    """A gold answer with its completions, half of them right."""

    gold: str
    completions: Sequence[str]


def measure(options: Options) -> Measured:
    sums, formulas = (8, 4) if options.quick else (500, 250)
    groups = {
        "GSM8K-like answers": list(_sums(sums)),
        "GSM8K-like answers with a unit": list(_sums(sums, unit=r"\text{ dollars}")),
        "MATH-like answers": list(_formulas(formulas)),
    }
    direct = {kind: _direct(some) for kind, some in groups.items()}
    pooled, attacked, attacks = asyncio.run(_pooled(groups))
    figures: list[Figure] = []
    for kind, some in groups.items():
        checks = len(some) * SAMPLES
        ratio = direct[kind] / pooled[kind]
        directly, by_pool = checks / direct[kind], checks / pooled[kind]
        options.say(f"  {kind}: {directly:,.0f} checks/s directly, {by_pool:,.0f} by the pool")
        figures.append(
            Figure(
                name=f"{checks:,} {kind}, {WORKERS} workers against Math-Verify called directly",
                value=ratio,
                shown=f"x{ratio:.2f} ({by_pool:,.0f} checks/s)",
                target=f">= x{TARGET_RATIO:g}",
                met=ratio >= TARGET_RATIO,
            )
        )
    alone = sum(pooled.values())
    share = alone / attacked
    beside = f"{HOSTILE_IN_FLIGHT} hostile ones at any time, of which {attacks} ended meanwhile"
    options.say(f"  honest answers: {alone:.2f} s alone, {attacked:.2f} s beside {beside}")
    figures.append(
        Figure(
            name=f"throughput of honest answers while {HOSTILE_IN_FLIGHT} hostile ones are in work",
            value=share,
            shown=f"{100 * share:.1f} %",
            target=f">= {100 * TARGET_UNDER_ATTACK:g} %",
            met=share >= TARGET_UNDER_ATTACK,
        )
    )
    details = {"direct_seconds": direct, "pooled_seconds": pooled, "attacked_seconds": attacked, "attacks": attacks}
    return Measured(figures, details)


def _direct(groups: Sequence[Group]) -> float:
    """Seconds of one process. In the main thread, as the library's limits need it."""
    math_verify.verify(math_verify.parse("1/2"), math_verify.parse("2/4"))  # builds parsers, which the pool did before
    started, right = time.perf_counter(), 0
    for group in groups:
        gold = math_verify.parse(gold_in(group.gold))
        right += sum(math_verify.verify(gold, math_verify.parse(completion)) for completion in group.completions)
    seconds = time.perf_counter() - started
    _must_be_half(right, groups, "called directly")
    return seconds


async def _pooled(groups: dict[str, list[Group]]) -> tuple[dict[str, float], float, int]:
    """Seconds of each kind alone, of all of them under attack, and how many attacks ended meanwhile."""
    seconds: dict[str, float] = {}
    async with _pool() as pool:
        for kind, some in groups.items():
            seconds[kind] = await _score(pool, some)
    async with _pool() as pool:
        ended = itertools.count()
        attacks = [asyncio.create_task(_attack(pool, number, ended)) for number in range(HOSTILE_IN_FLIGHT)]
        attacked = 0.0
        for some in groups.values():
            attacked += await _score(pool, some)
        for attack in attacks:
            attack.cancel()
        await asyncio.gather(*attacks, return_exceptions=True)
    return seconds, attacked, next(ended)


async def _score(pool: VerifierPool, groups: Sequence[Group]) -> float:
    """Seconds that a reward without any memory needs."""
    reward = Verification(pool, answer_chars=4096)
    room = asyncio.Semaphore(GROUPS_IN_FLIGHT)

    async def one(group: Group) -> int:
        async with room:
            verdicts = await reward.score(SPEC, [Item("", completion, group.gold) for completion in group.completions])
        return sum(verdict.score == 1.0 for verdict in verdicts)

    started = time.perf_counter()
    right = sum(await asyncio.gather(*(one(group) for group in groups)))
    seconds = time.perf_counter() - started
    _must_be_half(right, groups, "by the pool")
    return seconds


async def _attack(pool: VerifierPool, number: int, ended: Iterator[int]) -> None:
    reward = Verification(pool, answer_chars=4096)
    for attempt in itertools.count():
        kind = HOSTILE[(number + attempt) % len(HOSTILE)]
        hostile = kind.format(9 + attempt % 90)
        [verdict] = await reward.score(SPEC, [Item("", rf"\boxed{{{hostile}}}", str(1000 * number + attempt))])
        if verdict.score:
            raise BenchFailed(f"a hostile answer was paid: {hostile}")
        next(ended)


@asynccontextmanager
async def _pool() -> AsyncIterator[VerifierPool]:
    settings = RewardSettings(verifier_workers=WORKERS)
    pool = VerifierPool(workers=WORKERS, limits=settings.limits, wall_s=settings.check_wall_s)
    running = asyncio.create_task(pool.run())
    try:
        async with asyncio.timeout(120):
            await pool.ready.wait()
            while len(pool.pids) < pool.size:
                await asyncio.sleep(0.01)
        yield pool
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def _must_be_half(right: int, groups: Sequence[Group], how: str) -> None:
    if right != len(groups) * SAMPLES // 2:
        raise BenchFailed(f"{right} of {len(groups) * SAMPLES} answers were right {how}, and half of them are")


def _sums(count: int, *, unit: str = "") -> Iterator[Group]:
    """Whole numbers at the end of a few sentences; the gold as GSM8K has it."""
    rng = random.Random(0)
    for number in range(count):
        price, pieces = rng.randint(11, 99), 1000 + number
        gold = price * pieces
        answers = [f"{gold}", f"{gold:,}", f"{gold}.0", f"{gold:,}.00", *(f"{gold + miss}" for miss in range(1, 5))]
        yield Group(
            gold=f"She sells {pieces} pieces for {price} each.\n{pieces} * {price} = {gold}\n#### {gold}",
            completions=[
                f"There are {pieces} pieces, and each of them costs {price}. To find out what all of them cost "
                f"we multiply {pieces} by {price}, which is {gold}. So the final answer is \\boxed{{{answer}{unit}}}."
                for answer in answers
            ],
        )


def _formulas(count: int) -> Iterator[Group]:
    """One of six kinds of formula each, in other forms than the gold's."""
    rng = random.Random(1)
    for number in range(count):
        a, b, c = number + 10, rng.randint(2, 9), rng.randint(2, 9)
        golds = (
            rf"\frac{{{a}}}{{{b * c}}}",
            rf"{a}\sqrt{{{b}}}",
            rf"(x+{a})(x-{b})",
            rf"\left[{a}, {a + b}\right)",
            rf"\begin{{pmatrix}} {a} \\ {b} \end{{pmatrix}}",
            rf"{a} + {b}\pi",
        )
        kind = number % len(golds)
        variants = [(miss, factor) for factor in range(2, 6) for miss in (0, factor)]
        answers = [_formula(kind, a, b, c, miss=miss, k=factor) for miss, factor in variants]
        yield Group(
            gold=golds[kind],
            completions=[
                f"We bring both sides into the same form and compare, as was shown above in the first part. "
                rf"Hence the answer is \boxed{{{answer}}}."
                for answer in answers
            ],
        )


def _formula(kind: int, a: int, b: int, c: int, *, miss: int, k: int) -> str:
    """The gold, but for `miss`, blown up by a factor."""
    return (
        rf"\frac{{{(a + miss) * k}}}{{{b * c * k}}}",
        rf"\frac{{{(a + miss) * k}\sqrt{{{b}}}}}{{{k}}}",
        rf"\frac{{{k}x^2 + {k * (a - b)}x - {k * (a * b + miss)}}}{{{k}}}",
        rf"\left[\frac{{{a * k}}}{{{k}}}, {a + b + miss}\right)",
        rf"\begin{{pmatrix}} {a + miss} \\ \frac{{{b * k}}}{{{k}}} \end{{pmatrix}}",
        rf"{b}\pi + \frac{{{(a + miss) * k}}}{{{k}}}",
    )[kind]
