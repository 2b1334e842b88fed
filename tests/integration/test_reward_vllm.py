"""A judge and a reward model served by real vLLM on a CPU: what we send is accepted, what we read is right."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM, LlamaForSequenceClassification

from services.local import model_server
from services.reward.endpoints import Endpoints
from services.reward.judge_reward import JudgeReward
from services.reward.judges import replies
from services.reward.judges.replies import Reply
from services.reward.model_reward import ModelReward
from services.reward.verdicts import Item
from syncline.backoff import Backoff
from syncline.rewardspec import JudgeSpec, ModelSpec
from tests.integration.vllm_server import starting

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(400)]

ADDER = Path("services/local/quickstart/seed-model").resolve()
WALKS = Path("services/local/mixed/reward-model").resolve()


@dataclass(frozen=True)
class Servers:
    judge: str
    reward_model: str


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Both start side by side: most of the time goes into importing vLLM."""
    folder = tmp_path_factory.mktemp("servers")
    template = folder / "template.jinja"
    template.write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    chats = ("--chat-template", str(template))
    with (
        starting(ADDER, name="adder", log=folder / "judge.log", extra=chats) as judge,
        starting(WALKS, name="walks", log=folder / "walks.log", extra=model_server.REWARD_MODEL) as reward_model,
    ):
        judge.until_healthy()
        reward_model.until_healthy()
        yield Servers(judge.address, reward_model.address)


@pytest.fixture
async def endpoints() -> AsyncIterator[Endpoints]:
    made = Endpoints(backoff=Backoff(first_s=0.01, longest_s=0.1))
    yield made
    await made.close()


def items(*completions: str, prompt: str = "") -> list[Item]:
    return [Item(prompt, text, "", messages=({"role": "user", "content": prompt},)) for text in completions]


def by_hand(text: str, *, max_tokens: int) -> Reply:
    """What the same model says greedily in transformers."""
    tokenizer = AutoTokenizer.from_pretrained(ADDER)
    model = LlamaForCausalLM.from_pretrained(ADDER).eval()
    ids = torch.tensor([tokenizer.encode(text)])
    with torch.no_grad():
        out = model.generate(ids, max_new_tokens=max_tokens, do_sample=False)[0, ids.shape[1] :]
    finished = "stop" if tokenizer.eos_token_id in out.tolist() else "length"
    return Reply(tokenizer.decode(out, skip_special_tokens=True), finished=finished)


async def test_a_real_judges_replies_have_the_outcomes_that_the_rules_give_them(
    servers: Servers, endpoints: Endpoints
) -> None:
    """The quickstart's model as a judge: it says small and large numbers, nothing, and more than it may."""
    asked = ["00+07=", "00+02=", "12+34=", "10-", "8"]
    spec = JudgeSpec(
        type="judge", endpoint=servers.judge, model="adder", template="{answer}", temperature=0.0, max_tokens=4
    )
    verdicts = await JudgeReward(endpoints).score(spec, items(*asked))

    expected = [replies.score(by_hand(text, max_tokens=4)) for text in asked]
    assert {one.outcome for one in expected} == {"read", "out_of_range", "missing", "truncated"}
    for verdict, judgment in zip(verdicts, expected, strict=True):
        assert verdict.score == judgment.value
        assert verdict.cause == ("" if judgment.outcome == "read" else f"no judgment: {judgment.outcome} 1")


async def test_seeds_reach_a_real_judge_so_that_services_that_know_nothing_of_each_other_agree(
    servers: Servers, endpoints: Endpoints
) -> None:
    spec = JudgeSpec(
        type="judge", endpoint=servers.judge, model="adder", template="{answer}", judgments=32, temperature=1.0,
        top_p=1.0, max_tokens=4,
    )  # fmt: skip
    (first,), (other,) = [await JudgeReward(endpoints).score(spec, items("00+07=")) for _ in range(2)]
    assert first.status == "scored"
    assert (first.score, first.cause) == (other.score, other.cause)


async def test_a_question_without_room_in_a_real_judge_is_too_long(servers: Servers, endpoints: Endpoints) -> None:
    spec = JudgeSpec(type="judge", endpoint=servers.judge, model="adder", template="{answer}", max_tokens=4)
    (verdict,) = await JudgeReward(endpoints).score(spec, items("1" * 500))
    assert (verdict.status, verdict.score) == ("unparsable", None)
    assert verdict.cause.startswith("no judgment: too_long 1 (This model's maximum context length is 128 tokens")


async def test_a_model_that_a_real_server_does_not_have_is_unavailable(servers: Servers, endpoints: Endpoints) -> None:
    (verdict,) = await JudgeReward(endpoints).score(
        JudgeSpec(type="judge", endpoint=servers.judge, model="other", template="{answer}"), items("1")
    )
    assert verdict.status == "unavailable"
    assert "status 404" in verdict.cause
    assert "reward.model ('other')" in verdict.cause


async def test_a_real_reward_models_score_is_the_heads_own_number_for_the_templated_conversation(
    servers: Servers, endpoints: Endpoints
) -> None:
    walks = ["456789", "000000", "987654", "3"]
    spec = ModelSpec(type="reward_model", endpoint=servers.reward_model, model="walks")
    verdicts = await ModelReward(endpoints).score(spec, items(*walks, prompt="x123>"))

    tokenizer = AutoTokenizer.from_pretrained(WALKS)
    model = LlamaForSequenceClassification.from_pretrained(WALKS).eval()
    for walk, verdict in zip(walks, verdicts, strict=True):
        text = f"x123>{walk}{tokenizer.eos_token}"
        with torch.no_grad():
            wanted = model(input_ids=torch.tensor([tokenizer.encode(text)])).logits.item()
        assert verdict.status == "scored"
        assert verdict.score == pytest.approx(wanted, abs=1e-3)
    scores = [verdict.score or 0.0 for verdict in verdicts]
    assert scores[0] > scores[2], "rising is what it was taught to like"
    assert max(scores) > 1.0, "no sigmoid gives that"


async def test_an_answer_without_room_in_a_real_reward_model_is_told_and_has_no_score(
    servers: Servers, endpoints: Endpoints
) -> None:
    spec = ModelSpec(type="reward_model", endpoint=servers.reward_model, model="walks")
    short, long = await ModelReward(endpoints).score(spec, items("456789", "456789" * 20, prompt="x123>"))
    assert short.status == "scored"
    assert (long.status, long.score) == ("unparsable", None)
    assert long.cause.startswith("too_long: This model's maximum context length is 64 tokens")


async def test_a_judge_is_no_reward_model_and_the_verdict_says_what_to_check(
    servers: Servers, endpoints: Endpoints
) -> None:
    spec = ModelSpec(type="reward_model", endpoint=servers.judge, model="adder")
    (verdict,) = await ModelReward(endpoints).score(spec, items("456789", prompt="x123>"))
    assert verdict.status == "unavailable"
    assert "check reward.endpoint" in verdict.cause
