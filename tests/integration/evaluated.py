"""Evaluations that came in, recorded as the coordinator records them."""

from __future__ import annotations

from typing import Any

from services.coordinator.records import answers
from services.coordinator.records.answers import Answer, AnsweredPrompt
from services.coordinator.records.best import update_standings
from services.coordinator.records.findings import found
from services.coordinator.records.run import Run
from syncline.run_parts import Evaluation

HELD_OUT: dict[str, Any] = {"name": "heldout", "data": "train.jsonl", "every": 2}


async def evaluate(run: Run, version: int, score: float, *, completion: str = "46") -> None:
    """Record that `version` answered three prompts of HELD_OUT, each with this score."""
    sample = Answer(completion, 2, "stop", score, score, "scored", "")
    prompts = [AnsweredPrompt(index, "12+34=", "46", [sample]) for index in range(3)]
    answers.write(run.folder, "heldout", version, prompts)
    row = found(
        Evaluation.model_validate(HELD_OUT),
        version=version,
        prompts=prompts,
        seed={prompt.prompt_index: prompt for prompt in prompts},
        dropped={},
        seconds=1.0,
        finished_at=2.0,
    )
    run.append("evaluations", row)
    run.emit("evaluation", row)
    await update_standings(run)
