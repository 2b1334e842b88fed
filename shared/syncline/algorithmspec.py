"""The algorithms of a run spec, each with the options that it has: an option of another one is an unknown key.

Defaults are the paper's (arXiv 2506.21495, Table 4 for verifiable tasks). What they mean is in syncline.algo.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from syncline.rewardspec import Part


class Preference(Part):
    """Options that all preference losses share."""

    beta: float = Field(default=0.1, gt=0.0)
    """DPO beta. The paper: 0.1 for maths, 0.01 for chat."""
    length_normalize: bool = False
    """Use mean instead of summed log-probabilities."""
    nll_weight: float = Field(default=0.0, ge=0.0)
    """Weight of the negative log-likelihood of the chosen response (DPO + NLL, section 3.5)."""
    entropy_weight: float = Field(default=0.0, ge=0.0)
    """Weight of the entropy bonus (section 3.6)."""
    importance_cap: float | None = Field(default=None, gt=0.0)
    """Truncated importance sampling on trainer/generator log-probabilities; null turns it off."""
    normalize: Literal["prompts", "pairs"] = "prompts"
    """Divide the summed loss by all prompts of the step (the paper), or by those that train: all pairs of a prompt
    count as one, as does a prompt that trains the GRPO term of the combined loss alone."""


class DPO(Preference):
    """Direct preference optimization on one pair a prompt (section 3.1)."""

    name: Literal["dpo"]


class GroupDPO(Preference):
    """DPO averaged over all correct x incorrect pairs of a prompt (section 3.3)."""

    name: Literal["group_dpo"]


class GRPO(Part):
    """Group relative policy optimization, without length bias (section 3.2)."""

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


class GroupDPOGRPO(Preference):
    """GroupDPO + grpo_weight x GRPO (section 3.4)."""

    name: Literal["group_dpo_grpo"]
    grpo_weight: float = Field(default=0.01, ge=0.0)
    """alpha of the combined loss; the paper tried 0.01 and 0.001."""
    grpo_beta: float = Field(default=0.001, ge=0.0)
    """KL coefficient of the GRPO term."""
    scale_rewards: bool = False


AlgorithmSpec = Annotated[DPO | GroupDPO | GRPO | GroupDPOGRPO, Field(discriminator="name")]
