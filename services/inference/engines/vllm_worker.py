"""What runs inside vLLM's own processes: weights from a folder into the engine, in two steps.

`VllmEngine` names `CheckpointWorker` as vLLM's `worker_extension_cls`; vLLM mixes it into its worker class, so
`self` is the worker. The steps are apart because the second cannot be undone: vLLM drops the old weights when it
begins to take new ones, and whatever fails then leaves an engine that computes nonsense. So all that can fail
(a missing file, a torn one, another model) has to fail while staging.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from services.inference.engines.model_folder import weight_files
from services.inference.engines.vllm_start import OWNER_PID
from syncline.errors import LoadFailed

_OUTPUT = "lm_head.weight"
_INPUTS = ("model.embed_tokens.weight", "transformer.wte.weight", "gpt_neox.embed_in.weight")


class CheckpointWorker:
    """Methods that `VllmEngine` calls by name, on every worker, through vLLM's collective_rpc."""

    _staged: dict[str, torch.Tensor]
    _layout: dict[str, tuple[int, ...]]

    def stage_checkpoint(self, model_dir: str, untie: bool) -> str | None:
        """Read every tensor of the folder. Returns what is wrong with it, if anything; the weights stay as they are.

        `untie` adds the output matrix that a checkpoint with tied embeddings leaves out.
        """
        try:
            tensors = read_tensors(weight_files(Path(model_dir)))
            if untie:
                untie_output(tensors)
        except LoadFailed as error:
            return error.message
        layout = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        # vLLM takes a checkpoint with too few tensors without a word, and keeps the old ones for the rest.
        expected = getattr(self, "_layout", layout)
        differing = sorted(name for name in layout.keys() | expected.keys() if layout.get(name) != expected.get(name))
        if differing:
            return f"{model_dir} differs from the model being served in {', '.join(differing[:8])}"
        self._layout = layout
        self._staged = tensors
        return None

    def apply_checkpoint(self) -> None:
        """Put the staged tensors into the engine. Any exception means that the engine is lost."""
        tensors = self._staged
        del self._staged
        self.reload_weights(weights_iterator=iter(tensors.items()))  # type: ignore[attr-defined]  # vLLM's worker


def read_tensors(files: Iterable[Path]) -> dict[str, torch.Tensor]:
    """All tensors of the files, on the CPU. Raises `LoadFailed` for a file that is not a whole safetensors file."""
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            tensors.update(load_file(file))
        except (SafetensorError, OSError) as error:
            raise LoadFailed(f"{file} cannot be read: {error}") from error
    return tensors


def untie_output(tensors: dict[str, torch.Tensor]) -> None:
    """Give `tensors` an output matrix of its own when it has none: the input embedding, as tying means."""
    if _OUTPUT in tensors:
        return
    for name in _INPUTS:
        if name in tensors:
            tensors[_OUTPUT] = tensors[name]
            return
    raise LoadFailed(f"no {_OUTPUT}, and none of {', '.join(_INPUTS)} to take its place")


def exit_with_owner(environment: Mapping[str, str] = os.environ) -> None:
    """End this process when the one that started the engine dies, however it dies.

    vLLM stops its children when the parent exits in order. After a SIGKILL they would stay, with all their memory.
    """
    owner = environment.get(OWNER_PID)
    if owner is None:
        return
    try:
        handle = os.pidfd_open(int(owner))
    except ProcessLookupError:
        os._exit(1)

    def watch() -> None:
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        poller.poll()
        os._exit(1)

    threading.Thread(target=watch, name="exit-with-owner", daemon=True).start()


# On import: vLLM offers no earlier hook in its processes than the import of the extension.
exit_with_owner()
