"""What a version answered in an evaluation, kept with the run for people to read and for judges to compare with.

    runs/RUN/evaluations/heldout/v000050.jsonl.gz     one prompt a line, with all its samples, scores and lengths

A file appears whole, when its evaluation is complete.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from syncline import durable
from syncline.errors import NotFound
from syncline.v1.rollout_pb2 import Sample, ScoredGroup, Verdict
from syncline.wire_names import FINISHES, VERDICTS, FinishName, VerdictName


@dataclass(frozen=True, slots=True)
class Answer:
    """One sample with its verdict."""

    completion: str
    tokens: int
    finish: FinishName
    score: float | None
    """None where the reward gave no number; it counts in no mean."""
    raw_score: float
    """Before shaping; of no meaning without a score."""
    verdict: VerdictName
    cause: str


@dataclass(frozen=True, slots=True)
class AnsweredPrompt:
    """All samples of one prompt."""

    prompt_index: int
    prompt: str
    answer: str
    """The gold answer, where there is one."""
    samples: Sequence[Answer]


def answered_prompt(scored: ScoredGroup) -> AnsweredPrompt:
    """The readable part of a scored group."""
    task, pairs = scored.group.task, zip(scored.group.samples, scored.verdicts, strict=True)
    return AnsweredPrompt(
        prompt_index=task.key.prompt_index,
        prompt=task.prompt_text,
        answer=task.answer,
        samples=[_answer(sample, verdict) for sample, verdict in pairs],
    )


def write(run_dir: Path, name: str, version: int, prompts: Iterable[AnsweredPrompt]) -> None:
    """Keep what `version` answered to the set `name`, in the order of its prompts."""
    ordered = sorted(prompts, key=lambda prompt: prompt.prompt_index)
    text = "".join(json.dumps(asdict(prompt), ensure_ascii=False) + "\n" for prompt in ordered)
    path = _path(run_dir, name, version)
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.write_bytes(path, gzip.compress(text.encode(), mtime=0))


def exist(run_dir: Path, name: str, version: int) -> bool:
    return _path(run_dir, name, version).is_file()


def read(
    run_dir: Path, name: str, version: int, *, start: int = 0, stop: int | None = None
) -> Iterator[AnsweredPrompt]:
    """Prompts `start` to `stop` of what a version answered. Raises NotFound."""
    if not exist(run_dir, name, version):
        raise NotFound(f"no answers of version {version} to {name!r} are kept; GET .../evaluations lists what there is")
    with gzip.open(_path(run_dir, name, version), "rt", encoding="utf-8") as file:
        for line in islice(file, start, stop):
            row = json.loads(line)
            yield AnsweredPrompt(**row | {"samples": [Answer(**sample) for sample in row["samples"]]})


def _path(run_dir: Path, name: str, version: int) -> Path:
    return run_dir / "evaluations" / name / f"v{version:06d}.jsonl.gz"


def _answer(sample: Sample, verdict: Verdict) -> Answer:
    return Answer(
        completion=sample.text,
        tokens=len(sample.token_ids),
        finish=FINISHES[sample.finish_reason],
        score=verdict.score if verdict.HasField("score") else None,
        raw_score=verdict.raw_score,
        verdict=VERDICTS[verdict.status],
        cause=verdict.cause,
    )
