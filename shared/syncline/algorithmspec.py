"""The algorithms of a run spec, each with the options that it has: an option of another one is an unknown key.

A new algorithm is one file in syncline.algo, its options here as a model that names what is in that file, and the line
of the model in `AlgorithmSpec`. Defaults are the paper's (arXiv 2506.21495, Table 4 for verifiable tasks), and stand
nowhere else. Sections and equations are the paper's; what the options mean is in syncline.algo.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

from pydantic import Field

from syncline.errors import FieldProblem
from syncline.spec_part import Part

if TYPE_CHECKING:
    from syncline.algo.algorithm import Algorithm


class AlgorithmOptions(Part):
    """Base of the options of an algorithm."""

    objective: ClassVar[str]
    """module:Class of the `syncline.algo.algorithm.Algorithm`, whose fields are these options. A text, so that reading
    a run spec loads no torch."""
    trains_on_pairs: ClassVar[bool] = False
    name: str

    @property
    def uses_reference(self) -> bool:
        """Whether the loss needs the reference policy."""
        return True

    @property
    def wants_fresh_rollouts(self) -> bool:
        """Whether its gradient is that of the present policy only on rollouts of the present policy."""
        return False

    def problems(self) -> Iterator[FieldProblem]:
        """Options that contradict each other, by their paths within the algorithm."""
        yield from ()


class PreferenceOptions(AlgorithmOptions):
    """Options that all preference losses share."""

    trains_on_pairs = True
    beta: float = Field(default=0.1, gt=0.0)
    """DPO beta. The paper: 0.1 for maths, 0.01 for chat."""
    length_normalize: bool = False
    """Use mean instead of summed log-probabilities."""
    nll_weight: float = Field(default=0.0, ge=0.0)
    """Weight of the negative log-likelihood of the chosen response (DPO + NLL, section B.2)."""
    entropy_weight: float = Field(default=0.0, ge=0.0)
    """Weight of the entropy bonus (section B.2)."""
    importance_cap: float | None = Field(default=None, gt=0.0)
    """Truncated importance sampling on trainer/generator log-probabilities; null turns it off."""
    normalize: Literal["prompts", "pairs"] = "prompts"
    """Divide the summed loss by all prompts of the step (as fairseq2 does), or by those that train: all pairs of a
    prompt count as one, as does a prompt that trains the GRPO term of the combined loss alone."""


class DPO(PreferenceOptions):
    """Direct preference optimization on one pair a prompt (eq. 3)."""

    objective = "syncline.algo.dpo:DPO"
    name: Literal["dpo"]


class GroupDPO(PreferenceOptions):
    """DPO averaged over all correct x incorrect pairs of a prompt (eq. 4)."""

    objective = "syncline.algo.group_dpo:GroupDPO"
    name: Literal["group_dpo"]


class GRPO(AlgorithmOptions):
    """Group relative policy optimization, without length bias (section 2.1, eq. 1)."""

    objective = "syncline.algo.grpo:GRPO"
    name: Literal["grpo"]
    beta: float = Field(default=0.001, ge=0.0)
    """Coefficient of the k3 KL estimate against the reference."""
    length_normalize: bool = False
    """Mean instead of sum over the tokens of a response."""
    scale_rewards: bool = False
    """Divide advantages by the group's standard deviation."""
    clip: float | None = Field(default=None, gt=0.0)
    """Clip range of the ratio; null leaves it open (one update per rollout: the ratio is 1)."""
    entropy_weight: float = Field(default=0.0, ge=0.0)
    importance_cap: float | None = Field(default=None, gt=0.0)

    @property
    def uses_reference(self) -> bool:
        return self.beta > 0.0

    @property
    def wants_fresh_rollouts(self) -> bool:
        return self.clip is None and self.importance_cap is None

    def problems(self) -> Iterator[FieldProblem]:
        if self.clip is not None and self.importance_cap is not None:
            yield FieldProblem("clip", "clip and importance_cap are two cures for the same ratio", "one of the two")


class GroupDPOGRPO(PreferenceOptions):
    """GroupDPO + grpo_weight x GRPO (sections 4.2 and B.2)."""

    objective = "syncline.algo.group_dpo_grpo:GroupDPOGRPO"
    name: Literal["group_dpo_grpo"]
    grpo_weight: float = Field(default=0.01, ge=0.0)
    """alpha of the combined loss; the paper tried 0.01 and 0.001."""
    grpo_beta: float = Field(default=0.001, ge=0.0)
    """KL coefficient of the GRPO term."""
    scale_rewards: bool = False

    @property
    def wants_fresh_rollouts(self) -> bool:
        return self.grpo_weight > 0.0 and self.importance_cap is None


AlgorithmSpec = Annotated[
    DPO | GroupDPO | GRPO | GroupDPOGRPO,
    Field(discriminator="name"),
]


def build_algorithm(options: AlgorithmOptions) -> Algorithm:
    """The algorithm with these options. Loads torch."""
    module, _, name = options.objective.partition(":")
    objective = getattr(import_module(module), name)
    return cast("Algorithm", objective(**options.model_dump(exclude={"name"})))
