"""A value whose gradient was worked out with it.

Called by the losses and estimates in which the formula of the gradient is known: autograd would keep, and pass over, a
tensor for every operation on the way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable


class _KnownGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, leaf: torch.Tensor, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gradient)
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return grads[0] * gradient, None, None


def with_gradient(leaf: torch.Tensor, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """`value`, with a slope in `leaf`.

    Args:
        leaf: What the value depends on.
        value: Of the leaf's shape, or a scalar; without gradient.
        gradient: The leaf's shape: of a scalar its gradient, else how each number changes with its own leaf.
    """
    result: Any = _KnownGradient.apply(leaf, value, gradient)
    return result
