"""The training step against a plain padded reference, and what it must not depend on."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.learner.batch import Row, pack, plan
from agentlightning.learner.learner import MAX_BAD_STEPS, Learner, OptimizerConfig
from agentlightning.learner.objectives import CrossEntropy, Policy
from agentlightning.learner.schedule import Schedule
from agentlightning.types import TrainingError

from .conftest import make_model


def make_rows(seed=0, n=5, longest=12):
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        length = int(generator.integers(2, longest))
        mask = generator.random(length) < 0.6
        mask[0] = False
        mask[-1] = True
        rows.append(
            Row(
                token_ids=generator.integers(0, 50, length).astype(np.int32),
                mask=mask,
                weights=generator.random(length).astype(np.float32),
                old_logprobs=(-generator.random(length) * 4).astype(np.float32),
                advantages=generator.normal(size=length).astype(np.float32),
            )
        )
    return rows


def make_learner(model, **changes):
    settings = {"optimizer": OptimizerConfig(lr=1e-2), "schedule": Schedule(10), "token_budget": 16}
    return Learner(model, **{**settings, **changes})


def gradients(model, rows, objective, token_budget):
    """What one update would step along: SGD-like read-out through a huge clip and the optimizer left out."""
    learner = make_learner(model, token_budget=token_budget, optimizer=OptimizerConfig(lr=0.0, grad_clip=1e9))
    seen = {}
    learner.optimizer.zero_grad = lambda set_to_none=True: seen.update(
        {name: p.grad.clone() for name, p in learner.parameters.items() if p.grad is not None}
    )
    metrics = learner.update(rows, objective)
    for parameter in learner.parameters.values():
        parameter.grad = None
    return seen, metrics


def reference_loss(model, rows, temperature=1.0):
    """Cross-entropy of each row run alone through the model's ordinary forward."""
    total = 0.0
    for row in rows:
        ids = torch.from_numpy(row.token_ids.astype(np.int64))[None]
        logits = model(input_ids=ids, use_cache=False).logits[0] / temperature
        logprobs = torch.log_softmax(logits, -1)
        for t in np.flatnonzero(row.mask):
            total = total - float(row.weights[t]) * logprobs[t - 1, row.token_ids[t]]
    return total


def test_cross_entropy_equals_rows_run_alone(model):
    rows = make_rows()
    expected = reference_loss(model, rows)
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    got, metrics = gradients(model, rows, CrossEntropy(), token_budget=1000)
    assert metrics["actor/loss"] == pytest.approx(expected.item(), rel=1e-6)
    for (name, _), gradient in zip(model.named_parameters(), wanted, strict=True):
        torch.testing.assert_close(got[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("objective", [CrossEntropy(), Policy(config={"clip_ratio": 0.2}, entropy_coeff=0.01)])
@pytest.mark.parametrize("token_budget", [1, 13, 20])
def test_gradient_does_not_depend_on_the_micro_batches(model, objective, token_budget):
    rows = make_rows(n=7)
    whole, metrics = gradients(model, rows, objective, token_budget=10_000)
    split, split_metrics = gradients(model, rows, objective, token_budget=token_budget)
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, rtol=1e-6, atol=1e-9, msg=name)
    assert split_metrics == pytest.approx(metrics, rel=1e-5)


def test_gradient_does_not_depend_on_the_order_of_rows(model):
    rows = make_rows(n=6)
    one, _ = gradients(model, rows, CrossEntropy(), token_budget=20)
    other, _ = gradients(model, rows[::-1], CrossEntropy(), token_budget=20)
    for name, gradient in one.items():
        torch.testing.assert_close(other[name], gradient, rtol=1e-6, atol=1e-9, msg=name)


def test_untrained_tokens_have_no_gradient(model):
    """Data of tokens that are not trained reaches no loss: changing it changes nothing."""
    row = make_rows(n=1, longest=11)[0]
    other = Row(
        row.token_ids,
        row.mask,
        np.where(row.mask, row.weights, 99).astype(np.float32),
        np.where(row.mask, row.old_logprobs, -99).astype(np.float32),
        np.where(row.mask, row.advantages, 99).astype(np.float32),
    )
    one, _ = gradients(model, [row], Policy(), token_budget=100)
    two, _ = gradients(model, [other], Policy(), token_budget=100)
    for name, gradient in one.items():
        assert torch.equal(gradient, two[name]), name


def test_mask_is_not_off_by_one(model):
    """Training one token raises the probability of that token in its place, and most of all of it."""
    ids = np.array([3, 7, 9, 11], np.int32)
    mask = np.array([False, False, True, False])
    row = Row(ids, mask, np.ones(4, np.float32))
    learner = make_learner(model, optimizer=OptimizerConfig(lr=1e-3, weight_decay=0.0))
    everything = Row(ids, np.array([False, True, True, True]), np.ones(4, np.float32))
    before = learner.logprobs([everything])[0]
    learner.update([row], CrossEntropy())
    gain = learner.logprobs([everything])[0] - before
    assert int(np.argmax(gain)) == 1
    assert gain[1] > 0.01


def test_a_row_whose_first_token_is_trained_is_refused():
    with pytest.raises(ValueError, match="first token"):
        Row(np.array([1, 2], np.int32), np.array([True, True]), np.ones(2, np.float32))


def test_logprobs_equal_the_models_own(model):
    rows = make_rows(n=4)
    learner = make_learner(model)
    for row, got in zip(rows, learner.logprobs(rows, temperature=0.7), strict=True):
        logits = model(input_ids=torch.from_numpy(row.token_ids.astype(np.int64))[None], use_cache=False).logits[0]
        reference = torch.log_softmax(logits / 0.7, -1)
        at = np.flatnonzero(row.mask)
        expected = [reference[t - 1, row.token_ids[t]].item() for t in at]
        assert got.tolist() == pytest.approx(expected, abs=1e-5)


def test_gradient_checkpointing_changes_nothing(model):
    rows = make_rows()
    plain, _ = gradients(copy.deepcopy(model), rows, CrossEntropy(), token_budget=40)
    learner = make_learner(model, gradient_checkpointing=True, token_budget=40, optimizer=OptimizerConfig(lr=0.0))
    seen = {}
    learner.optimizer.zero_grad = lambda set_to_none=True: seen.update(
        {name: p.grad.clone() for name, p in learner.parameters.items()}
    )
    learner.config = OptimizerConfig(lr=0.0, grad_clip=1e9)
    learner.update(rows, CrossEntropy())
    assert not model.training
    for name, gradient in plain.items():
        torch.testing.assert_close(seen[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


def test_learning_rate_follows_the_schedule(model):
    learner = make_learner(model, optimizer=OptimizerConfig(lr=1.0), schedule=Schedule(4, warmup_steps=2))
    rates = []
    for _ in range(4):
        rates.append(learner.lr)
        learner.advance()
    assert rates == [0.0, 0.5, 1.0, 1.0]


def test_a_gradient_that_is_not_finite_is_thrown_away_and_then_ends_training(model):
    row = make_rows(n=1)[0]
    bad = Row(row.token_ids, row.mask, np.full(len(row), np.nan, np.float32))
    learner = make_learner(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(MAX_BAD_STEPS - 1):
        metrics = learner.update([bad], CrossEntropy())
        assert metrics["actor/skipped_nonfinite"] == 1.0
        assert not math.isfinite(metrics["actor/grad_norm"])
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
    with pytest.raises(TrainingError, match=r"lower `actor.optim.lr`"):
        learner.update([bad], CrossEntropy())


def test_a_finite_gradient_forgives_earlier_ones(model):
    good = make_rows(n=1)[0]
    bad = Row(good.token_ids, good.mask, np.full(len(good), np.nan, np.float32))
    learner = make_learner(model)
    for _ in range(3):
        for _ in range(MAX_BAD_STEPS - 1):
            learner.update([bad], CrossEntropy())
        assert learner.update([good], CrossEntropy())["actor/skipped_nonfinite"] == 0.0


@given(lengths=st.lists(st.integers(2, 30), min_size=1, max_size=20), budget=st.integers(1, 60))
@settings(deadline=None)
def test_plan_keeps_order_and_budget(lengths, budget):
    rows = [Row(np.zeros(n, np.int32), np.zeros(n, np.bool_), np.ones(n, np.float32)) for n in lengths]
    batches = plan(rows, budget)
    assert [index for batch in batches for index in batch] == list(range(len(rows)))
    assert all(len(batch) == 1 or sum(lengths[i] for i in batch) <= budget for batch in batches)


def test_pack_points_at_the_predecessors():
    rows = [
        Row(np.array([5, 6, 7], np.int32), np.array([False, False, True]), np.array([0, 0, 0.5], np.float32)),
        Row(np.array([8, 9], np.int32), np.array([False, True]), np.array([0, 0.25], np.float32)),
    ]
    batch = pack(rows, torch.device("cpu"))
    assert batch.input_ids_T.tolist() == [5, 6, 7, 8, 9]
    assert batch.cu_seqlens == [0, 3, 5]
    assert batch.predict_N.tolist() == [1, 3]
    assert batch.targets_N.tolist() == [7, 9]
    assert batch.weights_N.tolist() == [0.5, 0.25]
    assert batch.advantages_N.tolist() == [0.0, 0.0]


def test_two_learners_with_one_history_have_one_future():
    rows = make_rows(n=4)
    one, other = make_learner(make_model()), make_learner(make_model())
    for _ in range(3):
        assert one.update(rows, CrossEntropy()) == other.update(rows, CrossEntropy())
    for a, b in zip(one.parameters.values(), other.parameters.values(), strict=True):
        assert torch.equal(a, b)


def test_a_biased_output_layer_is_scored_with_its_bias(model):
    """Phi has one; without it every ratio would be wrong."""
    model.lm_head.bias = torch.nn.Parameter(torch.randn(50, dtype=torch.float64))
    rows = make_rows(n=2)
    for row, got in zip(rows, make_learner(model).logprobs(rows), strict=True):
        logits = model(input_ids=torch.from_numpy(row.token_ids.astype(np.int64))[None], use_cache=False).logits[0]
        reference = torch.log_softmax(logits, -1)
        expected = [reference[t - 1, row.token_ids[t]].item() for t in np.flatnonzero(row.mask)]
        assert got.tolist() == pytest.approx(expected, abs=1e-5)


def test_the_loss_is_the_sum_of_its_named_parts(model):
    rows = make_rows(n=3)
    metrics = make_learner(model, token_budget=9).update(rows, Policy(entropy_coeff=0.5))
    assert metrics["actor/loss"] == pytest.approx(metrics["actor/pg_loss"] + metrics["actor/entropy_loss"], rel=1e-6)
    trained = [(float(row.old_logprobs[t]), i, t) for i, row in enumerate(rows) for t in np.flatnonzero(row.mask)]
    fresh = make_learner(make_model()).logprobs(rows)
    gaps = [abs(a - old) for a, (old, _, _) in zip(np.concatenate(fresh), trained, strict=True)]
    assert metrics["actor/abs_log_ratio"] == pytest.approx(np.mean(gaps), rel=1e-5)
