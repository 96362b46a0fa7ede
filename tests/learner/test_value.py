"""The critic: values one place before their token, trained by the policy's own step."""

import copy
import math

import numpy as np
import pytest
import torch

from agentlightning.learner.lora import add_lora, shared_copy
from agentlightning.learner.objectives import CrossEntropy, Value
from agentlightning.learner.reference import Reference
from agentlightning.learner.value import Critic, ValueModel

from .conftest import make_model
from .helpers import assert_close, gradients, make_learner, make_rows


def value_model(model=None):
    """One whose head is not zero."""
    made = ValueModel(make_model() if model is None else model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        made.head.weight.copy_(torch.randn(1, 32, generator=generator, dtype=torch.float64))
        made.head.bias.fill_(0.25)
    return made


def alone_values(values, row):
    """(N,), from the row run alone through the trunk's ordinary forward."""
    ids = torch.from_numpy(row.token_ids.astype(np.int64))[None]
    hidden = values.trunk.model(input_ids=ids, use_cache=False).last_hidden_state[0]
    return torch.stack([hidden[t - 1] @ values.head.weight[0] + values.head.bias[0] for t in np.flatnonzero(row.mask)])


@pytest.mark.parametrize("token_budget", [1, 13, 1000])
def test_values_equal_rows_run_alone(token_budget):
    values, rows = value_model(), make_rows(n=6)
    found = make_learner(values, Critic, token_budget=token_budget).outputs(rows)
    for row, got in zip(rows, found, strict=True):
        np.testing.assert_allclose(got, alone_values(values, row).detach().numpy(), atol=1e-6)


def test_values_are_zero_before_the_first_step(model):
    critic = make_learner(ValueModel.copy_of(model), Critic)
    assert not np.concatenate(critic.outputs(make_rows())).any()


def clipped_loss(values, rows, clip):
    """The formula, token by token: w/2 max((v - R)^2, (clip(v, old +- c) - R)^2)."""
    total = 0.0
    for row in rows:
        for n, value in enumerate(alone_values(values, row)):
            weight, old, target = (float(row.columns[name][n]) for name in ("weights", "values", "returns"))
            clipped = value.clamp(old - clip, old + clip)
            total = total + weight / 2 * torch.maximum((value - target) ** 2, (clipped - target) ** 2)
    return total


@pytest.mark.parametrize("token_budget", [1, 13, 1000])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_step_has_the_gradient_of_the_clipped_loss_of_rows_run_alone(token_budget, checkpointing):
    values, rows = value_model(), make_rows(n=6)
    loss = clipped_loss(values, rows, 0.5)
    named = dict(values.trunk.named_parameters()) | dict(values.head.named_parameters(prefix="value_head"))
    wanted = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
    got, metrics = gradients(
        values, rows, Value(), Critic, token_budget=token_budget, gradient_checkpointing=checkpointing
    )
    assert metrics["critic/loss"] == metrics["critic/vf_loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert_close(got, wanted, rtol=1e-6, atol=1e-9)


def test_the_heads_gradient_by_finite_differences():
    values, rows = value_model(), make_rows(n=3)
    got, _ = gradients(values, rows, Value(), Critic)
    for index in (0, 7, 31):
        ends = []
        for step in (1e-6, -1e-6):
            moved = copy.deepcopy(values)
            with torch.no_grad():
                moved.head.weight[0, index] += step
                ends.append(clipped_loss(moved, rows, 0.5).item())
        assert got["value_head.weight"][0, index].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)


def test_metrics_have_the_critics_names():
    values, rows = value_model(), make_rows()
    before = np.concatenate(make_learner(values, Critic).outputs(rows))
    metrics = make_learner(values, Critic).update(rows, Value(cliprange_value=0.5))
    named = ("loss", "vf_loss", "vf_clipfrac", "vpred_mean", "grad_norm", "lr", "skipped_nonfinite")
    assert set(metrics) == {f"critic/{name}" for name in named}
    assert metrics["critic/vpred_mean"] == pytest.approx(before.mean(), rel=1e-5)


def test_training_brings_values_to_their_returns():
    values, rows = value_model(), make_rows(n=4)
    rows = [row.with_columns(weights=np.ones(row.trained, np.float32)) for row in rows]
    critic = make_learner(values, Critic)

    def error():
        found = critic.outputs(rows)
        return max(np.abs(v - row.columns["returns"]).max() for v, row in zip(found, rows, strict=True))

    first = error()
    for _ in range(150):
        now = [row.with_columns(values=v) for row, v in zip(rows, critic.outputs(rows), strict=True)]
        critic.update(now, Value())
    assert error() < first / 4


def test_an_output_layer_of_its_own_is_not_trained():
    values = value_model(make_model(tie_word_embeddings=False))
    critic = make_learner(values, Critic)
    assert "lm_head.weight" not in critic.parameters
    assert {"model.embed_tokens.weight", "value_head.weight", "value_head.bias"} <= critic.parameters.keys()


def test_a_copy_leaves_the_policy_alone(model):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    make_learner(ValueModel.copy_of(model), Critic).update(make_rows(), Value())
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_an_adapter_on_a_shared_base_trains_head_and_adapter_only(model):
    trunk = shared_copy(model)
    add_lora(trunk, rank=2, alpha=4)
    critic = make_learner(value_model(trunk), Critic)
    assert all("lora_" in name or name.startswith("value_head.") for name in critic.parameters)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    policy = Reference(model).logprobs(make_rows())
    critic.update(make_rows(), Value())
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    for a, b in zip(policy, Reference(model).logprobs(make_rows()), strict=True):
        assert np.array_equal(a, b)


def test_a_critic_in_half_precision_has_a_head_in_float32():
    values = ValueModel(make_model().bfloat16())
    assert values.head.weight.dtype == torch.float32
    critic = make_learner(values, Critic)
    metrics = critic.update(make_rows(), Value())
    assert math.isfinite(metrics["critic/grad_norm"])
    assert critic.outputs(make_rows())[0].dtype == np.float32


def test_a_critic_is_no_policy():
    """It has values, so a loss on log-probs would be nonsense; entropies are simply not there."""
    seen = []

    class Looks(CrossEntropy):
        def __call__(self, tokens, outputs, entropy):
            seen.append((outputs.detach().clone(), entropy))
            return {"x": outputs.sum()}, {}

    values, rows = value_model(), make_rows(n=2)
    expected = np.concatenate(make_learner(values, Critic, token_budget=1000).outputs(rows))
    make_learner(values, Critic, token_budget=1000).update(rows, Looks())
    assert sorted(seen[0][0].tolist()) == pytest.approx(sorted(expected.tolist()), abs=1e-6)
    assert seen[0][1] is None
