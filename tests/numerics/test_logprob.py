"""Chunked log-probs against torch's own log-softmax, values and gradients."""

import pytest
import torch

from agentlightning.learner.logprob import token_logprobs


@pytest.mark.parametrize("chunk_elements", [11 * 1, 11 * 3, 10_000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equals_log_softmax_in_value_and_gradient(chunk_elements, temperature):
    torch.manual_seed(0)
    hidden = torch.randn(7, 5, requires_grad=True)
    head = torch.randn(11, 5, requires_grad=True)
    targets = torch.randint(11, (7,))
    scale = torch.randn(7)

    logits = hidden @ head.T / temperature
    reference = torch.log_softmax(logits, -1)
    expected = reference.gather(-1, targets[:, None])[:, 0]
    entropy = -(reference.exp() * reference).sum(-1)
    wanted = torch.autograd.grad((expected * scale).sum() + entropy.sum(), (hidden, head))

    values, entropies = token_logprobs(
        hidden, head, targets, temperature=temperature, with_entropy=True, chunk_elements=chunk_elements
    )
    got = torch.autograd.grad((values * scale).sum() + entropies.sum(), (hidden, head))
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(entropies, entropy)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_no_tokens_give_no_logprobs():
    values, entropies = token_logprobs(torch.zeros(0, 5), torch.zeros(11, 5), torch.zeros(0, dtype=torch.long))
    assert values.shape == (0,)
    assert entropies is None
