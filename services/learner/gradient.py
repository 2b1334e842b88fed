"""The gradient of a step as the sum of its parts' gradients, each of which has a norm of its own.

Backward passes accumulate in the parameters, as ever in torch. At the end of a part its norm is taken and it is laid
beside, where the parts add up. From the second part on there are thus two gradients, each 4 bytes a parameter spread
over the ranks; a step of one part needs no memory for this.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from services.learner import shards


class Gradient:
    """Of one step, over sharded or plain parameters. Above one rank all ranks make the same calls."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """The parameters' gradients are forgotten."""
        self._parameters = parameters
        self._sum: list[Tensor | None] = [None] * len(parameters)
        self._take()

    def end_part(self) -> float:
        """The Euclidean norm of what has accumulated since the last part ended."""
        part = self._take()
        norm = torch.nn.utils.get_total_norm([gradient for gradient in part if gradient is not None])
        self._sum = [_add(total, gradient) for total, gradient in zip(self._sum, part, strict=True)]
        return float(shards.whole(norm))

    def clip(self, most: float) -> float:
        """Give the parameters the sum of all parts, scaled down to a norm of at most `most`; its norm before that."""
        for parameter, gradient in zip(self._parameters, self._sum, strict=True):
            parameter.grad = gradient
        return float(shards.whole(torch.nn.utils.clip_grad_norm_(self._parameters, most)))

    def _take(self) -> list[Tensor | None]:
        taken = [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        return taken


def _add(total: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    if total is None or gradient is None:
        return gradient if total is None else total
    return total.add_(gradient)
