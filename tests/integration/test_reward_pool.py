"""The verifier pool with real processes: hostile answers, killed workers, repeated questions."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import math_verify
import pytest
import pytest_asyncio

from services.reward.verdicts import Item
from services.reward.verifier_reward import Verification
from services.reward.verifiers.answers import answer_in, gold_in
from services.reward.verifiers.math import as_read, same_words
from services.reward.verifiers.pool import VerifierPool
from services.reward.verifiers.wire import Limits, Outcome, Question
from syncline.errors import InvalidSpec, Unavailable
from syncline.rewardspec import MathSpec
from tests.bench.verifier import _formulas
from tests.integration.reward_groups import running_process
from tests.integration.verifier_processes import cpu_ticks, niceness, parent_of
from tests.unit.reward.answer_table import KNOWN_DIFFERENCES, TABLE
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MATH_500 = Path(__file__).parents[3] / "shared" / "data" / "math500.jsonl"
WORKERS = 2
RIGHT = Outcome("scored", score=1.0)
WRONG = Outcome("scored", score=0.0)
SLOW = r"\boxed{9^{9^{9^9}}}"
SPEC = MathSpec(type="math")


@asynccontextmanager
async def running(*, cpu_s: float = 0.5, wall_s: float = 60.0, memory_mb: int = 512) -> AsyncIterator[VerifierPool]:
    pool = VerifierPool(workers=WORKERS, limits=Limits(cpu_s=cpu_s, memory_mb=memory_mb), wall_s=wall_s)
    task = asyncio.create_task(pool.run())
    ready = asyncio.create_task(pool.ready.wait())
    try:
        await asyncio.wait({task, ready}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        assert ready.done(), task
        yield pool
    finally:
        for one in (ready, task):
            one.cancel()
        await asyncio.gather(ready, task, return_exceptions=True)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pool() -> AsyncIterator[VerifierPool]:
    async with running() as pool:
        yield pool


async def outcome_of(pool: VerifierPool, *, gold: str, answer: str) -> Outcome:
    outcome = await pool.ask(Question("math", gold=gold, answer=answer))
    return replace(outcome, seconds=0.0)


async def end_whoever_is_at_work(pool: VerifierPool, by: signal.Signals, *, while_pending: asyncio.Future[Any]) -> None:
    """End each worker that uses CPU time, as one in the middle of a check does, until the future is done."""
    first_seen: dict[int, int] = {}
    while not while_pending.done():
        for pid in pool.pids:
            if cpu_ticks(pid) - first_seen.setdefault(pid, cpu_ticks(pid)) > 2:
                with suppress(ProcessLookupError):
                    os.kill(pid, by)
        await asyncio.sleep(0.005)


async def whole(pool: VerifierPool, *, without: frozenset[int] = frozenset()) -> None:
    await until(lambda: len(pool.pids) == pool.size and not pool.pids & without, what="the pool is whole")


async def test_equal_is_told_from_different(pool: VerifierPool) -> None:
    assert await outcome_of(pool, gold="1/2", answer="2/4") == RIGHT
    assert await outcome_of(pool, gold="1/3", answer="2/4") == WRONG


async def test_many_checks_at_once_each_get_their_own_answer(pool: VerifierPool) -> None:
    outcomes = await asyncio.gather(*(outcome_of(pool, gold=str(i), answer=str(i + i % 3)) for i in range(60)))
    assert [outcome.score for outcome in outcomes] == [float(i % 3 == 0) for i in range(60)]


FIRST_OF_ITS_KIND = {
    "fraction": (r"\frac{17}{35}", r"\frac{34}{70}"),
    "root": (r"13\sqrt{6}", r"\frac{26\sqrt{6}}{2}"),
    "polynomial": ("(x+12)(x-9)", r"\frac{2x^2 + 6x - 216}{2}"),
    "interval": (r"\left[13, 22\right)", r"\left[\frac{26}{2}, 22\right)"),
    "union": (r"(0,9) \cup (9,36)", r"(9,36) \cup (0,9)"),
    "matrix": (r"\begin{pmatrix} 14 \\ 5 \end{pmatrix}", r"\begin{pmatrix} 14 \\ \frac{10}{2} \end{pmatrix}"),
    "sum with pi": (r"15 + 9\pi", r"9\pi + \frac{30}{2}"),
    "set": (r"\{4, 7\}", r"7, \frac{8}{2}"),
    "equation": ("y = 3x + 8", "y = 8 + 3x"),
    "percent": ("30%", r"\frac{3}{10}"),
}


async def test_a_new_worker_has_met_every_kind_of_answer_so_that_the_first_costs_no_more_than_later_ones() -> None:
    slow = list(FIRST_OF_ITS_KIND)
    for _ in range(3):  # one quiet moment of a busy machine is enough
        # given workers that have answered nothing yet, and no more CPU time than quick checks get
        async with running(cpu_s=0.05) as pool:
            asked = {
                kind: pool.ask(Question("math", gold=rf"\boxed{{{gold}}}", answer=rf"\boxed{{{answer}}}"))
                for kind, (gold, answer) in FIRST_OF_ITS_KIND.items()
            }
            outcomes = {kind: replace(await outcome, seconds=0.0) for kind, outcome in asked.items()}
        # then none of them runs out of it
        assert all(outcome == RIGHT for outcome in outcomes.values() if outcome.status != "timeout")
        if not (slow := [kind for kind, outcome in outcomes.items() if outcome.status == "timeout"]):
            break
    assert slow == []


def corpus() -> list[tuple[str, str]]:
    """(gold, answer) as they are cut out: the answer table, the bench's formulas, and MATH-500 against itself."""
    rows = [(gold, completion) for rows in (*TABLE.values(), KNOWN_DIFFERENCES) for gold, completion, *_ in rows]
    rows += [(group.gold, completion) for group in _formulas(12) for completion in group.completions]
    if MATH_500.is_file():
        golds = [json.loads(line)["answer"] for line in MATH_500.read_text(encoding="utf-8").splitlines()][::4]
        rows += [(gold, rf"\boxed{{{other}}}") for gold, next_one in pairwise(golds) for other in (gold, next_one)]
    return [(gold_in(gold), answer_in(completion, longest=4096) or "") for gold, completion in rows]


async def test_the_pool_says_of_every_answer_what_math_verify_says_in_one_thread() -> None:
    pairs = corpus()
    async with running(cpu_s=20.0) as pool:
        asked = [pool.ask(Question("math", gold=gold, answer=answer)) for gold, answer in pairs]
        by_pool = [(outcome.status, outcome.score) for outcome in await asyncio.gather(*asked)]
    different = [
        (gold, answer, said, direct)
        for (gold, answer), said in zip(pairs, by_pool, strict=True)
        if said != (direct := directly(gold, answer)) and not told_otherwise(gold, answer)
    ]
    assert different == []
    assert len(pairs) > 350


def directly(gold: str, answer: str) -> tuple[str, float]:
    """Math-Verify without anything of ours around it."""
    found = math_verify.parse(answer, parsing_timeout=None)
    if not found:
        return "unparsable", 0.0
    return "scored", float(
        math_verify.verify(math_verify.parse(gold, parsing_timeout=None), found, timeout_seconds=None)
    )


READ_OTHERWISE = {
    (r"\boxed{(-\infty,3)}", r"\boxed{x<3}"),
    (r"\boxed{(2,4)}", r"\boxed{2<x<4}"),
    (r"\boxed{1,2}", r"\boxed{1,1,2}"),
    (r"\boxed{1,1,2}", r"\boxed{1,2}"),
    (r"\boxed{1.6\times10^{-19}}", r"\boxed{1.6\times10^{-18}}"),
}


def told_otherwise(gold: str, answer: str) -> bool:
    """What we say and the library alone does not."""
    read_by_us = as_read(answer, gold) != (answer, gold) or same_words(answer, gold) is not None
    return read_by_us or (gold, answer) in READ_OTHERWISE or (gold == "85" and "= 85" in answer)


async def test_more_hostile_answers_than_workers_do_not_use_the_pool_up(pool: VerifierPool) -> None:
    attacks = [asyncio.create_task(outcome_of(pool, gold=str(i), answer=SLOW)) for i in range(2 * WORKERS)]
    honest = [asyncio.create_task(outcome_of(pool, gold=str(i), answer=str(i))) for i in range(20)]
    assert all(outcome.status == "timeout" for outcome in await asyncio.gather(*attacks))
    assert all(outcome == RIGHT for outcome in await asyncio.gather(*honest))


async def test_workers_killed_from_outside_are_replaced_within_a_second_and_their_checks_repeated(
    pool: VerifierPool,
) -> None:
    seconds: list[float] = []
    while not seconds or (min(seconds) > 1.0 and len(seconds) < 5):  # one quiet moment of a busy machine is enough
        # given checks in work on every worker
        before = pool.pids
        gold = f"42{len(seconds)}"
        checks = [asyncio.create_task(outcome_of(pool, gold=gold, answer=SLOW)) for _ in range(WORKERS)]
        await asyncio.sleep(0)
        # when all workers are killed
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        killed_at = time.monotonic()
        # then the pool is whole at once, and the checks have their answer all the same
        await whole(pool, without=before)
        seconds.append(time.monotonic() - killed_at)
        for outcome in await asyncio.gather(*checks):
            assert outcome.cause == "more than 0.5 s of CPU time"
    assert min(seconds) < 1.0  # tens of milliseconds on an idle machine


@pytest.mark.timeout(300)
async def test_a_slow_honest_check_does_not_wait_for_the_end_of_hostile_ones(pool: VerifierPool) -> None:
    # given hostile answers that wait for their whole limit, each after its moment with a quick worker
    attacks = [pool.ask(Question("math", gold=str(i), answer=SLOW)) for i in range(8)]
    await until(
        lambda: any(attack.done() for attack in attacks), what="the first hostile one has its end", within_s=120
    )
    # when an honest answer comes that needs several times what a quick check gets
    slow = pool.ask(Question("math", gold=r"\boxed{\sin^2 x \cos^2 x}", answer=r"\boxed{\frac{\sin^2(2x)}{4}}"))
    # then it is answered while most of them still wait
    assert replace(await slow, seconds=0.0) == RIGHT
    assert sum(attack.done() for attack in attacks) <= 3
    assert {outcome.status for outcome in await asyncio.gather(*attacks)} == {"timeout"}


async def test_code_that_no_signal_interrupts_is_ended_by_the_kernel_soon_after_its_limit(pool: VerifierPool) -> None:
    # given one step of C code that needs minutes, in which no handler of ours can run
    outcome = await outcome_of(pool, gold="42", answer=r"\boxed{3^{10^9}}")
    assert outcome.status == "timeout"
    assert outcome.cause in ("verifier ended: SIGVTALRM", "more than 0.5 s of CPU time")
    await whole(pool)


async def test_idle_workers_that_were_killed_cost_no_check(pool: VerifierPool) -> None:
    before = pool.pids
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert await outcome_of(pool, gold="5", answer="5") == RIGHT
    await whole(pool, without=before)


async def test_a_check_that_crashes_its_workers_is_a_timeout_with_its_cause() -> None:
    async with running(cpu_s=20.0) as pool:
        check = pool.ask(Question("math", gold="42", answer=SLOW))
        await end_whoever_is_at_work(pool, signal.SIGSEGV, while_pending=check)
        outcome = await check
        assert (outcome.status, outcome.cause) == ("timeout", "verifier ended: SIGSEGV")
        await whole(pool)


async def test_a_frozen_worker_is_killed_at_the_wall_clock_deadline_and_replaced_within_a_second() -> None:
    async with running(wall_s=2.0) as pool:
        seconds: list[float] = []
        while not seconds or (min(seconds) > 1.0 and len(seconds) < 5):  # one quiet moment of a busy machine is enough
            # given workers that are all frozen when they are asked
            await whole(pool)
            before = pool.pids
            for pid in before:
                os.kill(pid, signal.SIGSTOP)
            checks = [asyncio.create_task(outcome_of(pool, gold="5", answer="10/2")) for _ in range(WORKERS)]
            # when the first of them is killed
            await until(lambda before=before: before - pool.pids, what="a worker is killed at the deadline")
            killed_at, left = time.monotonic(), len(before & pool.pids)
            # then it has a successor at once, and every check has its answer all the same
            await until(lambda left=left: len(pool.pids) >= left + 1, what="it is replaced")
            seconds.append(time.monotonic() - killed_at)
            assert await asyncio.gather(*checks) == [RIGHT] * WORKERS
            for pid in before & pool.pids:
                os.kill(pid, signal.SIGCONT)
        assert min(seconds) < 1.0  # tens of milliseconds on an idle machine


async def test_a_check_whose_every_worker_is_killed_from_outside_is_unavailable_in_the_end_and_not_wrong() -> None:
    problem = "3 verifier workers were killed over one answer, and not by us: SIGKILL"
    async with running(cpu_s=30.0) as pool:  # the check cannot end before its third worker
        check = pool.ask(Question("math", gold="42", answer=SLOW))
        await end_whoever_is_at_work(pool, signal.SIGKILL, while_pending=check)
        with pytest.raises(Unavailable, match=problem):
            await check
        scoring = asyncio.create_task(Verification(pool, answer_chars=4096).score(SPEC, [Item("", SLOW, "43")]))
        await end_whoever_is_at_work(pool, signal.SIGKILL, while_pending=scoring)
        [verdict] = await scoring
        assert (verdict.status, verdict.score) == ("unavailable", None)
        assert problem in verdict.cause
        await whole(pool)


async def test_checks_that_a_lost_worker_held_and_had_not_begun_do_not_go_behind_hostile_ones() -> None:
    async with running(wall_s=5.0) as pool:
        await whole(pool)
        # given a patient worker that will not answer, and a quick one that freezes with checks in its hands; all are so
        # short that the machine must be very busy for the other one to need more than a quick worker's time
        patient = max(pool.pids, key=niceness)
        for pid in (patient, next(pid for pid in pool.pids if pid != patient)):
            os.kill(pid, signal.SIGSTOP)
        outcomes = await asyncio.gather(*(outcome_of(pool, gold=str(i), answer=str(i)) for i in range(20)))
        # then the other quick one answers them all, and none was ever put before the patient one
        assert outcomes == [RIGHT] * 20
        assert patient in pool.pids


async def test_memory_is_bounded_and_a_worker_that_grew_large_is_replaced_within_a_second() -> None:
    async with running(cpu_s=10.0, memory_mb=256) as pool:
        seconds: list[float] = []
        while not seconds or (min(seconds) > 1.0 and len(seconds) < 5):  # one quiet moment of a busy machine is enough
            await whole(pool)
            before = pool.pids
            outcome = await outcome_of(pool, gold=f"4{len(seconds)}", answer=r"\boxed{2^{10^{12}}}")
            ended_at = time.monotonic()
            assert outcome.score == 0.0
            assert outcome.last
            await until(lambda before=before: len(pool.pids - before) >= 1, what="the worker is replaced")
            seconds.append(time.monotonic() - ended_at)
        assert min(seconds) < 1.0
        await whole(pool)
        assert await outcome_of(pool, gold="42", answer="84/2") == RIGHT


async def test_workers_that_keep_ending_are_not_started_for_ever() -> None:
    async with running() as pool:
        # when workers end again and again and not one answers
        async with asyncio.timeout(60):
            while pool.ready.is_set():
                for pid in pool.pids:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                await asyncio.sleep(0.001)
        # then the verifier is built anew, and the reason is kept
        assert "ended without an answer, the last by SIGKILL" in pool.error
        await asyncio.wait_for(pool.ready.wait(), timeout=60)
        assert await outcome_of(pool, gold="5", answer="5") == RIGHT


async def test_when_the_whole_verifier_dies_it_comes_back_and_checks_are_repeated() -> None:
    async with running() as pool:
        checks = [asyncio.create_task(outcome_of(pool, gold="42", answer=SLOW)) for _ in range(WORKERS)]
        await asyncio.sleep(0)
        before = pool.pids
        os.kill(parent_of(next(iter(before))), signal.SIGKILL)
        for outcome in await asyncio.gather(*checks):
            assert outcome.cause == "more than 0.5 s of CPU time"
        await whole(pool, without=before)
        await until(lambda: not any(running_process(pid) for pid in before), what="the old workers are gone")


async def test_equal_questions_are_asked_once(pool: VerifierPool) -> None:
    # given a completion that costs a second of CPU time
    reward = Verification(pool, answer_chars=4096)
    items = [Item(prompt="", completion=f"I think {i}: " + "so " * 30 + SLOW, answer="42") for i in range(50)]
    # when it comes fifty times, with different words around the same answer
    started = time.monotonic()
    first = await reward.score(SPEC, items)
    spent_s = time.monotonic() - started
    # then it was checked once, and never again
    assert {verdict.status for verdict in first} == {"timeout"}
    assert spent_s < 25.0
    started = time.monotonic()
    again = await reward.score(SPEC, items)
    assert {(verdict.status, verdict.seconds) for verdict in again} == {("timeout", 0.0)}
    assert time.monotonic() - started < 0.5


async def test_the_memory_of_questions_is_bounded(pool: VerifierPool) -> None:
    reward = Verification(pool, answer_chars=4096, remembered=2)
    for _ in range(2):
        verdicts = await reward.score(SPEC, [Item("", str(i), "3") for i in range(6)])
        assert [verdict.score for verdict in verdicts] == [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert len(reward._known) == 2


async def test_a_caller_that_gives_up_does_not_take_the_answer_from_others(pool: VerifierPool) -> None:
    reward = Verification(pool, answer_chars=4096)
    items = [Item("", SLOW, "43")]
    impatient = asyncio.create_task(reward.score(SPEC, items))
    patient = asyncio.create_task(reward.score(SPEC, items))
    await asyncio.sleep(0)
    impatient.cancel()
    assert [verdict.status for verdict in await patient] == ["timeout"]


async def test_gold_that_cannot_be_read_is_refused_instead_of_scored(pool: VerifierPool) -> None:
    reward = Verification(pool, answer_chars=4096)
    with pytest.raises(InvalidSpec, match="cannot be read"):
        await reward.score(SPEC, [Item("", "85", "85"), Item("", "85", r"\boxed{}")])
