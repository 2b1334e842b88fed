"""Scored groups for Hypothesis, as generators and reward services hand them over."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from syncline.v1 import rollout_pb2 as pb

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_TOKEN = st.integers(0, 2**32 - 1)
_LOG_PROB = st.floats(-50.0, 0.0, width=32)


@st.composite
def samples(draw: st.DrawFn, version: int) -> pb.Sample:
    tokens = draw(st.lists(_TOKEN, min_size=1, max_size=5))
    return pb.Sample(
        token_ids=tokens,
        log_probs=draw(st.lists(_LOG_PROB, min_size=len(tokens), max_size=len(tokens))),
        finish_reason=draw(st.sampled_from([pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH])),
        text=draw(TEXT),
        versions=[pb.VersionSpan(version=version, start=0, stop=len(tokens))],
    )


@st.composite
def verdicts(draw: st.DrawFn) -> pb.Verdict:
    """Numbers as a binary verifier gives them, or what it could not read."""
    status = draw(st.sampled_from([pb.VERDICT_STATUS_SCORED, pb.VERDICT_STATUS_UNPARSABLE, pb.VERDICT_STATUS_TIMEOUT]))
    score = draw(st.sampled_from([0.0, 1.0])) if status == pb.VERDICT_STATUS_SCORED else 0.0
    return pb.Verdict(status=status, score=score, raw_score=draw(st.floats(-10, 10)), cause=draw(TEXT))


@st.composite
def scored_groups(draw: st.DrawFn, version: int = 0) -> pb.ScoredGroup:
    text = draw(TEXT.filter(bool))
    chat = draw(st.booleans())
    key = pb.TaskKey(run_id="run-a", step=draw(st.integers(0, 10_000)), prompt_index=draw(st.integers(0, 500)))
    task = pb.PromptTask(
        key=key,
        purpose=pb.PURPOSE_TRAINING,
        version=version,
        prompt_token_ids=draw(st.lists(_TOKEN, min_size=1, max_size=5)),
        task="math",
        answer=draw(TEXT),
        prompt_text=text,
        messages_json=json.dumps([{"role": "user", "content": text}]) if chat else "",
    )
    size = draw(st.integers(2, 4))
    return pb.ScoredGroup(
        group=pb.RolloutGroup(
            task=task, samples=[draw(samples(version)) for _ in range(size)], generator="inference-0"
        ),
        verdicts=[draw(verdicts()) for _ in range(size)],
    )
