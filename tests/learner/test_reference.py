"""A frozen policy: it stays where it is until it is told to follow."""

import numpy as np
import pytest
import torch

from agentlightning.learner.lora import add_lora, shared_copy
from agentlightning.learner.objectives import CrossEntropy
from agentlightning.learner.reference import Reference
from agentlightning.types import ModelError

from .conftest import make_model
from .helpers import alone_logprobs, make_learner, make_rows


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def train(model, steps=1):
    learner = make_learner(model)
    for _ in range(steps):
        learner.update(make_rows(), CrossEntropy())
    return learner


def test_log_probs_equal_rows_run_alone(model):
    rows = make_rows()
    for row, got in zip(rows, Reference(model, token_budget=20).logprobs(rows, 0.7), strict=True):
        np.testing.assert_allclose(got, alone_logprobs(model, row, 0.7).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("adapted", [False, True])
def test_it_stays_while_the_policy_moves_and_follows_when_told(model, adapted):
    if adapted:
        add_lora(model, rank=2, alpha=4)
    reference, rows = Reference.copy_of(model), make_rows()
    before = reference.logprobs(rows)
    assert reference.state() == {}
    learner = train(model, 3)
    assert same(reference.logprobs(rows), before)
    places = [p.data_ptr() for p in reference.model.parameters()]
    reference.sync(model)
    assert same(reference.logprobs(rows), learner.logprobs(rows))
    assert not same(reference.logprobs(rows), before)
    assert [p.data_ptr() for p in reference.model.parameters()] == places
    moved = reference.logprobs(rows)
    learner.update(rows, CrossEntropy())
    assert same(reference.logprobs(rows), moved)


def test_a_copy_of_a_policy_with_adapters_shares_its_base(model):
    add_lora(model, rank=2, alpha=4)
    reference = Reference.copy_of(model)
    for (name, mine), theirs in zip(reference.model.named_parameters(), model.parameters(), strict=True):
        assert (mine.data_ptr() == theirs.data_ptr()) == ("lora_" not in name), name
    assert any(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in reference.model.parameters())


def test_the_base_of_a_policy_with_adapters_is_its_reference(model):
    base, rows = shared_copy(model), make_rows()
    add_lora(model, rank=2, alpha=4)
    reference = Reference(base)
    before = reference.logprobs(rows)
    assert same(before, make_learner(model).logprobs(rows))
    train(model, 2)
    assert same(reference.logprobs(rows), before)
    with pytest.raises(ModelError, match="only one of them has"):
        reference.sync(model)


def test_state_comes_back(model):
    reference, rows = Reference.copy_of(model), make_rows()
    train(model)
    reference.sync(model)
    other = Reference.copy_of(make_model())
    other.load_state(reference.state())
    assert same(other.logprobs(rows), reference.logprobs(rows))
    assert other.state().keys() == reference.state().keys()


def test_another_model_is_refused_before_anything_is_written(model):
    reference = Reference.copy_of(model)
    before = {name: p.clone() for name, p in reference.model.named_parameters()}
    with pytest.raises(ModelError, match="of another model"):
        reference.sync(make_model(hidden_size=64))
    with pytest.raises(ModelError, match=r"only one of them has `model\.layers\.2\."):
        reference.sync(make_model(num_hidden_layers=3))
    with pytest.raises(ModelError, match="no `nothing`"):
        reference.load_state({"nothing": torch.zeros(1)})
    assert all(torch.equal(p, before[name]) for name, p in reference.model.named_parameters())


def test_no_gradients_and_no_threads_are_left_behind(model):
    before = torch.get_num_threads()
    Reference(model, threads=before + 1).logprobs(make_rows())
    assert torch.get_num_threads() == before
    assert all(p.grad is None for p in model.parameters())
