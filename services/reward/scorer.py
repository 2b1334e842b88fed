"""Routes a sample to the reward of its task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from pydantic import TypeAdapter, ValidationError

from services.reward.endpoints import Endpoints
from services.reward.judge_reward import JudgeReward
from services.reward.metrics import VERDICTS
from services.reward.model_reward import ModelReward
from services.reward.settings import RewardSettings
from services.reward.shaping import shaped, skipped
from services.reward.verdicts import Item, Reward, Verdict
from services.reward.verifier_reward import Verification
from services.reward.verifiers.pool import VerifierPool
from services.reward.verifiers.registry import VERIFIERS
from syncline.errors import FieldProblem, InvalidSpec
from syncline.rewardspec import RewardSpec, VerifierSpec
from syncline.spec_problems import problems_in_json

_REWARD_SPEC: TypeAdapter[RewardSpec] = TypeAdapter(RewardSpec)


def rewards(settings: RewardSettings, pool: VerifierPool, endpoints: Endpoints) -> dict[str, Reward]:
    """Every reward by its type in the run spec. A new one is one file and one line here."""
    verification = Verification(pool, answer_chars=settings.answer_chars, completion_chars=settings.completion_chars)
    return {
        "math": verification,
        "verifier": verification,
        "judge": JudgeReward(endpoints),
        "reward_model": ModelReward(endpoints),
    }


class Scorer:
    """Gives verdicts and counts them."""

    def __init__(self, rewards: Mapping[str, Reward]) -> None:
        self.rewards = rewards
        self.verdicts: Counter[str] = Counter()
        """Verdicts since the start, by "reward/status"."""

    @property
    def offers(self) -> list[str]:
        """What a run spec may ask this service for; see `Reward.offer` in the run spec."""
        verifiers = {f"verifier:{name}" for name in VERIFIERS} if "verifier" in self.rewards else set()
        return sorted({*self.rewards} - {"verifier"} | verifiers)

    def route(self, reward_json: str) -> RewardSpec:
        """The reward that a task names. Raises InvalidSpec for what is no reward, or not served here."""
        spec = parsed(reward_json)
        if spec.type not in self.rewards:
            served = ", ".join(sorted(self.rewards))
            raise InvalidSpec([FieldProblem("reward.type", f"{spec.type!r} is not served here", served)])
        return spec

    async def require(self, reward_json: str) -> RewardSpec:
        """The same. Raises InvalidSpec, too, for a verifier, or an option of one, that there is not in this service."""
        spec = self.route(reward_json)
        if isinstance(spec, VerifierSpec):
            await self.rewards[spec.type].score(spec, [])  # without an item, all that can be refused is the spec
        return spec

    async def score(self, spec: RewardSpec, items: Sequence[Item]) -> list[Verdict]:
        """One verdict per item, in order, shaped. Raises InvalidSpec when a gold answer cannot be read."""
        raw = await self.rewards[spec.type].score(spec, items)
        verdicts = [_shaped(verdict, spec, item) for verdict, item in zip(raw, items, strict=True)]
        for status, count in Counter(verdict.status for verdict in verdicts).items():
            self.verdicts[f"{spec.type}/{status}"] += count
            VERDICTS.labels(spec.type, status).inc(count)
        return verdicts


def _shaped(verdict: Verdict, spec: RewardSpec, item: Item) -> Verdict:
    """What has a number is shaped, a wrong answer like a right one."""
    if verdict.score is None:
        return verdict
    score = shaped(verdict.score, spec.shaping, tokens=item.tokens, max_tokens=item.max_tokens)
    why_not = skipped(spec.shaping, tokens=item.tokens, max_tokens=item.max_tokens) if item.completion else ""
    causes = [verdict.cause, why_not]
    return replace(verdict, raw_score=verdict.score, score=score, cause="; ".join(filter(None, causes)))


@lru_cache(maxsize=256)
def parsed(reward_json: str) -> RewardSpec:
    try:
        return _REWARD_SPEC.validate_json(reward_json)
    except ValidationError as error:
        found = problems_in_json(error, reward_json, RewardSpec)
        raise InvalidSpec([replace(one, path=f"reward.{one.path}".removesuffix(".$")) for one in found]) from None
