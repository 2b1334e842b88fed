"""Every algorithm against slow loops in float64, finite differences, and the identities of the paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.algo import losses
from syncline.algo.algorithm import Algorithm, LossOutput
from syncline.algo.dpo import DPO
from syncline.algo.group_dpo_grpo import GroupDPOGRPO
from syncline.algo.metrics import token_metrics
from syncline.algo.pairs import BestVsWorst
from tests.unit.algo import slow_losses
from tests.unit.algo.algorithms import NAMES, dpo, group_dpo, group_dpo_grpo, grpo
from tests.unit.algo.algorithms import algorithm as algorithm_of
from tests.unit.algo.group_strategies import Group, groups, loss_batch, plans_of
from tests.unit.algo.slow_losses import Completion

batches = st.lists(groups(), min_size=1, max_size=3)
quick = settings(max_examples=20, deadline=None)

PREFERENCE_OPTIONS: list[dict[str, Any]] = [
    {},
    {"beta": 0.5, "length_normalize": True},
    {"nll_weight": 1.0, "entropy_weight": 3e-4},
    {"importance_cap": 2.0},
]
GRPO_OPTIONS: list[dict[str, Any]] = [
    {"beta": 0.0},
    {"beta": 0.1, "length_normalize": True},
    {"scale_rewards": True, "entropy_weight": 0.01},
    {"importance_cap": 1.5},
    {"clip": 0.2},
]


def _loss(algorithm: Algorithm, batch: Sequence[Group]) -> tuple[LossOutput, torch.Tensor]:
    """The loss of a whole batch, and the gradient with respect to the policy's log-probabilities."""
    tensors, policy = loss_batch(batch, plans_of(algorithm, batch))
    output = algorithm.loss(tensors)
    output.loss_sum.backward()
    assert policy.grad is not None
    return output, policy.grad


# ---- against slow loops


@pytest.mark.parametrize("options", PREFERENCE_OPTIONS)
@given(batch=batches)
@quick
def test_group_dpo_is_the_double_loop_over_correct_and_incorrect(
    options: dict[str, Any], batch: Sequence[Group]
) -> None:
    output, gradient = _loss(group_dpo(**options), batch)
    slow = sum(slow_losses.group_dpo(group, rewards, **{"beta": 0.1, **options}) for group, rewards in batch)
    assert output.loss_sum.item() == pytest.approx(slow, rel=1e-9)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("options", PREFERENCE_OPTIONS)
@given(batch=batches)
@quick
def test_dpo_is_the_loss_of_the_one_pair_it_planned(options: dict[str, Any], batch: Sequence[Group]) -> None:
    algorithm = dpo(**options)
    slow = sum(
        slow_losses.pair_loss(group[pair.chosen], group[pair.rejected], **{"beta": 0.1, **options})
        for (group, _), plan in zip(batch, plans_of(algorithm, batch), strict=True)
        for pair in plan.pairs
    )
    assert _loss(algorithm, batch)[0].loss_sum.item() == pytest.approx(slow, rel=1e-9)


@pytest.mark.parametrize("options", GRPO_OPTIONS)
@given(batch=st.lists(groups(st.floats(-3, 3)), min_size=1, max_size=3))
@quick
def test_grpo_is_the_loop_over_completions_and_tokens(options: dict[str, Any], batch: Sequence[Group]) -> None:
    output, gradient = _loss(grpo(**options), batch)
    slow = sum(slow_losses.grpo(group, rewards, **{"beta": 0.001, **options}) for group, rewards in batch)
    assert output.loss_sum.item() == pytest.approx(slow, rel=1e-9, abs=1e-12)
    assert torch.isfinite(gradient).all()


@given(
    batch=batches,
    shared=st.fixed_dictionaries({"importance_cap": st.one_of(st.none(), st.floats(0.5, 3.0))}),
    pairs=st.fixed_dictionaries(
        {
            "beta": st.floats(0.01, 1.0),
            "length_normalize": st.booleans(),
            "nll_weight": st.sampled_from([0.0, 0.7]),
            "entropy_weight": st.sampled_from([0.0, 0.01]),
        }
    ),
    whole=st.fixed_dictionaries({"beta": st.floats(0.0, 0.5), "scale_rewards": st.booleans()}),
    weight=st.floats(0.0, 1.0),
)
@settings(max_examples=100, deadline=None)
def test_the_combined_loss_is_group_dpo_plus_alpha_grpo_whatever_its_options(
    batch: Sequence[Group], shared: dict[str, Any], pairs: dict[str, Any], whole: dict[str, Any], weight: float
) -> None:
    of_grpo = {"grpo_beta": whole["beta"], "scale_rewards": whole["scale_rewards"], "grpo_weight": weight}
    output, gradient = _loss(group_dpo_grpo(**pairs, **of_grpo, **shared), batch)
    slow = sum(
        slow_losses.group_dpo(group, rewards, **pairs, **shared)
        + weight * slow_losses.grpo(group, rewards, **whole, **shared)
        for group, rewards in batch
        if len(set(rewards)) > 1
    )
    assert output.loss_sum.item() == pytest.approx(slow, rel=1e-9, abs=1e-12)
    assert torch.isfinite(gradient).all()


def test_the_combined_gradient_is_that_of_group_dpo_plus_alpha_that_of_grpo() -> None:
    random = Random(1)
    batch = [(_ragged(random, [2, 3, 1, 4]), [1.0, 0.0, 1.0, 0.0]), (_ragged(random, [1, 2]), [0.0, 1.0])]
    _, of_pairs = _loss(group_dpo(beta=0.3), batch)
    _, of_groups = _loss(grpo(beta=0.1, scale_rewards=True), batch)
    _, combined = _loss(group_dpo_grpo(beta=0.3, grpo_beta=0.1, scale_rewards=True, grpo_weight=0.7), batch)
    assert of_groups.abs().min() < of_groups.abs().max()
    torch.testing.assert_close(combined, of_pairs + 0.7 * of_groups)


# ---- gradients by finite differences


@pytest.mark.parametrize(
    "algorithm",
    [dpo(nll_weight=1.0), group_dpo(length_normalize=True), grpo(beta=0.1, clip=0.2), group_dpo_grpo(grpo_beta=0.1)],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_gradients_are_those_of_finite_differences(algorithm: Algorithm) -> None:
    random = Random(0)
    batch = [(_ragged(random, [2, 3, 1]), [1.0, 0.0, 1.0]), (_ragged(random, [1, 2]), [0.0, 1.0])]
    tensors, policy = loss_batch(batch, plans_of(algorithm, batch))
    if isinstance(algorithm, GroupDPOGRPO):  # rho is 1 in value by definition: what moves is log pi itself
        tensors = replace(tensors, advantage_R=torch.zeros_like(tensors.advantage_R))
    inside = tensors.mask_RT

    def loss_of(values: torch.Tensor) -> torch.Tensor:
        moved = torch.zeros_like(policy).masked_scatter(inside, values)
        return algorithm.loss(replace(tensors, log_probs_RT=moved)).loss_sum

    values = policy.detach()[inside].requires_grad_()
    assert torch.autograd.gradcheck(loss_of, (values,), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"beta": 0.5, "length_normalize": True}, {"nll_weight": 1.0}])
def test_gradients_are_those_of_finite_differences_of_the_slow_loops(options: dict[str, Any]) -> None:
    group = (_ragged(Random(3), [2, 3, 1]), [1.0, 0.0, 1.0])
    _, gradient = _loss(group_dpo(**options), [group])
    for row, one in enumerate(group[0]):
        found = gradient[row][2 : 2 + len(one.policy)]  # after the prompt
        for token in range(len(one.policy)):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [*one.policy[:token], one.policy[token] + step, *one.policy[token + 1 :]]
                samples = [*group[0][:row], replace(one, policy=moved), *group[0][row + 1 :]]
                ends.append(slow_losses.group_dpo(samples, group[1], **{"beta": 0.1, **options}))
            assert found[token].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)


@pytest.mark.parametrize("algorithm", [dpo(entropy_weight=0.3), grpo(entropy_weight=0.3)])
def test_the_entropy_term_pulls_evenly_at_the_tokens_of_each_completion_that_it_is_taken_over(
    algorithm: Algorithm,
) -> None:
    group = (_ragged(Random(4), [2, 3]), [0.0, 1.0])
    tensors, _ = loss_batch([group], plans_of(algorithm, [group]))
    entropy = tensors.entropy_RT.clone().requires_grad_()
    algorithm.loss(replace(tensors, entropy_RT=entropy)).loss_sum.backward()
    assert entropy.grad is not None
    every = [-0.3 / 2 / 2, -0.3 / 3 / 2]  # a mean over the group's two completions
    chosen_only = [0.0, -0.3 / 3]
    for row, pull in enumerate(chosen_only if isinstance(algorithm, DPO) else every):
        inside = entropy.grad[row][tensors.mask_RT[row]]
        assert inside.tolist() == pytest.approx([pull] * len(inside))
    assert not entropy.grad[~tensors.mask_RT].any()


@pytest.mark.parametrize("algorithm", [dpo(), grpo(beta=0.0)], ids=["dpo", "grpo"])
def test_truncated_importance_scales_the_gradient_and_is_no_part_of_it(algorithm: Any) -> None:
    cap = 1.5
    one, other = _ragged(Random(5), [1, 1])
    near = replace(one, generator=[one.policy[0] - 0.1]), replace(other, generator=[other.policy[0] + 0.05])
    far = replace(one, generator=[one.policy[0] - 5.0]), replace(other, generator=[other.policy[0] - 5.0])
    for pair, of_pair, of_tokens in (
        (near, math.exp(0.05), [math.exp(0.1), math.exp(-0.05)]),
        (far, cap, [cap, cap]),
    ):
        group = (list(pair), [1.0, 0.0])
        _, plain = _loss(algorithm, [group])
        output, corrected = _loss(replace(algorithm, importance_cap=cap), [group])
        weights = torch.tensor([[of_pair]] * 2 if isinstance(algorithm, DPO) else [[of_tokens[0]], [of_tokens[1]]])
        torch.testing.assert_close(corrected, plain * weights.to(plain.dtype))
        mean = of_pair if isinstance(algorithm, DPO) else sum(of_tokens) / 2
        assert output.metrics["importance"].mean().value == pytest.approx(mean)


@given(group=groups(st.floats(-3, 3)))
@quick
def test_the_gradient_of_grpo_without_kl_is_the_mean_of_advantage_times_grad_log_pi(group: Group) -> None:
    samples, rewards = group
    if len(set(rewards)) == 1:
        return
    _, gradient = _loss(grpo(beta=0.0), [group])
    for row, advantage in enumerate(slow_losses.advantages(rewards, scale=False)):
        tokens = gradient[row][gradient[row] != 0] if advantage else gradient[row][:0]
        wanted = [-advantage / len(samples)] * len(samples[row].policy) if abs(advantage) > 1e-9 else []
        if wanted:
            assert tokens.tolist() == pytest.approx(wanted)


# ---- identities of the paper


@given(chosen=groups(), beta=st.floats(0.01, 2.0))
@quick
def test_group_dpo_of_one_correct_and_one_incorrect_completion_is_dpo(chosen: Group, beta: float) -> None:
    batch = [(chosen[0][:2], [0.0, 1.0])]
    (one, one_gradient), (every, every_gradient) = _loss(dpo(beta=beta), batch), _loss(group_dpo(beta=beta), batch)
    assert one.loss_sum.item() == every.loss_sum.item()
    torch.testing.assert_close(one_gradient, every_gradient, rtol=0, atol=0)


@given(batch=batches)
@quick
def test_the_loss_is_ln_2_for_each_pair_where_the_reference_is_the_policy(batch: Sequence[Group]) -> None:
    same = [([replace(one, reference=one.policy) for one in group], rewards) for group, rewards in batch]
    pairs = sum(len(plan.pairs) for plan in plans_of(dpo(), same))
    assert _loss(dpo(), same)[0].loss_sum.item() == pytest.approx(pairs * math.log(2.0))


@given(batch=batches, shift=st.floats(-50, 50))
@quick
def test_a_constant_in_both_reference_sums_leaves_dpo_unchanged(batch: Sequence[Group], shift: float) -> None:
    """A prompt's own log-probability, say, which cancels within a pair."""
    moved = [
        ([replace(one, reference=[one.reference[0] + shift, *one.reference[1:]]) for one in group], rewards)
        for group, rewards in batch
    ]
    before, after = _loss(dpo(), batch)[0].loss_sum.item(), _loss(dpo(), moved)[0].loss_sum.item()
    assert before == pytest.approx(after, abs=1e-6)


@pytest.mark.parametrize("reward", [0.0, 1.0])
@pytest.mark.parametrize("algorithm", [dpo(), group_dpo(), group_dpo_grpo(), grpo(beta=0.0), grpo(beta=0.1)])
def test_a_tied_group_gives_no_gradient_but_that_of_the_kl_term(algorithm: Algorithm, reward: float) -> None:
    same = [replace(one, reference=one.policy) for one in _ragged(Random(1), [2, 1, 3])]
    batch = [(same, [reward] * 3)]
    (plan,) = plans_of(algorithm, batch)
    if algorithm == grpo(beta=0.1):  # forwarded for its KL term, which is flat where reference and policy agree
        assert (plan.rows, plan.advantages) == ((0, 1, 2), (0.0, 0.0, 0.0))
        assert not _loss(algorithm, batch)[1].any()
    else:
        assert plan.rows == ()
        assert plan.cause in ("all_correct", "all_wrong", "tied")


@given(policy=st.floats(-20, 0), other=st.floats(-20, 0))
def test_k3_is_never_negative_and_zero_only_where_both_agree(policy: float, other: float) -> None:
    value = losses.k3(torch.tensor(policy, dtype=torch.float64), torch.tensor(other, dtype=torch.float64)).item()
    assert value >= 0.0
    assert value == pytest.approx(slow_losses.k3(policy, other), rel=1e-6, abs=1e-9)
    assert losses.k3(torch.tensor([policy]), torch.tensor([policy])).item() == 0.0


# ---- the seam to the step


@pytest.mark.parametrize("name", NAMES)
@given(batch=st.lists(groups(), min_size=2, max_size=4), padding=st.integers(0, 3))
@quick
def test_any_cut_of_a_step_into_micro_batches_gives_the_same_loss(
    name: str, batch: Sequence[Group], padding: int
) -> None:
    algorithm = algorithm_of(name)
    plans = plans_of(algorithm, batch)
    whole = algorithm.loss(loss_batch(batch, plans)[0])
    parts = [
        algorithm.loss(loss_batch(batch[a:b], plans[a:b], padding=padding)[0]) for a, b in pairwise([0, 1, len(batch)])
    ]
    assert sum(part.loss_sum.item() for part in parts) == pytest.approx(whole.loss_sum.item(), rel=1e-9, abs=1e-12)
    for metric, measured in whole.metrics.items():
        pooled = parts[0].metrics[metric].mean() + parts[1].metrics[metric].mean()
        assert pooled.value == pytest.approx(measured.mean().value, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("options", GRPO_OPTIONS)
@given(group=groups(st.floats(-3, 3)), most=st.integers(1, 3))
@quick
def test_a_group_may_be_cut_where_its_rows_stand_alone(options: dict[str, Any], group: Group, most: int) -> None:
    algorithm = grpo(**options)
    (plan,) = plans_of(algorithm, [group])
    whole = algorithm.loss(loss_batch([group], [plan])[0]).loss_sum.item()
    parts = [algorithm.loss(loss_batch([group], [part])[0]).loss_sum.item() for part in plan.parts(most)]
    assert sum(parts) == pytest.approx(whole, rel=1e-9, abs=1e-12)


def test_pairs_hold_a_group_together() -> None:
    for algorithm in (dpo(), group_dpo(), group_dpo_grpo()):
        plan = algorithm.plan([0.0, 1.0, 1.0], BestVsWorst(), Random(0))
        assert plan.parts(1) == [plan]
    close = group_dpo_grpo().plan([0.5, 0.6, 0.5], BestVsWorst(min_margin=1.0), Random(0))
    assert [part.rows for part in close.parts(2)] == [(0, 1), (2,)]


def test_only_the_rows_of_pairs_are_forwarded() -> None:
    plan = dpo().plan([0.0, 1.0, 0.0, 1.0], BestVsWorst(), Random(0))
    assert (plan.rows, plan.pair_weight) == ((0, 1), 1.0)
    assert group_dpo().plan([0.0, 1.0, 0.5], BestVsWorst(min_margin=0.6), Random(0)).rows == (0, 1)


def test_the_combined_loss_trains_its_grpo_term_on_groups_without_a_pair() -> None:
    plan = group_dpo_grpo().plan([0.5, 0.6, 0.5], BestVsWorst(min_margin=1.0), Random(0))
    assert (plan.rows, plan.pairs, plan.cause) == ((0, 1, 2), (), "")
    none = group_dpo_grpo(grpo_weight=0.0).plan([0.5, 0.6, 0.5], BestVsWorst(min_margin=1.0), Random(0))
    assert (none.rows, none.cause) == ((), "below_margin")


def test_prompts_without_a_pair_stay_in_the_denominator_unless_pairs_are_asked_for() -> None:
    rule = BestVsWorst()
    plans = [group_dpo().plan(rewards, rule, Random(0)) for rewards in ([1.0, 0.0, 0.0], [1.0, 1.0, 1.0])]
    assert group_dpo().denominator(plans, num_prompts=2) == 2.0
    assert group_dpo(normalize="pairs").denominator(plans, num_prompts=2) == 1.0
    assert dpo(normalize="pairs").denominator([], num_prompts=2) == 1.0
    combined = group_dpo_grpo(normalize="pairs")
    close, tied = [0.5, 0.6, 0.5], [0.5, 0.5, 0.5]  # without a pair, the first trains its GRPO term
    only_grpo = [combined.plan(rewards, BestVsWorst(min_margin=1.0), Random(0)) for rewards in (close, close, tied)]
    assert combined.denominator(only_grpo, num_prompts=3) == 2.0
    assert grpo().denominator(plans, num_prompts=2) == 2.0


@given(batch=batches)
@quick
def test_token_metrics_are_means_over_completion_tokens(batch: Sequence[Group]) -> None:
    tensors, _ = loss_batch(batch, plans_of(grpo(), batch))
    tokens = [
        token
        for group, _ in batch
        for one in group
        for token in zip(one.policy, one.reference, one.generator, one.entropy, strict=True)
    ]
    found = {name: measured.mean().value for name, measured in token_metrics(tensors).items()}
    assert found == pytest.approx(
        {
            "entropy": sum(entropy for *_, entropy in tokens) / len(tokens),
            "mismatch_kl": sum(slow_losses.k3(gen, policy) for policy, _, gen, _ in tokens) / len(tokens),
            "kl_reference": sum(slow_losses.k3(policy, ref) for policy, ref, _, _ in tokens) / len(tokens),
        }
    )


def _ragged(random: Random, lengths: Sequence[int]) -> list[Completion]:
    def tokens(length: int) -> list[float]:
        return [-random.uniform(0.05, 3.0) for _ in range(length)]

    return [Completion(tokens(n), tokens(n), tokens(n), [random.uniform(0.1, 2.0) for _ in range(n)]) for n in lengths]
