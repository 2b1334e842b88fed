"""What tests of a judge share: its spec, answers to judge, and a judge with a taste."""

from __future__ import annotations

from typing import Any

from prometheus_client import REGISTRY

from services.reward.verdicts import Item, Verdict
from syncline.rewardspec import JudgeSpec
from tests.integration.scripted_openai import Request, ScriptedServer, says

KEY = "sk-secret-0123456789"


FAILED: dict[str, dict[str, str]] = {
    "syncline_reward_judgments_total": {"outcome": "unavailable"},
    "syncline_reward_retries_total": {},
}


def judge(server: ScriptedServer, **options: Any) -> JudgeSpec:
    """A judge at that server."""
    return JudgeSpec(type="judge", endpoint=server.address, model="m", timeout_s=5.0, **options)


def items(*completions: str, seeds: tuple[str | None, ...] = ()) -> list[Item]:
    """Answers to one question, with the seed model's where it gave any."""
    told = ({"role": "user", "content": "Name a colour."},)
    return [
        Item("", text, "", messages=told, seed_answer=seeds[index] if seeds else None)
        for index, text in enumerate(completions)
    ]


def numbers(verdicts: list[Verdict]) -> list[tuple[str, float | None]]:
    """Status and score of each."""
    return [(verdict.status, verdict.score) for verdict in verdicts]


def counted(name: str, **labels: str) -> float:
    """A counter of the judge, as Prometheus sees it."""
    return REGISTRY.get_sample_value(name, {"reward": "judge", **labels}) or 0.0


def shorter_wins(request: Request) -> bytes:
    """A judge with a simple taste, asked by our own template."""
    first = request.question.partition("<answer_a>\n")[2].partition("\n</answer_a>")[0]
    second = request.question.partition("<answer_b>\n")[2].partition("\n</answer_b>")[0]
    winner = "tie" if len(first) == len(second) else "A" if len(first) < len(second) else "B"
    return says(f"Length decides. <winner>{winner}</winner>")
