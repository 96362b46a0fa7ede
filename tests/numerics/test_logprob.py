"""The fused output layer against autograd on the whole log-softmax, in float64."""

import math

import pytest
import torch

from agentlightning.learner import logprob
from agentlightning.learner.logprob import token_logprobs, token_statistics


def problem(bias=False):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden, head = random(7, 5).requires_grad_(), random(11, 5).requires_grad_()
    targets = torch.randint(11, (7,), generator=generator)
    return hidden, head, random(11).requires_grad_() if bias else None, targets, random(7), random(7)


def naive(hidden, head, bias, targets, temperature):
    logits = hidden @ head.T if bias is None else hidden @ head.T + bias
    reference = torch.log_softmax(logits / temperature, -1)
    return reference.gather(-1, targets[:, None])[:, 0], -(reference.exp() * reference).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("reads", ["logprobs", "both", "entropy"])
def test_values_and_gradients_equal_log_softmax(temperature, bias, reads):
    hidden, head, b, targets, of_logprob, of_entropy = problem(bias)
    leaves = [leaf for leaf in (hidden, head, b) if leaf is not None]
    expected, entropy = naive(hidden, head, b, targets, temperature)
    got, entropies = token_logprobs(
        hidden, head, targets, bias_V=b, temperature=temperature, with_entropy=reads != "logprobs"
    )
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    if reads == "logprobs":
        assert entropies is None
        wanted, loss = (expected * of_logprob).sum(), (got * of_logprob).sum()
    else:
        torch.testing.assert_close(entropies, entropy, rtol=1e-12, atol=1e-12)
        scale = of_logprob * (reads == "both")
        wanted = (expected * scale).sum() + (entropy * of_entropy).sum()
        loss = (entropies * of_entropy).sum() + ((got * scale).sum() if reads == "both" else 0.0)
    for a, c in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(wanted, leaves), strict=True):
        torch.testing.assert_close(a, c, rtol=1e-9, atol=1e-12)


def test_entropy_that_is_only_measured_leaves_the_gradient_as_it_is():
    hidden, head, _, targets, scale, _ = problem()
    expected, _ = naive(hidden, head, None, targets, 0.7)
    got, entropies = token_logprobs(hidden, head, targets, temperature=0.7, with_entropy=True)
    entropies.detach()
    (a,) = torch.autograd.grad((got * scale).sum(), hidden)
    (b,) = torch.autograd.grad((expected * scale).sum(), hidden)
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_by_finite_differences():
    hidden, head, bias, targets, of_logprob, of_entropy = problem(bias=True)

    def loss():
        got, entropies = token_logprobs(hidden, head, targets, bias_V=bias, temperature=0.7, with_entropy=True)
        return (got * of_logprob).sum() + (entropies * of_entropy).sum()

    for leaf, gradient in zip((hidden, head, bias), torch.autograd.grad(loss(), (hidden, head, bias)), strict=True):
        flat, slopes = leaf.detach().view(-1), gradient.reshape(-1)
        for index in range(0, len(flat), 3):
            value = flat[index].item()
            flat[index] = value + 1e-6
            above = loss().item()
            flat[index] = value - 1e-6
            below = loss().item()
            flat[index] = value
            assert slopes[index].item() == pytest.approx((above - below) / 2e-6, rel=1e-6, abs=1e-8)


def test_numbers_worked_out_by_hand():
    """Logits (0, log 3) at temperature 1 are probabilities 1/4 and 3/4."""
    hidden, head = torch.tensor([[1.0]], dtype=torch.float64), torch.tensor([[0.0], [math.log(3)]], dtype=torch.float64)
    found = token_statistics(hidden, head, torch.tensor([1]), full=True)
    assert found["logprobs"].item() == pytest.approx(math.log(0.75))
    assert found["entropy"].item() == pytest.approx(0.25 * math.log(4) + 0.75 * math.log(4 / 3))
    assert found["sum_pi_squared"].item() == pytest.approx(10 / 16)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_statistics_do_not_depend_on_the_chunks(monkeypatch, chunk):
    monkeypatch.setattr(logprob, "CPU_CHUNK", chunk)
    hidden, head, bias, targets, _, _ = problem(bias=True)
    expected, entropy = naive(hidden, head, bias, targets, 0.7)
    found = token_statistics(hidden, head, targets, bias_V=bias, temperature=0.7, full=True)
    torch.testing.assert_close(found["logprobs"], expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found["entropy"], entropy.detach(), rtol=1e-12, atol=1e-12)
    squares = torch.softmax((hidden @ head.T + bias) / 0.7, -1).square().sum(-1)
    torch.testing.assert_close(found["sum_pi_squared"], squares.detach(), rtol=1e-12, atol=1e-12)
    assert list(token_statistics(hidden, head, targets)) == ["logprobs"]


def test_very_unlikely_tokens_keep_finite_log_probs_and_gradients():
    hidden = torch.tensor([[1.0]], requires_grad=True)
    head = torch.tensor([[0.0], [-500.0]], requires_grad=True)
    got, entropies = token_logprobs(hidden, head, torch.tensor([1]), with_entropy=True)
    assert got.item() == pytest.approx(-500.0)
    slopes = torch.autograd.grad(got.sum() + entropies.sum(), (hidden, head))
    assert all(torch.isfinite(slope).all() for slope in slopes)
    assert slopes[0].item() == pytest.approx(-500.0)


def test_half_precision_is_computed_in_float32():
    hidden, head, _, targets, _, _ = problem()
    halves = [leaf.detach().bfloat16().requires_grad_() for leaf in (hidden, head)]
    expected, entropy = naive(halves[0].float(), halves[1].float(), None, targets, 1.0)
    got, entropies = token_logprobs(*halves, targets, with_entropy=True)
    assert got.dtype == entropies.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0, atol=0.05)  # the logits themselves are bf16
    torch.testing.assert_close(entropies, entropy, rtol=0, atol=0.05)
    slopes = torch.autograd.grad(got.sum(), halves)
    wanted = torch.autograd.grad(expected.sum(), halves)
    for a, b in zip(slopes, wanted, strict=True):
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.1)


def test_a_frozen_head_gets_no_gradient():
    hidden, head, _, targets, _, _ = problem()
    got, _ = token_logprobs(hidden, head.detach(), targets)
    got.sum().backward()
    assert hidden.grad is not None
    assert head.grad is None


@pytest.mark.parametrize(("tokens", "chunks"), [(0, 1), (1, 1), (512, 1), (513, 2), (1025, 3)])
def test_chunks_are_as_few_as_can_be(tokens, chunks):
    assert logprob.chunk_count(tokens, torch.device("cpu")) == chunks


def test_no_tokens_give_no_logprobs():
    values, entropies = token_logprobs(torch.zeros(0, 5), torch.zeros(11, 5), torch.zeros(0, dtype=torch.long))
    assert values.shape == (0,)
    assert entropies is None
    assert token_statistics(torch.zeros(0, 5), torch.zeros(11, 5), torch.zeros(0, dtype=torch.long))[
        "logprobs"
    ].shape == (0,)
