"""Models cut into shards, one a rank (FSDP2), and their tensors: local, whole, and back.

Each parameter is split along its first dimension in the order of ranks, as `torch.chunk` does. Everything here also
takes plain tensors and leaves them alone, so that code for one rank and for many reads the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from services.learner.ranks import Ranks


def shard(root: Any, *, blocks: Sequence[Any], ranks: Ranks, dtype: torch.dtype, device: torch.device) -> None:
    """Cut the module `root` in place: each of its `blocks`, then what is left; a block at a time moves to `device`.

    A forward pass computes with copies in `dtype`, gathered block by block and freed again. Gradients are summed over
    ranks in float32: each rank divides its loss by the denominator of the whole step.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    options: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (ranks.size,)),
        "reshard_after_forward": True,  # of the root too: between two passes a rank holds its shard and nothing else
        "mp_policy": MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False),
    }
    for block in blocks:
        fully_shard(block, **options)
    fully_shard(root, **options)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other reduction


@torch.no_grad()
def fill(model: Any, full: Any | None, *, ranks: Ranks, device: torch.device) -> None:
    """Copy the numbers of `full`, an unsharded twin that rank 0 has, into the shards of `model`.

    One tensor at a time goes to all ranks, so none but rank 0 ever holds more than its shards and one tensor.
    """
    from torch import distributed

    numbers = None if full is None else dict(_tensors(full))
    for name, target in _tensors(model):
        if numbers is None:
            tensor = torch.empty(target.shape, dtype=target.dtype, device=device)
        else:
            tensor = numbers[name].to(device=device, dtype=target.dtype).contiguous()
        distributed.broadcast(tensor, src=0)
        piece = piece_of([tensor], rank=ranks.rank, size=ranks.size) if is_sharded(target) else tensor
        local(target).copy_(piece)


def _tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name, tied ones once."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def blocks_of(model: Any) -> list[Any]:
    """The transformer blocks, as the model's own class names them."""
    names = set(model._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def local(tensor: Tensor) -> Tensor:
    """This rank's shard, sharing memory; a plain tensor itself."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """The full tensor; of a sharded one every rank must ask at the same time."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def shard_like(value: Tensor, parameter: Tensor) -> Tensor:
    """This rank's shard of a tensor that is sharded as `parameter` is; a scalar or a plain one stays as it is."""
    if not is_sharded(parameter) or value.ndim == 0:
        return value
    from torch.distributed.tensor import DTensor

    sharded: Any = parameter
    return DTensor.from_local(
        value.to(sharded.device),
        sharded.device_mesh,
        sharded.placements,
        run_check=False,
        shape=sharded.shape,
        stride=sharded.stride(),
    )


def piece_of(pieces: Sequence[Tensor], *, rank: int, size: int) -> Tensor:
    """What `rank` of `size` holds of the tensor that `pieces` make up: a change of the number of ranks."""
    if pieces[0].ndim == 0:
        return pieces[0]
    full = torch.cat(list(pieces))
    chunks = full.chunk(size) if size > 1 else (full,)
    return chunks[rank] if rank < len(chunks) else full[:0]


def is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")
