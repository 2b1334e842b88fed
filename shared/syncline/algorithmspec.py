"""The algorithms of a run spec, each with the options that it has: an option of another one is an unknown key.

Defaults are the paper's (arXiv 2506.21495, Table 4 for verifiable tasks). What they mean is in syncline.algo.
Sections and equations are the paper's.
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
    """Weight of the negative log-likelihood of the chosen response (DPO + NLL, section B.2)."""
    entropy_weight: float = Field(default=0.0, ge=0.0)
    """Weight of the entropy bonus (section B.2)."""
    importance_cap: float | None = Field(default=None, gt=0.0)
    """Truncated importance sampling on trainer/generator log-probabilities; null turns it off."""
    normalize: Literal["prompts", "pairs"] = "prompts"
    """Divide the summed loss by all prompts of the step (as fairseq2 does), or by the pairs that were found."""


class DPO(Preference):
    """Direct preference optimization on one pair a prompt (eq. 3)."""

    name: Literal["dpo"]


class GroupDPO(Preference):
    """DPO averaged over all correct x incorrect pairs of a prompt (eq. 4)."""

    name: Literal["group_dpo"]


class GRPO(Part):
    """Group relative policy optimization, without length bias (section 2.1, eq. 1)."""

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
    """GroupDPO + grpo_weight x GRPO (sections 4.2 and B.2)."""

    name: Literal["group_dpo_grpo"]
    grpo_weight: float = Field(default=0.01, ge=0.0)
    """alpha of the combined loss; the paper tried 0.01 and 0.001."""
    grpo_beta: float = Field(default=0.001, ge=0.0)
    """KL coefficient of the GRPO term."""
    scale_rewards: bool = False


AlgorithmSpec = Annotated[DPO | GroupDPO | GRPO | GroupDPOGRPO, Field(discriminator="name")]
