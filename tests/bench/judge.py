"""A judge that can really read and write, as far as 135 million parameters can: SmolLM2-135M-Instruct in vLLM on a CPU.

    make judge

It is asked through the reward service's own code, by our own prompts, and the table shows what became of each judgment.
So small a judge is no good one: what is shown is that real replies meet the rules, and how long a judgment takes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from services.reward.endpoints import Endpoints
from services.reward.judge_reward import JudgeReward
from services.reward.verdicts import Item, Verdict
from syncline.rewardspec import JudgeSpec
from tests.integration.vllm_server import starting

QUESTIONS = {
    "What is the capital of France?": ("Paris is the capital of France.", "banana banana banana"),
    "Name three primary colours.": ("Red, yellow and blue.", "I do not want to tell you."),
    "Why does ice float on water?": ("Ice is less dense than liquid water, so it floats.", "Because fish push it."),
}
"""A question with a good answer and a bad one."""


WAYS: dict[str, dict[str, Any]] = {
    "pointwise, our prompt": {"max_tokens": 256},
    "pointwise, a short prompt": {
        "template": "Question: {prompt}\nAnswer: {answer}\n\nRate the answer from 0 to 10. Reply with the number only.",
        "judgments": 4,
        "max_tokens": 24,
    },
    "pairwise, a short prompt": {
        "mode": "pairwise",
        "template": "Question: {prompt}\nAnswer A: {first}\nAnswer B: {second}\n\nWhich answer is better? "
        "Reply with A or B only.",
        "judgments": 4,
        "max_tokens": 24,
    },
}
"""How it is asked. Our prompt is for judges that can think; a template of one's own suits a small one better."""


async def judge(address: str) -> dict[str, list[tuple[str, Verdict]]]:
    """Verdicts with the answer that they are of, by how the judge was asked."""
    endpoints = Endpoints()
    found: dict[str, list[tuple[str, Verdict]]] = {}
    for how, options in WAYS.items():
        spec = JudgeSpec(type="judge", endpoint=address, model="smollm2", timeout_s=600.0, **options)
        reward = JudgeReward(endpoints)
        groups = [
            [Item(question, text, "", messages=_asked(question)) for text in answers]
            for question, answers in QUESTIONS.items()
        ]
        verdicts = await asyncio.gather(*(reward.score(spec, group) for group in groups))
        found[how] = [
            (item.completion, verdict)
            for group, given in zip(groups, verdicts, strict=True)
            for item, verdict in zip(group, given, strict=True)
        ]
    await endpoints.close()
    return found


def _asked(question: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": question},)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.judge", description="Ask SmolLM2 in vLLM as a judge.")
    parser.add_argument("--model", type=Path, required=True, help="folder that services.local.smollm2 has written")
    arguments = parser.parse_args()
    log = arguments.model / "server.log"
    with starting(arguments.model.resolve(), name="smollm2", log=log, extra=("--max-model-len", "2048")) as server:
        server.until_healthy()
        found = asyncio.run(judge(server.address))
    for how, verdicts in found.items():
        table = Table(title=f"SmolLM2-135M-Instruct as a judge: {how}", title_justify="left")
        for column in ("answer", "verdict", "score", "cause", "seconds"):
            table.add_column(column)
        for text, verdict in verdicts:
            score = "-" if verdict.score is None else f"{verdict.score:g}"
            table.add_row(text, verdict.status, score, verdict.cause, f"{verdict.seconds:.1f}")
        Console().print(table)
    statuses = Counter(verdict.status for verdicts in found.values() for _, verdict in verdicts)
    print(json.dumps(statuses))
    return 1 if statuses["unavailable"] else 0


if __name__ == "__main__":
    sys.exit(main())
