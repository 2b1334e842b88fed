"""What the log-probabilities of a batch cost at a vocabulary of 128k: memory and time, against the plain way.

Measured: forward and backward of one loss from hidden states, output layer included, with entropies, in float32 on one
thread. The plain way makes the logits, their log_softmax, and what autograd keeps of them; ours goes over tiles. Each
round runs each way once, in a process of its own: its peak is the kernel's own account of resident memory (VmHWM,
reset just before), less what the process held then. The gradients of hidden states and weight are part of both peaks.
Of several rounds the median counts. Not measured: the transformer before the output layer, and a GPU.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

from tests.bench.report import BenchFailed, Figure, Measured, Options

VOCABULARY = 128 * 1024
HIDDEN = 512
TOKENS = 2048
ROUNDS = 3
PEAK_SHARE = 0.15
TIME_SHARE = 1.1
_DEADLINE_S = 600.0

Way = Literal["plain", "tiled"]
_WAYS: tuple[Way, ...] = ("plain", "tiled")


def measure(options: Options) -> Measured:
    sizes = {"tokens": 64, "vocabulary": 32 * 1024, "hidden": 32} if options.quick else None
    sizes = sizes or {"tokens": TOKENS, "vocabulary": VOCABULARY, "hidden": HIDDEN}
    rounds: dict[Way, list[dict[str, float]]] = {way: [] for way in _WAYS}
    for number in range(1 if options.quick else ROUNDS):
        for way in _WAYS if number % 2 == 0 else reversed(_WAYS):
            found = _in_a_process(way, sizes)
            rounds[way].append(found)
            options.say(f"  {way}: peak {found['peak_bytes'] / 2**20:,.0f} MiB, {found['seconds']:.2f} s")
    _compare(rounds)
    peak = {way: statistics.median(one["peak_bytes"] for one in found) for way, found in rounds.items()}
    seconds = {way: statistics.median(one["seconds"] for one in found) for way, found in rounds.items()}
    peak_share, time_share = peak["tiled"] / peak["plain"], seconds["tiled"] / seconds["plain"]
    what = f"{sizes['tokens']:,} tokens, vocabulary {sizes['vocabulary']:,}"
    figures = [
        Figure(
            name=f"peak memory of the loss, {what}",
            value=peak_share,
            shown=f"{peak['tiled'] / 2**20:,.0f} of {peak['plain'] / 2**20:,.0f} MiB ({peak_share:.1%})",
            target=f"< {PEAK_SHARE:.0%}",
            met=peak_share < PEAK_SHARE,
        ),
        Figure(
            name=f"time of the loss, {what}",
            value=time_share,
            shown=f"{seconds['tiled']:.2f} of {seconds['plain']:.2f} s (x{time_share:.2f})",
            target=f"< x{TIME_SHARE:g}",
            met=time_share < TIME_SHARE,
        ),
    ]
    return Measured(figures, {**sizes, "rounds": rounds})


def _compare(rounds: dict[Way, list[dict[str, float]]]) -> None:
    """Both ways must have computed the same."""
    for number in ("loss", "entropy", "gradient"):
        plain, tiled = (rounds[way][0][number] for way in _WAYS)
        if abs(plain - tiled) > 1e-4 * abs(plain):
            raise BenchFailed(f"the two ways do not agree on the {number}: {plain} and {tiled}")


def _in_a_process(way: Way, sizes: dict[str, int]) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.memory", way, json.dumps(sizes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_DEADLINE_S)
    if done.returncode != 0:
        raise BenchFailed(f"the {way} way ended with code {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _child(way: Way, *, tokens: int, vocabulary: int, hidden: int) -> dict[str, Any]:
    """One loss, forward and backward, in this process."""
    import torch

    from syncline.algo.logprobs import token_scores

    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden_NH = torch.randn(tokens, hidden, requires_grad=True)
    weight_VH = (0.05 * torch.randn(vocabulary, hidden)).requires_grad_()
    ids_N = torch.randint(vocabulary, (tokens,))
    _step(token_scores if way == "tiled" else _plain_scores, hidden_NH[:2], weight_VH[:64], ids_N[:2] % 64)  # warm up
    hidden_NH.grad = weight_VH.grad = None

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, started = _peak_bytes(), time.perf_counter()
    loss, entropy = _step(token_scores if way == "tiled" else _plain_scores, hidden_NH, weight_VH, ids_N)
    seconds = time.perf_counter() - started
    peak_bytes = _peak_bytes() - before
    gradient = float(weight_VH.grad.norm()) + float(hidden_NH.grad.norm())  # type: ignore[union-attr]
    return {"peak_bytes": peak_bytes, "seconds": seconds, "loss": loss, "entropy": entropy, "gradient": gradient}


def _step(scores: Any, hidden_NH: Any, weight_VH: Any, ids_N: Any) -> tuple[float, float]:
    log_probs_N, entropy_N = scores(hidden_NH, weight_VH, ids_N)
    loss = -log_probs_N.mean()
    loss.backward()
    return loss.item(), entropy_N.detach().mean().item()


def _plain_scores(hidden_NH: Any, weight_VH: Any, ids_N: Any) -> tuple[Any, Any]:
    """The way of most trainers; the entropy is watched, not trained."""
    log_p_NV = (hidden_NH @ weight_VH.T).float().log_softmax(-1)
    watched_NV = log_p_NV.detach()
    entropy_N = -(watched_NV.exp() * watched_NV).sum(-1)
    return log_p_NV.gather(-1, ids_N.unsqueeze(-1)).squeeze(-1), entropy_N


def _peak_bytes() -> int:
    """The most resident memory that this process had since its peak was reset."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


if __name__ == "__main__":
    print(json.dumps(_child(sys.argv[1], **json.loads(sys.argv[2]))))  # type: ignore[arg-type]
