"""The training step against rows run alone, and what it must not depend on."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.learner import logprob
from agentlightning.learner.batch import Row
from agentlightning.learner.learner import MAX_BAD_STEPS, Learner, OptimizerConfig
from agentlightning.learner.objectives import CrossEntropy, Policy
from agentlightning.learner.schedule import Schedule
from agentlightning.types import ConfigError, TrainingError

from .conftest import make_model
from .helpers import alone, alone_logprobs, assert_close, gradients, make_learner, make_rows, wanted_gradients

PPO = Policy(config={"clip_ratio_low": 0.2, "clip_ratio_high": 0.2}, entropy_coeff=0.01)


def cross_entropy(model, rows):
    weights = [torch.from_numpy(row.columns["weights"]).double() for row in rows]
    return -sum((w * alone_logprobs(model, row)).sum() for w, row in zip(weights, rows, strict=True))


@pytest.mark.parametrize("token_budget", [1, 13, 1000])
@pytest.mark.parametrize("chunk", [3, 512])
def test_cross_entropy_equals_rows_run_alone(model, monkeypatch, token_budget, chunk):
    monkeypatch.setattr(logprob, "CPU_CHUNK", chunk)
    rows = make_rows(n=7)
    expected = cross_entropy(model, rows)
    got, metrics = gradients(model, rows, CrossEntropy(), token_budget=token_budget)
    assert metrics["actor/loss"] == pytest.approx(expected.item(), rel=1e-9)
    assert_close(got, wanted_gradients(model, expected))


def test_an_entropy_bonus_equals_rows_run_alone(model):
    rows = make_rows()
    objective = Policy(loss_mode="gpg", entropy_coeff=0.3, temperature=0.7)
    expected = 0.0
    for row in rows:
        weights, advantages = (torch.from_numpy(row.columns[name]).double() for name in ("weights", "advantages"))
        everything = alone(model, row, 0.7)
        entropy = -(everything.exp() * everything).sum(-1)
        expected = expected - (weights * (advantages * alone_logprobs(model, row, 0.7) + 0.3 * entropy)).sum()
    got, metrics = gradients(model, rows, objective)
    assert metrics["actor/loss"] == pytest.approx(expected.item(), rel=1e-6)
    assert_close(got, wanted_gradients(model, expected), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("objective", [CrossEntropy(), PPO])
@pytest.mark.parametrize("token_budget", [1, 13, 20])
def test_gradient_does_not_depend_on_the_micro_batches(model, objective, token_budget):
    rows = make_rows(n=7)
    whole, metrics = gradients(model, rows, objective, token_budget=10_000)
    split, split_metrics = gradients(model, rows, objective, token_budget=token_budget)
    assert_close(split, whole)
    assert split_metrics == pytest.approx(metrics, rel=1e-9)


def test_gradient_does_not_depend_on_the_order_of_rows(model):
    rows = make_rows(n=6)
    one, _ = gradients(model, rows, CrossEntropy(), token_budget=20)
    other, _ = gradients(model, rows[::-1], CrossEntropy(), token_budget=20)
    assert_close(other, one)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), budget=st.integers(1, 60), chunk=st.integers(1, 30))
def test_logprobs_equal_rows_run_alone_however_they_are_packed(seed, budget, chunk):
    model, rows = make_model(), make_rows(seed, n=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logprob, "CPU_CHUNK", chunk)
        found = make_learner(model, token_budget=budget).logprobs(rows, temperature=0.7)
    for row, got in zip(rows, found, strict=True):
        np.testing.assert_allclose(got, alone_logprobs(model, row, 0.7).detach().numpy(), atol=1e-6)


def test_statistics_equal_sums_over_the_vocabulary(model):
    rows = make_rows(n=4)
    found = make_learner(model).statistics(rows, temperature=0.7)
    for number, row in enumerate(rows):
        for n, logprobs in enumerate(alone(model, row, 0.7).tolist()):
            target = int(row.token_ids[row.mask][n])
            probabilities = [math.exp(value) for value in logprobs]
            assert found.logprobs[number][n] == pytest.approx(logprobs[target], abs=1e-6)
            entropy = -sum(p * value for p, value in zip(probabilities, logprobs, strict=True))
            assert found.entropy[number][n] == pytest.approx(entropy, abs=1e-6)
            assert found.sum_pi_squared[number][n] == pytest.approx(sum(p * p for p in probabilities), abs=1e-6)


def test_no_rows_have_no_logprobs(model):
    assert make_learner(model).logprobs([]) == []


def test_a_row_without_trained_tokens_changes_nothing(model):
    rows = make_rows(n=3)
    silent = Row(np.arange(5, dtype=np.int32), np.zeros(5, np.bool_), dict.fromkeys(rows[0].columns, np.zeros(0)), 9)
    one, _ = gradients(model, rows, PPO)
    other, _ = gradients(model, [rows[0], silent, *rows[1:]], PPO)
    assert_close(other, one)
    assert [len(found) for found in make_learner(model).logprobs([rows[0], silent])] == [rows[0].trained, 0]


def test_mask_is_not_off_by_one(model):
    """Training one token raises the probability of that token in its place, and most of all of it."""
    ids = np.array([3, 7, 9, 11], np.int32)
    row = Row(ids, np.array([False, False, True, False]), {"weights": np.ones(1, np.float32)})
    learner = make_learner(model, optimizer=OptimizerConfig(lr=1e-3, weight_decay=0.0))
    everything = Row(ids, np.array([False, True, True, True]), {})
    before = learner.logprobs([everything])[0]
    learner.update([row], CrossEntropy())
    gain = learner.logprobs([everything])[0] - before
    assert int(np.argmax(gain)) == 1
    assert gain[1] > 0.01


@pytest.mark.parametrize("objective", [CrossEntropy(), PPO])
def test_gradient_checkpointing_changes_nothing(model, objective):
    rows = make_rows()
    plain, _ = gradients(model, rows, objective, token_budget=40)
    again, _ = gradients(model, rows, objective, token_budget=40, gradient_checkpointing=True)
    assert_close(again, plain)


def test_gradient_checkpointing_computes_layers_again_without_dropout(model):
    """transformers recomputes in training mode only, where its own dropout would be on."""
    attention = model.model.layers[0].self_attn
    modes = []
    attention.register_forward_hook(lambda *_: modes.append((model.model.layers[0].training, attention.training)))
    learner = make_learner(model, gradient_checkpointing=True, token_budget=1000)
    learner.update(make_rows(), CrossEntropy())
    assert modes == [(False, False)] * 2  # forward, and again in the backward pass
    assert not any(module.training for module in model.modules())
    learner.logprobs(make_rows())
    assert len(modes) == 3


def test_a_model_that_cannot_be_recomputed_is_refused(model):
    model.get_decoder = lambda: torch.nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="enable_gradient_checkpointing=False"):
        make_learner(model, gradient_checkpointing=True)


def test_learning_rate_follows_the_schedule(model):
    learner = make_learner(model, optimizer=OptimizerConfig(lr=1.0), schedule=Schedule(4, warmup_steps=2))
    rates = []
    for _ in range(4):
        rates.append(learner.lr)
        learner.advance()
    assert rates == [0.0, 0.5, 1.0, 1.0]


def test_the_first_step_of_a_warmup_moves_nothing(model):
    learner = make_learner(model, schedule=Schedule(4, warmup_steps=2))
    before = {name: p.detach().clone() for name, p in learner.parameters.items()}
    assert learner.update(make_rows(), CrossEntropy())["actor/lr"] == 0.0
    assert all(torch.equal(p, before[name]) for name, p in learner.parameters.items())
    learner.advance()
    assert learner.update(make_rows(), CrossEntropy())["actor/lr"] == 5e-3
    assert not any(torch.equal(p, before[name]) for name, p in learner.parameters.items())


def test_the_gradient_is_clipped_by_its_norm_over_all_parameters(model):
    rows = make_rows()
    free, metrics = gradients(model, rows, CrossEntropy())
    norm = math.sqrt(sum(float(g.square().sum()) for g in free.values()))
    assert metrics["actor/grad_norm"] == pytest.approx(norm, rel=1e-9)
    descent = OptimizerConfig(lr=1.0, weight_decay=0.0, grad_clip=norm / 4, optimizer="SGD")
    learner = make_learner(model, optimizer=descent)
    before = {name: p.detach().clone() for name, p in learner.parameters.items()}
    learner.update(rows, CrossEntropy())
    moved = {name: before[name] - p.detach() for name, p in learner.parameters.items()}
    assert_close(moved, {name: gradient / 4 for name, gradient in free.items()}, rtol=1e-5)  # torch adds 1e-6 to it


def bad_row(row, value=np.nan):
    return row.with_columns(weights=np.full(row.trained, value, np.float32))


def snapshot(learner):
    state = {
        (name, slot): value.clone()
        for name, p in learner.parameters.items()
        for slot, value in learner.optimizer.state[p].items()
    }
    return {name: p.detach().clone() for name, p in learner.parameters.items()} | state


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_step_that_is_not_finite_leaves_everything_as_it_was_and_then_ends_training(model, value):
    row = make_rows(n=1)[0]
    learner = make_learner(model)
    learner.update([row], CrossEntropy())
    before = snapshot(learner)
    for _ in range(MAX_BAD_STEPS - 1):
        metrics = learner.update([bad_row(row, value)], CrossEntropy())
        assert metrics["actor/skipped_nonfinite"] == 1.0
        assert not math.isfinite(metrics["actor/loss"])
    after = snapshot(learner)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert all(p.grad is None for p in learner.parameters.values())
    with pytest.raises(TrainingError, match=r"lower `actor.optim.lr`"):
        learner.update([bad_row(row, value)], CrossEntropy())


class Overflowing:
    """A loss that is infinite while its gradient is finite."""

    temperature, needs_entropy, local = 1.0, False, True

    def __call__(self, tokens, outputs, entropy):
        return {"actor/pg_loss": outputs.sum() + torch.tensor(math.inf)}, {}


def test_a_loss_that_is_not_finite_is_no_step_even_with_a_finite_gradient(model):
    learner = make_learner(model)
    before = snapshot(learner)
    metrics = learner.update(make_rows(), Overflowing())
    assert math.isfinite(metrics["actor/grad_norm"])
    assert metrics["actor/skipped_nonfinite"] == 1.0
    assert all(torch.equal(tensor, before[key]) for key, tensor in snapshot(learner).items())


def test_a_finite_gradient_forgives_earlier_ones(model):
    good = make_rows(n=1)[0]
    learner = make_learner(model)
    for _ in range(3):
        for _ in range(MAX_BAD_STEPS - 1):
            learner.update([bad_row(good)], CrossEntropy())
        assert learner.update([good], CrossEntropy())["actor/skipped_nonfinite"] == 0.0


def test_two_learners_with_one_history_have_one_future():
    rows = make_rows(n=4)
    one, other = make_learner(make_model()), make_learner(make_model())
    for _ in range(3):
        assert one.update(rows, CrossEntropy()) == other.update(rows, CrossEntropy())
    for a, b in zip(one.parameters.values(), other.parameters.values(), strict=True):
        assert torch.equal(a, b)


def test_a_biased_output_layer_is_scored_and_trained_with_its_bias(model):
    """Phi has one; without it every ratio would be wrong."""
    model.lm_head.bias = torch.nn.Parameter(torch.randn(50, dtype=torch.float64))
    rows = make_rows(n=2)
    for row, got in zip(rows, make_learner(model).logprobs(rows), strict=True):
        np.testing.assert_allclose(got, alone_logprobs(model, row).detach().numpy(), atol=1e-6)
    got, _ = gradients(model, rows, CrossEntropy())
    assert_close(got, wanted_gradients(model, cross_entropy(model, rows)))


def test_the_loss_is_the_sum_of_its_named_parts(model):
    rows = make_rows(n=3)
    metrics = make_learner(model, token_budget=9).update(rows, PPO)
    assert metrics["actor/loss"] == pytest.approx(metrics["actor/pg_loss"] + metrics["actor/entropy_loss"], rel=1e-6)
    fresh = make_learner(make_model()).logprobs(rows)
    gaps = [np.abs(new - row.columns["old_logprobs"]) for new, row in zip(fresh, rows, strict=True)]
    assert metrics["actor/abs_log_ratio"] == pytest.approx(np.concatenate(gaps).mean(), rel=1e-5)


def test_threads_are_as_before_after_every_call(model):
    rows, before = make_rows(), torch.get_num_threads()
    learner = make_learner(model, threads=before + 1)
    seen = []
    model.model.layers[0].register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    learner.update(rows, CrossEntropy())
    learner.logprobs(rows)
    assert set(seen) == {before + 1}
    with pytest.raises(KeyError):
        learner.update([Row(rows[0].token_ids, rows[0].mask, {})], CrossEntropy())
    assert torch.get_num_threads() == before


def test_frozen_parameters_are_left_alone(model):
    model.model.layers[0].requires_grad_(False)
    learner = make_learner(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    learner.update(make_rows(), CrossEntropy())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("model.layers.0."), name
    assert not any(name.startswith("model.layers.0.") for name in learner.parameters)


def test_the_full_logits_never_exist(model, monkeypatch):
    monkeypatch.setattr(logprob, "CPU_CHUNK", 4)
    shapes = []
    original = torch.nn.functional.linear

    def linear(hidden, weight, bias=None):
        result = original(hidden, weight, bias)
        if result.shape[-1] == 50:
            shapes.append(result.shape[0])
        return result

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    rows = make_rows(n=8)
    learner: Learner = make_learner(model, token_budget=1000)
    learner.update(rows, PPO)
    learner.statistics(rows)
    assert sum(shapes) == 2 * sum(row.trained for row in rows)  # each row once a call
    assert max(shapes) <= 4
