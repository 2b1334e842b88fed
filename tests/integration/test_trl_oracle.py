"""TRL as an outside oracle: its own trainers and ours compute the loss of the same weights on the same ragged batches.

Not a formula written down twice: `DPOTrainer.compute_loss` and `GRPOTrainer.compute_loss` run TRL's forward pass, its
output layer, its losses and its backward pass, from the same model folders and token ids. For GRPO it is TRL as well
that makes advantages of the rewards, and reference log-probabilities and importance ratios with its own passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from services.coordinator.records.export import exported
from services.coordinator.records.store import RunStore
from services.learner.batch import PlannedGroup, TokenRows, token_rows
from services.learner.policy import Policy
from syncline import recording
from syncline.algo.algorithm import Algorithm, LossBatch
from syncline.algo.dpo import DPO
from syncline.algo.grpo import GRPO
from syncline.algo.metrics import token_metrics
from syncline.algo.pairs import RandomPair
from syncline.rollout_rows import RolloutRow
from syncline.v1.rollout_pb2 import ScoredGroup
from tests.integration.learner_world import SAMPLES, scored_group, spec_of
from tests.integration.tiny_models import PAD, make_tiny_model, tiny_tokenizer
from tests.unit.algo.algorithms import dpo, group_dpo, grpo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CPU = torch.device("cpu")
LONGEST = 16  # max_completion_length, which dr_grpo divides by


@dataclass(frozen=True)
class Ours:
    """What the learner computes: the loss divided as TRL does it, its gradients, and the batch behind them."""

    loss: Tensor
    gradients: dict[str, Tensor]
    batch: LossBatch
    rows: TokenRows

    @property
    def metrics(self) -> dict[str, float]:
        return {name: measured.mean().value for name, measured in token_metrics(self.batch).items()}


@pytest.fixture(scope="module", params=["untied", "tied"])
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A policy and its reference, as far apart as training moves them: of strangers k3 is in the millions."""
    root = tmp_path_factory.mktemp("models")
    tied = request.param == "tied"
    reference = make_tiny_model(root / "reference", seed=0, tied=tied, hidden=32, layers=2, heads=2)
    model = _plain(reference)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(root / "policy")
    return root / "policy", reference


# ---- DPO


@pytest.mark.parametrize(
    ("algorithm", "loss_type", "prompts"),
    [
        (dpo(beta=0.1), {"sigmoid": 1.0}, (1, 2, 3, 5)),
        (dpo(beta=0.5, length_normalize=True), {"sigmoid_norm": 1.0}, (1, 2, 3, 5)),
        # TRL takes the mean over all chosen tokens of a batch, we that within each completion: the same for one pair.
        (dpo(beta=0.1, nll_weight=0.7), {"sigmoid": 1.0, "sft": 0.7}, (1,)),
        # All correct x all incorrect of one prompt.
        (group_dpo(beta=0.1), {"sigmoid": 1.0}, (2,)),
    ],
    ids=["dpo", "length_normalize", "nll", "group_dpo"],
)
def test_dpo_is_that_of_trl(
    folders: tuple[Path, Path], algorithm: DPO, loss_type: dict[str, float], prompts: Sequence[int], tmp_path: Path
) -> None:
    groups = _planned(algorithm, [_group(folders[0], prompt) for prompt in prompts])
    # DPO: a mean over pairs. GroupDPO: the sum over prompts of means over pairs, here of one prompt.
    ours = _ours(algorithm, groups, folders, divide_by=float(len(prompts)))
    trainer = _dpo_trainer(folders, tmp_path, beta=algorithm.beta, loss_type=loss_type)
    theirs, gradients = _theirs(trainer, _preferences(ours))
    _assert_same(ours, theirs, gradients)
    logged = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    entropy, means = logged["entropy"], algorithm.loss(ours.batch).metrics
    if all(len(group.plan.pairs) == 1 for group in groups):  # else TRL counts a token as often as it is in a pair
        assert ours.metrics["entropy"] == pytest.approx(entropy, abs=1e-5)
    if not algorithm.length_normalize:
        for name, key in (("chosen_log_prob", "logps/chosen"), ("rejected_log_prob", "logps/rejected")):
            assert means[name].mean().value == pytest.approx(logged[key], abs=1e-4)
        assert means["margin"].mean().value == pytest.approx(logged["rewards/margins"], abs=1e-5)
        assert means["pair_accuracy"].mean().value == pytest.approx(logged["rewards/accuracies"])


def test_trl_trains_on_an_exported_file_of_preferences(folders: tuple[Path, Path], tmp_path: Path) -> None:
    from datasets import load_dataset

    run = RunStore(tmp_path / "runs").create("export-000000", spec_of(folders[0], steps=2))
    rows = [_row(f"1{step}+2{index}=", ["33", "44"], step=step, index=index) for step in range(2) for index in range(3)]
    for step in range(2):
        recording.write_step(run.storage, step, [row for row in rows if row.step == step])
    run.record.step = 2
    file = tmp_path / "preferences.jsonl"
    file.write_text("".join(exported(run, "preferences")), encoding="utf-8")

    dataset = load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    assert dataset.column_names == ["prompt", "chosen", "rejected"]
    trainer = _dpo_trainer(folders, tmp_path, beta=0.1, loss_type={"sigmoid": 1.0}, dataset=dataset)
    (batch,) = trainer.get_eval_dataloader(trainer.train_dataset)
    texts = [trainer.processing_class.decode(ids, skip_special_tokens=True) for ids in batch["input_ids"]]
    assert sorted(texts) == sorted(f"{row.prompt}{answer}" for row in rows for answer in ("33", "44"))
    loss, gradients = _theirs(trainer, batch)
    assert torch.isfinite(loss)
    assert any(gradient.any() for gradient in gradients.values())


def _row(prompt: str, answers: Sequence[str], *, step: int, index: int) -> RolloutRow:
    """Of two answers the first is right."""
    samples = [
        {"text": text, "token_ids": [5, 6], "log_probs": [-1.0, -1.0], "reward": 1.0 - number}
        for number, text in enumerate(answers)
    ]
    place = {"step": step, "prompt_index": index, "task": "math", "pairs": [(0, 1)]}
    return RolloutRow.model_validate({"prompt": prompt, "prompt_token_ids": [5], "samples": samples, **place})


# ---- GRPO


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        (grpo(beta=0.0), {"loss_type": "dr_grpo"}),
        (grpo(beta=0.05), {"loss_type": "dr_grpo"}),
        (grpo(beta=0.05, clip=0.2), {"loss_type": "dr_grpo", "epsilon": 0.2}),
        (
            grpo(beta=0.05, importance_cap=2.0),
            {
                "loss_type": "dr_grpo",
                "vllm_importance_sampling_mode": "token_truncate",
                "vllm_importance_sampling_clip_max": 2.0,
            },
        ),
        (grpo(beta=0.05, scale_rewards=True), {"loss_type": "dr_grpo", "scale_rewards": "group"}),
        (grpo(beta=0.05, length_normalize=True), {"loss_type": "grpo"}),
        (grpo(beta=0.05, entropy_weight=0.3), {"loss_type": "dr_grpo", "entropy_coef": 0.3}),
    ],
    ids=["plain", "kl", "clip", "importance_cap", "scale_rewards", "length_normalize", "entropy"],
)
def test_grpo_is_that_of_trl(
    folders: tuple[Path, Path], algorithm: GRPO, options: dict[str, Any], tmp_path: Path
) -> None:
    # TRL's entropy is a mean over the tokens of a batch, ours one within each completion: the same for equal lengths.
    length = 3 if algorithm.entropy_weight else None
    # TRL adds 1e-4 to the standard deviation, we 1e-6: the same for large rewards.
    right = 10_000.0 if algorithm.scale_rewards else 1.0
    prompts = (1, 2, 3, 5)
    groups = _planned(algorithm, [_group(folders[0], prompt, length=length, right=right) for prompt in prompts])
    assert [len(group.plan.rows) for group in groups] == [SAMPLES] * 4
    if not algorithm.length_normalize:  # sum over tokens / (rows * LONGEST); the entropy term has no LONGEST
        policy, entropy = (
            _ours(replace(algorithm, **term), groups, folders, divide_by=len(groups) * factor)
            for term, factor in (({"entropy_weight": 0.0}, float(LONGEST)), ({}, 1.0))
        )
        unscaled = _ours(replace(algorithm, entropy_weight=0.0), groups, folders, divide_by=len(groups))
        loss = policy.loss + entropy.loss - unscaled.loss
        gradients = {n: policy.gradients[n] + entropy.gradients[n] - unscaled.gradients[n] for n in policy.gradients}
        ours = Ours(loss, gradients, policy.batch, policy.rows)
    else:
        ours = _ours(algorithm, groups, folders, divide_by=float(len(groups)))
    trainer = _grpo_trainer(folders, tmp_path, beta=algorithm.beta, **options)
    # TRL takes the generator into account where vLLM generates; nothing of vLLM is used but what this says.
    trainer.use_vllm, trainer._last_loaded_step = algorithm.importance_cap is not None, trainer.state.global_step
    inputs = _rollouts(trainer, groups)
    assert ("importance_sampling_ratio" in inputs) is (algorithm.importance_cap is not None)
    if algorithm.clip is not None:  # TRL clips against the trainer at the time of generation, we against the generator
        inputs["old_per_token_logps"] = _padded([s.log_probs for one in groups for s in one.scored.group.samples])
    theirs, their_gradients = _theirs(trainer, inputs)
    _assert_same(ours, theirs, their_gradients)
    logged = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    assert ours.metrics["entropy"] == pytest.approx(logged["entropy"], abs=1e-5)
    if algorithm.beta:
        assert ours.metrics["kl_reference"] == pytest.approx(logged["kl"], rel=1e-4)


# ---- the learner's side


def _group(folder: Path, prompt: int, *, length: int | None = None, right: float = 1.0) -> ScoredGroup:
    """Ragged completions, some of which end with the end-of-text token; both right and wrong ones."""
    scored = scored_group(spec_of(folder, prompts_per_step=8), 0, prompt)
    for verdict in scored.verdicts:
        verdict.score *= right
    if length is not None:
        for sample in scored.group.samples:
            tokens = (list(sample.token_ids) * length)[:length]
            sample.token_ids[:], sample.log_probs[:] = tokens, [-1.0 - 0.1 * i for i in range(length)]
    return scored


def _planned(algorithm: Algorithm, groups: Sequence[ScoredGroup]) -> list[PlannedGroup]:
    return [
        PlannedGroup(group, algorithm.plan([v.score for v in group.verdicts], RandomPair(), Random(0)))
        for group in groups
    ]


def _ours(
    algorithm: Algorithm, groups: Sequence[PlannedGroup], folders: tuple[Path, Path], *, divide_by: float
) -> Ours:
    """The loss of one micro-batch by the code that the learner's step runs."""
    policy, reference = Policy.trainable(folders[0], dtype=torch.float32, device=CPU), _frozen(folders[1])
    rows = token_rows(groups, device=CPU)
    log_probs, entropy = policy.score(rows)
    with torch.no_grad():
        reference_log_probs, _ = reference.score(rows)
    batch = LossBatch.of(
        [group.plan for group in groups],
        log_probs_RT=log_probs,
        entropy_RT=entropy,
        reference_RT=reference_log_probs,
        generator_RT=rows.generator_RT,
        mask_RT=rows.mask_RT,
    )
    loss = algorithm.loss(batch).loss_sum / divide_by
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in policy.named_parameters() if parameter.grad is not None}
    return Ours(loss.detach(), gradients, batch, rows)


def _frozen(folder: Path) -> Policy:
    return Policy.frozen(folder, dtype=torch.float32, device=CPU)


# ---- TRL's side


def _preferences(ours: Ours) -> dict[str, Tensor]:
    """What TRL's collator for preferences makes: all chosen rows, then all rejected ones, padded on the right."""
    order = torch.cat([ours.batch.chosen_P, ours.batch.rejected_P])
    input_ids = ours.rows.input_ids_RW[order].clone()
    mask = torch.zeros_like(input_ids, dtype=torch.bool)
    mask[:, -ours.rows.num_targets :] = ours.rows.mask_RT[order]
    attention = mask.flip(1).cumsum(1).flip(1) > 0  # everything up to the last completion token
    input_ids[~attention] = PAD
    return {"input_ids": input_ids, "attention_mask": attention.long(), "completion_mask": mask.long()}


def _rollouts(trainer: Any, groups: Sequence[PlannedGroup]) -> dict[str, Tensor]:
    """What TRL makes of rollouts and rewards: padded, with advantages, reference and ratio."""
    samples = [(one.scored.group.task, sample) for one in groups for sample in one.scored.group.samples]
    trainer.rollout_func = lambda prompts, _: {
        "prompt_ids": [list(task.prompt_token_ids) for task, _ in samples],
        "completion_ids": [list(sample.token_ids) for _, sample in samples],
        "logprobs": [list(sample.log_probs) for _, sample in samples],
    }
    rewards = [verdict.score for one in groups for verdict in one.scored.verdicts]
    inputs: dict[str, Tensor] = trainer._generate_and_score_completions([{"prompt": "a", "reward": r} for r in rewards])
    return inputs


def _padded(rows: Sequence[Sequence[float]]) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row] + [0.0] * (width - len(row)) for row in rows])


def _dpo_trainer(
    folders: tuple[Path, Path], out: Path, *, beta: float, loss_type: dict[str, float], dataset: Any = None
) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    unused = Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]})
    options = {"beta": beta, "loss_type": list(loss_type), "loss_weights": list(loss_type.values())}
    return _ready(
        DPOTrainer(
            model=_plain(folders[0]),
            ref_model=_plain(folders[1]),
            args=DPOConfig(str(out), **options, **_ON_A_CPU),
            train_dataset=dataset or unused,
            processing_class=tiny_tokenizer(),
        )
    )


def _grpo_trainer(folders: tuple[Path, Path], out: Path, **options: Any) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    fixed = {"num_generations": SAMPLES, "per_device_train_batch_size": SAMPLES, "max_completion_length": LONGEST}
    # TRL's own default lets rho's gradient flow into the KL term as well; the paper's KL term is k3 alone.
    fixed |= {"use_bias_correction_kl": False, "scale_rewards": "none"}
    trainer = GRPOTrainer(
        model=_plain(folders[0]),
        reward_funcs=lambda completions, reward, **_: reward,
        args=GRPOConfig(str(out), **{**fixed, **options}, **_ON_A_CPU),
        train_dataset=Dataset.from_dict({"prompt": ["a"] * 2}),
        processing_class=tiny_tokenizer(),
    )
    if trainer.ref_model is not None:
        trainer.ref_model.load_state_dict(_plain(folders[1]).state_dict())  # it took the policy's own folder
    return _ready(trainer)


_ON_A_CPU: dict[str, Any] = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none"}


def _plain(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def _ready(trainer: Any) -> Any:
    trainer.model.eval()  # TRL divides by the accumulation steps of a training loop only in training
    return trainer


def _theirs(trainer: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    found = {name: parameter.grad for name, parameter in trainer.model.named_parameters() if parameter.grad is not None}
    return loss.detach(), found


def _assert_same(ours: Ours, loss: Tensor, gradients: dict[str, Tensor]) -> None:
    torch.testing.assert_close(ours.loss, loss, rtol=0, atol=1e-5)
    assert ours.gradients.keys() == gradients.keys()
    norm = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm().item()
    assert norm > 1e-3, "a gradient of nothing proves nothing"
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            ours.gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
