"""What the policy computes, against plain transformers; and what one update changes, and what it leaves alone."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GraniteConfig, LlamaForCausalLM

from services.learner.batch import PlannedGroup, token_rows
from services.learner.policy import DTYPES, Policy
from services.learner.resume import Run, open_run
from services.learner.settings import LearnerSettings
from services.learner.step import Stopped, Trainer, update
from syncline.algo.algorithm import GroupPlan
from syncline.cache import Cache
from syncline.errors import InvalidSpec
from syncline.storage import FolderStorage
from tests.integration.learner_world import RUN, groups_of, scored_group, spec_of
from tests.integration.tiny_models import VOCAB_SIZE, make_tiny_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("seed"), seed=0, hidden=32, layers=2, heads=1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.5)])
@pytest.mark.parametrize("frozen", [False, True])
def test_ragged_rows_score_as_if_each_was_alone(
    model: Path, dtype: torch.dtype, tolerance: float, frozen: bool
) -> None:
    groups = [
        PlannedGroup(scored_group(spec_of(model), 0, index), GroupPlan(rows=rows))
        for index, rows in enumerate([(0, 1, 2, 3), (1,), (0, 3)])
    ]
    rows = token_rows(groups, device=CPU)
    policy = (Policy.frozen if frozen else Policy.trainable)(model, dtype=dtype, device=CPU)
    with torch.no_grad():
        log_probs, entropy = policy.score(rows)

    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    alone = [
        (list(group.scored.group.task.prompt_token_ids), list(group.scored.group.samples[i].token_ids))
        for group in groups
        for i in group.plan.rows
    ]
    for row, (prompt, completion) in enumerate(alone):
        with torch.no_grad():
            scores = plain(input_ids=torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        at = scores[len(prompt) - 1 : -1]
        wanted = at.gather(-1, torch.tensor(completion)[:, None])[:, 0]
        inside = rows.mask_RT[row]
        torch.testing.assert_close(log_probs[row][inside], wanted, rtol=0, atol=tolerance)
        torch.testing.assert_close(entropy[row][inside], -(at.exp() * at).sum(-1), rtol=0, atol=tolerance)


@pytest.mark.parametrize("seen", ["softcap", "scaled"])
def test_models_that_cap_or_scale_their_logits_score_as_they_do_themselves(tmp_path: Path, seen: str) -> None:
    sizes = {"vocab_size": VOCAB_SIZE, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16, "initializer_range": 0.3}
    config = (
        Gemma2Config(**sizes, final_logit_softcapping=2.0)
        if seen == "softcap"
        else GraniteConfig(**sizes, logits_scaling=4.0)
    )
    plain = AutoModelForCausalLM.from_config(config).eval()
    plain.save_pretrained(tmp_path)
    policy = Policy.trainable(tmp_path, dtype=torch.float32, device=CPU)  # refused if they differed
    rows = token_rows([PlannedGroup(scored_group(spec_of(tmp_path), 0, 1), GroupPlan(rows=(0, 1)))], device=CPU)
    log_probs, _ = policy.score(rows)
    with torch.no_grad():
        log_p = plain(input_ids=rows.input_ids_RW).logits.log_softmax(-1)[:, -rows.num_targets - 1 : -1]
    wanted = log_p.gather(-1, rows.targets_RT[..., None])[..., 0]
    torch.testing.assert_close(log_probs[rows.mask_RT], wanted[rows.mask_RT], rtol=0, atol=1e-4)


def test_a_model_that_does_something_unknown_to_its_logits_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = LlamaForCausalLM.forward

    def squared(self: LlamaForCausalLM, *args: object, **kwargs: object) -> object:
        output = own(self, *args, **kwargs)
        output.logits = output.logits**2
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", squared)
    with pytest.raises(InvalidSpec, match="logits are more than"):
        Policy.trainable(model, dtype=torch.float32, device=CPU)


def test_the_output_layer_sees_completion_tokens_alone_and_makes_no_logits_of_a_whole_batch(model: Path) -> None:
    policy = Policy.trainable(model, dtype=torch.float32, device=CPU)
    rows = token_rows([PlannedGroup(scored_group(spec_of(model), 0, 1), GroupPlan(rows=(0, 1, 2, 3)))], device=CPU)
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.shape), t)[1], lambda t: t):
        log_probs, _ = policy.score(rows)
    assert VOCAB_SIZE not in {shape[-1] for shape in kept if shape and shape != (VOCAB_SIZE, VOCAB_SIZE)}
    assert (int(rows.mask_RT.sum()), 32) in [tuple(shape) for shape in kept]
    assert not log_probs[~rows.mask_RT].any()


def test_a_frozen_and_a_trainable_policy_of_the_same_folder_agree_to_the_bit_in_bfloat16(model: Path) -> None:
    rows = token_rows([PlannedGroup(scored_group(spec_of(model), 0, 1), GroupPlan(rows=(0, 1)))], device=CPU)
    with torch.no_grad():
        scores = [
            load(model, dtype=torch.bfloat16, device=CPU).score(rows) for load in (Policy.frozen, Policy.trainable)
        ]
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=0)


def _trainer(folder: Path, run_dir: Path, **fields: object) -> Trainer:
    run = Run(RUN, spec_of(folder, **fields), FolderStorage(run_dir), Cache(run_dir / "cache"))
    return open_run(run, settings=LearnerSettings(device="cpu"), stop=threading.Event()).trainer


def test_updates_too_small_for_bfloat16_are_kept_in_float32(model: Path, tmp_path: Path) -> None:
    trainer = _trainer(
        model,
        tmp_path,
        model={"path": str(model), "dtype": "bfloat16"},
        optimizer={"lr": 1e-6, "eps": 1e-8, "weight_decay": 0.0},
    )
    before = {name: parameter.detach().clone() for name, parameter in trainer.policy.named_parameters()}
    update(trainer, groups_of(trainer.spec, [0]), step=0, version=0)
    for name, parameter in trainer.policy.named_parameters():
        assert parameter.dtype == torch.float32
        moved = (parameter - before[name]).abs().max().item()
        assert 0.0 < moved < 1e-5
    published = trainer.policy.weights()
    assert {tensor.dtype for tensor in published.values()} == {torch.bfloat16}


def test_the_learning_rate_is_that_of_the_step(model: Path, tmp_path: Path) -> None:
    plain = {"lr": 1e-2, "eps": 1e-12, "warmup_steps": 10, "weight_decay": 0.0, "grad_clip": 1e9}
    trainer = _trainer(model, tmp_path, steps=10, optimizer=plain)
    for step in range(2):
        before = torch.cat([parameter.detach().flatten() for _, parameter in trainer.policy.named_parameters()])
        made = update(trainer, groups_of(trainer.spec, [0]), step=step, version=0)
        after = torch.cat([parameter.detach().flatten() for _, parameter in trainer.policy.named_parameters()])
        assert made.metrics["learning_rate"] == pytest.approx(1e-3 * (step + 1))
        # Adam moves a weight by about the learning rate in its first steps.
        assert (after - before).abs().max().item() == pytest.approx(1e-3 * (step + 1), rel=0.2)


def test_a_stopped_update_changes_nothing(model: Path, tmp_path: Path) -> None:
    trainer = _trainer(model, tmp_path)
    before = {name: parameter.detach().clone() for name, parameter in trainer.policy.named_parameters()}
    trainer.stop.set()
    with pytest.raises(Stopped):
        update(trainer, groups_of(trainer.spec, [0]), step=0, version=0)
    for name, parameter in trainer.policy.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name], rtol=0, atol=0)


def test_only_the_completions_of_pairs_are_forwarded(model: Path, tmp_path: Path) -> None:
    trainer = _trainer(model, tmp_path)
    forwarded: list[int] = []
    trainer.policy.model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: forwarded.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    update(trainer, groups_of(trainer.spec, [0]), step=0, version=0)
    assert forwarded == [6]  # three prompts with a pair; the fourth is all correct


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recomputed_activations_give_the_same_gradients_and_are_not_kept(
    model: Path, tmp_path: Path, dtype: str
) -> None:
    gradients, kept = [], []
    for recompute in (False, True):
        policy = Policy.trainable(model, dtype=DTYPES[dtype], device=CPU, recompute=recompute)
        rows = token_rows([PlannedGroup(scored_group(spec_of(model), 0, 1), GroupPlan(rows=(0, 1)))], device=CPU)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: (s.append(t.nbytes), t)[1], lambda t: t):
            log_probs, entropy = policy.score(rows)
        (log_probs[rows.mask_RT].sum() + entropy[rows.mask_RT].sum()).backward()
        gradients.append({name: parameter.grad for name, parameter in policy.named_parameters()})
        kept.append(sum(sizes))
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=0)
    assert kept[1] < kept[0] / 2


def test_a_run_with_recomputed_activations_ends_with_the_same_bytes(model: Path, tmp_path: Path) -> None:
    ends = []
    for recompute in (False, True):
        trainer = _trainer(
            model, tmp_path / str(recompute), model={"path": str(model), "activation_checkpointing": recompute}
        )
        for step in range(2):
            update(trainer, groups_of(trainer.spec, [step]), step=step, version=0)
        ends.append({name: parameter.detach().clone() for name, parameter in trainer.policy.named_parameters()})
    for name, parameter in ends[0].items():
        torch.testing.assert_close(ends[1][name], parameter, rtol=0, atol=0)
