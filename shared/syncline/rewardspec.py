"""The parts of a run spec that say how a sample is rewarded.

A task carries its reward through the whole system as one JSON object, so a reward service needs
nothing but the sample and this object.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from syncline.spec_part import Name, Part, like


class LengthPenalty(Part):
    """Take `per_token` off the score for each token of the completion."""

    type: Literal["length"]
    per_token: float = Field(gt=0.0)


class OverlongPenalty(Part):
    """Take up to `weight` off the score, rising linearly over the last `margin` tokens before max_tokens."""

    type: Literal["overlong"]
    margin: int = Field(ge=1)
    weight: float = Field(default=1.0, gt=0.0)


ShapingSpec = Annotated[LengthPenalty | OverlongPenalty, Field(discriminator="type")]


class RewardFields(Part):
    """What all rewards share."""

    type: str
    shaping: tuple[ShapingSpec, ...] = ()
    """Applied to the score in order; the raw score is kept beside it."""

    @property
    def binary(self) -> bool:
        """Whether scores before shaping are right (1) or wrong (0) and nothing between."""
        return False

    @property
    def offer(self) -> str:
        """What a reward service must announce to give this reward: its type, or verifier:NAME."""
        return self.type

    @property
    def graded(self) -> bool:
        """Whether scores are more than right (1) and wrong (0)."""
        return not self.binary or bool(self.shaping)

    @property
    def place(self) -> str:
        """The reward in messages: what it is, and where it is asked."""
        return self.type


class MathSpec(RewardFields):
    """1 when Math-Verify finds the completion's answer equal to the row's `answer`, else 0."""

    type: Literal["math"]

    @property
    def binary(self) -> bool:
        return True


class VerifierSpec(RewardFields):
    """A verifier of your own, by its name in the reward service (services/reward/verifiers/registry.py)."""

    type: Literal["verifier"]
    name: Annotated[str, like(r"^[a-z0-9_]{1,64}\Z", "at most 64 lower-case letters, digits and underscores")]
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Passed to the verifier as keyword arguments."""
    scale: Literal["binary", "graded"] = "binary"
    """binary: scores are 0 or 1, and random pairs are possible."""

    @property
    def binary(self) -> bool:
        return self.scale == "binary"

    @property
    def offer(self) -> str:
        return f"{self.type}:{self.name}"


class EndpointSpec(RewardFields):
    """A model behind an OpenAI-compatible server."""

    endpoint: Annotated[str, like(r"^https?://[^@?#\s]+\Z", "a URL like http://judge:8000/v1, without user or query")]
    """Base URL, up to and including /v1. No user, password or query in it: a key is named by `key`."""
    model: str = Field(min_length=1)
    key: Name | None = None
    """Name of the API key; the reward service reads it from SYNCLINE_KEY_<NAME>, which a secret fills."""
    timeout_s: float = Field(default=120.0, gt=0.0)
    """Wall seconds of one request."""
    concurrency: int = Field(default=16, ge=1)
    """Requests to this endpoint at the same time, per reward service."""
    requests_per_minute: float | None = Field(default=None, gt=0.0)
    """Rate limit per reward service; null has none."""

    @property
    def place(self) -> str:
        return f"{self.type} at {self.endpoint}"


class JudgeSpec(EndpointSpec):
    """A score by an LLM judge."""

    type: Literal["judge"]
    mode: Literal["pointwise", "pairwise", "versus_seed"] = "pointwise"
    """pointwise: 0 to 10 for each answer. pairwise: share of comparisons that the answer wins within its group, each
    pair in both orders. versus_seed: share of comparisons won against the seed model's answer (evaluations only)."""
    judgments: int = Field(default=1, ge=1, le=64)
    """Judgments that are averaged for each answer (pointwise) or each ordered pair."""
    opponents: Literal["all", "pivot"] = "all"
    """pairwise: every ordered pair of the group, or each answer against one random answer, to bound the cost."""
    template: str | None = None
    """The judge's prompt, with {prompt} and {answer} (pointwise) or {prompt}, {first} and {second}; null takes
    ours. It has to make the judge end with <score>7.5</score> (0 to 10), or with <winner>A</winner> (A, B or tie)."""
    temperature: float = Field(default=0.6, ge=0.0)
    top_p: float = Field(default=0.9, gt=0.0, le=1.0)
    max_tokens: int = Field(default=2048, ge=1)

    @model_validator(mode="after")
    def _template_has_its_places(self) -> JudgeSpec:
        places = ("{answer}",) if self.mode == "pointwise" else ("{first}", "{second}")
        if self.template is not None and not all(place in self.template for place in places):
            wanted = {"allowed": f"a text with {' and '.join(places)}, for a {self.mode} judge"}
            problem = PydanticCustomError("text_like", "does not fit", wanted)
            raise ValidationError.from_exception_data(
                type(self).__name__, [InitErrorDetails(type=problem, loc=("template",), input=self.template)]
            )
        return self


class ModelSpec(EndpointSpec):
    """A scalar by a sequence-classification model behind vLLM's pooling server."""

    type: Literal["reward_model"]


RewardSpec = Annotated[
    MathSpec | VerifierSpec | JudgeSpec | ModelSpec,
    Field(discriminator="type"),
]
