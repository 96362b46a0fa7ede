"""Attention over a forest of segments against the formula, query by query in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.inference import tree_attention
from agentlightning.inference.tree_attention import TreeContext

SCALE = 0.3


def by_formula(query, key, value, sizes, parents, window):
    """(1, T, H, D): softmax over what each token sees, itself and at most `window - 1` tokens before it on its path."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    heads, kv_heads = query.shape[1], key.shape[1]
    result = torch.zeros_like(query.transpose(1, 2))
    for segment, size in enumerate(sizes):
        path, at = [], segment
        while at >= 0:
            path.append(at)
            at = parents[at]
        before = [starts[s] + i for s in reversed(path[1:]) for i in range(sizes[s])]
        for i in range(size):
            seen = before + [starts[segment] + j for j in range(i + 1)]
            seen = seen[-window:] if window else seen
            for head in range(heads):
                group = head * kv_heads // heads
                scores = torch.stack([query[0, head, starts[segment] + i] @ key[0, group, j] * SCALE for j in seen])
                weights = (scores - scores.max()).exp()
                weights = weights / weights.sum()
                result[0, starts[segment] + i, head] = sum(
                    w * value[0, group, j] for w, j in zip(weights, seen, strict=True)
                )
    return result


def inputs(tokens, heads, kv_heads, size=4):
    generator = torch.Generator().manual_seed(tokens)
    shapes = [(1, count, tokens, size) for count in (heads, kv_heads, kv_heads)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


def bounds(sizes):
    return [sum(sizes[:i]) for i in range(len(sizes) + 1)]


@st.composite
def forests(draw):
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=6))
    return sizes, [draw(st.integers(-1, index - 1)) for index in range(len(sizes))]


@settings(max_examples=40, deadline=None)
@given(
    forest=forests(),
    heads=st.sampled_from([(2, 2), (4, 2), (3, 1)]),
    window=st.sampled_from([None, 1, 2, 5]),
    block=st.sampled_from([1, 2, 3, 128]),
)
def test_output_and_gradients_are_those_of_the_formula(forest, heads, window, block):
    sizes, parents = forest
    tensors = inputs(sum(sizes), *heads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree_attention, "BLOCK", block)
        found = TreeContext(bounds(sizes), parents).attend(0, *tensors, SCALE, window)
    wanted = by_formula(*tensors, sizes, parents, window)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    towards = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad(found, tensors, towards), torch.autograd.grad(wanted, tensors, towards), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_layers_with_and_without_a_window_share_a_context():
    sizes, parents = [4, 3, 5], [-1, 0, 0]
    tensors = inputs(sum(sizes), 2, 1)
    context = TreeContext(bounds(sizes), parents)
    for window in (None, 3, None, 3, 2):
        wanted = by_formula(*tensors, sizes, parents, window)
        torch.testing.assert_close(context.attend(0, *tensors, SCALE, window), wanted, rtol=1e-10, atol=1e-12)


def test_a_branch_is_blind_to_its_siblings():
    query, key, value = inputs(9, 2, 1)
    context = TreeContext([0, 3, 6, 9], [-1, 0, 0])
    before = context.attend(0, query, key, value, SCALE, None)
    other = value.detach().clone()
    other[:, :, 3:6] = math.pi
    after = context.attend(0, query, key, other, SCALE, None)
    assert torch.equal(after[:, [0, 1, 2, 6, 7, 8]], before[:, [0, 1, 2, 6, 7, 8]])
    assert not torch.allclose(after[:, 3:6], before[:, 3:6])
