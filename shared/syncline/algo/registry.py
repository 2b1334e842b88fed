"""Every algorithm by the name it has in a run spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from syncline.algo.algorithm import Algorithm
from syncline.algo.dpo import DPO
from syncline.algo.group_dpo import GroupDPO
from syncline.algo.group_dpo_grpo import GroupDPOGRPO
from syncline.algo.grpo import GRPO

ALGORITHMS: dict[str, Callable[..., Algorithm]] = {
    "dpo": DPO,
    "group_dpo": GroupDPO,
    "grpo": GRPO,
    "group_dpo_grpo": GroupDPOGRPO,
}


def build_algorithm(options: Mapping[str, Any]) -> Algorithm:
    """The algorithm that a run spec's `algorithm` describes: {"name": "dpo", "beta": 0.1, ...}.

    Raises ValueError for options that contradict each other.
    """
    rest = dict(options)
    return ALGORITHMS[rest.pop("name")](**rest)
